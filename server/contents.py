"""What the server offers: tools, resources, prompts. Making it takes longer than greeting a client, and comes after."""

from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.tools import ToolManager
from mcp.types import ToolAnnotations

from .options import ServerOptions
from .prompts import add_prompts
from .resources import add_resources
from .strict_tool import StrictTool
from .tools.answering import AnsweringTools
from .tools.data import DataTools
from .tools.jobs import JobControls, JobTools
from .tools.machine import MachineTools
from .tools.planning import PlanningTools
from .tools.scripting import ScriptTools
from .tools.shipping import ShippingTools
from .work import WorkRoom

_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
# A Hub id is looked up in the cache, or fetched where the network is allowed.
_READS_THE_HUB = _READS.model_copy(update={"open_world_hint": True})
_STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True)
_ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False)


def add_contents(server: MCPServer[Any], options: ServerOptions, room: WorkRoom) -> None:
    """Give `server` its tools, resources and prompts."""
    server._tool_manager = ToolManager(tools=[*_tools(options, room)])
    add_resources(server, options, room)
    add_prompts(server)


def _tools(options: ServerOptions, room: WorkRoom) -> list[StrictTool]:
    machine, planning, data = MachineTools(options, room), PlanningTools(options, room), DataTools(options, room)
    jobs, answering, controls = JobTools(options, room), AnsweringTools(options, room), JobControls(options, room)
    shipping, scripting = ShippingTools(options, room), ScriptTools(options, room)
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
    changing = [
        StrictTool.of(scripting.render_script, title="Write or check a script", annotations=_WRITES),
        StrictTool.of(controls.start_training, title="Start a training job", annotations=_STARTS),
        StrictTool.of(shipping.evaluate_adapter, title="Evaluate an adapter", annotations=_STARTS),
        StrictTool.of(shipping.merge_adapter, title="Merge an adapter", annotations=_STARTS),
        StrictTool.of(shipping.export_model, title="Export a model", annotations=_STARTS),
        StrictTool.of(controls.control_job, title="Stop, cancel or resume a job", annotations=_ENDS),
    ]
    if not options.read_only:
        return tools + changing
    return [tool.model_copy(update={"absent": tuple(other.name for other in changing)}) for tool in tools]
