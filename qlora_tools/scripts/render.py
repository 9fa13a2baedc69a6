"""`render_script`: one config as a script of a kind, explained line by line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..config.schema import RunConfig
from ..data.rows import TokenRow
from ..disk import disk_errors
from ..durable import replace_file
from ..errors import UsageError
from ..results import ScriptResult
from .rendering import Rendered, render
from .rows_check import require_same_rows
from .script_rows import NotPlainError, RowsAtHand, ScriptRows, plain_rows, prepared_rows
from .training import training_inputs


def render_script(
    config: RunConfig, *, kind: str = "train", output: str | Path | None = None, overwrite: bool = False
) -> ScriptResult:
    """Render `config` as a script of `kind`, and write it to `output` where that is given.

    Where the rows of a training need more than plain reading, they are written beside it in tokens. Raises `UsageError`
    for an unknown kind, a file that is there already, and rows that are needed and not to be had; nothing is written then.
    """
    path = None if output is None else Path(output)
    _require_free(path, overwrite)
    rendered, rows = _training(config, stem=path.stem if path else "train")
    files = _written(path, rendered.text, rows.files)
    return ScriptResult(
        kind=kind,
        text=rendered.text,
        notes=list(rows.notes),
        path=str(path) if path else None,
        files=files,
        next_step=f"python {path or 'train.py'} --dry-run",
    )


def _training(config: RunConfig, *, stem: str, notebook: bool = False) -> tuple[Rendered, ScriptRows]:
    """The training script, with plain reading where that gives the rows of training, else with rows in tokens."""
    here = RowsAtHand.find(config)
    try:
        rows = plain_rows(config, here)
        rendered = _rendered(config, rows, notebook)
        if isinstance(here, RowsAtHand):
            require_same_rows(rendered.text, config, here)
        return rendered, rows
    except NotPlainError as found:
        rows = prepared_rows(config, here, stem=stem, reason=str(found))
        return _rendered(config, rows, notebook), rows


def _rendered(config: RunConfig, rows: ScriptRows, notebook: bool) -> Rendered:
    inputs = training_inputs(config, rows, notebook=notebook)
    return render("train", inputs.choices, inputs.values)


def _require_free(path: Path | None, overwrite: bool) -> None:
    if path is not None and path.exists() and not overwrite:
        raise UsageError(f"{path} is there already.", next_step="Choose another name, or say that it may be replaced.")


def _written(path: Path | None, text: str, rows: Mapping[str, Iterable[TokenRow]]) -> list[str]:
    """Write the script and what goes with it; returns the files beside it."""
    if path is None:
        return []
    with disk_errors(path.parent, left="nothing else was changed"):
        for name, tokens in rows.items():
            lines = (json.dumps({"input_ids": row.input_ids, "labels": row.labels}) + "\n" for row in tokens)
            replace_file(path.with_name(name), "".join(lines).encode())
        replace_file(path, text.encode())
    return [str(path.with_name(name)) for name in rows]
