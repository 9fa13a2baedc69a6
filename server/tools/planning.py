"""estimate_memory and create_config."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

from qlora_tools.errors import UsageError

from ..answers import answered
from ..arguments import Config, Gpu, KnownConfig, MemoryLimit, Model, PathText, Settings
from ..batches import Batches
from ..config_answers import ConfigAnswer, GivenUp, PlannedField, checked, compared, imported
from ..planning_words import (
    MemoryAnswer,
    comparison_answer,
    comparison_words,
    largest_answer,
    largest_words,
    memory_answer,
    memory_words,
    plan_words,
)
from ..work import Document
from .toolset import Toolset, gib

_MOST_ESTIMATES, _LONGEST_KEY = 1_000, 1_000
_STILL = "It is still being computed. Make the same call again to get the answer."


@dataclass(frozen=True)
class PlanningTools(Toolset):
    """What fits, and with which settings."""

    _estimates: dict[str, CallToolResult] = field(default_factory=dict)
    _batches: Batches = field(default_factory=Batches)

    async def estimate_memory(
        self,
        context: Context[Any, Any],
        model: Model | None = None,
        gpu: Gpu | None = None,
        memory_limit_gib: MemoryLimit | None = None,
        task: Annotated[
            Literal["training", "full", "inference", "merging"],
            Field(description="training: QLoRA; full: all weights trained, to compare."),
        ] = "training",
        settings: Settings | None = None,
        view: Annotated[
            Literal["estimate", "strategies", "largest_models"],
            Field(description="strategies: QLoRA, 16-bit LoRA, a larger model. largest_models: what a GPU takes."),
        ] = "estimate",
    ) -> Annotated[CallToolResult, MemoryAnswer]:
        """Peak memory of a model and whether it fits a GPU, before any download. Needs no GPU. Do not reckon by hand."""
        asked = settings or {}
        if view == "largest_models":
            return await self._compared(
                "largest", {"gpu": gpu, "memory_limit_gib": memory_limit_gib, "settings": asked}, context
            )
        if model is None:
            raise UsageError(
                f"view {view!r} needs a model.", next_step="Give model, or view='largest_models' for what a GPU takes."
            )
        if view == "strategies":
            name = (await self._aside(self._checked, model, "rows.jsonl", asked))["model"]
            wanted = {"model": name, "gpu": gpu, "memory_limit_gib": memory_limit_gib, "settings": asked}
            return await self._compared("strategies", wanted, context)
        from qlora_tools.models.catalogue import CATALOGUE

        find = partial(self._estimated, model, gpu, memory_limit_gib, task, asked)
        key = json.dumps([model, gpu, memory_limit_gib, task, asked], sort_keys=True)
        # Only what neither a file nor the GPU of this machine decides is kept.
        fixed = model in CATALOGUE and (gpu or memory_limit_gib) and len(key) < _LONGEST_KEY
        return await self._once(key, find) if fixed else await find()

    async def _once(self, key: str, find: Callable[[], Awaitable[CallToolResult]]) -> CallToolResult:
        """What `find` finds, from memory where it was found before."""
        if key in self._estimates:
            return self._estimates[key]

        async def kept() -> CallToolResult:
            answer = self._estimates.get(key) or await find()
            if len(self._estimates) < _MOST_ESTIMATES:
                self._estimates[key] = answer
            return answer

        found: CallToolResult = await self._batches.ask(key, kept)
        return found

    async def _estimated(
        self, model: str, gpu: str | None, memory_limit_gib: float | None, task: Any, settings: dict[str, Any]
    ) -> CallToolResult:
        from qlora_tools.memory.here import Target

        name = (await self._aside(self._checked, model, "rows.jsonl", settings))["model"]
        target = await self._aside(Target.named_or_here, gpu, memory_limit_gib, task)
        report = await self._aside(target.estimate, name, task=task, settings=settings)
        return answered(memory_words(report), memory_answer(report))

    async def _compared(self, task: str, arguments: Document, context: Context[Any, Any]) -> CallToolResult:
        found = await self._worked(task, arguments, context)
        if found is None:
            return answered(_STILL, MemoryAnswer(view=task, next_call=_STILL))
        if task == "largest":
            return answered(largest_words(found), largest_answer(found))
        return answered(comparison_words(found), comparison_answer(found))

    async def create_config(
        self,
        context: Context[Any, Any],
        model: Model | None = None,
        data: Annotated[PathText, Field(description="File, directory or Hub id of the rows.")] | None = None,
        gpu: Gpu | None = None,
        memory_limit_gib: MemoryLimit | None = None,
        goal: Annotated[
            Literal["style", "instructions", "hard"],
            Field(
                description="style: tone or domain; instructions: a task or format; hard: reasoning. Decides the rank."
            ),
        ] = "instructions",
        output: Annotated[PathText, Field(description="Directory for results. Default: runs/MODEL-DATA.")]
        | None = None,
        rows_per_step: Annotated[int, Field(ge=1, le=4096, description="Effective batch.")] = 16,
        settings: Settings | None = None,
        config: Config | None = None,
        compare_with: Annotated[KnownConfig, Field(description="Another config.")] | None = None,
        import_path: Annotated[PathText, Field(description="Axolotl, LLaMA-Factory, script.")] | None = None,
    ) -> Annotated[CallToolResult, ConfigAnswer]:
        """Plan a run that fits: a config with the reason for each value. Or check, compare or import one.

        For a plan give model and data; settings are kept, such as {"evaluation_fraction": 0.1}. start_training takes it.
        """
        if config is not None or compare_with is not None:
            named = {"model": model, "data": data, "import_path": import_path}
            return await self._given(config, compare_with, [name for name, value in named.items() if value])
        if import_path is not None:
            return await self._aside(self._imported, import_path, model, data, output, settings or {})
        if model is None or data is None:
            raise UsageError(
                "A plan needs model and data.", next_step="Give both, or give config to check one that you have."
            )
        checked = await self._aside(self._checked, model, data, settings or {}, output or "output")
        wanted = {
            **checked,
            "output": checked["output"] if output else None,
            "gpu": gpu,
            "memory_limit_gib": memory_limit_gib,
            "goal": goal,
            "rows_per_step": rows_per_step,
        }
        plan = await self._worked("plan", wanted, context)
        if plan is None:
            return answered(_STILL, ConfigAnswer(config={}, values=[], next_call=_STILL))
        return answered(plan_words(plan, _after_plan(plan)), _plan_answer(plan))

    async def _given(self, config: Document | None, other: Document | None, beside: list[str]) -> CallToolResult:
        """A config that is checked, or compared with another one."""
        if config is None or beside:
            what = "compare_with needs config." if config is None else f"config names {' and '.join(beside)} already."
            raise UsageError(
                what, next_step="Give config alone to check it, with compare_with to see what another changes."
            )
        if other is not None:
            return await self._aside(compared, self.options.access, config, other)
        return await self._aside(checked, self.options.access, config)

    def _imported(
        self, path: str, model: str | None, data: str | None, output: str | None, settings: dict[str, Any]
    ) -> CallToolResult:
        from qlora_tools.config.overrides import field_path

        named = {"model.name": model, "data.path": data}
        asked = {field_path(name): value for name, value in settings.items()}
        asked |= {name: value for name, value in named.items() if value}
        access = self.options.access
        return imported(access, access.to_read(path, "import_path"), output, asked)


def _plan_answer(plan: Document) -> ConfigAnswer:
    schedule, memory = plan["schedule"], plan["memory"]
    return ConfigAnswer(
        config=plan["config"],
        values=[
            PlannedField(**{name: value[name] for name in PlannedField.model_fields})
            for value in plan["values"]
            if value["reason"] != "asked for"
        ],
        fits=plan["fits"],
        needed_gib=gib(memory["needed_bytes"]),
        free_gib=gib(memory["free_bytes"]),
        given_up=[_given_up(rung) for rung in plan["ladder"] if rung["status"] == "applied" and rung["settings"]],
        smaller_model=(plan["smaller_model"] or {}).get("name"),
        larger_gpu=(plan["larger_gpu"] or {}).get("name"),
        steps=schedule["steps"],
        expected_seconds=schedule["seconds"],
        notes=plan["notes"],
        next_call=_after_plan(plan),
    )


def _given_up(rung: Document) -> GivenUp:
    from qlora_tools.config.overrides import field_path

    change = ", ".join(f"{field_path(name)}={value}" for name, value in rung["settings"].items())
    return GivenUp(
        change=change,
        saved_gib=gib(rung["saved_bytes"]) or 0.0,
        time_factor=rung["time_factor"],
        quality=rung["quality"],
    )


def _after_plan(plan: Document) -> str:
    if not plan["fits"]:
        return f"Do not start it: {plan['next_step']}"
    return "Show the person the values that matter, then start_training(config=...) with this config."
