"""evaluate_adapter, merge_adapter and export_model: jobs after the training."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

import qlora_tools
from qlora_tools.jobs.nouns import WorkKind, noun_of

from ..answers import answered
from ..arguments import Adapter, DryRun, IdempotencyKey, PathText
from ..job_words import JobHandle, job_handle, job_links, job_words
from .toolset import Toolset

Output = Annotated[PathText, Field(description="New directory.")]


class ShippingTools(Toolset):
    """From an adapter to something that is proven and ships. Each starts a job, which get_job follows."""

    async def evaluate_adapter(
        self,
        adapter: Adapter,
        data: Annotated[PathText, Field(description="Rows; default: the run's held-out ones.")] | None = None,
        metrics: Annotated[
            list[Annotated[str, Field(max_length=200)]],
            Field(max_length=12, description="exact_match, json_fields, rougeL ..."),
        ]
        | None = None,
        max_rows: Annotated[int, Field(ge=1, le=100_000)] = 500,
        output: Output | None = None,
        idempotency_key: IdempotencyKey | None = None,
        dry_run: DryRun = False,
    ) -> Annotated[CallToolResult, JobHandle]:
        """Job: adapter against its base on the same rows: losses, metrics with intervals, forgetting; ship it or not?"""
        asked = {"adapter": adapter, "data": data, "output": output, "metrics": metrics, "max_rows": max_rows}
        return await self._started("evaluate", asked, idempotency_key, dry_run)

    async def merge_adapter(
        self,
        adapter: Adapter,
        output: Output,
        base: Annotated[
            Literal["trained", "original", "nf4", "fp4", "int8"],
            Field(description="trained: the weights that the adapter saw, so answers stay."),
        ] = "trained",
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        idempotency_key: IdempotencyKey | None = None,
        dry_run: DryRun = False,
    ) -> Annotated[CallToolResult, JobHandle]:
        """Job: adapter and base as one plain model, kept only if it answers as both did (parity check). Needs no GPU."""
        asked = {"adapter": adapter, "output": output, "base": base, "dtype": dtype}
        return await self._started("merge", asked, idempotency_key, dry_run)

    async def export_model(
        self,
        source: Annotated[PathText, Field(description="A job's id, a run's output, or a merged model.")],
        to: Annotated[
            Literal["gguf", "ollama", "vllm", "adapter"], Field(description="gguf: llama.cpp. adapter: by itself.")
        ],
        output: Output,
        dtype: Literal["f16", "q8_0", "bf16", "f32"] | None = None,
        base_name: Annotated[str, Field(max_length=200, description="The base's Hub id.")] | None = None,
        idempotency_key: IdempotencyKey | None = None,
        dry_run: DryRun = False,
    ) -> Annotated[CallToolResult, JobHandle]:
        """Job: a directory for another tool, with model card and prompt template as trained. Uploads nothing."""
        asked = {"source": source, "to": to, "output": output, "dtype": dtype, "base_name": base_name}
        return await self._started("export", asked, idempotency_key, dry_run)

    async def _started(
        self, kind: WorkKind, asked: Mapping[str, Any], key: str | None, dry_run: bool
    ) -> CallToolResult:
        from ..work_arguments import checked_arguments

        arguments = await self._aside(checked_arguments, self.options, kind, asked)
        status = await self._aside(
            qlora_tools.start_work,
            kind,
            arguments,
            workspace=self.options.workspace,
            idempotency_key=key,
            dry_run=dry_run,
        )
        if not dry_run:
            return answered(job_words(status), job_handle(status), links=job_links(status))
        call = "the same call without dry_run."
        text = f"It would start: {noun_of(kind)} into {status.output_directory}. Next: {call}"
        return answered(text, job_handle(status).model_copy(update={"next_call": call}))
