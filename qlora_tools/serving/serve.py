"""Starting the server in the place of this process."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import ModelError
from ..exporting.source import AdapterSource, find_source
from ..paths import as_path
from ..results import ServingPlan
from .linked_model import make_linked_directory
from .plan import ServerName, plan_serving


def serve(
    source: str | Path,
    *,
    server: ServerName = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    extra: Sequence[str] = (),
    on_plan: Callable[[ServingPlan], None] = lambda plan: None,
) -> NoReturn:
    """Serve `source` over HTTP until the server ends: this process becomes the server, and never returns.

    `on_plan` is told the plan right before. Raises as `plan_serving` does, and `ModelError` where a check failed.
    """
    plan = plan_serving(source, server=server, host=host, port=port, extra=extra)
    require_passed(plan)
    found = find_source(as_path(str(source)))
    if isinstance(found, AdapterSource) and found.base is not None:
        make_linked_directory(found, found.base)
    on_plan(plan)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(plan.command[0], plan.command)  # noqa: S606 - an argument list, no shell


def require_passed(plan: ServingPlan) -> None:
    """Raise `ModelError` with all that failed."""
    failed = [check for check in plan.checks if not check.passed]
    if failed:
        said = " ".join(check.message for check in failed)
        raise ModelError(
            f"{plan.server} was not started. {said}", next_step=failed[0].next_step or "Mend that, and serve again."
        )
