"""The workspace guard: every path that comes from an agent is resolved and checked here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .caches import model_caches
from .refusal import PathRefusedError, shown
from .resolving import Rule, real_path

if TYPE_CHECKING:
    from ..config import RunConfig

# The job store's own: whoever could write there could forge a verdict.
_STORE = ".qlora"


@dataclass(frozen=True)
class Access:
    """One workspace, always on, and folders that may be read beside it. Paths are made absolute and resolved here.

    What is returned has no links left in it: one that is swapped later leads nowhere else. Who can change folders of
    the workspace at the same moment is not kept out; see docs/security.md.
    """

    workspace: Path
    allow_read: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "workspace", real_path(self.workspace.expanduser()))
        object.__setattr__(self, "allow_read", tuple(real_path(place.expanduser()) for place in self.allow_read))
        _check_store(self.workspace / _STORE)

    def to_read(self, text: str, field: str) -> Path:
        """The resolved path that `text` names, relative to the workspace; whether it exists is not asked.

        Raises `UsageError` where it may not be read: outside of workspace, model cache and allowed folders, a pipe or a
        device, or a folder with links that lead outside.
        """
        return self._told(self._reading().resolve, text, field)

    def to_write(self, text: str, field: str) -> Path:
        """The resolved path that `text` names, relative to the workspace.

        Raises `UsageError` where it may not be written: outside of the workspace, in its job store, or a folder with
        links that lead there.
        """
        return self._told(self._writing().resolve, text, field)

    def checked_config(self, config: "RunConfig") -> "RunConfig":
        """The config with every path in it resolved; raises `ConfigError` with all that may not be read or written."""
        from .configs import with_checked_paths

        return with_checked_paths(config, self._reading(), self._writing())

    def checked_adapter(self, path_text: str, field: str) -> Path:
        """The resolved directory of an adapter or of a run's output.

        Raises `UsageError` where it or the base model that its record names may not be read, or where PEFT would load
        more than the adapter.
        """
        from .adapters import check_adapter

        path = self.to_read(path_text, field)
        self._told(lambda _: check_adapter(path, self._reading()), path_text, field)
        return path

    def _told(self, check: "Callable[[str], Path]", text: str, field: str) -> Path:
        """The path that a check lets pass; its refusal as the error that names field and value."""
        try:
            return check(text)
        except PathRefusedError as refused:
            raise UsageError(f"{field}: {shown(text)} {refused.reason}.", next_step=refused.next_step) from None

    def _reading(self) -> Rule:
        places = (self.workspace, *self.allow_read, *model_caches())
        others = "".join(f", {place}" for place in self.allow_read)
        return Rule(
            start=self.workspace,
            is_allowed=lambda path: any(path.is_relative_to(place) for place in places),
            allowed=f"in the workspace {self.workspace}{others} or the model cache",
            next_step="Copy it into the workspace, or start the server with --allow-read DIR.",
        )

    def _writing(self) -> Rule:
        return Rule(
            start=self.workspace,
            is_allowed=self._may_write,
            allowed=f"in the workspace {self.workspace}, save its folder {_STORE}",
            next_step="Give another path in the workspace.",
        )

    def _may_write(self, path: Path) -> bool:
        if not path.is_relative_to(self.workspace):
            return False
        inside = path.relative_to(self.workspace).parts
        # Some file systems do not tell .QLORA from .qlora.
        return not inside or inside[0].casefold() != _STORE


def _check_store(store: Path) -> None:
    """Raise `UsageError` where the job store is not what was made here: a link in it would be read and written through."""
    try:
        entries = [store, *store.iterdir()] if store.is_dir() or store.is_symlink() else []
    except OSError as error:
        raise UsageError(f"{store} cannot be read: {error.strerror}.", next_step="Check its permissions.") from None
    for path in entries:
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UsageError(
                f"{path} is a link, a pipe or a device; a job store holds folders and files alone.",
                next_step=f"If this folder came from elsewhere, delete its {_STORE}.",
            )
