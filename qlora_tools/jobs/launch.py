"""Starting the runner of a job, as a process of its own that outlives whoever started it."""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from .. import durable
from ..subprocesses import runner_environment
from .clock import boot_id, now, process_started, stamp
from .facts import Document, read_document
from .kinds import LAUNCH, parsed
from .layout import TRAINING, AttemptFolder, JobFolder, open_own
from .logs import log_tail
from .verdicts import end_unstarted, newest_checkpoint, resume_step, verdict

if TYPE_CHECKING:
    import subprocess

RUNNER_MODULE = "qlora_tools.jobs.runner"
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
# So long a new process may take to lock its job, on a machine that is busy.
_PATIENCE_SECONDS = 120.0
_MOST_FAILED, _MOST_KILLED = 3, 10
_children: "list[subprocess.Popen[bytes]]" = []


def launch(job: JobFolder, attempt: AttemptFolder) -> None:
    """Start a runner. One that cannot even be started is noted; the job then stays queued until somebody tries again."""
    plan, request = read_document(job.plan_file) or {}, read_document(attempt.request_file) or {}
    size = job.log_file.stat().st_size if job.log_file.exists() else 0
    try:
        pid = _start(job, attempt, plan, request)
    except OSError as error:
        note(attempt, "launched", log_bytes=size, error=str(error))
        return
    note(attempt, "launched", log_bytes=size, pid=pid, process=process_started(pid), boot_id=boot_id())


def note(attempt: AttemptFolder, event: str, **more: Any) -> None:
    """Add a line to the launches of an attempt; a full disk is no reason to fail."""
    line = json.dumps({"event": event, "time": now(), **more}) + "\n"
    durable.reached("append", attempt.launches_file)
    try:
        with attempt.launches_file.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        return


def relaunch(job: JobFolder, attempt: AttemptFolder) -> None:
    """Start the runner of a waiting job that has none, unless one is on its way, or none can start at all.

    What came with a copied or unpacked folder is not started: somebody else chose its config.
    """
    if not _made_here(attempt):
        end_unstarted(attempt, _from_elsewhere(job))
        return
    pending = _pending(attempt)
    if any(_on_its_way(line) for line in pending):
        return
    spoke = bool(pending) and _has_spoken(job, pending[0])
    if len(pending) >= (_MOST_FAILED if spoke else _MOST_KILLED):
        end_unstarted(attempt, _cannot_start(job, attempt, pending))
    else:
        launch(job, attempt)


def _made_here(attempt: AttemptFolder) -> bool:
    """Whether this very folder was made for the attempt: a copy has another number in the file system."""
    made = (read_document(attempt.request_file) or {}).get("folder")
    return made is not None and made == attempt.path.stat().st_ino


def _from_elsewhere(job: JobFolder) -> Document:
    asked = job.asked_file((read_document(job.plan_file) or {}).get("kind", TRAINING))
    return verdict(
        "interrupted",
        1,
        "It was never started: its files were copied or unpacked here, or are damaged, and nobody here asked for it.",
        f"Look at what it is to do, in {asked}; if it is to run: qlora resume {job.id}",
        cause="elsewhere",
    )


def _start(job: JobFolder, attempt: AttemptFolder, plan: Document, request: Document) -> int:
    import subprocess

    _reap()
    directory = plan.get("working_directory")
    descriptor = os.open(job.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", RUNNER_MODULE, str(job.path), str(attempt.number)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory if directory and os.access(directory, os.X_OK) else "/",
            env=_environment(plan, request),
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(descriptor)
    _children.append(child)
    return child.pid


def _environment(plan: Document, request: Document) -> dict[str, str]:
    """The runner's environment: the GPUs are those of whoever asked for the run, not of whoever starts it now."""
    environment = runner_environment(str(plan.get("tracking", "none")))
    environment.pop(DEVICES_VARIABLE, None)
    if request.get("visible_devices") is not None:
        environment[DEVICES_VARIABLE] = str(request["visible_devices"])
    return environment


def _reap() -> None:
    """Let go of runners that ended; they would stay as zombies."""
    _children[:] = [child for child in _children if child.poll() is None]


def _pending(attempt: AttemptFolder) -> list[Document]:
    """The launches after which no runner has got as far as the queue."""
    try:
        with os.fdopen(open_own(attempt.launches_file), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return []
    pending: list[Document] = []
    for line in content.splitlines():
        try:
            value = parsed(line, LAUNCH)
        except ValueError:
            continue
        pending = [*pending, value] if value.get("event") == "launched" else []
    return pending


def _on_its_way(line: Document) -> bool:
    _reap()
    young = 0 <= now() - line.get("time", 0) < _PATIENCE_SECONDS
    if not young or "pid" not in line or line.get("boot_id") != boot_id():
        return False
    return bool(line.get("process")) and process_started(line["pid"]) == line["process"]


def _has_spoken(job: JobFolder, first: Document) -> bool:
    """Whether runners left words of failure; one that was killed leaves none."""
    size = job.log_file.stat().st_size if job.log_file.exists() else 0
    return "error" in first or size > first.get("log_bytes", 0)


def _cannot_start(job: JobFolder, attempt: AttemptFolder, pending: list[Document]) -> Document:
    plan, request = read_document(job.plan_file) or {}, read_document(attempt.request_file) or {}
    words = [str(line["error"]) for line in pending if "error" in line] or log_tail(job.log_file, 3)
    since = stamp(pending[0].get("time", 0))
    return verdict(
        "failed",
        1,
        f"The runner cannot start: {len(pending)} launches since {since} ended before it could work. "
        + " / ".join(words),
        f"Run `qlora doctor`, mend what it finds, then: {resume_step(job.id, plan, newest_checkpoint(plan, request))}",
        cause="cannot-start",
    )
