"""Child processes of ours: what they may see of the environment, and how those are started that are talked to."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_ALLOWED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "SYSTEMROOT", "VIRTUAL_ENV")
_ALLOWED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "HF_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "QLORA_", "BNB_")
# What a whole run needs beside that: caches, the way to the Hub through a proxy, settings of the libraries.
_FOR_RUNS = ("USER", "LOGNAME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_FOR_RUNS_ANY_CASE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PREFIXES_FOR_RUNS = ("ATEN_", "TOKENIZERS_", "TRANSFORMERS_", "TRITON_", "XDG_", "NCCL_", "KMP_", "OPENBLAS_")
_OF_TRACKERS = {
    "wandb": ("WANDB_",),
    "mlflow": ("MLFLOW_", "AWS_", "DATABRICKS_"),
    "tensorboard": ("TENSORBOARD_",),
    "trackio": ("TRACKIO_",),
}


def child_environment() -> dict[str, str]:
    """The parent's environment less what the child has no business with, and with this package importable."""
    return _kept(_ALLOWED, _ALLOWED_PREFIXES)


def runner_environment(tracking: str) -> dict[str, str]:
    """That of a run: also what its libraries need, and the variables of the experiment tracker it reports to."""
    names = (*_ALLOWED, *_FOR_RUNS, *_FOR_RUNS_ANY_CASE, *(name.lower() for name in _FOR_RUNS_ANY_CASE))
    return _kept(names, (*_ALLOWED_PREFIXES, *_PREFIXES_FOR_RUNS, *_OF_TRACKERS.get(tracking, ())))


def start_talking(module: str) -> "subprocess.Popen[str]":
    """Start `python -m module` with pipes for lines of text, in a session of its own, so that what it starts ends with it.

    Blocks for some milliseconds. Raises `OSError`.
    """
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=runner_environment("none"),
        start_new_session=True,
    )


def _kept(names: tuple[str, ...], prefixes: tuple[str, ...]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in names or key.startswith(prefixes)}
    package_parent = str(Path(__file__).resolve().parent.parent)
    # `-m qlora_tools...` must find this very copy, also in a checkout that is not installed.
    kept["PYTHONPATH"] = os.pathsep.join([package_parent, *(path for path in sys.path if path)])
    return kept
