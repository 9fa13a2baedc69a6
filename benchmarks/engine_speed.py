"""Speed and memory of QLoRA engines on the same random base, the same rows and the same settings, each in its own process.

    python benchmarks/engine_speed.py OUT.json [CASE ...] [--engine NAME ...] [--again]

Bases have random weights in the true shape. A case is a name in `engine_cases.CASES` or spelled out: `qwen2.5-14b-instruct:
3x1536:r24:kept`. Without one, all that suit this machine run in order of importance. What OUT.json already holds is skipped,
unless `--again` is given or the case has changed. Results are written after each process; one that crashes, runs out of
memory or out of time is recorded with its last line. All ends after `ENGINE_SECONDS` (default 540).
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine_cases import CASES, ENGINES, Case, Job, jobs_of

RUN = Path(__file__).with_name("engine_run.py")
SECONDS = float(os.environ.get("ENGINE_SECONDS", "540"))
LEAST_SECONDS = 15.0  # less than this is left: no further process begins
FIRST_LOSS_WITHIN, FIRST_NORM_WITHIN = 0.01, 0.1  # nats; share. A dropped or doubled term is far beyond both
_SUMS = ("step_seconds", "step_processor_seconds", "step_tokens")
_ENVIRONMENT = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "UNSLOTH_DISABLE_STATISTICS": "1",
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--engine", action="append", choices=ENGINES, default=[])
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    on_gpu = shutil.which("nvidia-smi") is not None
    names = asked.cases or [name for name, case in CASES.items() if case.on_cpu != on_gpu]
    try:
        jobs = list(jobs_of(names, asked.engine))
    except ValueError as error:
        parser.error(str(error))
    Session(asked.out, SECONDS).run(jobs, again=asked.again)


class Session:
    """A list of jobs measured one after another into one file, until its seconds are over."""

    def __init__(self, target: Path, seconds: float) -> None:
        self._target, self._ends = target, time.monotonic() + seconds
        self._report: dict[str, Any] = {"date": str(date.today()), "machine": None, "cases": {}}
        if target.exists():
            self._report |= json.loads(target.read_text(encoding="utf-8"))

    def run(self, jobs: list[Job], *, again: bool = False) -> None:
        """Measure the jobs that the file does not hold yet. While one measures, the next imports its libraries."""
        waited = [job for job in jobs if again or not self._is_done(job)]
        # Where Unsloth is missing its jobs fail at once, and need no checkpoint.
        wanted = list(with_checkpoints(waited)) if find_spec("unsloth") else waited
        with _folder() as scratch, ExitStack() as started:
            ahead: Child | None = None
            for place, job in enumerate(wanted):
                left = self._ends - time.monotonic()
                if left < LEAST_SECONDS:
                    print(f"no time for {len(wanted) - place} processes", flush=True)
                    break
                child = ahead or Child(job, scratch, started)
                # On a CPU the imports would take the processor from what is measured.
                following = wanted[place + 1] if place + 1 < len(wanted) and not job.case.on_cpu else None
                ahead = Child(following, scratch, started) if following else None
                limit = min(job.case.seconds, left)
                found = child.result(limit)
                if found is None and limit < job.case.seconds:
                    print("the session's time was over for", job.name, job.engine, flush=True)
                    break  # and it is tried again by the next session
                self._record(job, found or {"error": f"not done after {limit:.0f} s", "last_line": child.last_line()})
                _drop_checkpoint(job, wanted[place + 1 :], scratch)

    def _is_done(self, job: Job) -> bool:
        held = self._report["cases"].get(job.name)
        if held is None or held["case"] != job.case.values() or job.engine not in held["engines"]:
            return False
        return bool(held["engines"][job.engine].get("rounds", 1) > job.round)

    def _record(self, job: Job, found: dict[str, Any]) -> None:
        print(job.name, job.engine, json.dumps({**found, "machine": None}), flush=True)
        if job.engine == "checkpoint":
            return
        cases = self._report["cases"]
        held = cases.get(job.name)
        if held is None or held["case"] != job.case.values():
            held = cases[job.name] = {"case": job.case.values(), "dtype": None, "engines": {}}
        self._report |= {"date": str(date.today()), "machine": found.pop("machine", None) or self._report["machine"]}
        held["dtype"] = found.pop("dtype", None) or held["dtype"]
        earlier = held["engines"].get(job.engine) if job.round else None
        held["engines"][job.engine] = merged(earlier, found)
        held |= {"fast_over_stock": ratios(held["engines"]), "agreement": agreement(held["engines"])}
        partial = self._target.with_suffix(".partial")
        partial.write_text(json.dumps(self._report, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._target)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for checkpoints and logs: in memory where that has room for some, since a checkpoint has gigabytes."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder inside has a name of its own
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 24 * 2**30
    with tempfile.TemporaryDirectory(prefix="engine-speed-", dir=memory if roomy else None) as made:
        yield Path(made)


def with_checkpoints(jobs: list[Job]) -> Iterator[Job]:
    """The jobs, and before the first that reads a checkpoint the one that writes it."""
    written = set()
    for job in jobs:
        if job.engine == "unsloth" and job.case.shape not in written:
            written.add(job.case.shape)
            yield Job(job.name, job.case, "checkpoint")
        yield job


def _checkpoint(case: Case, scratch: Path) -> Path:
    return scratch / f"checkpoint-{case.shape}"


def _drop_checkpoint(job: Job, later: list[Job], scratch: Path) -> None:
    if not any(one.engine == "unsloth" and one.case.shape == job.case.shape for one in later):
        shutil.rmtree(_checkpoint(job.case, scratch), ignore_errors=True)


@dataclass
class Child:
    """The process of one job, from its imports on; it ends with `started` at the latest."""

    job: Job
    scratch: Path
    started: ExitStack

    def __post_init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.scratch))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(RUN), self.job.engine],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        self.started.callback(self.stop)

    def result(self, seconds: float) -> dict[str, Any] | None:
        """What it measured, or why it ended without; None where it was not done within `seconds`, and was ended."""
        reply = self._folder / "reply.json"
        request = {
            "case": self.job.case.values(),
            "engine": self.job.engine,
            "scratch": str(self._folder),
            "checkpoint": str(_checkpoint(self.job.case, self.scratch)),
            "reply": str(reply),
        }
        try:
            self._process.communicate(json.dumps(request).encode() + b"\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            return None
        if self._process.returncode == 0 and reply.exists():
            found: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
            return found
        code = self._process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return {"error": how, "last_line": self.last_line()}

    def stop(self) -> None:
        """End it and what it started, where it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def last_line(self) -> str:
        """The last line that it wrote, which of a traceback is the error."""
        text = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1][-400:] if lines else ""


def merged(earlier: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """A result with the samples of the rounds before it, and its summary; an error stays one."""
    if "error" in found or earlier is None or "error" in earlier:
        rounds = (earlier or {}).get("rounds", 0) + 1
        return {**summary(found), **found, "rounds": rounds}
    sums = {name: [*earlier[name], *found[name]] for name in _SUMS}
    whole = {**found, **sums}
    return {**summary(whole), **whole, "rounds": earlier["rounds"] + 1}


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Speed, median and spread of the timed steps; nothing where none was timed."""
    seconds, processor = found.get("step_seconds"), found.get("step_processor_seconds")
    if not seconds or not processor:
        return {}
    return {
        "tokens_per_second": round(sum(found["step_tokens"]) / sum(seconds), 1),
        "median_step_seconds": round(statistics.median(seconds), 5),
        "fastest_step_seconds": round(min(seconds), 5),
        "slowest_step_seconds": round(max(seconds), 5),
        "median_processor_seconds": round(statistics.median(processor), 5),
        "steps": len(seconds),
        "last_loss": found["losses"][-1],
    }


def ratios(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """How many times stock's time the fast engine's is; None before both were measured."""
    pair = [engines.get(name, {}) for name in ("stock", "fast")]
    if not all("median_step_seconds" in one for one in pair):
        return None
    names = ("median_step_seconds", "fastest_step_seconds", "median_processor_seconds")
    return {name: round(pair[0][name] / pair[1][name], 3) for name in names}


def agreement(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Loss and gradient norm of the first step of each engine beside the first reference there is, on equal rows.

    All adapters begin with B = 0 and A of one distribution: losses are equal but for rounding, and norms but for chance.
    `lora16` has other weights, and an engine that packs rows itself has other bins.
    """
    measured = {name: one for name, one in engines.items() if one.get("losses") and name != "lora16"}
    reference = next((name for name in ("stock", "trl", "trl-liger", "unsloth", "fast") if name in measured), None)
    if reference is None:
        return None
    base, found = measured[reference], {}
    for name, one in measured.items():
        if name == reference or one["first_tokens"] != base["first_tokens"]:
            continue
        loss = one["losses"][0] - base["losses"][0]
        norm = one["gradient_norms"][0] / base["gradient_norms"][0]
        within = abs(loss) <= FIRST_LOSS_WITHIN and abs(norm - 1) <= FIRST_NORM_WITHIN
        found[name] = {"first_loss": round(loss, 6), "first_gradient_norm": round(norm, 5), "within": within}
    return {"reference": reference, "engines": found}


if __name__ == "__main__":
    main()
