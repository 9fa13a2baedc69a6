"""What a training run returns."""

from pydantic import Field

from .base import Result


class RowCounts(Result):
    """What became of the rows of a dataset: `used` = read - dropped.

    `dropped_unusable` counts rows that could not be read, do not fit the format, or are refused by the chat template.
    """

    read: int
    used: int
    tokens: int
    learnt_tokens: int
    cut: int
    dropped_long: int
    dropped_nothing_to_learn: int
    dropped_unusable: int


class Recovery(Result):
    """A run that ran out of GPU memory and went on after `step` with smaller micro-batches, the same steps otherwise."""

    step: int
    during: str
    micro_batch_size: int
    gradient_accumulation_steps: int
    memory_summary: str


class TrainResult(Result):
    """A finished training run. Memory in bytes, times in seconds.

    `losses` are means over the learnt tokens of a step; `evaluation_losses`, by step, are means of the means of the
    evaluation's micro-batches, as Transformers computes them. A run that went on from a checkpoint (`resumed_from_step`) has
    those of all its attempts. `recoveries` tells when it ran out of memory and went on, `warnings` what was noticed.
    """

    output_directory: str
    adapter_directory: str
    engine: str
    engine_reason: str
    device: str
    compute_dtype: str
    packing: str
    steps: int
    planned_steps: int
    stopped_early: bool
    losses: list[float]
    evaluation_losses: dict[int, float]
    saved_step: int
    trainable_parameters: int
    total_parameters: int
    training_rows: RowCounts
    evaluation_rows: RowCounts | None
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    predicted_peak_bytes: int | None
    train_seconds: float
    total_seconds: float
    tokens_per_second: float
    smoke_answer: str | None
    resumed_from_step: int | None = None
    recoveries: list[Recovery] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    versions: dict[str, str]
