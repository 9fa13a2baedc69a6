"""Which adapters are asked, by name, and the sessions that answer with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..adapters.record import adapter_directory
from ..config.schema import QuantizationConfig
from ..errors import UsageError
from ..events import Listener, RunEvent, ignore
from ..paths import as_path

if TYPE_CHECKING:
    from .session import GenerationSession

Adapters = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
BasePrecision = Literal["trained", "16bit"]
MOST_ADAPTERS = 8


def named_adapters(adapter: Adapters) -> dict[str, Path]:
    """The adapter directories by name. Without names the folder tells them: that of the run, or of the adapter itself.

    Raises `ModelError` for a directory that is not there, `UsageError` for none, too many, or two of one name.
    """
    if isinstance(adapter, str | Path):
        adapter = [adapter]
    if not 0 < len(adapter) <= MOST_ADAPTERS:
        raise UsageError(
            f"{len(adapter)} adapters are asked for; 1 to {MOST_ADAPTERS} can be.", next_step="Name fewer adapters."
        )
    if isinstance(adapter, Mapping):
        return {name: adapter_directory(as_path(str(path))) for name, path in adapter.items()}
    found: dict[str, Path] = {}
    for path in adapter:
        directory = adapter_directory(as_path(str(path)))
        name = directory.parent.name if directory.name == "adapter" else directory.name
        if name in found:
            raise UsageError(
                f"Two adapters are called {name}: {found[name]} and {directory}.",
                next_step="Give them names: NAME=DIRECTORY.",
            )
        found[name] = directory
    return found


def opened(
    adapters: Mapping[str, Path], base_precision: BasePrecision, on_event: Listener = ignore
) -> dict[str, "GenerationSession"]:
    """A session for each adapter, all on one base in memory: as the first was trained on it, or in 16 bits.

    Raises `ModelError` for what cannot be used, `UsageError` for adapters of different bases: before anything is loaded.
    """
    from ..adapters.record import read_adapter_record
    from .session import GenerationSession, require_same_base

    plain = QuantizationConfig(kind="none") if base_precision == "16bit" else None
    records = {name: read_adapter_record(directory) for name, directory in adapters.items()}
    first = next(iter(adapters))
    loaded_as = plain or records[first].quantization
    for name, directory in adapters.items():
        require_same_base(records[first], records[name], loaded_as=loaded_as, directory=directory)
    on_event(RunEvent("phase", f"Loading the base and the adapter{'s' * (len(adapters) > 1)}"))
    session = GenerationSession.open(adapters[first], quantization=plain)
    others = {name: session.beside(directory) for name, directory in adapters.items() if name != first}
    return {first: session, **others}
