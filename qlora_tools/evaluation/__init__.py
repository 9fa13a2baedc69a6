"""Measuring answers against references."""

from .exact_match import ExactMatch, exact_match

__all__ = ["ExactMatch", "exact_match"]
