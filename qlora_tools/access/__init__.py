"""Which paths a server may touch: one workspace, the model cache, and folders the user allowed."""

from .places import Access

__all__ = ["Access"]
