"""What a plan proposes and never does by itself: another model, another GPU."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import RunConfig
from ..memory import MemoryEstimate
from ..models.gpus import Gpu, load_gpus
from ..models.shape import ModelShape
from .families import shape_of, smaller_models
from .goals import Case
from .ladder import Rung
from .needs import needed_bytes
from .schedule import seconds_per_row
from .speed import Card

_LOSSLESS = {"training.gradient_checkpointing": True}


@dataclass(frozen=True)
class Alternative:
    """A model or a GPU with which the run fits and gives nothing else up. `time_factor` compares rows, where known."""

    name: str
    needed_bytes: int
    free_bytes: int
    saved_bytes: int
    time_factor: float | None


def lossless_settings(case: Case, start: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the least memory that cost the result nothing: rows one by one, with checkpointing."""
    rows = start["training.micro_batch_size"] * start["training.gradient_accumulation_steps"]
    one_by_one = {"training.micro_batch_size": 1, "training.gradient_accumulation_steps": rows}
    batches = ("training.micro_batch_size", "training.gradient_accumulation_steps")
    changed = {} if any(name in case.asked for name in batches) else one_by_one
    return {**start, **changed, **{name: on for name, on in _LOSSLESS.items() if name not in case.asked}}


def smaller_model(case: Case, start: Mapping[str, Any]) -> Alternative | None:
    """The nearest smaller model of the catalogue, largest first, that fits the machine."""
    config = case.request.config(lossless_settings(case, start))
    free, whole = case.hardware.free_memory_bytes, needed_bytes(config, case.shape, case.hardware)
    for model in smaller_models(case.request.model, case.shape):
        shape = shape_of(model)
        if not _weights_fit(config, shape, free):
            continue
        needed = needed_bytes(config, shape, case.hardware)
        if needed <= free:
            card = Card.for_hardware(case.hardware) or Card.typical()
            factor = seconds_per_row(replace(case, shape=shape), config, card) / seconds_per_row(case, config, card)
            return Alternative(model.name, needed, free, max(0, whole - needed), factor)
    return None


def larger_gpu(case: Case, start: Mapping[str, Any]) -> Alternative | None:
    """The supported card with the least memory that takes the run at no cost to its result."""
    config = case.request.config(lossless_settings(case, start))
    found = smallest_gpu(config, case.shape)
    if found is None:
        return None
    gpu, needed = found
    card = Card.for_hardware(case.hardware)
    faster = seconds_per_row(case, config, Card.of(gpu)) / seconds_per_row(case, config, card) if card else None
    return Alternative(gpu.name, needed, gpu.usable_bytes, 0, faster)


def smallest_gpu(config: RunConfig, shape: ModelShape) -> tuple[Gpu, int] | None:
    """The supported card with the least memory that takes `config`, and what it needs there."""
    for gpu in cards_by_memory():
        if _weights_fit(config, shape, gpu.usable_bytes):
            needed = needed_bytes(config, shape, gpu.hardware())
            if needed <= gpu.usable_bytes:
                return gpu, needed
    return None


def cards_by_memory() -> Iterator[Gpu]:
    """Supported cards, least memory first, of equal ones the one with the higher bandwidth."""
    supported = (gpu for gpu in load_gpus() if gpu.supported)
    yield from sorted(supported, key=lambda gpu: (gpu.usable_mib, -gpu.bandwidth_gb_s))


def _weights_fit(config: RunConfig, shape: ModelShape, free_bytes: int) -> bool:
    """Whether the weights fit at all: spares estimates of what is far too large."""
    byte = {"none": 2.0, "int8": 1.0}.get(config.quantization.kind, 0.5)
    return shape.linear_parameters * byte + 2 * shape.expert_parameters <= free_bytes


def offload(estimate: MemoryEstimate) -> Rung:
    """The rung that the field has and this version has not."""
    kept = estimate.parts.get("saved activations", 0) + estimate.parts.get("optimiser state", 0)
    return Rung(
        key="offload",
        name="offload to the host",
        status="not available",
        settings={},
        saved_bytes=kept,
        time_factor=None,
        quality="none: saved activations and optimiser state would wait in host memory",
        order="The field offloads once checkpointing is not enough; this version does not.",
    )


def proposals(smaller: Alternative | None, card: Alternative | None) -> Iterator[Rung]:
    """The last two rungs, as far as the catalogue has something to propose."""
    if smaller is not None:
        yield Rung(
            key="smaller_model",
            name=f"a smaller model: {smaller.name}",
            status="proposed",
            settings={"model.name": smaller.name},
            saved_bytes=smaller.saved_bytes,
            time_factor=smaller.time_factor,
            quality="most: a smaller base usually loses more than any rung above; everything else stays as planned",
            order="The field takes it early; above it everything keeps the model that was asked for.",
        )
    if card is not None:
        yield Rung(
            key="larger_gpu",
            name=f"another GPU: {card.name}",
            status="proposed",
            settings={},
            saved_bytes=0,
            time_factor=card.time_factor,
            quality="none: it has the memory, and nothing is given up",
            order="The field rents it first; it costs money, so it comes last.",
        )
