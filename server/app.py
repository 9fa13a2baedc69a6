"""The server: its tools, resources and prompts over one workspace."""

import logging
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, EmptyResult, SetLevelRequestParams, ToolAnnotations

from qlora_tools import __version__

from .answers import shortened, shown
from .completions import add_completions
from .options import ServerOptions
from .prompts import add_prompts
from .resources import add_resources
from .strict_tool import StrictTool
from .tools.answering import AnsweringTools
from .tools.data import DataTools
from .tools.jobs import JobControls, JobTools
from .tools.machine import MachineTools
from .tools.planning import PlanningTools
from .warming import WarmAfterFirst
from .work import WorkRoom

_INSTRUCTIONS = (
    "Fine-tune language models with QLoRA on this machine. Order: check_environment, inspect_dataset, estimate_memory, "
    "create_config, start_training, get_job, generate_text. Each answer names the next call. Paths count from the "
    "workspace. qlora://guide/{topic} has the background."
)
# Levels of the protocol that Python does not have.
_LEVELS = {"notice": "INFO", "alert": "CRITICAL", "emergency": "CRITICAL"}
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
# A Hub id is looked up in the cache, or fetched where the network is allowed.
_READS_THE_HUB = _READS.model_copy(update={"open_world_hint": True})
_STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
_ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False)


def build_server(options: ServerOptions, room: WorkRoom | None = None) -> MCPServer[Any]:
    """The server with all tools, resources and prompts, ready to run; work in child processes goes into `room`."""
    server = _Server(
        name="qlora",
        title="qlora-tools",
        version=__version__,
        instructions=_INSTRUCTIONS,
        tools=_tools(options, room or WorkRoom()),
        log_level="WARNING",
        middleware=[WarmAfterFirst()],
    )
    add_resources(server, options)
    add_prompts(server)
    add_completions(server, options)
    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
    return server


async def _set_level(context: Any, params: SetLevelRequestParams) -> EmptyResult:
    """Clients of 2025-11-25 may choose how much the log on stderr says."""
    logging.getLogger().setLevel(_LEVELS.get(params.level, params.level.upper()))
    return EmptyResult()


def _tools(options: ServerOptions, room: WorkRoom) -> list[Any]:
    machine, planning, data = MachineTools(options, room), PlanningTools(options, room), DataTools(options, room)
    jobs, answering, controls = JobTools(options, room), AnsweringTools(options, room), JobControls(options, room)
    tools = [
        # Clients and suites that try the first one without arguments get an error at once, not ten seconds of checks.
        StrictTool.of(data.inspect_dataset, title="Inspect a dataset", annotations=_READS_THE_HUB),
        StrictTool.of(machine.check_environment, title="Check this machine", annotations=_READS),
        StrictTool.of(planning.estimate_memory, title="Estimate memory", annotations=_READS_THE_HUB),
        StrictTool.of(planning.create_config, title="Plan or check a config", annotations=_READS_THE_HUB),
        StrictTool.of(jobs.get_job, title="Look at a job", annotations=_READS),
        StrictTool.of(jobs.list_jobs, title="List jobs", annotations=_READS),
        StrictTool.of(machine.diagnose_failure, title="Diagnose a failure", annotations=_READS),
        StrictTool.of(answering.generate_text, title="Answer prompts", annotations=_READS_THE_HUB),
    ]
    if not options.read_only:
        tools += [
            StrictTool.of(controls.start_training, title="Start a training job", annotations=_STARTS),
            StrictTool.of(controls.control_job, title="Stop, cancel or resume a job", annotations=_ENDS),
        ]
    return tools


class _Server(MCPServer[Any]):
    """Says what there is to whoever asks for a tool or a prompt that is not."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None) -> Any:
        if self._tool_manager.get_tool(name) is None:
            known = ", ".join(tool.name for tool in self._tool_manager.list_tools())
            raise ToolError(f"There is no tool {shortened(shown(name), 80)!r}; there are: {known}.")
        return await super().call_tool(name, arguments, context)

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> Any:
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            known = ", ".join(prompt.name for prompt in self._prompt_manager.list_prompts())
            raise MCPError(INVALID_PARAMS, f"{error}. The prompts are: {known}.") from None
