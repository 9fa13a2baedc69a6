"""How long listing and status take among many finished jobs: `jobs_listing.py [JOBS]`, 10,000 unless told.

The jobs are written as the product writes them. Each operation is called 50 times in this process; the index is warm, but for
the one call after it was deleted. Writes `benchmarks/results/jobs_listing.json`.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qlora_tools.jobs import get_job, list_jobs
from qlora_tools.jobs.layout import Workspace
from tests.finished_jobs import write_finished_jobs

RESULT = Path(__file__).parent / "results" / "jobs_listing.json"
TIMES = 50


def main() -> None:
    """Measure, print, and write the result."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as directory:
        figures = _measured(Path(directory).resolve(), jobs)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "finished_jobs": jobs,
        "calls_each": TIMES,
        "milliseconds": figures,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


def _measured(directory: Path, jobs: int) -> dict[str, Any]:
    space = Workspace.at(directory)
    ids = write_finished_jobs(space, jobs)
    middle = ids[len(ids) // 2]
    first = _milliseconds(lambda: list_jobs(workspace=directory))
    assert list_jobs(workspace=directory).total == jobs
    assert get_job(middle, workspace=directory).id == middle
    return {
        "first list, without an index": round(first, 1),
        "list of 50": _many(lambda: list_jobs(workspace=directory)),
        "list of the failed ones": _many(lambda: list_jobs(states=["failed"], workspace=directory)),
        "status by id": _many(lambda: get_job(middle, workspace=directory)),
        "status of the last": _many(lambda: get_job("last", workspace=directory)),
    }


def _many(call: Callable[[], object]) -> dict[str, float]:
    taken = [_milliseconds(call) for _ in range(TIMES)]
    return {"median": round(statistics.median(taken), 1), "worst": round(max(taken), 1)}


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
