"""The server over one workspace. It greets at once; what it offers is made when somebody asks, or after the greeting."""

import importlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, EmptyResult, SetLevelRequestParams

from qlora_tools import __version__

from .answers import shortened, shown
from .completions import add_completions
from .options import ServerOptions
from .work import WorkRoom

_INSTRUCTIONS = (
    "Fine-tune language models with QLoRA on this machine. Order: check_environment, inspect_dataset, estimate_memory, "
    "create_config, start_training, get_job, evaluate_adapter, merge_adapter, export_model. Each answer names the next call. "
    "Paths count from the workspace. qlora://guide/{topic} has the background."
)
_READ_ONLY = " This server is read-only: tools that start or stop jobs are left out."
# Levels of the protocol that Python does not have.
_LEVELS = {"notice": "INFO", "alert": "CRITICAL", "emergency": "CRITICAL"}
# What tools import when they are called, in the order in which agents call.
_WANTED = ("config", "jobs.reading", "memory.here", "jobs.starting", "jobs.stopping", "doctor", "report.job_page")


def build_server(options: ServerOptions, room: WorkRoom | None = None) -> MCPServer[Any]:
    """The server with all tools, resources and prompts, ready to run; work in child processes goes into `room`."""
    server = _Server(options, room or WorkRoom(options.workspace))
    add_completions(server, options)
    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
    return server


async def _set_level(context: Any, params: SetLevelRequestParams) -> EmptyResult:
    """Clients of 2025-11-25 may choose how much the log on stderr says."""
    logging.getLogger("qlora_tools").setLevel(_LEVELS.get(params.level, params.level.upper()))
    return EmptyResult()


class _Server(MCPServer[Any]):
    """Makes what it offers late, and says what there is to whoever asks for a tool or a prompt that is not."""

    def __init__(self, options: ServerOptions, room: WorkRoom) -> None:
        super().__init__(
            name="qlora",
            title="qlora-tools",
            version=__version__,
            instructions=_INSTRUCTIONS + (_READ_ONLY if options.read_only else ""),
            log_level="WARNING",
            middleware=[_AfterFirst(self._warm)],
        )
        self._options, self._room = options, room
        self._filling = threading.Lock()
        self._filled = False

    def _fill(self) -> None:
        """Make tools, resources and prompts, once."""
        if self._filled:
            return
        with self._filling:
            if not self._filled:
                from .contents import add_contents

                add_contents(self, self._options, self._room)
                self._filled = True

    def _warm(self) -> None:
        self._fill()
        for name in _WANTED:
            importlib.import_module(f"qlora_tools.{name}")

    def _tool_input_schema(self, name: str) -> dict[str, Any] | None:
        self._fill()
        return super()._tool_input_schema(name)

    async def list_tools(self) -> Any:
        self._fill()
        return await super().list_tools()

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        self._fill()
        if self._tool_manager.get_tool(name) is None:
            known = ", ".join(tool.name for tool in self._tool_manager.list_tools())
            raise ToolError(f"There is no tool {shortened(shown(name), 80)!r}; there are: {known}.")
        return await super().call_tool(name, arguments, context)

    async def list_resources(self) -> Any:
        self._fill()
        return await super().list_resources()

    async def list_resource_templates(self) -> Any:
        self._fill()
        return await super().list_resource_templates()

    async def read_resource(self, uri: Any, context: Context[Any, Any] | None = None) -> Any:
        self._fill()
        return await super().read_resource(uri, context)

    async def list_prompts(self) -> Any:
        self._fill()
        return await super().list_prompts()

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> Any:
        self._fill()
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            known = ", ".join(prompt.name for prompt in self._prompt_manager.list_prompts())
            raise MCPError(INVALID_PARAMS, shown(f"{error}. The prompts are: {known}.")) from None


class _AfterFirst:
    """Middleware: once the first request is answered, a thread does what the next ones will want."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._begun = False

    async def __call__(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Handle the request."""
        try:
            return await call_next(ctx)
        finally:
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._act, name="warming", daemon=True).start()
