"""What estimates and probes return."""

from pydantic import Field

from .base import Result


class HostMemory(Result):
    """Host memory and disk that a task needs, in bytes."""

    memory_bytes: int
    disk_bytes: int


class PastRuns(Result):
    """How far predictions were off in runs on this machine: measured over predicted peak, less one."""

    runs: int
    median_error: float
    largest_error: float


class MemoryReport(Result):
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
    notes: list[str] = Field(default_factory=list)
    next_step: str


class ProbePart(Result):
    """One part of memory, predicted and measured, in bytes."""

    name: str
    predicted_bytes: int
    measured_bytes: int


class ProbeResult(Result):
    """One real training step with random weights in the model's shape, beside the prediction."""

    model: str
    device: str
    steps: int
    seconds_per_step: float
    tokens_per_second: float
    parts: list[ProbePart]
