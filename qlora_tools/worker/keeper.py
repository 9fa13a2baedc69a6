"""What a warm worker keeps: one base in memory and the adapters that were asked last."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.check import check_adapter
from ..adapters.record import ADAPTER_WEIGHTS, AdapterRecord, read_adapter_record
from ..config.schema import QuantizationConfig
from ..errors import MachineError, ModelError
from ..events import Listener, RunEvent
from ..generation.adapters_asked import MOST_ADAPTERS, BasePrecision
from ..jobs.devices import host_here
from ..memory.weights import base_weights
from ..models.gpu_here import gpu_here
from ..models.local_files import read_model_config
from ..models.shape import ModelShape
from ..run_output import ADAPTER_RECORD_FILE

if TYPE_CHECKING:
    from ..generation.session import GenerationSession

_GIB = 2**30
_WIDTHS = {"float32": 4}


@dataclass(frozen=True)
class _Base:
    """What is in memory: where the base lies, and how it was loaded."""

    location: str
    quantization: QuantizationConfig


@dataclass(frozen=True)
class _Kept:
    """An adapter by its directory and the state of its files: one that was trained again is another one."""

    directory: Path
    size_bytes: int
    stamps: tuple[int, ...]

    @classmethod
    def at(cls, directory: Path) -> "_Kept":
        found = [(directory / name).stat() for name in (ADAPTER_WEIGHTS, "adapter_config.json")]
        record = directory / ADAPTER_RECORD_FILE
        found += [record.stat()] if record.exists() else []
        return cls(
            directory,
            found[0].st_size,
            tuple(value for one in found for value in (one.st_ino, one.st_size, one.st_mtime_ns)),
        )


class Keeper:
    """Sessions by adapter, the one used last at the end. `limit_bytes` bounds base and adapters; None for what is free."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit = limit_bytes
        self._base: _Base | None = None
        self._base_bytes = 0
        self._sessions: OrderedDict[_Kept, GenerationSession] = OrderedDict()

    def sessions(
        self, adapters: Mapping[str, Path], base_precision: BasePrecision, on_event: Listener
    ) -> dict[str, "GenerationSession"]:
        """A session for each adapter, from memory where it is there. Another base than before takes its place.

        Raises `ModelError` and `UsageError` before anything is loaded or unloaded, `MachineError` for what does not fit.
        """
        from ..generation.session import require_same_base

        records = {name: read_adapter_record(directory) for name, directory in adapters.items()}
        first = next(iter(records.values()))
        plain = base_precision == "16bit"
        base = _Base(first.base().location, QuantizationConfig(kind="none") if plain else first.quantization)
        for name, directory in adapters.items():
            require_same_base(first, records[name], loaded_as=base.quantization, directory=directory)
        kept = {name: _Kept.at(directory) for name, directory in adapters.items()}
        missing = [name for name, one in kept.items() if base != self._base or one not in self._sessions]
        for name in missing:
            check_adapter(adapters[name], records[name])
        if base != self._base:
            self._change_base(base, first, kept.values())
        for one in kept.values():
            self._load(one, on_event)
        self._trim(set(kept.values()))
        return {name: self._sessions[one] for name, one in kept.items()}

    def _change_base(self, base: _Base, record: AdapterRecord, adapters: Iterable[_Kept]) -> None:
        """Free what is in memory, and see whether the other base fits."""
        from ..engine.device import release_memory

        self._sessions.clear()
        self._base = None
        release_memory()
        self._base_bytes = _needed_bytes(base, record)
        self._require_room(record.base_name, self._base_bytes + sum(one.size_bytes for one in adapters))
        self._base = base

    def _load(self, one: _Kept, on_event: Listener) -> None:
        from ..generation.session import GenerationSession

        assert self._base is not None
        if one in self._sessions:
            self._sessions.move_to_end(one)
        elif self._sessions:
            on_event(RunEvent("phase", "Loading the adapter"))
            self._sessions[one] = next(iter(self._sessions.values())).beside(one.directory)
        else:
            on_event(RunEvent("phase", "Loading the base and the adapter"))
            try:
                self._sessions[one] = GenerationSession.open(one.directory, quantization=self._base.quantization)
            finally:
                self._base = self._base if self._sessions else None

    def _trim(self, wanted: set[_Kept]) -> None:
        """Unload adapters that were trained again since, and while there are too many the one used longest ago."""
        directories = {one.directory for one in wanted}
        others = [kept for kept in self._sessions if kept not in wanted]
        outdated = [kept for kept in others if kept.directory in directories]
        for kept in [*outdated, *(kept for kept in others if kept not in outdated)]:
            if kept in outdated or self._is_full():
                self._sessions.pop(kept).close_adapter()

    def _is_full(self) -> bool:
        held = self._base_bytes + sum(kept.size_bytes for kept in self._sessions)
        return len(self._sessions) > MOST_ADAPTERS or (self._limit is not None and held > self._limit)

    def _require_room(self, name: str, needed: int) -> None:
        device = gpu_here()
        free = device.free_memory_bytes if device is not None else host_here().free_bytes
        where = "on the GPU" if device is not None else "in memory"
        most, words = (free, f"free {where}") if self._limit is None or free < self._limit else (self._limit, "allowed")
        if needed > most:
            raise MachineError(
                f"{name} needs about {needed / _GIB:.1f} GiB, and {most / _GIB:.1f} GiB are {words}.",
                next_step="End what holds the memory, ask fewer adapters at once, or take the base as it was trained.",
            )


def _needed_bytes(base: _Base, record: AdapterRecord) -> int:
    """The weights of the base in bytes; 0 for a family whose shape is not known: then it is tried."""
    try:
        shape = ModelShape.from_config(read_model_config(Path(base.location)))
    except ModelError:
        return 0
    width = _WIDTHS.get(record.compute_dtype, 2)
    return sum(base_weights(shape, base.quantization, width).values())
