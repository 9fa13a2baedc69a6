"""Uploading an exported directory to the Hugging Face Hub: a dry run unless told otherwise, and exactly the files shown."""

import os
import re
from pathlib import Path

from ..errors import MachineError, MissingLibraryError, ModelError, UsageError
from ..events import Listener, RunEvent, ignore
from ..hiding import hidden_secrets
from ..paths import as_path
from ..results import ExportedFile, PushResult
from .adapter_package import without_machine_paths
from .card import CARD_FILE
from .directory import files_of
from .source import read_document

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - its name, not its value
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
# Files of settings that may name a directory; what `qlora export` writes names none, a merge may name its base so.
_SETTINGS = ("merge.json", "config.json", "adapter_config.json", "qlora_tools.json")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def push(
    directory: str | Path, repository: str, *, private: bool = True, dry_run: bool = True, on_event: Listener = ignore
) -> PushResult:
    """Upload the files of an exported or merged directory as the model `repository` (`owner/name`).

    With `dry_run` nothing leaves this machine: the result says what would, and what is missing. The token is read from
    HF_TOKEN. Raises `UsageError` (repository, directory, something missing, a repository of another visibility),
    `MachineError` where the Hub refuses or cannot be reached.
    """
    place = as_path(str(directory))
    _require_repository(repository)
    found = _pushed_files(place)
    missing = list(_missing(place, found, needs_token=not dry_run))
    if missing and not dry_run:
        raise UsageError(f"Nothing was uploaded: {'; '.join(missing)}.", next_step="Mend that, and push again.")
    url = None
    if not dry_run:
        on_event(RunEvent("phase", f"Uploading {len(found)} files to {repository}"))
        url = _upload(place, repository, private, [file.name for file in found])
    return PushResult(
        directory=str(place),
        repository=repository,
        private=private,
        files=found,
        size_bytes=sum(file.size_bytes for file in found),
        missing=list(_missing(place, found, needs_token=True)),
        notes=_notes(place),
        pushed=not dry_run,
        url=url,
    )


def check_push(repository: str, *, dry_run: bool) -> None:
    """Raise `UsageError` for what would stop an upload, before there is anything to upload."""
    _require_repository(repository)
    if not dry_run and not os.environ.get(TOKEN_VARIABLE):
        raise UsageError(
            f"There is no token for the Hub: {TOKEN_VARIABLE} is not set.",
            next_step=f"Put a token with write access into {TOKEN_VARIABLE}, or leave --yes out to see what would be sent.",
        )


def _require_repository(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise UsageError(
            f"{repository[:100]!a} is no repository of the Hub.", next_step="Write OWNER/NAME, as in its address."
        )


def _pushed_files(place: Path) -> list[ExportedFile]:
    """All files; what does not belong into a public repository is refused rather than left out without a word."""
    if not place.is_dir():
        raise ModelError(f"There is no directory {place}.", next_step="Export first: `qlora export`.")
    links = [path.name for path in place.rglob("*") if path.is_symlink()]
    found = files_of(place)
    strange = links + [file.name for file in found if not _FILE_NAME.fullmatch(file.name)]
    pickles = [file.name for file in found if file.name.endswith(_PICKLES)]
    if strange or pickles:
        raise ModelError(
            f"{place} holds what is not uploaded (hidden files, links, odd names, pickles): "
            f"{', '.join(map(ascii, (strange + pickles)[:5]))}.",
            next_step="Push a directory that `qlora export` or `qlora merge` made, as it was made.",
        )
    if not found:
        raise ModelError(f"The directory {place} is empty.", next_step="Export first: `qlora export`.")
    return found


def _missing(place: Path, found: list[ExportedFile], *, needs_token: bool) -> list[str]:
    missing = []
    if needs_token and not os.environ.get(TOKEN_VARIABLE):
        missing.append(f"{TOKEN_VARIABLE} is not set")
    if not (place / CARD_FILE).is_file():
        missing.append(f"there is no model card ({CARD_FILE})")
    if not any(file.name.endswith((".safetensors", ".gguf")) for file in found):
        missing.append("there are no weights (.safetensors or .gguf)")
    return missing


def _notes(place: Path) -> list[str]:
    card = place / CARD_FILE
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---\n", 1)[0] if card.is_file() else ""
    notes = ["The card names no licence: find the base's, and write it there."]
    notes = [] if not head or "\nlicense:" in head else notes
    told = {name: read_document(place / name) for name in _SETTINGS}
    paths = [name for name, values in told.items() if without_machine_paths(values) != values]
    return [*notes, *(f"{name} names a directory of a machine: see whether others may know it." for name in paths)]


def _upload(place: Path, repository: str, private: bool, names: list[str]) -> str:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError:
        raise MissingLibraryError(
            "Uploading needs huggingface_hub.", next_step="Run: pip install 'qlora-tools[train]'"
        ) from None
    api = HfApi(token=os.environ[TOKEN_VARIABLE], library_name="qlora-tools")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if bool(api.model_info(repository).private) != private:
            now = "public" if private else "private"
            raise UsageError(
                f"{repository} exists and is {now}; nothing was uploaded.",
                next_step=f"Say --{now}, choose another name, or change its visibility on the Hub.",
            )
        done = api.upload_folder(
            repo_id=repository, folder_path=place, allow_patterns=names, commit_message="Upload with qlora-tools"
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = hidden_secrets(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        raise MachineError(
            f"The Hub did not take {repository}: {reason[:300]}",
            next_step="Check token, name and network, and push again.",
        ) from None
    return str(done.commit_url)
