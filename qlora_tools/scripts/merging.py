"""What the script that merges an adapter is rendered with."""

from pathlib import Path

from ..config.schema import LoraConfig, RunConfig
from .adapter_inputs import adapter_inputs
from .asking import asked_form
from .inputs import ScriptInputs

# What embeddings and heads are called in the families of Transformers.
_EMBEDDINGS = ("lm_head", "embed_out", "embed_tokens", "wte", "embed_in")
_PROMPTS = (
    "What is the capital of Japan?",
    "Write one sentence about rain.",
    "Explain what a bridge is for.",
    "Translate 'good morning' into French.",
    "What is 12 plus 30?",
    "Write a Python function that returns the larger of two numbers.",
    'Read this JSON and tell the value of "city": {"name": "Ada", "city": "London"}',
    "Is the review positive or negative? 'The soup was cold and the waiter rude.'",
)


def merge_inputs(config: RunConfig, adapter: Path, *, output: Path | None = None) -> ScriptInputs:
    """Inputs of `merge.py.j2`; the merged model goes to `output` (default: `merged` beside the adapter)."""
    inputs = adapter_inputs(config, adapter, asked_form(config, adapter))
    return ScriptInputs(
        choices={**inputs.choices, "changes_embeddings": _changes_embeddings(config.lora)},
        values={**inputs.values, "output": str(output or adapter.parent / "merged"), "prompts": list(_PROMPTS)},
        notes=inputs.notes,
    )


def _changes_embeddings(lora: LoraConfig) -> bool:
    """Whether embedding or head may be trained: in many bases they are one tensor, and must then part."""
    targets = () if isinstance(lora.target_modules, str) else lora.target_modules
    return bool(lora.modules_to_save) or any(name.endswith(_EMBEDDINGS) for name in targets)
