"""Measuring adapters against their base: losses, metrics, instruments, and one verdict."""

from .evaluate import INSTRUMENTS, USUAL_INSTRUMENTS, Instrument, check_evaluation, evaluate
from .exact_match import ExactMatch, exact_match
from .metrics import METRICS
from .quantisation_cost import quantisation_cost

__all__ = [
    "INSTRUMENTS",
    "METRICS",
    "USUAL_INSTRUMENTS",
    "ExactMatch",
    "Instrument",
    "check_evaluation",
    "evaluate",
    "exact_match",
    "quantisation_cost",
]
