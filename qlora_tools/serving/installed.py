"""Which servers are installed here, found without importing them."""

import importlib.util
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import MissingLibraryError
from ..requirements import require_training_libraries

# What `transformers serve` imports beside Transformers itself.
_SERVER_LIBRARIES = ("fastapi", "uvicorn", "openai")
_INSTALL_TRANSFORMERS = "pip install 'transformers[serving]'"
_INSTALL_VLLM = "pip install vllm, in an environment of its own: it brings its own torch"


def vllm_program() -> str | None:
    """The `vllm` command of this environment, else that on PATH."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if beside.is_file() else shutil.which("vllm")


def transformers_program() -> list[str]:
    """`transformers` as this very Python runs it, so that it is the one whose arguments are known."""
    return [sys.executable, "-m", "transformers.cli.transformers"]


def has_transformers_server() -> bool:
    """Whether `transformers serve` has all it needs."""
    return not _missing() and importlib.util.find_spec("transformers") is not None


def require_vllm() -> str:
    """The program; raises `MissingLibraryError` with the line that installs it."""
    program = vllm_program()
    if program is None:
        raise MissingLibraryError(
            "vLLM is not installed: there is no command vllm.", next_step=f"Run: {_INSTALL_VLLM}."
        )
    return program


def require_transformers_server() -> None:
    """Raise `MissingLibraryError` where `transformers serve` cannot start."""
    require_training_libraries("serving")
    missing = _missing()
    if missing:
        raise MissingLibraryError(
            f"`transformers serve` needs {', '.join(missing)}, which is not installed.",
            next_step=f"Run: {_INSTALL_TRANSFORMERS}",
        )


def require_some_server() -> None:
    """Raise `MissingLibraryError` where neither server is installed."""
    if vllm_program() is None and not has_transformers_server():
        raise MissingLibraryError(
            "No OpenAI-compatible server is installed here: neither vLLM nor what `transformers serve` needs.",
            next_step=f"Run: {_INSTALL_TRANSFORMERS}; or for many users at once: {_INSTALL_VLLM}.",
        )


def version_of(package: str) -> str:
    """The installed version; of a vLLM in another environment it is not known."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _missing() -> list[str]:
    return [name for name in _SERVER_LIBRARIES if importlib.util.find_spec(name) is None]
