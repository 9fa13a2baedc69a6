"""The server and its tools. Each tool calls one function of the package, in a worker where that function needs torch."""

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from qlora_tools import __version__
from qlora_tools.config import dump_config, parse_config
from qlora_tools.config.files import parse_config_text
from qlora_tools.doctor import EnvironmentReport, check_environment
from qlora_tools.errors import QloraError
from qlora_tools.guide import read_topic, topics

_INSTRUCTIONS = (
    "Fine-tune language models with QLoRA on this machine. Start with check_environment; validate a run config with "
    "create_config; train, generate and merge with the `qlora` command. qlora://guide/{topic} explains: "
)
_READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class ConfigAnswer(BaseModel):
    """A config that is valid, complete with defaults."""

    model_config = ConfigDict(extra="forbid")

    config_yaml: str = Field(description="The complete config, to be saved as run.yaml.")
    next_step: str = Field(description="The command that uses it.")


def build_server() -> MCPServer:
    """The server with all tools and resources, ready to `run`."""
    server = _StrictServer(name="qlora", version=__version__, instructions=_INSTRUCTIONS + ", ".join(topics()))
    server.tool(name="check_environment", annotations=_READ_ONLY, structured_output=True)(_check_environment)
    server.tool(name="create_config", annotations=_READ_ONLY, structured_output=True)(_create_config)
    server.resource("qlora://guide/{topic}", name="guide", mime_type="text/markdown")(_guide)
    return server


async def _check_environment() -> EnvironmentReport:
    """What this machine can do and what is broken: Python, libraries, GPU, bf16, bitsandbytes, memory, disk. About 10 s."""
    return await anyio.to_thread.run_sync(check_environment)


async def _create_config(config: str) -> ConfigAnswer:
    """Validate a run config given as YAML or JSON text and return it complete with defaults; lists every problem at once.

    Required: model.name, data.path, output.directory. `qlora config schema` prints all fields.
    """
    try:
        parsed = parse_config(parse_config_text(config, source="given"))
    except QloraError as error:
        raise ToolError(f"{error.message} {error.next_step}") from None
    return ConfigAnswer(
        config_yaml=dump_config(parsed, complete=True), next_step="Save it as run.yaml, then: qlora train run.yaml"
    )


def _guide(topic: str) -> str:
    """A short reference text in Markdown."""
    return read_topic(topic)


class _StrictServer(MCPServer):
    """Refuses arguments that a tool does not have: the SDK ignores them, and a misspelt one would act as its default."""

    async def call_tool(self, name: str, arguments: dict[str, object], *args: object, **kwargs: object) -> object:  # type: ignore[override]
        known = next((tool.input_schema["properties"] for tool in await self.list_tools() if tool.name == name), None)
        unknown = sorted(set(arguments) - set(known)) if known is not None else []
        if unknown:
            raise ToolError(
                f"{name} has no argument {', '.join(unknown)}; it takes: {', '.join(known or ()) or 'none'}."
            )
        return await super().call_tool(name, arguments, *args, **kwargs)  # type: ignore[arg-type]
