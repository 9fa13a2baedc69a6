"""Answering prompts with a base model, an adapter on it, or both side by side."""

from .adapters_asked import BasePrecision
from .files import generate_file
from .generate import generate
from .sampling import Sampling
from .sides import Side
from .stopping import AnsweringStopped

__all__ = ["AnsweringStopped", "BasePrecision", "Sampling", "Side", "generate", "generate_file"]
