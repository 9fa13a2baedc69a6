"""What tools need is imported once the first answer is out: clients wait for that one, and seldom for the second."""

import importlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

# In the order in which agents call.
_MODULES = ("config", "jobs.reading", "memory.here", "jobs.starting", "jobs.stopping", "doctor", "report.job_page")


class WarmAfterFirst:
    """Middleware: after the first request a thread imports what the tools will want."""

    def __init__(self) -> None:
        self._begun = False

    async def __call__(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Handle the request."""
        try:
            return await call_next(ctx)
        finally:
            if not self._begun:
                self._begun = True
                threading.Thread(target=_import_all, name="warming", daemon=True).start()


def _import_all() -> None:
    for name in _MODULES:
        importlib.import_module(f"qlora_tools.{name}")
