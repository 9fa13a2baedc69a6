"""A probe runs a real step of the shape; a run says what it expected and leaves what it took behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.config.overrides import config_with
from qlora_tools.errors import MachineError
from qlora_tools.memory.history import past_runs

TINY = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
STEP = {"max_length_tokens": 32, "micro_batch_size": 2, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow), "none"])
def test_a_probe_trains_two_steps_on_random_weights_and_measures(kind: str) -> None:
    from qlora_tools.engine.probe import probe

    result = probe(config_with({**STEP, "kind": kind}), TINY, "tiny")
    assert result.steps == 2
    assert result.tokens_per_second == pytest.approx(64 / result.seconds_per_step)
    assert [part.name for part in result.parts] == ["whole process"]
    assert result.parts[0].measured_bytes > 100 * 2**20
    assert result.parts[0].predicted_bytes > 2**30


def test_a_probe_that_cannot_fit_is_not_tried() -> None:
    from qlora_tools.engine.probe import probe

    huge = {**TINY, "hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 200}
    with pytest.raises(MachineError, match="it was not tried"):
        probe(config_with(STEP), huge, "huge")


@pytest.mark.parametrize("kind", ["nf4", "none"])
def test_a_random_base_is_built_as_the_loader_builds_a_real_one(
    kind: Any, tiny_model: Callable[[str], Path], chat_rows: Path, config_for: Callable[..., dict[str, Any]]
) -> None:
    import torch

    from qlora_tools.config.schema import QuantizationConfig
    from qlora_tools.engine.device import detect_hardware
    from qlora_tools.engine.loading import load_model
    from qlora_tools.engine.random_base import build_random_base
    from qlora_tools.models.reference import ModelReference, resolve_model

    resolved = resolve_model(ModelReference.parse(str(tiny_model("qwen3"))))
    values = json.loads((Path(resolved.location) / "config.json").read_text(encoding="utf-8"))
    settings = QuantizationConfig(kind=kind)
    loaded = load_model(
        resolved,
        settings,
        compute_dtype="float32",
        attention_implementation="auto",
        hardware=detect_hardware(),
    ).model
    built = build_random_base(values, settings, compute_dtype="float32", device="cpu")

    def described(model: Any) -> dict[str, tuple[Any, ...]]:
        return {name: (type(p), p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()}

    frozen = {name: item[:3] for name, item in described(loaded).items()}
    assert {name: item[:3] for name, item in described(built).items()} == frozen
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.isfinite(built(input_ids=ids).logits).all()


def test_a_run_says_what_it_expected_and_is_remembered(
    tiny_model: Callable[[str], Path],
    chat_rows: Path,
    config_for: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qlora_tools import train

    monkeypatch.setenv("QLORA_MEMORY_HISTORY", str(tmp_path / "history.jsonl"))
    messages = []
    result = train(
        parse_config(config_for(tiny_model("llama"), chat_rows)), on_event=lambda event: messages.append(event.message)
    )
    assert result.predicted_peak_bytes is not None
    assert any("expected peak" in message for message in messages)
    past = past_runs(result.device)
    assert past is not None
    assert past.runs == 1
    assert past.largest_error == pytest.approx(result.peak_allocated_bytes / result.predicted_peak_bytes - 1)
