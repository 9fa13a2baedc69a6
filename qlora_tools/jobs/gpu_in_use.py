"""Whether something else may use the GPU: a run was sized for what was free when it started."""

from pathlib import Path

from ..errors import MachineError
from ..models.gpu_here import gpu_here
from .reading import list_jobs

_USING = ("starting", "running", "stopping")


def require_free_gpu(workspace: Path) -> None:
    """Raise `MachineError` while a job of the workspace uses the GPU of this machine, whose memory it may need."""
    using = [job for job in list_jobs(states=_USING, limit=None, workspace=workspace).jobs if job.device is not None]
    if using and gpu_here() is not None:
        raise MachineError(
            f"The job {using[0].id} uses the GPU; a second model beside it could end it for lack of memory.",
            next_step=f"Wait for its end (get_job), or stop it: qlora stop {using[0].id}",
        )
