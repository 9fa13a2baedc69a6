"""What an agent may let a job do: evaluate, merge and export within the places that this server may touch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlora_tools.adapters import adapter_directory
from qlora_tools.data.reading.sources import DataSource, is_on_hub
from qlora_tools.errors import UsageError
from qlora_tools.jobs import get_job
from qlora_tools.jobs.layout import Workspace
from qlora_tools.jobs.nouns import WorkKind, noun_of
from qlora_tools.jobs.reading import adapter_of, source_of
from qlora_tools.jobs.working import asked_work
from qlora_tools.jobs.works import checked_work

from .options import ServerOptions

# What else the functions take runs code from files, or leaves out the proof.
TAKEN: Mapping[str, frozenset[str]] = {
    "evaluate": frozenset({"adapter", "data", "output", "metrics", "max_rows"}),
    "merge": frozenset({"adapter", "output", "base", "dtype"}),
    "export": frozenset({"source", "to", "output", "base_name", "dtype"}),
}


def checked_arguments(options: ServerOptions, kind: WorkKind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with names of jobs and paths resolved, and the output settled; what is None is left out.

    Raises `UsageError` and `ConfigError` for paths that lead outside of what may be read or written.
    """
    asked = {name: value for name, value in arguments.items() if value is not None}
    if kind == "export":
        asked["source"] = _source(options, str(asked["source"]))
    else:
        asked["adapter"] = _adapter(options, str(asked["adapter"]))
    if "data" in asked and not is_on_hub(DataSource(str(asked["data"]))):
        asked["data"] = str(options.access.to_read(str(asked["data"]), "data"))
    if "output" in asked:
        asked["output"] = str(options.access.to_write(str(asked["output"]), "output"))
    if kind == "evaluate":
        _require_readable_run(options, Path(asked["adapter"]))
    # An evaluation lies beside its adapter unless one says otherwise, which may be where only reading is allowed.
    output = checked_work(kind, asked).output
    return {**asked, "output": str(options.access.to_write(output, "output"))}


def require_resumable(options: ServerOptions, job_id: str) -> None:
    """Raise `UsageError` for a job that is no training and that an agent could not have started so.

    A person may have started it with files of code or paths that are not an agent's to use, and a store that came from
    elsewhere may hold anything.
    """
    job = Workspace.at(options.workspace).job(get_job(job_id, workspace=options.workspace).id)
    kind, arguments = asked_work(job)
    beyond = sorted(set(arguments) - TAKEN.get(kind, frozenset()))
    if beyond:
        raise UsageError(
            f"The {noun_of(kind)} {job.id} was started with {', '.join(beyond)}, which is a person's to use.",
            next_step=f"Ask the person to run: qlora resume {job.id}",
        )
    checked_arguments(options, kind, arguments)  # type: ignore[arg-type]


def _adapter(options: ServerOptions, name: str) -> str:
    directory = adapter_of(name, workspace=options.workspace)
    return str(options.access.checked_adapter(str(directory or name), "adapter"))


def _source(options: ServerOptions, name: str) -> str:
    """A run or adapter, or a merged model, which names nothing beside itself."""
    directory = str(source_of(name, workspace=options.workspace) or name)
    path = options.access.to_read(directory, "source")
    if path.is_dir() and (adapter_directory(path) / "adapter_config.json").is_file():
        return str(options.access.checked_adapter(directory, "source"))
    return str(path)


def _require_readable_run(options: ServerOptions, adapter: Path) -> None:
    """An evaluation reads the rows that the run's own config names."""
    from qlora_tools.evaluation.rows import find_run

    run = find_run(adapter_directory(adapter))
    if run is not None:
        options.access.checked_config(run.config)
