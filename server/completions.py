"""What clients suggest while a person types: topics, jobs, models and GPUs."""

from mcp.server import MCPServer
from mcp.types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

import qlora_tools
from qlora_tools.guide import topics

from .options import ServerOptions

_MOST = 100


def add_completions(server: MCPServer, options: ServerOptions) -> None:
    """Let `server` complete the arguments of its prompts and resource templates."""

    async def complete(
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        begun = argument.value.lower()
        known = _known(argument.name, options)
        found = [name for name in known if name.lower().startswith(begun)]
        return Completion(values=found[:_MOST], total=len(found), has_more=len(found) > _MOST)

    server.completion()(complete)  # type: ignore[no-untyped-call]


def _known(argument: str, options: ServerOptions) -> list[str]:
    if argument == "topic":
        return list(topics())
    if argument == "job_id":
        return [job.id for job in qlora_tools.list_jobs(limit=_MOST, workspace=options.workspace).jobs]
    if argument == "model":
        from qlora_tools.models.catalogue import CATALOGUE

        return sorted(CATALOGUE)
    if argument == "gpu":
        from qlora_tools.models.gpus import load_gpus

        return [gpu.name for gpu in load_gpus()]
    return []
