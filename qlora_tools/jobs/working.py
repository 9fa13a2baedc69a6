"""The work of a job that is no training: its function, called with the arguments that were asked for."""

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..events import Listener, StopAsked
from ..requirements import quiet_libraries
from ..results.base import Result
from .facts import read_document
from .layout import AttemptFolder, JobFolder
from .works import work_of


def work_as_asked(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    """Evaluate, merge or export as the job's `work.json` says, and return the result. Raises what the function raises.

    Every attempt makes the same call: what an earlier one has written is found by the function itself.
    """
    kind, arguments = asked_work(job)
    function = work_of(kind).function()
    quiet_libraries()
    result: Result = function(**arguments, stop=stop, on_event=on_event)
    return result.as_document()


def asked_work(job: JobFolder) -> tuple[str, dict[str, Any]]:
    """Kind and arguments of a job that is no training. Raises `UsageError` where its `work.json` cannot be read."""
    asked = read_document(job.work_file) or {}
    kind, arguments = asked.get("kind"), asked.get("arguments")
    if kind is None or arguments is None:
        raise UsageError(f"The work.json of {job.id} cannot be read.", next_step="Start the work again as a new job.")
    return kind, arguments
