"""The work of a training job: its config with the changes of this attempt, handed to the engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints import set_all_aside
from ..config import RunConfig, parse_config
from ..errors import UsageError
from ..events import Listener, RunEvent, StopAsked
from ..paths import as_path
from ..requirements import quiet_libraries
from ..run_output import RESULT_FILE
from .facts import read_document
from .layout import AttemptFolder, JobFolder


def train_as_planned(job: JobFolder, attempt: AttemptFolder, stop: StopAsked, on_event: Listener) -> Mapping[str, Any]:
    """Train what the job's config says and return the result. Raises what `train` raises."""
    request = read_document(attempt.request_file) or {}
    config = with_changes(read_document(job.config_file) or {}, request.get("changes") or {})
    checkpoint = request.get("resume_from")
    if request.get("begin_again"):
        config = _cleared(config, on_event)
    from ..engine.train import train

    quiet_libraries()

    result = train(config, resume_from=Path(checkpoint) if checkpoint else None, stop=stop, on_event=on_event)
    return result.model_dump(mode="json")


def _cleared(config: RunConfig, on_event: Listener) -> RunConfig:
    """`config` for a job that begins again over what its earlier attempts left; their checkpoints are kept aside."""
    output = as_path(config.output.directory)
    for aside, _ in set_all_aside(output):
        on_event(RunEvent("note", f"The run begins again; a checkpoint was moved to {aside}."))
    if (output / RESULT_FILE).exists() or (output / "adapter").exists():
        return config
    return config.model_copy(update={"output": config.output.model_copy(update={"overwrite": True})})


def with_changes(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """The config `raw` with dotted fields changed. Raises `ConfigError` with all problems, `UsageError` where it is lost."""
    if not raw or "damaged" in raw:
        raise UsageError("The job's config.json cannot be read.", next_step="Start a new job with `qlora train`.")
    parts = {part: dict(values) for part, values in raw.items()}
    for path, value in changes.items():
        part, _, name = path.partition(".")
        parts.setdefault(part, {})[name] = value
    return parse_config(parts, source="of the job")
