"""What a child process of ours may see of the environment."""

import os
import sys
from pathlib import Path

_ALLOWED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "SYSTEMROOT", "VIRTUAL_ENV")
_ALLOWED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "HF_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "QLORA_", "BNB_")


def child_environment() -> dict[str, str]:
    """The parent's environment less what the child has no business with, and with this package importable."""
    kept = {key: value for key, value in os.environ.items() if key in _ALLOWED or key.startswith(_ALLOWED_PREFIXES)}
    package_parent = str(Path(__file__).resolve().parent.parent)
    # `-m qlora_tools...` must find this very copy, also in a checkout that is not installed.
    kept["PYTHONPATH"] = os.pathsep.join([package_parent, *(path for path in sys.path if path)])
    return kept
