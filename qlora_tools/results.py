"""What the operations return. Plain pydantic models: `model_dump(mode="json")` is what `--json` prints."""

from pydantic import BaseModel, ConfigDict


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowCounts(_Result):
    """What became of the rows of a dataset: `used` = read - dropped."""

    read: int
    used: int
    tokens: int
    learnt_tokens: int
    cut: int
    dropped_long: int
    dropped_nothing_to_learn: int


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
