"""The stock engine on a CUDA GPU. Run by hand: `make test-gpu`; the last result is in benchmarks/results/."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.config import parse_config
from qlora_tools.errors import MachineError

from .families import FAMILIES
from .script_runs import losses_of

ROOT = Path(__file__).resolve().parent.parent
Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
pytestmark = pytest.mark.gpu
EIGHT_STEPS = {"max_steps": 8, "learning_rate": 5e-3}


def train(raw: dict[str, Any], **arguments: Any) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw), **arguments)


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


@pytest.mark.parametrize("kind", ["nf4", "int8", "none"])
@pytest.mark.parametrize("packing", ["off", "padding_free"])
def test_a_rendered_script_has_the_losses_of_the_tool(
    kind: str, packing: str, tiny_model: Models, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    from qlora_tools.scripts.render import render_script

    def config() -> dict[str, Any]:
        training = {**EIGHT_STEPS, "packing": packing}
        return config_for(tiny_model("llama"), chat_rows, training=training, quantization={"kind": kind})

    result, there = train(config()), parse_config(config())
    script = tmp_path / "train.py"
    render_script(there, output=script)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    elsewhere = os.pathsep.join(folder for folder in folders if folder and Path(folder).resolve() != ROOT)
    environment = {**os.environ, "PYTHONPATH": elsewhere, "CUDA_VISIBLE_DEVICES": "0"}
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, env=environment)
    # The same kernels in the same order; atomic additions of embeddings' kin may still round otherwise.
    assert losses_of(Path(there.output.directory)) == pytest.approx(result.losses, abs=2e-2)


@contextmanager
def only_more_bytes(count: int) -> Iterator[None]:
    """What this process holds already and `count` bytes more: beyond that, torch's own error."""
    import torch

    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + count
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.parametrize("packing", ["off", "bins"])
def test_a_run_that_lacks_memory_goes_on_with_smaller_micro_batches_and_the_same_losses(
    packing: str, tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    def raw() -> dict[str, Any]:
        size = {"micro_batch_size": 512 if packing == "off" else 64, "gradient_accumulation_steps": 1}
        training = {**EIGHT_STEPS, **size, "packing": packing, "gradient_checkpointing": False}
        return config_for(tiny_model("llama"), chat_rows, training=training, quantization={"compute_dtype": "float32"})

    expected = train(raw())
    with only_more_bytes(int(0.7 * expected.peak_allocated_bytes)):
        result = train(raw())
    assert result.recoveries
    assert result.recoveries[0].step == 0, "the warm-up on the longest rows finds it before the first step"
    assert "PyTorch CUDA memory summary" in (Path(result.output_directory) / "memory-summary-1.txt").read_text()
    assert result.losses == pytest.approx(expected.losses, abs=1e-3)


def test_a_stopped_run_goes_on_with_paged_states_paged_again(
    tiny_model: Models, chat_rows: Path, config_for: Raw
) -> None:
    from qlora_tools.errors import RunStopped

    stopping: list[bool] = []

    def listen(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] >= 4:
            stopping.append(True)

    def raw() -> dict[str, Any]:
        lora = {"rank": 1024, "target_modules": "attention"}  # over 100,000 elements a tensor: paged
        return config_for(tiny_model("llama"), chat_rows, training=EIGHT_STEPS, lora=lora)

    expected = train(raw())
    interrupted = raw()
    with pytest.raises(RunStopped) as stopped:
        train(interrupted, stop=lambda: bool(stopping), on_event=listen)
    resumed = train(interrupted, resume_from=stopped.value.checkpoint)
    assert resumed.losses == pytest.approx(expected.losses, abs=1e-3)


def test_states_of_a_paged_optimiser_are_put_back_as_managed_memory() -> None:
    import torch
    from bitsandbytes.optim import PagedAdamW8bit

    from qlora_tools.engine.optimizer_state import from_tensors, put_optimizer, take_optimizer, to_tensors

    def stepped(layer: Any, optimizer: Any) -> Any:
        layer(torch.ones(4, 512, device="cuda")).sum().backward()
        optimizer.step()
        torch.cuda.synchronize()
        return layer.weight.detach().cpu().clone()

    layer, other = (torch.nn.Linear(512, 512, bias=False, device="cuda") for _ in range(2))
    optimizer = PagedAdamW8bit(layer.parameters())
    stepped(layer, optimizer)
    other.load_state_dict(layer.state_dict())
    again = PagedAdamW8bit(other.parameters())
    kept = from_tensors(*to_tensors(take_optimizer(optimizer, layer)))
    put_optimizer(again, other, kept)
    assert again.state[other.weight]["state1"].is_paged
    layer.zero_grad()
    assert torch.equal(stepped(layer, optimizer), stepped(other, again))


def test_a_gpu_that_is_too_small_is_told_in_words(tiny_model: Models, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(tiny_model("llama"), chat_rows, training={"micro_batch_size": 2048, "max_steps": 1})
    with only_more_bytes(2**20), pytest.raises(MachineError, match="memory"):
        train(raw)
    assert not (Path(raw["output"]["directory"]) / "adapter").exists()
