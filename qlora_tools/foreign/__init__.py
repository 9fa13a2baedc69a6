"""Other people's recipes and scripts, read by their syntax alone: never imported, never run."""

from .importing import import_config
from .lint import lint_script

__all__ = ["import_config", "lint_script"]
