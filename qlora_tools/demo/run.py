"""The whole path on a small real model: plan, train, compare, merge, report. Each step calls the function users call."""

import json
import time
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..config import RunConfig, dump_config, parse_config
from ..data.examples import Message
from ..disk import disk_errors
from ..errors import ModelError, QloraError, UsageError
from ..evaluation import ExactMatch, exact_match
from ..events import Listener, RunEvent
from ..exporting import merge_with_card
from ..generation import generate
from ..models.hardware import Hardware
from ..models.reference import ModelReference, resolve_model
from ..models.shape import ModelShape
from ..planning import Plan, PlannedValue, PlanRequest, RowLengths, plan_run, planned
from ..planning.values import ASKED
from ..results import GenerateResult, MergeResult, TrainResult

MOST_BASE_PERCENT = 20.0
LEAST_RISE_POINTS = 40.0
_PARITY_PROMPTS = 16
# Tokens of the longest reference answer (25 for SmolLM2), and a few more for those that ramble.
_MAX_NEW_TOKENS = 30
_DEMO = "tried on this dataset"


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured. `passed` says whether it reached what it promises."""

    output_directory: Path
    report: Path
    plan: Plan
    training: TrainResult
    generation: GenerateResult
    references: list[str]
    base: ExactMatch
    adapter: ExactMatch
    merged: MergeResult | None
    merge_failure: str | None
    seconds: float

    @property
    def rise_points(self) -> float:
        """Percentage points of exact match that training added."""
        return self.adapter.percent - self.base.percent

    @property
    def passed(self) -> bool:
        """Whether the base could not do the task, the adapter can, and the merged model answers as the adapter."""
        learnt = self.base.percent <= MOST_BASE_PERCENT and self.rise_points >= LEAST_RISE_POINTS
        return learnt and self.merged is not None


def run_demo(output: Path, *, model: str, on_event: Listener, steps: int | None = None) -> DemoResult:
    """Run the demo into the new directory `output`; raises as the functions that it calls do."""
    began = time.monotonic()
    if output.exists():
        raise UsageError(f"The output {output} exists.", next_step="Choose another --output.")
    with as_file(files("qlora_tools.demo") / "data") as data:
        held_out = read_conversations(data / "heldout.jsonl")
        plan = plan_demo(model, data / "train.jsonl", output, steps)
        announce(plan, on_event)
        with disk_errors(output.parent, left="nothing was written"):
            output.mkdir(parents=True)
        (output / "run.yaml").write_text(dump_config(plan.config), encoding="utf-8")
        from ..engine.train import train

        training = train(plan.config, on_event=on_event)
    prompts = [turns[:-1] for turns in held_out]
    references = [turns[-1]["content"] for turns in held_out]
    generation = generate(output, prompts, side="both", max_new_tokens=_MAX_NEW_TOKENS, on_event=on_event)
    parity_prompts = [turns[-1]["content"] for turns in prompts[:_PARITY_PROMPTS]]
    merged, failure = _merged(output, parity_prompts, on_event)
    result = DemoResult(
        output_directory=output,
        report=output / "report.html",
        plan=plan,
        training=training,
        generation=generation,
        references=references,
        base=exact_match([str(answer.base) for answer in generation.answers], references),
        adapter=exact_match([str(answer.adapter) for answer in generation.answers], references),
        merged=merged,
        merge_failure=failure,
        seconds=time.monotonic() - began,
    )
    from .report import write_demo_report

    write_demo_report(result)
    return result


def _merged(output: Path, prompts: list[str], on_event: Listener) -> tuple[MergeResult | None, str | None]:
    """The merged model, or why there is none: a merge that fails is a finding of the demo, not its end."""
    try:
        return merge_with_card(output, output / "merged", prompts=prompts, on_event=on_event), None
    except QloraError as error:
        on_event(RunEvent("note", error.message))
        return None, error.message


def read_conversations(path: Path) -> list[list[Message]]:
    """The turns of each row of one of the demo's files."""
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def plan_demo(model: str, train_file: Path, output: Path, steps: int | None) -> Plan:
    """The demo's config: the planner's values, and what a short run of a very small model wants besides."""
    from ..engine.device import detect_hardware
    from ..engine.loading import load_tokenizer, read_config

    hardware = detect_hardware()
    resolved = resolve_model(ModelReference.parse(model))
    tokenizer = load_tokenizer(resolved)
    if not tokenizer.chat_template:
        raise ModelError(
            f"{model} has no chat template.", next_step="Choose a chat model (its name often ends in Instruct)."
        )
    rendered = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in read_conversations(train_file)]
    lengths = [len(ids) for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"]]
    request = PlanRequest(model, str(train_file), str(output), goal="style", rows_per_step=8)
    plan = plan_run(request, ModelShape.from_config(read_config(resolved)), RowLengths.of(lengths), hardware)
    return _with_demo_values(plan, hardware, steps)


def _with_demo_values(plan: Plan, hardware: Hardware, steps: int | None) -> Plan:
    on_gpu = hardware.kind == "cuda"
    few = 120 if on_gpu else 34
    values = (
        planned("training.max_steps", steps or few, ASKED if steps else _why_steps(on_gpu), _DEMO),
        planned("training.learning_rate", 1e-3, "a 135M model that learns from few steps: five times the usual", _DEMO),
        planned("training.warmup_fraction", 0.05, "a gentle start for the high learning rate", _DEMO),
    )
    changed = {value.field for value in values}
    kept = tuple(value for value in plan.values if value.field not in changed)
    return replace(plan, config=_changed(plan.config, values), values=(*kept, *values))


def _why_steps(on_gpu: bool) -> str:
    return (
        "about one pass over the rows"
        if on_gpu
        else "what two CPU cores do in some four minutes; raise it for better answers"
    )


def _changed(config: RunConfig, values: tuple[PlannedValue, ...]) -> RunConfig:
    raw: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    for value in values:
        part, name = value.field.split(".")
        raw.setdefault(part, {})[name] = value.value
    return parse_config(raw)


def announce(plan: Plan, on_event: Listener) -> None:
    """Say the plan and its reasons before anything is started."""
    estimate = plan.estimate
    on_event(RunEvent("note", "Plan:"))
    for value in plan.values:
        on_event(RunEvent("note", f"  {value.field} = {value.value}: {value.reason}"))
    on_event(
        RunEvent(
            "note",
            f"Memory estimate: {estimate.low_bytes / 2**30:.2f} / {estimate.mid_bytes / 2**30:.2f} / "
            f"{estimate.high_bytes / 2**30:.2f} GiB (low / mid / high); {'fits' if plan.fits else 'may not fit'}",
        )
    )
