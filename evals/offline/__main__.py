"""`python -m evals.offline [--slow] [--write FILE] [TASK ...]`: run tasks, print a line for each and the rates.

Records that FILE holds of other tasks stay there.
"""

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .run import Record, run, summary
from .session import CHARACTERS_PER_TOKEN
from .tasks import TASKS


def main() -> int:
    """Run the tasks that were named, or all; returns 1 where one is not done."""
    parser = argparse.ArgumentParser(prog="python -m evals.offline", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", choices=[*TASKS, []], help="default: all but the slow")
    parser.add_argument("--slow", action="store_true", help="the slow ones too, which train: minutes")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the records there as JSON")
    given = parser.parse_args()
    names = given.tasks or [name for name, task in TASKS.items() if given.slow or not task.slow]
    records = []
    for name in names:
        records.append(run(TASKS[name]))
        print(_line(records[-1]), flush=True)
    whole = summary(records)
    print(json.dumps(whole, indent=1))
    if given.write:
        write(given.write, records)
    return 0 if whole["verified"] == len(records) else 1


def _line(record: Record) -> str:
    verdict = "ok  " if record["verified"] else "FAIL"
    counts = f"{record['calls']} calls, {record['tokens']} tokens, {record['errors']} errors"
    mended = f"{record['mended_in_one_try']} mended in one try, {record['seconds']} s"
    told = "" if record["verified"] else f"\n     {record['failure']}"
    return f"{verdict} {record['task']}: {counts}, {mended}{told}"


def write(file: Path, records: list[Record]) -> None:
    """Write records beside those that the file has of other tasks, all in the order of the tasks."""
    before = json.loads(file.read_text(encoding="utf-8"))["tasks"] if file.exists() else []
    known = {record["task"]: record for record in (*before, *records)}
    document = _document([known[name] for name in TASKS if name in known])
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _document(records: list[Record]) -> Record:
    counting = (
        "name and arguments of a call as JSON without spaces, text and structured content of its answer, no pictures; the "
        f"folder of a task counts as /data; {CHARACTERS_PER_TOKEN} characters are one token"
    )
    return {
        "written_by": "python -m evals.offline [--slow] --write FILE [TASK ...]",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("mcp", "qlora-tools")},
        "counting": counting,
        "summary": summary(records),
        "tasks": records,
    }


if __name__ == "__main__":
    sys.exit(main())
