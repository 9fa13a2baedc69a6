"""What CI runs: format, lint, types, tests. Stops at the first that fails."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy", "--no-error-summary"]),
    ("tests", ["pytest", "-m", "not gpu", "-n", "2", "--dist", "loadgroup", "--durations", "10"]),
)


def main() -> None:
    """Run every check with the Python that runs this."""
    for name, command in CHECKS:
        began = time.monotonic()
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode
        print(f"== {name}: {'ok' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
