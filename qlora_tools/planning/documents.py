"""Plans as plain data: what `--json` prints."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..data.lengths import RowLengths
from ..models.hardware import Hardware
from .comments import commented_yaml
from .compare import Comparison
from .largest import LargeModel
from .plan import Plan

_PERCENTILES = (50, 90, 95, 99)


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan with its config, its reasons, its memory, its ladder and the next step. Bytes, seconds and tokens."""
    return {
        "fits": plan.fits,
        "config": plan.config.model_dump(mode="json", exclude_unset=True),
        "config_yaml": commented_yaml(plan),
        "values": [asdict(value) for value in plan.values],
        "memory": memory_document(plan),
        "lengths": lengths_document(plan.lengths),
        "schedule": asdict(plan.schedule),
        "ladder": [asdict(rung) for rung in plan.ladder],
        "smaller_model": asdict(plan.smaller_model) if plan.smaller_model else None,
        "larger_gpu": asdict(plan.larger_gpu) if plan.larger_gpu else None,
        "notes": list(plan.notes),
        "next_step": next_step(plan),
    }


def memory_document(plan: Plan) -> dict[str, Any]:
    """What the plan is expected to take, and what is free."""
    estimate = plan.estimate
    return {
        "gpu": plan.hardware.name,
        "free_bytes": plan.hardware.free_memory_bytes,
        "needed_bytes": plan.needed_bytes,
        "low_bytes": estimate.low_bytes,
        "mid_bytes": estimate.mid_bytes,
        "high_bytes": estimate.high_bytes,
        "paged_bytes": estimate.paged_bytes,
        "moment": estimate.moment,
        "parts": estimate.parts,
    }


def lengths_document(lengths: RowLengths) -> dict[str, Any]:
    """The distribution of the rows' lengths in tokens."""
    percentiles = {f"p{percent}": lengths.percentile(percent) for percent in _PERCENTILES}
    return {"rows": lengths.rows, "how": lengths.how, "mean": lengths.mean, **percentiles, "longest": lengths.longest}


def next_step(plan: Plan) -> str:
    """What to do with the plan."""
    if plan.lossless:
        return "Save the config as run.yaml (-o run.yaml), then: qlora train run.yaml"
    proposals = [f"--model {plan.smaller_model.name}"] if plan.smaller_model else []
    proposals += [f'--gpu "{plan.larger_gpu.name}"'] if plan.larger_gpu else []
    instead = (
        f"plan again with {' or '.join(proposals)}" if proposals else "no model or GPU of the catalogue takes it so"
    )
    asked = max(
        (rung for rung in plan.ladder if rung.status == "asked for"), key=lambda rung: rung.saved_bytes, default=None
    )
    if asked is not None:
        instead += f", or leave {' and '.join(asked.settings)} to the plan, which saves most of what you asked for"
    if plan.fits:
        return f"It fits with something given up (see the ladder). To give up nothing, {instead}."
    return f"It is not sure to fit, whatever is given up: {instead}."


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Strategies side by side."""
    fits = any(strategy.fits for strategy in comparison.strategies)
    return {
        **asdict(comparison),
        "fits": fits,
        "next_step": "Plan the one you choose: qlora plan --model M --data D --gpu G",
    }


def largest_document(hardware: Hardware, models: Sequence[LargeModel]) -> dict[str, Any]:
    """The models that fit a machine, largest first."""
    return {
        "gpu": hardware.name,
        "free_bytes": hardware.free_memory_bytes,
        "fits": bool(models),
        "models": [
            {**asdict(model), "longest_row": {**asdict(model.longest_row), "tokens": model.longest_row.tokens}}
            for model in models
        ],
        "next_step": "Plan a run: qlora plan --model M --data D" if models else "Give a GPU with more memory.",
    }
