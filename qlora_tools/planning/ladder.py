"""The ladder: what to give up when a run does not fit, in the order of what it costs the result.

A rung has levels, mild first. The ladder is climbed until the run fits; then rungs below the last one are taken back
where the run still fits without them, the dearest first, so that the fewest stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import RunConfig
from ..config.library_arguments import resolve_compute_dtype
from ..errors import ConfigError
from ..memory import MemoryEstimate, estimate_training
from .goals import Case
from .schedule import paging_seconds, seconds_per_row
from .speed import Card

Key = Literal[
    "micro_batch",
    "checkpointing",
    "optimizer",
    "quantization",
    "length",
    "adapter",
    "offload",
    "smaller_model",
    "larger_gpu",
]
Status = Literal["applied", "not needed", "asked for", "not available", "proposed"]
Levels = tuple[int, ...]
# Rungs that cost time and nothing else.
COSTLESS: tuple[Key, ...] = ("micro_batch", "checkpointing")
_MUCH_QUICKER = 0.8


@dataclass(frozen=True)
class Level:
    """One strength of a rung: the settings that it changes, and what that costs the result.

    With `pages`, the optimiser's paged state is counted as freed: it moves to the host when the GPU is full.
    """

    settings: Mapping[str, Any]
    quality: str
    pages: bool = False


@dataclass(frozen=True)
class RungKind:
    """A rung that can be climbed; `asked` names the settings that forbid it, `order` how the field's order differs."""

    key: Key
    name: str
    levels: tuple[Level, ...]
    order: str
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rung:
    """One rung of a finished ladder.

    `saved_bytes` is what it takes off the memory that should be free, all other rungs being as in the plan. `time_factor`
    is how much longer a row takes with it; None where unknown.
    """

    key: Key
    name: str
    status: Status
    settings: dict[str, Any]
    saved_bytes: int
    time_factor: float | None
    quality: str
    order: str


@dataclass
class Bench:
    """Measures what levels of the rungs need; remembers what it measured."""

    case: Case
    start: Mapping[str, Any]
    kinds: Sequence[RungKind]
    card: Card
    _known: dict[Levels, MemoryEstimate] = field(default_factory=dict)

    def settings(self, levels: Levels) -> dict[str, Any]:
        """The settings of a run with these levels."""
        changed = dict(self.start)
        for level in self._climbed(levels):
            changed |= level.settings
        return changed

    def config(self, levels: Levels) -> RunConfig:
        """The config of a run with these levels."""
        return self.case.request.config(self.settings(levels))

    def estimate(self, levels: Levels) -> MemoryEstimate:
        """Its expected memory."""
        if levels not in self._known:
            self._known[levels] = estimate_case(self.case, self.config(levels))
        return self._known[levels]

    def needed(self, levels: Levels) -> int:
        """Bytes that should be free for it."""
        estimate = self.estimate(levels)
        return estimate.needed_bytes - (estimate.paged_bytes if self.pages(levels) else 0)

    def pages(self, levels: Levels) -> bool:
        """Whether its optimiser's state may leave the GPU."""
        return any(level.pages for level in self._climbed(levels))

    def fits(self, levels: Levels) -> bool:
        """Whether it fits for sure."""
        return self.needed(levels) <= self.case.hardware.free_memory_bytes

    def seconds_per_row(self, levels: Levels) -> float:
        """Its expected time for a row, on this card or else on the one that was measured."""
        config = self.config(levels)
        seconds = seconds_per_row(self.case, config, self.card)
        return seconds + (paging_seconds(config, self.estimate(levels)) if self.pages(levels) else 0.0)

    def _climbed(self, levels: Levels) -> list[Level]:
        return [kind.levels[level - 1] for kind, level in zip(self.kinds, levels, strict=True) if level]


def estimate_case(case: Case, config: RunConfig) -> MemoryEstimate:
    """Expected memory of `config` on the shape and machine of `case`."""
    dtype = resolve_compute_dtype(config.quantization.compute_dtype, case.hardware)
    return estimate_training(config, case.shape, compute_dtype=dtype, hardware=case.hardware)


def climb(bench: Bench) -> tuple[Levels, bool]:
    """The fewest rungs that are enough, and whether they are; where nothing is, all that save anything."""
    levels = (0,) * len(bench.kinds)
    if bench.fits(levels):
        return levels, True
    for index, kind in enumerate(bench.kinds):
        if kind.asked:
            continue
        for level in range(1, len(kind.levels) + 1):
            trial = _with(levels, index, level)
            if bench.fits(trial):
                return _taken_back(trial, index, bench.fits), True
            # Smaller micro-batches can take more: with accumulation all gradients are held at once.
            levels = trial if bench.needed(trial) <= bench.needed(levels) else levels
    needed = bench.needed(levels)
    # Taking back what saves nothing can save something: the rungs do not simply add up.
    levels = _taken_back(levels, len(levels), lambda trial: bench.needed(trial) <= needed)
    if bench.fits(levels):
        levels = _taken_back(levels, len(levels), bench.fits)
    return levels, bench.fits(levels)


def _taken_back(levels: Levels, last: int, good: Callable[[Levels], bool]) -> Levels:
    """The mildest level of each rung below `last` that is still good, the dearest rung first."""
    for index in reversed(range(last)):
        milder = (_with(levels, index, level) for level in range(levels[index]))
        levels = next((trial for trial in milder if good(trial)), levels)
    return levels


def _with(levels: Levels, index: int, level: int) -> Levels:
    return (*levels[:index], level, *levels[index + 1 :])


def quickened(bench: Bench, levels: Levels) -> Levels:
    """Levels that fit, with checkpointing and larger micro-batches where that is much quicker than smaller ones without.

    Neither touches the result. Short rows one by one leave the GPU waiting for the CPU, and then more rows at once are
    worth the recomputation.
    """
    places = {kind.key: index for index, kind in enumerate(bench.kinds) if not kind.asked}
    if not set(COSTLESS) <= places.keys():
        return levels
    rows, recomputation = (places[key] for key in COSTLESS)
    if levels[recomputation] or not levels[rows]:
        return levels
    trials = (_with(_with(levels, recomputation, 1), rows, level) for level in range(levels[rows]))
    quicker = next((trial for trial in trials if bench.fits(trial)), levels)
    much = bench.seconds_per_row(quicker) < _MUCH_QUICKER * bench.seconds_per_row(levels)
    return quicker if much else levels


def finished_rungs(bench: Bench, levels: Levels) -> list[Rung]:
    """Every rung with what it saves: the applied ones against the plan without them, the others on top of the plan.

    A rung that was not climbed and would save nothing, or that what was asked for rules out, is left out.
    """
    rungs: list[Rung] = []
    for index, (kind, level) in enumerate(zip(bench.kinds, levels, strict=True)):
        if level:
            rungs.append(_rung(bench, index, (_with(levels, index, 0), levels), "applied"))
            continue
        strongest = _with(levels, index, len(kind.levels))
        if _possible(bench, strongest) and bench.needed(strongest) < bench.needed(levels):
            rungs.append(_rung(bench, index, (levels, strongest), "asked for" if kind.asked else "not needed"))
    return rungs


def _possible(bench: Bench, levels: Levels) -> bool:
    """Whether the settings go together with what was asked for."""
    try:
        bench.config(levels)
    except ConfigError:
        return False
    return True


def _rung(bench: Bench, index: int, step: tuple[Levels, Levels], status: Status) -> Rung:
    before, after = step
    kind = bench.kinds[index]
    level = kind.levels[after[index] - 1]
    return Rung(
        key=kind.key,
        name=kind.name,
        status=status,
        settings=dict(level.settings),
        saved_bytes=bench.needed(before) - bench.needed(after),
        time_factor=bench.seconds_per_row(after) / bench.seconds_per_row(before),
        quality=level.quality,
        order=kind.order,
    )
