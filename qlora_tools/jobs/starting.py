"""Starting a job: a training, or an evaluation, a merge or an export."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..paths import as_path
from ..requirements import require_tracker, require_training_libraries
from ..run_output import check_output, check_writable
from .devices import may_have_gpu
from .facts import Document
from .launch import DEVICES_VARIABLE
from .layout import TRAINING, Workspace
from .needs import check_local_model, needed_here, with_absolute_paths
from .nouns import WorkKind
from .records import JobStatus
from .submitting import HOST_ONLY, Submission, plan_document, submit
from .work_needs import need_of
from .works import checked_work


def start_training(
    config: RunConfig,
    *,
    workspace: Path | None = None,
    idempotency_key: str | None = None,
    name: str | None = None,
    dry_run: bool = False,
) -> JobStatus:
    """Start a training job in a process of its own and return at once; it waits for its turn by itself.

    With `idempotency_key` the same request starts one job however often it is sent. `dry_run` plans and writes nothing.

    Raises `UsageError` (results or another job in the output directory, a key that was used for another request),
    `ConfigError`, `ModelError` and `MachineError` (libraries, permission or disk space are missing).
    """
    require_training_libraries("training")
    require_tracker(config.training.tracking)
    config = with_absolute_paths(config)
    plan = _plan_of_training(config, name, idempotency_key)
    directory, overwrite = as_path(config.output.directory), config.output.overwrite
    submission = Submission(
        plan,
        config.model_dump(mode="json"),
        inputs=lambda: check_local_model(config),
        output=lambda: check_output(directory, overwrite=overwrite),
    )
    return submit(Workspace.at(workspace), submission, dry_run=dry_run)


def start_work(
    kind: WorkKind,
    arguments: Mapping[str, Any],
    *,
    workspace: Path | None = None,
    idempotency_key: str | None = None,
    name: str | None = None,
    dry_run: bool = False,
) -> JobStatus:
    """Start an evaluation, a merge or an export as a job, as `start_training` does a training, and return at once.

    `arguments` are those of `evaluate`, `merge` or `export` by their names, plain data; relative paths count from the current
    directory. What can be checked without torch is checked here.

    Raises `UsageError` for arguments that the function does not take and an output that is in use, `ModelError` for an
    adapter or model that cannot be used, `MachineError` without permission or space.
    """
    require_training_libraries(f"the kind of job {kind!r}")
    work = checked_work(kind, arguments)
    need = need_of(kind, work.arguments)
    document = {"kind": kind, "arguments": dict(work.arguments)}
    plan: Document = {
        **plan_document(
            kind, name=name, key=idempotency_key, output=work.output, request=json.dumps(document, sort_keys=True)
        ),
        "model": need.model,
        "needed_bytes": need.bytes,
        "needed_how": need.how,
        "device_kind": _device_kind() if need.gpu else HOST_ONLY,
        "planned_steps": None,
    }
    directory = as_path(work.output)
    submission = Submission(plan, document, inputs=work.check, output=lambda: check_writable(directory))
    return submit(Workspace.at(workspace), submission, dry_run=dry_run)


def _plan_of_training(config: RunConfig, name: str | None, key: str | None) -> Document:
    kind = _device_kind()
    needed, how = needed_here(config, kind)
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return {
        **plan_document(TRAINING, name=name, key=key, output=config.output.directory, request=text),
        "model": config.model.name,
        "needed_bytes": needed,
        "needed_how": how,
        "device_kind": kind,
        "planned_steps": config.training.max_steps,
        "tracking": config.training.tracking,
    }


def _device_kind() -> str:
    return "cuda" if may_have_gpu(os.environ.get(DEVICES_VARIABLE)) else "cpu"
