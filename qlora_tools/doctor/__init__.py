"""What this machine can do, what is broken, and why a run failed."""

from .check import Check
from .diagnosis import DiagnosisReport, Finding, Patch, changed_config, diagnose
from .environment import EnvironmentReport, check_environment

__all__ = [
    "Check",
    "DiagnosisReport",
    "EnvironmentReport",
    "Finding",
    "Patch",
    "changed_config",
    "check_environment",
    "diagnose",
]
