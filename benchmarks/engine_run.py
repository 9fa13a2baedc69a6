"""One measurement of `engine_speed.py`, in a process of its own: `python benchmarks/engine_run.py ENGINE`.

Libraries are imported first, which takes seconds and no GPU; then one line of JSON is read from stdin: `case` (fields of
`engine_cases.Case`), `engine`, `scratch` (a folder for this process), `checkpoint` (the folder that Unsloth reads) and
`reply` (where the result goes). The parent starts the next process while one measures, so that it waits for no imports.
"""

import importlib
import json
import sys
import time
from pathlib import Path

from engine_cases import ENGINES

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Import, wait for the request, measure, write the reply."""
    began = time.perf_counter()
    if sys.argv[1] not in (*ENGINES, "checkpoint"):
        raise SystemExit(f"{sys.argv[1]} is no engine; there are {', '.join(ENGINES)}")
    if sys.argv[1] == "unsloth":
        importlib.import_module("unsloth")  # it patches the libraries below, so it has to come first
    measuring = importlib.import_module("engine_measure")
    imported = time.perf_counter()
    line = sys.stdin.readline()
    if not line:  # the parent is gone
        return
    request, asked = json.loads(line), time.perf_counter()
    found = measuring.reply_to(request)
    seconds = {"imports": imported - began, **found.pop("phase_seconds", {}), "process": time.perf_counter() - asked}
    found["phase_seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    Path(request["reply"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
