"""What the operations return. Plain pydantic models: `model_dump(mode="json")` is what `--json` prints."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowCounts(_Result):
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


class TrainResult(_Result):
    """A finished training run. Memory in bytes, times in seconds.

    `losses` are means over the learnt tokens of a step; `evaluation_losses`, by step, are means of the means of the
    evaluation's micro-batches, as Transformers computes them.
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
    versions: dict[str, str]


class Answer(_Result):
    """Answers to one prompt; None where that side was not asked for."""

    prompt: str
    base: str | None
    adapter: str | None


class GenerateResult(_Result):
    """Answers in the order of the prompts."""

    model: str
    adapter: str | None
    device: str
    answers: list[Answer]
    seconds: float


class ParityResult(_Result):
    """How far the merged model answers as base plus adapter did, on the same prompts.

    `top1_agreement` and `mean_kl` (nats a token) are taken over the tokens of the reference answers.
    """

    prompts: int
    tokens: int
    same_answers: int
    top1_agreement: float
    mean_kl: float
    passed: bool


class MergeResult(_Result):
    """A merged model on disk. `base` says what the adapter was merged into."""

    directory: str
    base: str
    dtype: str
    size_bytes: int
    parity: ParityResult | None
    seconds: float


class HostMemory(_Result):
    """Host memory and disk that a task needs, in bytes."""

    memory_bytes: int
    disk_bytes: int


class PastRuns(_Result):
    """How far predictions were off in runs on this machine: measured over predicted peak, less one."""

    runs: int
    median_error: float
    largest_error: float


class MemoryReport(_Result):
    """Peak memory of a task, in bytes. `parts` sum to `mid_bytes`, what torch allocates at the fullest moment.

    `low_bytes` to `high_bytes` is the band around it; `reserved_bytes` is what torch reserves, `device_bytes` what
    nvidia-smi shows, `needed_bytes` what should be free to be sure. `fits` is None where no GPU was named. Merging
    needs none: its figures are in `host`. `past` tells of earlier runs on such a GPU here.
    """

    model: str
    source: str
    licence: str | None
    parameters: int
    task: str
    compute_dtype: str
    parts: dict[str, int]
    moment: str
    low_bytes: int = 0
    mid_bytes: int = 0
    high_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0
    needed_bytes: int = 0
    context_bytes: int = 0
    paged_bytes: int = 0
    host: HostMemory | None = None
    gpu: str | None = None
    gpu_bytes: int | None = None
    fits: bool | None = None
    past: PastRuns | None = None
    notes: list[str] = []
    next_step: str


class ProbePart(_Result):
    """One part of memory, predicted and measured, in bytes."""

    name: str
    predicted_bytes: int
    measured_bytes: int


class ProbeResult(_Result):
    """One real training step with random weights in the model's shape, beside the prediction."""

    model: str
    device: str
    steps: int
    seconds_per_step: float
    tokens_per_second: float
    parts: list[ProbePart]


class Finding(_Result):
    """One thing that a check of a dataset found, in `count` rows. `rows` numbers up to ten of them, from 1.

    `share` is of the rows that the check looked at, None where a share means nothing. `example` is taken from the first
    of them, shortened, without control characters, and with personal data masked.
    """

    check: str
    severity: Literal["error", "warning", "note"]
    message: str
    count: int
    share: float | None = None
    rows: list[int] = []
    example: str | None = None
    next_step: str | None = None


class RowMapping(_Result):
    """Which format the rows are read as, and from which columns: our name -> the file's, dotted where nested."""

    format: str
    columns: dict[str, str]
    found_by: Literal["names", "content", "config"]
    unused_columns: list[str] = []


class MappingProposal(_Result):
    """How rows of no known format could be read: settings for the config, and Python code that converts the file."""

    format: str
    columns: dict[str, str]
    reason: str
    code: str


class LimitShare(_Result):
    """What a length limit would cost: rows longer than it, and the tokens behind it."""

    max_length_tokens: int
    rows_over: int
    share_over: float
    tokens_lost_share: float


class LengthSummary(_Result):
    """Tokens a row. `percentiles` by name (`p50`); `histogram` has the upper end of each bar and its rows."""

    how: Literal["tokenizer", "characters"]
    note: str
    rows: int
    mean: float
    percentiles: dict[str, int]
    longest: int
    limits: list[LimitShare]
    histogram: list[tuple[int, int]]
    max_length_tokens: int
    suggested_max_length_tokens: int


class MaskPiece(_Result):
    """Neighbouring tokens of one kind. `special` marks tokens that stand for themselves, such as the end of a turn."""

    text: str
    learnt: bool
    special: bool


class MaskedRow(_Result):
    """One row as the trainer's collator hands it to the model."""

    row: int
    tokens: int
    learnt_tokens: int
    cut: bool
    pieces: list[MaskPiece]


class PackingSummary(_Result):
    """Rows in bins of `bin_tokens`: how full they are, beside how full padded micro-batches are."""

    bin_tokens: int
    bins: int
    rows_per_bin: float
    fill: float
    padded_fill: float


class DatasetReport(_Result):
    """What `inspect_dataset` found. `verdict` follows from the severest finding.

    `rows` were read, of which `unusable_rows` do not fit the format; the checks that cost time looked at `rows_checked`
    of them, spread evenly. `tokens_per_epoch` and `learnt_tokens_per_epoch` are projected to all rows.
    `prompt_form` says how rows become text, `not_checked` what was left out and why.
    """

    path: str
    model: str | None
    verdict: Literal["ready", "ready with warnings", "not ready"]
    summary: str
    mapping: RowMapping | None
    proposal: MappingProposal | None
    rows: int
    rows_checked: int
    unusable_rows: int
    findings: list[Finding]
    lengths: LengthSummary | None
    masks: list[MaskedRow]
    loss_on: str
    prompt_form: str | None
    stop_tokens: list[str]
    packing: PackingSummary | None
    tokens_per_epoch: int | None
    learnt_tokens_per_epoch: int | None
    sources: dict[str, int]
    languages: dict[str, float]
    not_checked: list[str]
    seconds: float
    next_step: str
