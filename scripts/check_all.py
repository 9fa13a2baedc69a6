"""What CI runs, then the slow tests: an hour at most. They leave their results in `benchmarks/results/`."""

import subprocess
import sys

import check

# A single slow test that takes longer hangs.
LONGEST_SECONDS = 3600


def main() -> None:
    """Run every check, then the slow tests one after the other, since they use all cores by themselves."""
    check.main()
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-o", f"faulthandler_timeout={LONGEST_SECONDS}"]
    code = subprocess.run(command, cwd=check.ROOT, check=False).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
