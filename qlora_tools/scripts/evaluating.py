"""What the script that compares an adapter with its base is rendered with."""

from pathlib import Path

from ..config.data_schema import DataConfig
from ..config.schema import RunConfig
from ..data.reading.sources import DataSource, is_on_hub
from ..paths import as_path
from .adapter_inputs import adapter_inputs
from .asking import asked_form
from .inputs import ScriptInputs


def evaluate_inputs(
    config: RunConfig, adapter: Path, *, data: Path | None = None, output: Path | None = None
) -> ScriptInputs:
    """Inputs of `evaluate.py.j2`: rows of `data`, figures into `output` (default: `evaluation.json` beside the adapter).

    Without `data` the rows are those of the config's held-out file where that has JSON Lines, else the script asks for them.
    """
    form = asked_form(config, adapter)
    inputs = adapter_inputs(config, adapter, form)
    rows = str(data) if data is not None else _held_out_file(config.data)
    return ScriptInputs(
        choices={
            **inputs.choices,
            "adds_eos": form.adds_eos,
            "loss_on": config.data.loss_on,
            "long_rows": config.data.long_rows,
            "has_data": rows is not None,
        },
        values={
            **inputs.values,
            "data": rows,
            "output": str(output or adapter.parent / "evaluation.json"),
            "max_length_tokens": config.training.max_length_tokens,
        },
        notes=inputs.notes if rows is not None else (*inputs.notes, "Held-out rows are given with --data."),
    )


def _held_out_file(data: DataConfig) -> str | None:
    path = data.evaluation_path
    if path is None or is_on_hub(DataSource(path, data.source)) or as_path(path).suffix not in (".jsonl", ".ndjson"):
        return None
    return str(as_path(path))
