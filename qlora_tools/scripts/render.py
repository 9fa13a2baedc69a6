"""`render_script`: one config as a script of a kind, checked against the installed libraries and explained line by line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config.files import load_config
from ..config.schema import RunConfig
from ..data.rows import TokenRow
from ..disk import disk_errors
from ..durable import replace_file
from ..errors import UsageError
from ..paths import as_path
from ..results import ScriptResult
from .adapter_inputs import default_adapter
from .costs import memory_costs
from .explanation import explain_lines
from .installed import check_names
from .kinds import Asked, Made, check_settings, find_kind


def render_script(
    config: RunConfig | str | Path,
    *,
    kind: str = "train",
    output: str | Path | None = None,
    adapter: str | Path | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> ScriptResult:
    """Render a config, or the file of one, as a script of `kind`, and write it to `output` where that is given.

    `adapter` is the directory that scripts about an adapter read (default: where the training puts it), `settings` are
    those of the kind, such as `{"gpus": 4}`. Where the rows of a training need more than plain reading, they are written
    beside the script in tokens.

    Raises `UsageError` for an unknown kind or setting, a file that is there already, and rows that are needed and not to be
    had; `MissingLibraryError` where an installed library lacks a name that the script uses. Nothing is written then.
    """
    chosen, path = find_kind(kind), None if output is None else as_path(str(output))
    check_settings(kind, settings or {})
    if adapter is not None and not chosen.about_adapter:
        raise UsageError(f"A {kind} script takes no adapter.", next_step="Leave the adapter out.")
    _require_free(path, overwrite=overwrite)
    run = config if isinstance(config, RunConfig) else load_config(Path(config))
    folder = default_adapter(run) if adapter is None else as_path(str(adapter))
    made = chosen.make(Asked(run, folder, path.stem if path else Path(chosen.file).stem, settings or {}))
    names = check_names(made.python or "")
    files = _written(path, made.text, made.rows, overwrite=overwrite)
    costs = memory_costs(run, trains=not chosen.about_adapter)
    return ScriptResult(
        kind=kind,
        text=made.text,
        lines=explain_lines(made.rendered, run, costs),
        notes=[*made.notes, *costs.notes],
        checked=names.checked,
        unchecked=names.unchecked,
        path=str(path) if path else None,
        files=files,
        next_step=chosen.next_step.format(path=path or chosen.file),
    )


def made_script(config: RunConfig, *, kind: str, stem: str) -> Made:
    """A script as it would be rendered into a file called `stem`, without writing it."""
    return find_kind(kind).make(Asked(config, default_adapter(config), stem, {}))


def _require_free(path: Path | None, *, overwrite: bool) -> None:
    """Raise `UsageError` where a file cannot be put at `path`."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "lies in a directory that is not there"
        raise UsageError(f"{path} {what}.", next_step="Give the name of a file in a directory that is there.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already.", next_step="Choose another name; with overwrite it is replaced.")


def _written(path: Path | None, text: str, rows: Mapping[str, Iterable[TokenRow]], *, overwrite: bool) -> list[str]:
    """Write the script and what goes with it; returns the files beside it."""
    if path is None:
        return []
    beside = [path.with_name(name) for name in rows]
    for other in beside:
        _require_free(other, overwrite=overwrite)
    with disk_errors(path.parent, left="nothing else was changed"):
        for other, tokens in zip(beside, rows.values(), strict=True):
            lines = (json.dumps({"input_ids": row.input_ids, "labels": row.labels}) + "\n" for row in tokens)
            replace_file(other, "".join(lines).encode())
        replace_file(path, text.encode())
    return [str(other) for other in beside]
