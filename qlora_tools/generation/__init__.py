"""Answering prompts with a base model, an adapter on it, or both side by side."""

from .generate import Side, generate

__all__ = ["Side", "generate"]
