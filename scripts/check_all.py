"""What CI runs, then the slow tests: an hour at most. They leave their results in `benchmarks/results/`."""

import subprocess
import sys

import check


def main() -> None:
    """Run every check, then the slow tests one after the other, since they use all cores by themselves."""
    check.main()
    code = subprocess.run([sys.executable, "-m", "pytest", "-m", "slow"], cwd=check.ROOT, check=False).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
