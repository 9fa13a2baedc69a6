"""Evaluating a tiny adapter: the held-out rows of its training, losses as trained, resuming, leaks, errors, the page."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.cli.main import run
from qlora_tools.config import load_config, parse_config
from qlora_tools.data.order import split_for_evaluation
from qlora_tools.errors import DataError, ModelError, QloraError, UsageError, WorkStopped
from qlora_tools.evaluation import evaluate
from qlora_tools.events import RunEvent
from qlora_tools.jobs.works import checked_work
from qlora_tools.results import EvaluationResult

from .conftest import write_rows

Models = Callable[[str], Path]
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ROWS = [{"question": f"say {first} {second}", "answer": "ten it is"} for first in WORDS[:6] for second in WORDS]


@pytest.fixture(scope="module")
def trained(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen that has learnt one answer, with 24 of 60 rows held out."""
    from qlora_tools import train

    folder = tmp_path_factory.mktemp("evaluated")
    training = {
        "max_steps": 25,
        "micro_batch_size": 12,
        "gradient_accumulation_steps": 1,
        "learning_rate": 4e-3,
        "gradient_checkpointing": False,
        "max_length_tokens": 64,
        "smoke_generation": False,
        "evaluation_samples": 0,
    }
    raw = {
        "model": {"name": str(tiny_model("qwen2"))},
        "data": {"path": str(write_rows(folder / "rows.jsonl", ROWS)), "evaluation_fraction": 0.4, "check": "warn"},
        "output": {"directory": str(folder / "run")},
        "training": training,
    }
    train(parse_config(raw))
    return folder / "run"


@pytest.fixture(scope="module")
def evaluated(trained: Path) -> EvaluationResult:
    """The evaluation of its held-out rows."""
    return evaluate(trained, instruments=())


def test_the_rows_are_those_that_the_training_held_out(trained: Path, evaluated: EvaluationResult) -> None:
    seed = load_config(trained / "config.yaml").training.seed
    _, held = split_for_evaluation(len(ROWS), 0.4, seed)
    assert [row for row, _, _ in evaluated.row_losses] == [place + 1 for place in held]
    assert evaluated.rows.held_out_by_training and evaluated.rows.used == 24
    told = json.loads((trained / "result.json").read_text())["evaluation_rows"]
    assert evaluated.loss.tokens == told["learnt_tokens"]


def test_losses_are_over_the_answer_tokens_as_trained(trained: Path, evaluated: EvaluationResult) -> None:
    import torch

    from qlora_tools.data.dataset import read_dataset
    from qlora_tools.data.rows import encode_examples
    from qlora_tools.generation.session import GenerationSession

    config = load_config(trained / "config.yaml")
    session = GenerationSession.open(trained / "adapter")
    rows = read_dataset(config.data, config.training.seed).evaluation
    assert rows is not None
    encoded = encode_examples(rows.examples, session.renderer, loss_on="completions", row_numbers=rows.numbers).rows[:3]
    for row, (number, base, adapter) in zip(encoded, evaluated.row_losses, strict=False):
        with torch.no_grad():
            ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
            with_adapter = float(session.model(input_ids=ids, labels=labels).loss)
            with session.model.disable_adapter():
                without = float(session.model(input_ids=ids, labels=labels).loss)
        assert row.number == number
        assert (base, adapter) == (pytest.approx(without, rel=0.02), pytest.approx(with_adapter, rel=0.02, abs=0.02))


def test_an_adapter_that_learnt_its_task_is_better_on_every_measure(evaluated: EvaluationResult) -> None:
    loss = evaluated.loss.loss.comparison
    assert loss.adapter.value < loss.base.value and loss.p_value < 0.001 and loss.better == 24
    assert [found.comparison.name for found in evaluated.metrics] == ["exact_match", "token_f1"]
    assert evaluated.verdict.decision == "ship", evaluated.verdict
    assert evaluated.stopping is not None and evaluated.stopping.adapter == 0
    assert evaluated.leakage.leaked == 0 and evaluated.leakage.not_checked == []


def test_what_is_written_is_what_is_returned_and_the_page_says_it(evaluated: EvaluationResult) -> None:
    directory = Path(evaluated.output_directory)
    assert EvaluationResult.model_validate_json((directory / "results.json").read_text()) == evaluated
    page = Path(evaluated.page).read_text()
    assert "✓ Ship" in page and page.count("<svg") == 4 and "<script" not in page
    assert len((directory / "losses.jsonl").read_text().splitlines()) == 24
    assert len((directory / "answers.jsonl").read_text().splitlines()) == 48


def test_a_stopped_evaluation_goes_on_from_what_it_wrote_with_the_same_figures(
    trained: Path, evaluated: EvaluationResult, tmp_path: Path
) -> None:
    told: list[tuple[str, float | None]] = []
    output = tmp_path / "stopped"
    with pytest.raises(WorkStopped, match=r"24 of 24 answers of the base"):
        evaluate(
            trained,
            output=output,
            instruments=(),
            on_event=lambda event: told.append((event.message, event.values.get("done"))),
            stop=lambda: ("answers of the base", 24) in told,
        )
    assert not (output / "results.json").exists()
    lines = (output / "losses.jsonl").read_text().splitlines()
    (output / "losses.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:10]]))
    first = (output / "answers.jsonl").read_text()
    counted: list[RunEvent] = []
    found = evaluate(trained, output=output, instruments=(), metrics=["exact_match"], on_event=counted.append)
    assert found.loss == evaluated.loss and found.metrics[0] == evaluated.metrics[0]
    assert (output / "answers.jsonl").read_text().startswith(first)
    assert "answers of the base" not in [event.message for event in counted]
    assert [dict(event.values) for event in counted if event.message == "losses"] == [{"done": 24, "total": 24}]


def test_a_stop_is_heard_while_answers_are_written(trained: Path, tmp_path: Path) -> None:
    told: list[RunEvent] = []
    with pytest.raises(WorkStopped, match="among its answers"):
        evaluate(
            trained,
            output=tmp_path / "stopped",
            instruments=(),
            on_event=told.append,
            stop=lambda: told[-1].message == "answers of the adapter",
        )
    assert [event.values["done"] for event in told if event.message == "answers of the base"] == list(range(1, 25))
    sides = [json.loads(line)["side"] for line in (tmp_path / "stopped" / "answers.jsonl").read_text().splitlines()]
    assert sides == ["base"] * 24


def test_a_broken_adapter_is_told_in_page_document_and_job(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation*", "checkpoints"))
    weights = copy / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(value for name, value in tensors.items() if "lora_B" in name).fill_(torch.nan)
    save_file(tensors, weights, metadata={"format": "pt"})
    assert run(["evaluate", str(copy), "--instrument", "adapter_effect", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"]["reasons"][0]["message"].startswith("The adapter is broken")
    assert told["loss"]["adapter_perplexity"]["value"] == "NaN"
    again = EvaluationResult.model_validate_json((copy / "evaluation" / "results.json").read_text())
    assert again.as_document() == told
    assert "no number" in (copy / "evaluation" / "report.html").read_text()


def test_a_job_is_not_made_of_what_an_evaluation_refuses(trained: Path, tmp_path: Path) -> None:
    foreign, _ = _adapter_from_elsewhere(trained, tmp_path)
    for adapter, given in (
        (foreign, {}),
        (trained, {"metrics": ["regex:("]}),
        (trained, {"metrics": ["beauty"]}),
        (trained, {"data": str(tmp_path / "no.jsonl")}),
    ):
        with pytest.raises((UsageError, DataError)):
            checked_work("evaluate", {"adapter": str(adapter), "output": str(tmp_path / "out"), **given}).check()
    checked_work("evaluate", {"adapter": str(trained), "output": str(tmp_path / "out")}).check()
    assert not (tmp_path / "out").exists()


def test_rows_of_training_are_found_and_nothing_is_concluded_from_them(trained: Path, tmp_path: Path) -> None:
    config = load_config(trained / "config.yaml")
    kept, _ = split_for_evaluation(len(ROWS), 0.4, config.training.seed)
    data = write_rows(tmp_path / "seen.jsonl", [ROWS[place] for place in kept])
    found = evaluate(trained, data, output=tmp_path / "seen", instruments=(), max_rows=5, max_new_tokens=8)
    assert (found.leakage.exact, found.rows.used, found.rows.left_out) == (5, 5, 31)
    assert found.leakage.rows[0].training_row == kept[0] + 1
    assert found.verdict.decision == "cannot tell"


def test_rows_of_any_format_are_read_and_long_and_broken_ones_are_told(trained: Path, tmp_path: Path) -> None:
    data = tmp_path / "other.csv"
    rows = ["prompt,completion", "say seven one,seven it is", f"say eight two,{'eight ' * 90}", "say nine,"]
    data.write_text("\n".join(rows) + "\n")
    found = evaluate(trained, data, output=tmp_path / "csv", instruments=(), metrics=["regex:it"], max_new_tokens=8)
    assert (found.rows.read, found.rows.used, found.rows.cut, found.rows.unusable) == (3, 2, 1, 1)
    assert found.rows.long_rows == [2] and found.rows.problems[0][0] == 3
    assert [answer.leaked for answer in found.answers] == [False, False]


def test_an_adapter_that_adds_nothing_is_told_so(trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(trained / "adapter", tmp_path / "nothing")
    weights = load_file(adapter / "adapter_model.safetensors")
    nothing = {name: weight * ("lora_B" not in name) for name, weight in weights.items()}
    save_file(nothing, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "say one"}, {"text": "say two"}])
    found = evaluate(adapter, data, instruments=())
    assert found.verdict.decision == "do not ship" and "does nothing" in found.verdict.summary
    assert found.metrics == [] and found.output_directory == str(tmp_path / "nothing-evaluation-rows")
    assert "what the adapter was trained on is not known" in found.not_done[0]


def _changed_data(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    copy = shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("evaluation*", "checkpoints"))
    data = write_rows(folder / "rows.jsonl", ROWS[:-1])
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(load_config(copy / "config.yaml").data.path, str(data)))
    return copy, {}


def _edited_data(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    copy, _ = _changed_data(trained, folder)
    write_rows(folder / "rows.jsonl", [{**row, "answer": f"{row['answer']} now"} for row in ROWS])
    return copy, {}


def _nothing_held_out(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    copy, _ = _changed_data(trained, folder)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("evaluation_fraction: 0.4", "evaluation_fraction: 0"))
    return copy, {}


def _adapter_from_elsewhere(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return shutil.copytree(trained / "adapter", folder / "foreign"), {}


def _empty_data(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return trained, {"data": write_rows(folder / "empty.jsonl", [])}


def _other_format(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return trained, {"data": write_rows(folder / "odd.jsonl", [{"width": 1, "height": 2}] * 3)}


def _no_answers(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    rows = [{"messages": [{"role": "user", "content": "say one"}]}] * 3
    return trained, {"data": write_rows(folder / "asked.jsonl", rows)}


def _no_references(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return trained, {"data": write_rows(folder / "texts.jsonl", [{"text": "say one"}] * 3), "metrics": ["rouge"]}


def _no_adapter(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder / "absent", {}


def _other_base(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    copy = shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("evaluation*", "checkpoints"))
    record = copy / "adapter" / "qlora_tools.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "base_config_sha256": "0" * 64}))
    return copy, {}


def _corrupt_weights(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    copy = shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("evaluation*", "checkpoints"))
    weights = copy / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return copy, {}


def _out_of_bounds(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return trained, {"max_rows": 0}


def _unknown_instrument(trained: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    return trained, {"instruments": ["astrology"]}


@pytest.mark.parametrize(
    ("prepare", "kind", "said"),
    [
        (_changed_data, DataError, r"60 rows were read then, 59 are there now"),
        (_edited_data, DataError, r"has changed since the training \(24 rows of"),
        (_nothing_held_out, UsageError, "held no rows out"),
        (_adapter_from_elsewhere, UsageError, "nothing tells which rows it has not seen"),
        (_empty_data, DataError, "is empty"),
        (_other_format, DataError, "."),
        (_no_answers, DataError, "."),
        (_no_references, UsageError, "No row ends with an answer in text"),
        (_no_adapter, ModelError, "no adapter directory"),
        (_other_base, ModelError, "config.json differs"),
        (_corrupt_weights, ModelError, "."),
        (_out_of_bounds, UsageError, "max_rows is 0; allowed is 1 to"),
        (_unknown_instrument, UsageError, "no instrument 'astrology'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    trained: Path, tmp_path: Path, prepare: Callable[..., Any], kind: type[QloraError], said: str
) -> None:
    adapter, given = prepare(trained, tmp_path)
    told: list[str] = []
    with pytest.raises(kind, match=said) as caught:
        evaluate(adapter, output=tmp_path / "out", on_event=lambda event: told.append(event.message), **given)
    assert caught.value.next_step
    assert not any(message.startswith("Loading") for message in told)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def in_use(trained: Path, evaluated: EvaluationResult, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Directories that cannot take an evaluation of the held-out rows, by why not."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").write_text("")
    other = shutil.copytree(evaluated.output_directory, tmp_path / "other")
    settings = json.loads((other / "settings.json").read_text())
    (other / "settings.json").write_text(json.dumps({**settings, "rows": "others"}))
    (tmp_path / "file").write_text("")
    yield {
        "holds files and no evaluation": tmp_path / "files",
        "holds an evaluation that differs in rows": other,
        "is a file": tmp_path / "file",
    }


def test_a_directory_in_use_is_refused_and_left_as_it_is(trained: Path, in_use: dict[str, Path]) -> None:
    for said, directory in in_use.items():
        before = sorted(directory.rglob("*"))
        with pytest.raises(UsageError, match=said):
            evaluate(trained, output=directory, instruments=())
        assert sorted(directory.rglob("*")) == before


def test_two_evaluations_never_write_to_one_directory(evaluated: EvaluationResult) -> None:
    import subprocess
    import sys

    from qlora_tools.evaluation.store import open_store

    directory = Path(evaluated.output_directory)
    settings = json.loads((directory / "settings.json").read_text())
    lock = str(directory / ".evaluation.lock")
    code = f"import fcntl; f = open({lock!r}, 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="Another evaluation writes"), open_store(directory, settings):
            pass
        other.communicate("\n")


def test_the_command_prints_one_document_and_escapes_what_data_holds(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = [
        {"question": f"say {word} <script>alert(1)</script>\x1b[31m", "answer": f"{word} it is"} for word in WORDS[:2]
    ]
    data = write_rows(tmp_path / "hostile.jsonl", hostile)
    arguments = ["evaluate", str(trained), "--data", str(data), "-o", str(tmp_path / "out"), "--no-instruments"]
    assert run([*arguments, "--max-new-tokens", "8", "--metric", "exact_match", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["verdict"]["decision"] == "cannot tell" and document["rows"]["used"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert run(arguments) == 2
    assert "differs in max_new_tokens" in capfd.readouterr().err
