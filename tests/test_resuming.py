"""A run that was interrupted goes on as if it had not been: the same losses to the last digit, in the same order of rows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from qlora_tools.checkpoints import checkpoints, last_complete
from qlora_tools.config import parse_config
from qlora_tools.config.choices import Optimizer, Schedule
from qlora_tools.errors import CheckFailed, ConfigError, RunStopped, UsageError
from qlora_tools.events import RunEvent

from .conftest import write_rows

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]
# Dropout makes losses depend on the random state; a window of three steps makes logs depend on sums over a stop.
STEPS = {"max_steps": 7, "micro_batch_size": 1, "gradient_accumulation_steps": 2}


def train(raw: dict[str, Any], **arguments: Any) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw), **arguments)


class StopAfter:
    """Asks for a stop once `step` is logged; counts how often it was asked meanwhile."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.reached = False
        self.events: list[RunEvent] = []

    def __call__(self) -> bool:
        return self.reached

    def listen(self, event: RunEvent) -> None:
        self.events.append(event)
        if event.kind == "metrics" and "loss" in event.values and event.values["step"] >= self.step:
            self.reached = True


def stopped_after(step: int, raw: dict[str, Any]) -> Path:
    """Run until `step`, stop, and return the checkpoint."""
    stop = StopAfter(step)
    with pytest.raises(RunStopped) as stopped:
        train(raw, stop=stop, on_event=stop.listen)
    assert stopped.value.step == step
    assert stopped.value.checkpoint is not None
    return stopped.value.checkpoint


def adapter_of(result: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(Path(result.adapter_directory) / "adapter_model.safetensors"))


@pytest.fixture
def llama(tiny_model: Models) -> Path:
    return tiny_model("llama")


# The others differ from one of these in a library's constant.
_DISTINCT = ("paged_adamw_8bit", "adamw_torch", "adafactor")


@pytest.mark.parametrize(
    "optimizer",
    [name if name in _DISTINCT else pytest.param(name, marks=pytest.mark.slow) for name in get_args(Optimizer)],
)
def test_a_resumed_run_has_the_losses_and_the_adapter_of_an_uninterrupted_one(
    optimizer: str, llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    import torch

    training = {**STEPS, "optimizer": optimizer}
    whole = train(config_for(llama, chat_rows, lora={"dropout": 0.1}, training=training))
    raw = config_for(llama, chat_rows, lora={"dropout": 0.1}, training=training)
    resumed = train(raw, resume_from=stopped_after(3, raw))
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 7
    assert resumed.resumed_from_step == 3
    expected = adapter_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in adapter_of(resumed).items())


@pytest.mark.parametrize(
    ("layout", "schedule"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if number >= 2 else [])
        for number, case in enumerate(zip(("off", "bins", "padding_free") * 2, get_args(Schedule), strict=True))
    ],
)
def test_every_layout_and_schedule_goes_on_through_evaluations_and_windows_of_the_log(
    layout: str, schedule: str, llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    def raw() -> dict[str, Any]:
        training = {
            **STEPS,
            "packing": layout,
            "schedule": schedule,
            "log_every_steps": 3,
            "evaluation_every_steps": 2,
            "checkpoint_every_steps": 4,
            "warmup_fraction": 0.3,
            # Once with answers at evaluations, which must not move the random state.
            "evaluation_samples": int(schedule == "cosine"),
        }
        return config_for(llama, chat_rows, lora={"dropout": 0.1}, training=training, data={"evaluation_fraction": 0.3})

    whole, interrupted = raw(), raw()
    expected = train(whole)
    interrupted_at = Path(interrupted["output"]["directory"])
    with pytest.raises(RunStopped):
        stop = StopAfter(6)
        train(interrupted, stop=stop, on_event=stop.listen)
    # As after a crash behind the checkpoint of step 4: what came later is gone, the metrics are not.
    for one in checkpoints(interrupted_at):
        if one.step > 4:
            shutil.rmtree(one.directory)
    resumed = train(interrupted, resume_from=last_complete(interrupted_at))
    assert resumed.losses == expected.losses
    assert resumed.evaluation_losses == expected.evaluation_losses
    assert resumed.saved_step == expected.saved_step
    lines = [json.loads(line) for line in (interrupted_at / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("event") == "resumed"] == [4]


def test_a_stop_during_an_evaluation_makes_that_evaluation_again(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    def raw() -> dict[str, Any]:
        training = {**STEPS, "evaluation_every_steps": 3, "early_stopping_patience": 5}
        return config_for(llama, chat_rows, training=training, data={"evaluation_fraction": 0.5})

    expected = train(raw())
    interrupted = raw()
    # The stop is asked for by the log of step 3, right before its evaluation.
    checkpoint = stopped_after(3, interrupted)
    assert json.loads((checkpoint / "state.json").read_text())["loop"]["evaluation_due"] is True
    resumed = train(interrupted, resume_from=checkpoint)
    assert resumed.evaluation_losses == expected.evaluation_losses
    assert resumed.losses == expected.losses


@pytest.mark.parametrize(
    "parts",
    [
        {"lora": {"use_dora": True}},
        pytest.param({"lora": {"initialization": "pissa"}, "quantization": {"kind": "none"}}, marks=pytest.mark.slow),
        pytest.param({"lora": {"initialization": "loftq"}}, marks=pytest.mark.slow),
        pytest.param({"lora": {"modules_to_save": ["lm_head"], "target_modules": "attention"}}, marks=pytest.mark.slow),
        pytest.param({"quantization": {"kind": "int8"}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_form_of_adapter_goes_on(parts: dict[str, Any], llama: Path, chat_rows: Path, config_for: Raw) -> None:
    training = {**STEPS, "max_steps": 4}
    expected = train(config_for(llama, chat_rows, training=training, **parts))
    raw = config_for(llama, chat_rows, training=training, **parts)
    assert train(raw, resume_from=stopped_after(2, raw)).losses == expected.losses


def test_a_run_can_be_stopped_and_resumed_again_and_again(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    expected = train(config_for(llama, chat_rows, training=STEPS))
    raw = config_for(llama, chat_rows, training=STEPS)
    checkpoint = stopped_after(1, raw)
    for step in (2, 5):
        stop = StopAfter(step)
        with pytest.raises(RunStopped) as stopped:
            train(raw, resume_from=checkpoint, stop=stop, on_event=stop.listen)
        assert stopped.value.checkpoint is not None
        checkpoint = stopped.value.checkpoint
    assert train(raw, resume_from=checkpoint).losses == expected.losses


def test_a_run_that_was_killed_after_its_last_step_publishes_without_training_again(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    import torch

    raw = config_for(llama, chat_rows, training=STEPS)
    expected = train(raw)
    weights = adapter_of(expected)
    output = Path(raw["output"]["directory"])
    shutil.rmtree(output / "adapter")
    (output / "result.json").unlink()
    resumed = train(raw, resume_from=last_complete(output))
    assert resumed.losses == expected.losses
    assert all(torch.equal(value, weights[name]) for name, value in adapter_of(resumed).items())


def test_only_what_no_checkpoint_depends_on_may_change(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, training={**STEPS, "max_steps": 3})
    checkpoint = stopped_after(1, raw)
    with pytest.raises(ConfigError, match=r"lora\.rank: was 16 and is 8; it cannot change"):
        train({**raw, "lora": {"rank": 8}}, resume_from=checkpoint)
    longer = {**raw, "training": {**raw["training"], "max_steps": 5, "learning_rate": 1e-4}}
    assert train(longer, resume_from=checkpoint).steps == 5


def test_micro_batches_may_be_smaller_from_a_checkpoint_on(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    training = {**STEPS, "micro_batch_size": 4, "gradient_accumulation_steps": 1}
    float32 = {"compute_dtype": "float32"}
    expected = train(config_for(llama, chat_rows, training=training, quantization=float32))
    raw = config_for(llama, chat_rows, training=training, quantization=float32)
    checkpoint = stopped_after(3, raw)
    smaller = {**raw, "training": {**raw["training"], "micro_batch_size": 1, "gradient_accumulation_steps": 4}}
    assert train(smaller, resume_from=checkpoint).losses == pytest.approx(expected.losses, abs=1e-4)
    other = {**raw, "training": {**raw["training"], "micro_batch_size": 1}}
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size: was 4 and is 1"):
        train(other, resume_from=checkpoint)


def test_other_rows_than_those_of_the_checkpoint_are_refused(llama: Path, config_for: Raw, tmp_path: Path) -> None:
    rows = [{"prompt": f"count to {i}", "completion": f"that is {i}"} for i in range(20)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    raw = config_for(llama, path, training=STEPS)
    checkpoint = stopped_after(2, raw)
    write_rows(path, [*rows[:-1], {"prompt": "count to 19", "completion": "that is another"}])
    with pytest.raises(UsageError, match="training data is not the one"):
        train(raw, resume_from=checkpoint)


def test_damaged_checkpoints_are_refused_by_name_and_moved_aside_when_an_earlier_one_is_taken(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    raw = config_for(llama, chat_rows, training={**STEPS, "checkpoint_every_steps": 2})
    damaged = stopped_after(5, raw)
    with (damaged / "optimizer.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x55")
    with pytest.raises(UsageError, match=r"optimizer\.safetensors was changed or damaged"):
        train(raw, resume_from=damaged)
    output = Path(raw["output"]["directory"])
    earlier = last_complete(output)
    assert earlier is not None and earlier.name == "step-4"
    events: list[RunEvent] = []
    assert len(train(raw, resume_from=earlier, on_event=events.append).losses) == 7
    assert any("was moved to" in event.message for event in events)
    assert list((output / "checkpoints").glob("damaged-step-5-*"))


def test_going_on_from_an_earlier_step_leaves_the_later_course_aside(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    raw = config_for(llama, chat_rows, training={**STEPS, "checkpoint_every_steps": 1}, output={"keep_checkpoints": 9})
    stopped_after(5, raw)
    output = Path(raw["output"]["directory"])
    slower = {**raw, "training": {**raw["training"], "learning_rate": 1e-5}}
    stop = StopAfter(4)
    with pytest.raises(RunStopped):
        train(slower, resume_from=output / "checkpoints" / "step-2", stop=stop, on_event=stop.listen)
    assert [one.step for one in checkpoints(output)] == [1, 2, 3, 4]
    for step, rate in ((2, 1e-3), (3, 1e-5), (4, 1e-5)):
        state = json.loads((output / "checkpoints" / f"step-{step}" / "state.json").read_text())
        assert state["identity"]["config"]["training"]["learning_rate"] == rate
    aside = sorted(path.name[:17] for path in (output / "checkpoints").glob("superseded-*"))
    assert aside == ["superseded-step-3", "superseded-step-4", "superseded-step-5"]
    assert sum("later checkpoint was moved" in event.message for event in stop.events) == 3


def test_old_checkpoints_go_but_never_the_best_nor_the_last(llama: Path, config_for: Raw, tmp_path: Path) -> None:
    learnt = [{"prompt": f"count to {i}", "completion": " up up up up"} for i in range(12)]
    held = [{"prompt": f"count to {i}", "completion": " down down down"} for i in range(4)]
    training = {**STEPS, "learning_rate": 0.02, "evaluation_every_steps": 1, "checkpoint_every_steps": 1}
    raw = config_for(
        llama,
        write_rows(tmp_path / "learnt.jsonl", learnt),
        training={**training, "evaluation_samples": 0},
        data={"evaluation_path": str(write_rows(tmp_path / "held.jsonl", held)), "check": "warn"},
        output={"keep_checkpoints": 1},
    )
    result = train(raw)
    best = min(result.evaluation_losses, key=lambda step: float(result.evaluation_losses[step]))
    assert best < 7, "what is held out contradicts what is learnt, so that its loss rises"
    assert [one.step for one in checkpoints(Path(result.output_directory))] == [best, 7]
    assert result.saved_step == best


def test_a_loss_that_is_no_number_leaves_the_last_good_step_and_the_rows_that_did_it(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss

    def spoilt(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(trainer, *args, **kwargs)
        return loss * float("nan") if trainer.state.global_step == 4 else loss

    expected = train(config_for(llama, chat_rows, training=STEPS))
    raw = config_for(llama, chat_rows, training=STEPS)
    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "compute_loss", spoilt)
        with pytest.raises(CheckFailed, match="The loss is nan at step 5; no adapter was written") as failed:
            train(raw)
    output = Path(raw["output"]["directory"])
    assert str(output / "checkpoints" / "step-4") in failed.value.message
    bad = json.loads((output / "bad_step.json").read_text())
    assert bad["step"] == 5
    assert [row["rows"] for row in bad["rows"]]
    assert train(raw, resume_from=last_complete(output)).losses == expected.losses


def test_samples_are_answered_at_each_evaluation(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    training = {**STEPS, "evaluation_every_steps": 3, "evaluation_samples": 2}
    result = train(config_for(llama, chat_rows, training=training, data={"evaluation_fraction": 0.2}))
    lines = (Path(result.output_directory) / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["step"] for sample in samples] == [3, 3, 6, 6, 7, 7]
    assert all(sample["prompt"] and "it is" in sample["reference"] for sample in samples)
    metrics = [json.loads(line) for line in (Path(result.output_directory) / "metrics.jsonl").read_text().splitlines()]
    after = next(line for line in metrics if line["step"] == 4)
    assert after["data_seconds"] < 0.5 * after["step_seconds"], "answering is no waiting for data"


def test_two_runs_do_not_write_to_one_directory(tmp_path: Path) -> None:
    import subprocess
    import sys

    from qlora_tools.run_output import locked_output

    code = (
        "import sys; from pathlib import Path; from qlora_tools.run_output import locked_output\n"
        "from qlora_tools.errors import UsageError\n"
        "try:\n with locked_output(Path(sys.argv[1])): print('free')\n"
        "except UsageError as error: print(error.message)"
    )
    with locked_output(tmp_path):
        held = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    free = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert held.stdout.startswith("Another run writes to")
    assert free.stdout == "free\n"
