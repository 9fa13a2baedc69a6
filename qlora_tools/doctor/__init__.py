"""What this machine can do, and what is broken."""

from .environment import Check, EnvironmentReport, check_environment

__all__ = ["Check", "EnvironmentReport", "check_environment"]
