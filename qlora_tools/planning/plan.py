"""A config for a model, a dataset and a machine that fits, with the reason beside every value."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..config import RunConfig
from ..data.lengths import RowLengths
from ..memory import MemoryEstimate
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .alternatives import Alternative, larger_gpu, offload, proposals, smaller_model
from .goals import Case, first_values, length_reason, settings_of
from .ladder import COSTLESS, Bench, Levels, Rung, climb, finished_rungs, quickened
from .rungs import rung_kinds
from .schedule import Schedule, paging_seconds, schedule
from .speed import Card
from .values import DATASET, GRID, NAMES, QLORA, PlannedValue, PlanRequest, check_request, field_paths, planned

_GIB = 2**30
_FEW_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """A complete config, the reason of every value it sets, what it is expected to take, and what was given up for it.

    `needed_bytes` should be free to be sure, `fits` says whether they are. `ladder` is empty where nothing had to be given
    up. `smaller_model` and `larger_gpu` would take the run at no cost to its settings; they are proposals.
    """

    config: RunConfig
    values: tuple[PlannedValue, ...]
    estimate: MemoryEstimate
    needed_bytes: int
    fits: bool
    hardware: Hardware
    lengths: RowLengths
    schedule: Schedule
    ladder: tuple[Rung, ...] = ()
    smaller_model: Alternative | None = None
    larger_gpu: Alternative | None = None
    notes: tuple[str, ...] = ()

    @property
    def applied(self) -> tuple[Rung, ...]:
        """The rungs of the ladder that the config has climbed."""
        return tuple(rung for rung in self.ladder if rung.status == "applied")

    @property
    def lossless(self) -> bool:
        """Whether it fits with nothing given up but time."""
        return self.fits and _costless(self.applied)


def plan_run(request: PlanRequest, shape: ModelShape, lengths: RowLengths, hardware: Hardware) -> Plan:
    """Plan a run of a model of `shape` over rows of `lengths` so that it fits the free memory of `hardware`.

    Raises `UsageError` and `ConfigError` for a request that makes no sense. A run that cannot fit is no error: `fits` is
    False, the config is the smallest that was found, and the plan names a model and a GPU that would do.
    """
    check_request(request)
    case = Case(request, shape, lengths, hardware)
    first = first_values(case)
    start = settings_of(first)
    card = Card.for_hardware(hardware)
    bench = Bench(case, start, rung_kinds(case, start), card or Card.typical())
    fewest, fits = climb(bench)
    levels = quickened(bench, fewest) if fits else fewest
    config, estimate = bench.config(levels), bench.estimate(levels)
    paging = paging_seconds(config, estimate) if bench.pages(levels) else 0.0
    rungs = finished_rungs(bench, levels) if any(levels) or not fits else []
    lossless = fits and _costless(rung for rung in rungs if rung.status == "applied")
    smaller = None if lossless else smaller_model(case, start)
    card_for_it = None if lossless else larger_gpu(case, start)
    if rungs:
        rungs.append(offload(estimate))
        rungs += proposals(smaller, card_for_it)
    return Plan(
        config=config,
        values=tuple(_final_values(case, first, bench, (fewest, levels))),
        estimate=estimate,
        needed_bytes=bench.needed(levels),
        fits=fits,
        hardware=hardware,
        lengths=lengths,
        schedule=schedule(case, config, card, paging=paging),
        ladder=tuple(rungs),
        smaller_model=smaller,
        larger_gpu=card_for_it,
        notes=tuple(_notes(case, bench, levels)),
    )


def _costless(applied: Iterable[Rung]) -> bool:
    """Whether only time is given up. State that is paged already leaves the GPU without any other setting."""
    return all(rung.key in COSTLESS or not rung.settings for rung in applied)


def _final_values(
    case: Case, first: Mapping[str, PlannedValue], bench: Bench, climbed: tuple[Levels, Levels]
) -> Iterator[PlannedValue]:
    """The first values, with those that the ladder changed or that memory decided, and why."""
    fewest, levels = climbed
    settings = bench.settings(levels)
    reasons = _memory_reasons(case, bench, levels)
    if fewest != levels:
        reasons["training.gradient_checkpointing"] = (_quicker(bench, fewest, levels), GRID)
    for name in (name for name in field_paths() if name in first):
        value = first[name]
        if name in NAMES or name in case.asked:
            yield value
        elif name in reasons and (settings[name] != value.value or name in _DECIDED_BY_MEMORY):
            reason, source = reasons[name]
            yield planned(name, settings[name], reason, source)
        else:
            yield planned(name, settings[name], value.reason, value.source)


_DECIDED_BY_MEMORY = ("training.micro_batch_size", "training.gradient_accumulation_steps", "training.optimizer")


def _memory_reasons(case: Case, bench: Bench, levels: Levels) -> dict[str, tuple[str, str]]:
    settings = bench.settings(levels)
    size, accumulation = (settings[f"training.{name}"] for name in ("micro_batch_size", "gradient_accumulation_steps"))
    needed, free = bench.needed(levels) / _GIB, case.hardware.free_memory_bytes / _GIB
    most = "the largest divisor of a step's rows that is sure to fit" if needed <= free else "the fewest rows at once"
    reasons = {
        "training.micro_batch_size": (f"{most}: {needed:.1f} of {free:.1f} GiB free are needed", GRID),
        "training.gradient_accumulation_steps": (f"{size} x {accumulation} = {size * accumulation} rows a step", GRID),
        "training.gradient_checkpointing": ("on: without it the run is not sure to fit", GRID),
        "training.max_length_tokens": (
            f"shortened to fit; {length_reason(case.lengths, settings['training.max_length_tokens'])}",
            DATASET,
        ),
        "lora.rank": ("halved to fit; rank was found to matter little with all linear layers adapted", QLORA),
        "lora.alpha": ("2 x rank, halved with it", QLORA),
        "lora.target_modules": ("attention only, to fit; all linear layers would be better", QLORA),
    }
    if bench.pages(levels):
        paged = bench.estimate(levels).paged_bytes / 2**20
        moved = f"8-bit state; {paged:.0f} MiB of it may leave the GPU, and the run needs that to be sure to fit"
        reasons["training.optimizer"] = (moved, QLORA)
    return reasons


def _notes(case: Case, bench: Bench, levels: Levels) -> Iterator[str]:
    config = bench.config(levels)
    limit, longest = config.training.max_length_tokens, case.shape.max_length
    yield f"Row lengths were {case.lengths.note}."
    per_step = config.training.micro_batch_size * config.training.gradient_accumulation_steps
    if per_step != case.request.rows_per_step:
        yield f"What was asked for makes {per_step} rows a step instead of {case.request.rows_per_step}."
    over = case.lengths.rows_over(limit)
    if over and config.data.long_rows == "cut":
        yield f"{over:,} rows are longer than {limit:,} tokens and lose their end; data.long_rows=drop leaves them out."
    if longest is not None and limit > longest:
        yield f"The model was made for {longest:,} tokens; longer rows ask for positions it never saw."
    if config.lora.use_dora:
        yield "DoRA may take twice the time that is said: it takes norms of dequantised weights."
    steps = schedule(case, config, None).steps
    if steps < _FEW_STEPS:
        yield f"So few steps ({steps}) leave the optimiser little to go on; more rows, more epochs or fewer rows a step help."


def _quicker(bench: Bench, fewest: Levels, levels: Levels) -> str:
    """Why checkpointing is on although the run would fit without it."""
    factor = bench.seconds_per_row(levels) / bench.seconds_per_row(fewest)
    one, many = (bench.config(trial).training.micro_batch_size for trial in (fewest, levels))
    waits = f"{one} at once without it, where the GPU waits for the CPU"
    return f"on: {many} rows at once then fit, in {factor:.2f} x the time of {waits}"
