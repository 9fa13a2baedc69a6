"""What CI runs: format, lint, types, tests. Stops at the first that fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A file's tests share what its fixtures train and build; groups (`--dist loadgroup`) are lost on pytest 9.2.
BY_FILE = ("--dist", "loadfile", "--no-loadscope-reorder")
# With `loadfile` a run whose crashed process is replaced never ends (pytest-xdist 3.8): a crash ends the run.
CRASHES = ("--max-worker-restart", "0")
CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy", "--no-error-summary"]),
    ("tests", ["pytest", "-m", "not gpu and not slow", "-n", "2", *BY_FILE, *CRASHES, "--durations", "10"]),
)


def main() -> None:
    """Run every check with the Python that runs this."""
    # Two test processes on two cores: with two threads each they would wait for one another most of the time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, command in CHECKS:
        began = time.monotonic()
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=False).returncode
        print(f"== {name}: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
