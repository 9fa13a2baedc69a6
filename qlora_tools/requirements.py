"""The two sizes of install: what to say when the larger one is needed and absent."""

import importlib.util

from .errors import MissingLibraryError

TRAINING_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "datasets", "accelerate")


def require_training_libraries(purpose: str) -> None:
    """Raise `MissingLibraryError` when a library of the `train` extra is absent; imports none of them."""
    missing = [name for name in TRAINING_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingLibraryError(
            f"{purpose[:1].upper()}{purpose[1:]} needs {', '.join(missing)}, which the light install leaves out.",
            next_step="Run: pip install 'qlora-tools[train]'",
        )


def require_tracker(tracker: str) -> None:
    """Raise `MissingLibraryError` when the experiment tracker is chosen and not installed."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise MissingLibraryError(
            f"training.tracking is {tracker}, and the package {tracker} is not installed.",
            next_step=f"Run: pip install {tracker}, or set training.tracking: none",
        )


def quiet_libraries() -> None:
    """Turn off bars and deprecation notices of libraries: they are about our code, not about the user's run."""
    import warnings

    from transformers.utils import logging

    warnings.simplefilter("ignore", FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
