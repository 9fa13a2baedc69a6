"""The one config that every way in understands: its schema, its files, and what it means to the libraries."""

from .data_schema import DataConfig
from .explain import FieldExplanation, explain_config
from .files import config_schema, dump_config, load_config, parse_config
from .schema import (
    LoraConfig,
    ModelConfig,
    OutputConfig,
    QuantizationConfig,
    RunConfig,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "FieldExplanation",
    "LoraConfig",
    "ModelConfig",
    "OutputConfig",
    "QuantizationConfig",
    "RunConfig",
    "TrainingConfig",
    "config_schema",
    "dump_config",
    "explain_config",
    "load_config",
    "parse_config",
]
