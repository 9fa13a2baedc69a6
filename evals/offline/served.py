"""`qlora mcp` as it is, except that the jobs it starts are those of `simulated_runner`: `served PID_FILE mcp ...`."""

import os
import sys
from pathlib import Path

from qlora_tools.cli.main import run
from qlora_tools.jobs import launch

from .simulated_runner import MODULE


def main() -> int:
    """Tell the id of this process, then be the command; returns its exit code."""
    Path(sys.argv[1]).write_text(str(os.getpid()), encoding="utf-8")
    launch.RUNNER_MODULE = MODULE
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
