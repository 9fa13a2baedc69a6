"""What `chaos.py` writes down while it rages, and how it judges afterwards: nothing lost, no lie, no verdict that changed."""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qlora_tools.checkpoints import problem_of
from qlora_tools.jobs import JobStatus, get_job, list_jobs
from qlora_tools.jobs.layout import Workspace
from qlora_tools.jobs.locks import holder
from qlora_tools.jobs.states import TERMINAL

_ALIVE = ("starting", "running", "stopping")
Verdict = tuple[str, int, str, str | None, str | None]


class Sightings:
    """What one server saw, a line each; its process may be killed between any two of them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._known: set[Verdict] = set()

    def saw(self, job: JobStatus) -> None:
        """Write down every verdict that is new to this server."""
        for verdict in _verdicts(job):
            if verdict not in self._known:
                self._known.add(verdict)
                self._write({"verdict": verdict})

    def doubt(self, job: JobStatus, space: Workspace, directory: Path) -> None:
        """A job that is said to live has a holder of its lock, or has ended since."""
        if job.state not in _ALIVE or holder(space.job(job.id).lock_file) is not None:
            return
        again = get_job(job.id, workspace=directory)
        if again.state == job.state and again.attempt == job.attempt and holder(space.job(job.id).lock_file) is None:
            third = get_job(job.id, workspace=directory)
            if third.state in _ALIVE and third.attempt == job.attempt:
                self._write({"lie": f"{job.id} is said to be {job.state} and has no runner"})

    def took(self, what: str, seconds: float) -> None:
        """Note how long a call took."""
        self._write({"took": what, "ms": round(seconds * 1000, 1)})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _verdicts(job: JobStatus) -> list[Verdict]:
    return [(job.id, one.attempt, one.state, one.ended, one.cause) for one in job.attempts if one.state in TERMINAL]


def lines(directory: Path) -> Iterator[dict[str, Any]]:
    """All that the servers wrote; the last line of a killed one may be torn."""
    for path in directory.glob("seen-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def speeds(directory: Path) -> dict[str, dict[str, float]]:
    """Median, 99th percentile and number of the calls of all servers."""
    taken: dict[str, list[float]] = {}
    for line in lines(directory):
        if "took" in line:
            taken.setdefault(line["took"], []).append(line["ms"])
    return {
        what: {
            "median": round(statistics.median(all_of), 1),
            "p99": round(sorted(all_of)[int(len(all_of) * 0.99)], 1),
            "calls": len(all_of),
        }
        for what, all_of in taken.items()
    }


def judged(
    space: Workspace, directory: Path, keys: Mapping[int, str], kills: set[tuple[str, int]]
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """What was wrong, by kind, and how the jobs and attempts ended."""
    jobs = {job_id: get_job(job_id, workspace=directory) for job_id in keys.values()}
    final = {(one[0], one[1]): one for job in jobs.values() for one in _verdicts(job)}
    faults = {
        "lost": _lost(directory, keys),
        "lies": [line["lie"] for line in lines(directory) if "lie" in line] + _lies(jobs),
        "changed verdicts": _changed(directory, final),
        "kills without their verdict": [
            f"{kill}: {final.get(kill)}" for kill in sorted(kills) if not _is_told(final.get(kill), jobs[kill[0]])
        ],
        "without an end": [job.id for job in jobs.values() if job.state not in TERMINAL],
        "failed": [f"{job.id}: {job.message}" for job in jobs.values() if job.state == "failed"],
        "resumed from nothing": _bad_resumes(jobs),
        "left behind": [path.name for path in space.active.iterdir()],
    }
    ends = Counter(job.state for job in jobs.values())
    causes = Counter(f"{verdict[2]}: {verdict[4] or 'done'}" for verdict in final.values())
    return faults, {"ends_of_jobs": dict(ends), "ends_of_attempts": dict(causes), "attempts": len(final)}


def _lost(directory: Path, keys: Mapping[int, str]) -> list[str]:
    listed = Counter(job.id for job in list_jobs(limit=None, workspace=directory).jobs)
    wanted = Counter(keys.values())
    return [
        f"{job_id}: told {wanted[job_id]}, listed {listed[job_id]}" for job_id in (listed | wanted) - (listed & wanted)
    ]


def _lies(jobs: Mapping[str, JobStatus]) -> list[str]:
    """Jobs that are said to have succeeded without what a run leaves."""
    return [
        f"{job.id} is said to have succeeded without adapter or result"
        for job in jobs.values()
        if job.state == "succeeded"
        and not (job.adapter_directory and (Path(job.output_directory) / "result.json").is_file())
    ]


def _changed(directory: Path, final: Mapping[tuple[str, int], Verdict]) -> list[str]:
    seen = {tuple(line["verdict"]) for line in lines(directory) if "verdict" in line}
    return [f"{one} became {final.get((one[0], one[1]))}" for one in seen if final.get((one[0], one[1])) != one]


def _is_told(verdict: Verdict | None, job: JobStatus) -> bool:
    """Whether a kill is told as one; a run may have ended on its own in the moment before."""
    if verdict is None:
        return False
    state, cause = verdict[2], verdict[4]
    if state == "interrupted":
        return cause in ("killed", "host-memory")
    return cause in ("killed", "asked", "host-memory") if state != "succeeded" else job.adapter_directory is not None


def _bad_resumes(jobs: Mapping[str, JobStatus]) -> list[str]:
    """Attempts that went on from a checkpoint that is still there and not whole."""
    found = [(job.id, Path(one.resumed_from)) for job in jobs.values() for one in job.attempts if one.resumed_from]
    return [f"{job_id}: {path}" for job_id, path in found if path.is_dir() and problem_of(path) is not None]
