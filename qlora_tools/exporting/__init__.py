"""Handing a model on to other tools: GGUF, Ollama, vLLM, an adapter package, the Hub; each with its model card."""

from .export import ExportDtype, ExportTarget, check_export, export
from .merged import merge_with_card
from .push import push

__all__ = ["ExportDtype", "ExportTarget", "check_export", "export", "merge_with_card", "push"]
