"""The three ways to a good model, side by side: QLoRA on a small card, 16-bit LoRA on a large one, a larger model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config.overrides import config_with
from ..data.lengths import RowLengths, read_lengths
from ..models.gpus import find_gpu
from ..models.hardware import Hardware
from ..models.known import KnownModel, find_model
from ..models.reference import ModelReference
from .alternatives import cards_by_memory, lossless_settings, smallest_gpu
from .families import larger_model
from .goals import Case, first_values, settings_of
from .plan import Plan, plan_run
from .values import QLORA, PlanRequest, check_request

_K_BIT = "The case for 4-bit precision, arXiv:2212.09720"
# Without a dataset, the job that strategies are compared on.
_NOMINAL_ROWS, _NOMINAL_TOKENS = 10_000, 512
_AS_GOOD = "as 16-bit LoRA: NF4 with double quantisation reached MMLU 53.1 in the paper, 16-bit LoRA 53.0"
_REFERENCE = "the reference: the base keeps its 16 bits, which gained nothing over NF4 in the paper"
_LARGER = "usually the best of the three: for the same memory, more parameters gain more than more bits"
# What may be given up before a strategy counts as one for another card.
_NEXT_TO_NOTHING = ("micro_batch", "checkpointing", "optimizer")


@dataclass(frozen=True)
class Strategy:
    """One way: a model on a card, what it is expected to take, and how good it is expected to get.

    Bytes as in an estimate; `hours` and `tokens_per_second` are None where no speed is known. `given_up` names rungs.
    """

    name: str
    model: str
    gpu: str
    bits: int
    fits: bool
    mid_bytes: int
    needed_bytes: int
    free_bytes: int
    micro_batch_size: int
    gradient_checkpointing: bool
    given_up: tuple[str, ...]
    tokens_per_second: float | None
    hours: float | None
    speed_basis: str
    quality: str
    source: str


@dataclass(frozen=True)
class Comparison:
    """Strategies for the same rows. `note` says which rows, and why a strategy is missing."""

    strategies: tuple[Strategy, ...]
    rows: int
    mean_tokens: float
    note: str


def compare_strategies(
    model: str,
    *,
    gpu: str | Hardware,
    other_gpu: str | None = None,
    larger: str | None = None,
    data: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Comparison:
    """QLoRA on `gpu`, 16-bit LoRA on `other_gpu`, and QLoRA with a `larger` model, planned for the same rows.

    By default `other_gpu` is `gpu` itself where it takes the 16-bit run, else the smallest card that does, and `larger` is
    the next larger model of the family; it too goes on `gpu` or else on the smallest card that takes it. Without `data`,
    10,000 rows of 512 tokens are assumed. Raises as `create_config` does.
    """
    small = find_gpu(gpu).hardware() if isinstance(gpu, str) else gpu
    request = PlanRequest(model, data or "rows.jsonl", "runs/compared", settings=settings)
    check_request(request)
    known = find_model(model)
    lengths = _lengths(request, known, data)
    other = find_gpu(other_gpu).hardware() if other_gpu else None
    strategies = [_qlora(request, known, lengths, small), _lora(request, known, lengths, (small, other))]
    next_one = larger or getattr(larger_model(known.name, known.shape), "name", None)
    notes = [f"{lengths.rows:,} rows of {lengths.mean:,.0f} tokens; {lengths.note}."]
    if next_one is None:
        notes.append("The catalogue has no larger model of the family; name one.")
    else:
        strategies.append(_with_larger(request, find_model(next_one), lengths, small))
    return Comparison(tuple(strategies), lengths.rows, lengths.mean, " ".join(notes))


def _lengths(request: PlanRequest, known: KnownModel, data: str | None) -> RowLengths:
    if data is None:
        return RowLengths((_NOMINAL_TOKENS,), _NOMINAL_ROWS, "characters", "assumed, since no dataset was given")
    asked = config_with(request.asked, model=known.name, data=data)
    return read_lengths(asked.data, ModelReference.parse(request.model))


def _qlora(request: PlanRequest, known: KnownModel, lengths: RowLengths, hardware: Hardware) -> Strategy:
    plan = plan_run(request, known.shape, lengths, hardware)
    return _strategy("QLoRA", plan, known, (_AS_GOOD, QLORA))


def _lora(
    request: PlanRequest, known: KnownModel, lengths: RowLengths, cards: tuple[Hardware, Hardware | None]
) -> Strategy:
    kept = {name: value for name, value in request.asked.items() if not name.startswith("quantization.")}
    sixteen = replace(request, settings={**kept, "quantization.kind": "none"})
    plan = _on_a_card_that_takes_it(sixteen, known, lengths, cards)
    return _strategy("LoRA in 16 bits", plan, known, (_REFERENCE, QLORA))


def _with_larger(request: PlanRequest, known: KnownModel, lengths: RowLengths, small: Hardware) -> Strategy:
    plan = _on_a_card_that_takes_it(replace(request, model=known.name), known, lengths, (small, None))
    return _strategy("QLoRA with a larger model", plan, known, (_LARGER, f"{QLORA}; {_K_BIT}"))


def _on_a_card_that_takes_it(
    request: PlanRequest, known: KnownModel, lengths: RowLengths, cards: tuple[Hardware, Hardware | None]
) -> Plan:
    """On the second card where it is given, on the first where that takes it, else on the smallest that does."""
    small, chosen = cards
    plan = plan_run(request, known.shape, lengths, chosen or small)
    if chosen or (plan.fits and all(rung.key in _NEXT_TO_NOTHING for rung in plan.applied)):
        return plan
    return plan_run(request, known.shape, lengths, _smallest(request, known, lengths))


def _smallest(request: PlanRequest, known: KnownModel, lengths: RowLengths) -> Hardware:
    """The smallest card that takes the run whole; where none does, the largest one."""
    *_, largest = cards_by_memory()
    case = Case(request, known.shape, lengths, largest.hardware())
    config = request.config(lossless_settings(case, settings_of(first_values(case))))
    found = smallest_gpu(config, known.shape)
    return (found[0] if found else largest).hardware()


def _strategy(name: str, plan: Plan, known: KnownModel, quality: tuple[str, str]) -> Strategy:
    training, times = plan.config.training, plan.schedule
    return Strategy(
        name=name,
        model=known.name,
        gpu=plan.hardware.name,
        bits={"none": 16, "int8": 8}.get(plan.config.quantization.kind, 4),
        fits=plan.fits,
        mid_bytes=plan.estimate.mid_bytes,
        needed_bytes=plan.needed_bytes,
        free_bytes=plan.hardware.free_memory_bytes,
        micro_batch_size=training.micro_batch_size,
        gradient_checkpointing=training.gradient_checkpointing,
        given_up=tuple(rung.key for rung in plan.applied if rung.key not in ("micro_batch", "checkpointing")),
        tokens_per_second=times.tokens_per_second,
        hours=None if times.seconds is None else times.seconds / 3600,
        speed_basis=times.basis,
        quality=quality[0],
        source=quality[1],
    )
