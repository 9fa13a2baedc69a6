"""Jobs that are never lost and never lie: a job's folder is the truth, and a lock tells whether it lives.

Importing this package costs nothing, since a waiting job is a process that imports it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pruning import prune_jobs
    from .reading import get_job, list_jobs, read_log
    from .records import AttemptSummary, JobList, JobStatus, LogText
    from .resuming import resume_job
    from .starting import start_training, start_work
    from .stopping import stop_job

_HOMES = {
    "AttemptSummary": "records",
    "JobList": "records",
    "JobStatus": "records",
    "LogText": "records",
    "get_job": "reading",
    "list_jobs": "reading",
    "prune_jobs": "pruning",
    "read_log": "reading",
    "resume_job": "resuming",
    "start_training": "starting",
    "start_work": "starting",
    "stop_job": "stopping",
}

__all__ = [
    "AttemptSummary",
    "JobList",
    "JobStatus",
    "LogText",
    "get_job",
    "list_jobs",
    "prune_jobs",
    "read_log",
    "resume_job",
    "start_training",
    "start_work",
    "stop_job",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
