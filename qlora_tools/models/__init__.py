"""What a model is and where it lies: names, files, shapes. No torch here."""

from .hardware import Hardware
from .reference import ModelReference, ResolvedModel, resolve_model
from .shape import ModelShape

__all__ = ["Hardware", "ModelReference", "ModelShape", "ResolvedModel", "resolve_model"]
