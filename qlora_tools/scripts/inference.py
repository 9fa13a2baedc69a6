"""What the script that answers with an adapter is rendered with."""

from pathlib import Path

from ..config.schema import RunConfig
from .adapter_inputs import adapter_inputs
from .asking import asked_form
from .inputs import ScriptInputs


def inference_inputs(config: RunConfig, adapter: Path) -> ScriptInputs:
    """Inputs of `inference.py.j2` for the adapter in `adapter`, there already or still to come."""
    return adapter_inputs(config, adapter, asked_form(config, adapter))
