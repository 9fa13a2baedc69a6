"""Checking a dataset before it costs a night: one verdict, with everything that was found and where."""

from .inspect import inspect_config, inspect_dataset
from .redaction import redact_dataset
from .verdict import require_ready

__all__ = ["inspect_config", "inspect_dataset", "redact_dataset", "require_ready"]
