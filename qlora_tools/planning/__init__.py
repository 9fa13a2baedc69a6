"""Choosing the values of a RunConfig, each with its reason."""

from ..data.lengths import RowLengths
from .comments import commented_yaml
from .compare import Comparison, Strategy, compare_strategies
from .create import create_config, target_hardware
from .difference import compare_configs
from .ladder import Rung
from .largest import LargeModel, LongestRow, largest_models, longest_row
from .plan import Plan, plan_run
from .values import GOALS, PlannedValue, PlanRequest, planned

__all__ = [
    "GOALS",
    "Comparison",
    "LargeModel",
    "LongestRow",
    "Plan",
    "PlanRequest",
    "PlannedValue",
    "RowLengths",
    "Rung",
    "Strategy",
    "commented_yaml",
    "compare_configs",
    "compare_strategies",
    "create_config",
    "largest_models",
    "longest_row",
    "plan_run",
    "planned",
    "target_hardware",
]
