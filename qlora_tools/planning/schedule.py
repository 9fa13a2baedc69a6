"""How many steps a run takes, and how long they last."""

from dataclasses import dataclass

from ..config import RunConfig
from ..data.order import steps_for
from ..memory import MemoryEstimate
from .goals import Case, training_items
from .speed import UNKNOWN, Card, Work, micro_batch_seconds

# Assumed, for state that is fetched from the host and written back each step (PCIe 4.0 x16 in practice).
_PCIE_BYTES_A_SECOND = 12e9


@dataclass(frozen=True)
class Schedule:
    """Length of a run. `seconds` and `tokens_per_second` (padding not counted) are None where no speed is known."""

    rows: int
    rows_per_step: int
    steps: int
    tokens: int
    seconds: float | None
    tokens_per_second: float | None
    basis: str


def schedule(case: Case, config: RunConfig, card: Card | None, *, paging: float = 0.0) -> Schedule:
    """Steps and time of `config`; `paging` is the time that a row waits for the optimiser's state."""
    training = config.training
    per_step = training.micro_batch_size * training.gradient_accumulation_steps
    items = training_items(case, training.max_length_tokens)
    steps = training.max_steps or steps_for(items, epochs=training.epochs, rows_per_step=per_step)
    row = _tokens_of_a_row(case, config)
    tokens = round(steps * per_step * row)
    if card is None:
        return Schedule(items, per_step, steps, tokens, None, None, UNKNOWN)
    each = seconds_per_row(case, config, card) + paging
    return Schedule(items, per_step, steps, tokens, steps * per_step * each, row / each, card.basis)


def seconds_per_row(case: Case, config: RunConfig, card: Card) -> float:
    """Seconds for one row (or bin) of the dataset, padding included."""
    training, size = config.training, config.training.micro_batch_size
    length = float(training.max_length_tokens)
    if training.packing != "bins":
        length = case.lengths.padded(1 if training.packing == "padding_free" else size, training.max_length_tokens)
    work = Work(size, length, training.gradient_checkpointing, config.quantization.kind, config.lora)
    return micro_batch_seconds(case.shape, card, work) / size


def paging_seconds(config: RunConfig, estimate: MemoryEstimate) -> float:
    """Seconds a row that paged state costs when all of it lies on the host."""
    rows = config.training.micro_batch_size * config.training.gradient_accumulation_steps
    return 2 * estimate.paged_bytes / _PCIE_BYTES_A_SECOND / rows


def _tokens_of_a_row(case: Case, config: RunConfig) -> float:
    limit = config.training.max_length_tokens
    if config.training.packing == "bins":
        return min(float(limit), case.lengths.mean * case.lengths.rows / training_items(case, limit))
    return case.lengths.padded(1, limit)
