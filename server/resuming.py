"""What an agent may resume: a job whose config, with the changes, keeps to the places this server may touch."""

from collections.abc import Mapping
from typing import Any

from qlora_tools.config.overrides import field_path
from qlora_tools.jobs import get_job
from qlora_tools.jobs.facts import read_document
from qlora_tools.jobs.layout import TRAINING, Workspace
from qlora_tools.jobs.training import with_changes

from .options import ServerOptions
from .path_settings import with_resolved_paths
from .work_arguments import require_resumable


def checked_changes(options: ServerOptions, job_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes as dotted fields, paths resolved.

    The config is checked whole: a person may have started the job with paths that are not an agent's to use, and a store
    that came with a folder from elsewhere may hold anything. Of jobs that are no training the arguments are checked.

    Raises `UsageError` for an unknown job, `ConfigError` for paths that lead outside.
    """
    status = get_job(job_id, workspace=options.workspace)
    if status.kind != TRAINING:
        require_resumable(options, status.id)
        return dict(changes)
    job = Workspace.at(options.workspace).job(status.id)
    asked = {field_path(name): value for name, value in changes.items()}
    earlier = (read_document(job.attempts()[-1].request_file) or {}).get("changes", {})
    whole = with_changes(read_document(job.config_file) or {}, {**earlier, **asked})
    return with_resolved_paths(asked, options.access.checked_config(whole))
