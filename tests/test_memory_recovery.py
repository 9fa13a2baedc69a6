"""A run that lacks GPU memory goes on with smaller micro-batches: the same rows in each step, the same schedule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.checkpoints import last_complete
from qlora_tools.config import parse_config
from qlora_tools.errors import MachineError
from qlora_tools.events import RunEvent

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
# A GPU would compute in bfloat16, in which other shapes give other roundings.
FLOAT32 = {"compute_dtype": "float32"}
STEPS = {"max_steps": 5, "micro_batch_size": 4, "gradient_accumulation_steps": 1, "checkpoint_every_steps": 2}


def train(raw: dict[str, Any], **arguments: Any) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw), **arguments)


@pytest.fixture
def llama(tiny_model: Models) -> Path:
    return tiny_model("llama")


def lacking(
    monkeypatch: pytest.MonkeyPatch, method: str, most_rows: int, *, from_step: int = 0, most_tokens: int = 10**9
) -> None:
    """A GPU of which torch says that it is full, where a micro-batch is too large; a CPU has no such error of its own."""
    import torch
    from trl import SFTTrainer

    plain = getattr(SFTTrainer, method)

    def limited(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids = inputs["input_ids"]
        if trainer.state.global_step >= from_step and (len(ids) > most_rows or ids.numel() > most_tokens):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return plain(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, method, limited)


def test_the_losses_stay_when_micro_batches_are_halved_on_the_way(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(config_for(llama, chat_rows, training=STEPS, quantization=FLOAT32))
    events: list[RunEvent] = []
    lacking(monkeypatch, "training_step", 1, from_step=3)
    result = train(config_for(llama, chat_rows, training=STEPS, quantization=FLOAT32), on_event=events.append)
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert [(one.step, one.micro_batch_size, one.gradient_accumulation_steps) for one in result.recoveries] == [
        (3, 2, 2),
        (3, 1, 4),
    ]
    told = [event.message for event in events if event.kind == "warning" and "out of memory" in event.message]
    assert "going on after step 3 with micro-batches of 2" in told[0]
    output = Path(result.output_directory)
    assert (output / "memory-summary-1.txt").is_file()
    assert (output / "memory-summary-2.txt").is_file()


def test_an_evaluation_that_lacks_memory_gets_smaller_micro_batches_of_its_own(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raw() -> dict[str, Any]:
        training = {**STEPS, "evaluation_every_steps": 2, "evaluation_samples": 0}
        return config_for(llama, chat_rows, training=training, data={"evaluation_fraction": 0.4}, quantization=FLOAT32)

    expected = train(raw())
    lacking(monkeypatch, "prediction_step", 2)
    result = train(raw())
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert result.evaluation_losses.keys() == expected.evaluation_losses.keys()
    assert [(one.during, one.micro_batch_size) for one in result.recoveries] == [("evaluation", 2)]


def test_a_bin_is_cut_between_its_rows_with_the_same_losses(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    bins = {"packing": "bins", "max_length_tokens": 128}
    training = {**STEPS, **bins, "micro_batch_size": 1, "gradient_accumulation_steps": 2}
    expected = train(config_for(llama, chat_rows, training=training, quantization=FLOAT32))
    lacking(monkeypatch, "training_step", 9, from_step=2, most_tokens=90)
    result = train(config_for(llama, chat_rows, training=training, quantization=FLOAT32))
    assert [one.gradient_accumulation_steps for one in result.recoveries] == [4]
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)


def test_an_optimiser_that_lacks_memory_goes_back_to_the_last_checkpoint(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.optim import AdamW

    training = {**STEPS, "optimizer": "adamw_torch"}
    expected = train(config_for(llama, chat_rows, training=training, quantization=FLOAT32))
    step, calls = AdamW.step, []

    def lacks_once(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            next(iter(optimizer.state)).data.add_(1.0)  # some weights are changed already
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(AdamW, "step", lacks_once)
    result = train(config_for(llama, chat_rows, training=training, quantization=FLOAT32))
    assert [(one.during, one.step) for one in result.recoveries] == [("the optimiser", 2)]
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)


def test_what_cannot_be_halved_again_fails_with_the_checkpoint_and_advice(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = config_for(llama, chat_rows, training={**STEPS, "micro_batch_size": 2}, quantization=FLOAT32)
    with monkeypatch.context() as patch:
        lacking(patch, "training_step", 0, from_step=3)
        with pytest.raises(
            MachineError, match=r"ran out of memory in (a training step|warm-up) after 1 smaller"
        ) as failed:
            train(raw)
    output = Path(raw["output"]["directory"])
    assert str(output / "checkpoints" / "step-3") in failed.value.message
    assert "gradient_checkpointing" in failed.value.next_step
    assert len(train(raw, resume_from=last_complete(output)).losses) == 5


@pytest.mark.slow
def test_more_than_three_recoveries_are_none(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, "training_step", 0)
    with pytest.raises(MachineError, match="after 3 smaller micro-batches"):
        train(config_for(llama, chat_rows, training={**STEPS, "micro_batch_size": 16}, quantization=FLOAT32))


def test_a_warm_up_leaves_losses_counts_and_random_state_as_they_were(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on GPUs only, where memory can be lacking; here the CPU is made to do it too."""
    from qlora_tools.engine import loop
    from qlora_tools.engine.warm_up import try_evaluation, try_training

    def raw() -> dict[str, Any]:
        return config_for(
            llama,
            chat_rows,
            training=STEPS,
            lora={"dropout": 0.2},
            data={"evaluation_fraction": 0.2},
            quantization=FLOAT32,
        )

    expected = train(raw())
    tried = []

    def always(self: Any, trainer: Any, first: int) -> Any:
        held = [len(row.input_ids) for row in self._fit.evaluation_rows.rows]
        lengths = self._fit.training_set.lengths[first:]

        def training(state: Any) -> None:
            tried.append("training")
            try_training(trainer, state, lengths)

        def evaluation(state: Any) -> None:
            tried.append("evaluation")
            try_evaluation(trainer, state, held)

        return [("warm-up", training), ("evaluation", evaluation)]

    monkeypatch.setattr(loop.TrainingLoop, "_trials", always)
    result = train(raw())
    assert tried == ["training", "evaluation"]
    assert result.losses == pytest.approx(expected.losses, abs=1e-6)
    assert result.evaluation_losses == pytest.approx(expected.evaluation_losses, abs=1e-6)
