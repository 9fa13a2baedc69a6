"""The stock engine on a CUDA GPU. Run by hand: `make test-gpu`; the last result is in benchmarks/results/."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.errors import MachineError

from .families import FAMILIES

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
pytestmark = pytest.mark.gpu
EIGHT_STEPS = {"max_steps": 8, "learning_rate": 5e-3}


def train(raw: dict[str, Any]) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_in_nf4_with_bfloat16_and_is_answered_and_merged(
    family: str, tiny_model: Models, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    from qlora_tools import generate, merge

    result = train(config_for(tiny_model(family), chat_rows, training=EIGHT_STEPS))
    assert result.compute_dtype == "bfloat16"
    assert result.losses[-1] < result.losses[0]
    answers = generate(result.output_directory, ["say number 1"], max_new_tokens=8).answers
    assert answers[0].adapter is not None
    merged = merge(result.output_directory, tmp_path / "merged", dtype="float32", check=False)
    assert Path(merged.directory, "model.safetensors").is_file()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_compute_dtypes_reach_the_losses_of_bfloat16(
    dtype: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    model = tiny_model("llama")
    reference = train(config_for(model, chat_rows, training=EIGHT_STEPS))
    result = train(config_for(model, chat_rows, training=EIGHT_STEPS, quantization={"compute_dtype": dtype}))
    assert result.losses == pytest.approx(reference.losses, abs=0.05)


@pytest.mark.parametrize("kind", ["fp4", "int8", "none"])
def test_every_quantisation_kind_trains(kind: str, tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    result = train(config_for(tiny_model("llama"), chat_rows, training=EIGHT_STEPS, quantization={"kind": kind}))
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"initialization": "loftq"}, {"use_rslora": True, "dropout": 0.1}], ids=str
)
def test_every_form_of_adapter_trains(
    lora: dict[str, Any], tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    result = train(config_for(tiny_model("qwen2"), chat_rows, training=EIGHT_STEPS, lora=lora))
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_joined_without_padding_give_the_losses_of_padded_rows(
    family: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    float32 = {"compute_dtype": "float32"}
    padded, joined = (
        train(config_for(tiny_model(family), chat_rows, training={"packing": packing}, quantization=float32))
        for packing in ("off", "padding_free")
    )
    assert joined.losses == pytest.approx(padded.losses, abs=1e-3)


@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "paged_adamw_32bit", "adamw_8bit", "adamw_torch"])
def test_paged_and_plain_optimisers_train(optimizer: str, tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    result = train(config_for(tiny_model("llama"), chat_rows, training={**EIGHT_STEPS, "optimizer": optimizer}))
    assert result.losses[-1] < result.losses[0]


def test_two_runs_have_losses_equal_to_rounding(tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    first, again = (train(config_for(tiny_model("llama"), chat_rows)) for _ in range(2))
    assert again.losses == pytest.approx(first.losses, abs=1e-3)


def test_a_gpu_that_is_too_small_is_told_in_words(tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    import torch

    raw = config_for(tiny_model("llama"), chat_rows, training={"micro_batch_size": 2048, "max_steps": 1})
    torch.cuda.empty_cache()
    # What this process holds already and one MiB more: too little for the logits of 2,048 rows.
    limit = torch.cuda.memory_reserved() + 2**20
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(MachineError, match="memory"):
            train(raw)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not (Path(raw["output"]["directory"]) / "adapter").exists()
