"""Two configs side by side: what changes, what it means, and whether a run may go on."""

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.cli.main import run
from qlora_tools.config import RunConfig, dump_config
from qlora_tools.config.overrides import config_with
from qlora_tools.planning import compare_configs
from qlora_tools.planning.values import field_paths, planned
from qlora_tools.results import ConfigDifference

LLAMA = "llama-3.1-8b-instruct"


def config(model: str = LLAMA, **settings: Any) -> RunConfig:
    return config_with({name.replace("__", "."): value for name, value in settings.items()}, model=model)


def compared(*, model: str = LLAMA, **settings: Any) -> ConfigDifference:
    return compare_configs(config(model), config(model, **settings))


def test_a_default_that_is_written_out_is_no_difference() -> None:
    difference = compared(lora__rank=16, training__seed=42)
    assert difference.equal and difference.changes == [] and difference.resumable
    assert "Nothing differs" in difference.next_step


def test_each_field_says_which_way_it_goes_and_what_that_means() -> None:
    difference = compared(lora__rank=64, training__learning_rate=1e-4, training__schedule="linear")
    changes = {change.field: change for change in difference.changes}
    assert not difference.equal and list(changes) == ["lora.rank", "training.learning_rate", "training.schedule"]
    assert (changes["lora.rank"].before, changes["lora.rank"].after, changes["lora.rank"].direction) == (
        16,
        64,
        "higher",
    )
    assert "capacity" in changes["lora.rank"].effect
    assert changes["training.learning_rate"].direction == "lower"
    assert changes["training.schedule"].direction == "other"


def test_trained_parameters_and_the_predicted_peak_follow_the_rank() -> None:
    difference = compared(lora__rank=64)
    before, after = difference.before, difference.after
    assert before.trainable_parameters == 41_943_040
    assert after.trainable_parameters == 4 * 41_943_040
    assert before.peak_bytes is not None and after.peak_bytes is not None
    # Weights and gradients in fp32 at the least, for each parameter that is trained more.
    assert after.peak_bytes - before.peak_bytes > 4 * 3 * 41_943_040


def test_rows_and_tokens_of_a_step_are_counted() -> None:
    difference = compared(training__micro_batch_size=4, training__max_length_tokens=1024)
    assert (difference.before.rows_per_step, difference.before.tokens_per_step_at_most) == (16, 16 * 2048)
    assert (difference.after.rows_per_step, difference.after.tokens_per_step_at_most) == (64, 64 * 1024)
    packed = compared(training__packing="bins")
    assert packed.after.rows_per_step is None
    assert any("counts bins" in note for note in packed.notes)


def test_a_checkpoint_goes_on_only_where_the_run_stays_the_same_run() -> None:
    allowed = compared(training__learning_rate=1e-4, training__epochs=5.0)
    assert allowed.resumable and all(change.may_change_on_resume for change in allowed.changes)
    refused = compared(lora__rank=8, training__epochs=5.0)
    assert not refused.resumable
    assert [problem.split(":")[0] for problem in refused.resume_problems] == ["lora.rank"]
    marks = {change.field: change.may_change_on_resume for change in refused.changes}
    assert marks == {"lora.rank": False, "training.epochs": True}


def test_micro_batches_may_change_as_long_as_a_step_holds_as_many_rows() -> None:
    same = compared(training__micro_batch_size=2, training__gradient_accumulation_steps=8)
    assert same.resumable and all(change.may_change_on_resume for change in same.changes)
    more = compared(training__micro_batch_size=2)
    assert not more.resumable and not any(change.may_change_on_resume for change in more.changes)


def test_a_model_that_is_not_known_here_is_said_without_a_network() -> None:
    difference = compared(model="acme/not-in-the-catalogue", lora__rank=8)
    assert difference.before.peak_bytes is None and difference.after.trainable_parameters is None
    assert any("without a network" in note for note in difference.notes)
    assert difference.changes[0].field == "lora.rank"


def test_modules_that_the_model_does_not_have_are_said_and_the_rest_is_compared() -> None:
    difference = compared(lora__target_modules=["no_such_proj"])
    assert difference.before.peak_bytes is not None and difference.after.peak_bytes is None
    assert any("cannot be computed" in note for note in difference.notes)


def test_every_field_has_words_for_its_effect() -> None:
    assert [path for path in field_paths() if not planned(path, None, "", "").effect] == []


def test_the_command_prints_a_table_or_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(dump_config(config()), encoding="utf-8")
    second.write_text(dump_config(config(LLAMA, lora__rank=64)), encoding="utf-8")
    assert run(["config", "diff", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "lora.rank" in shown and "parameters trained" in shown and "No checkpoint goes on" in shown
    assert run(["config", "diff", str(first), str(second), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert ConfigDifference.model_validate(document).changes[0].after == 64
    assert run(["config", "diff", str(first), str(tmp_path / "none.yaml")]) == 2
