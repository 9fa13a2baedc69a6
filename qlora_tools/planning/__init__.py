"""Choosing the values of a RunConfig, each with its reason."""

from .plan import Plan, PlannedValue, create_config

__all__ = ["Plan", "PlannedValue", "create_config"]
