"""Causes are told from real error texts of issue threads, and the change that mends them keeps the rest of the config.

`tests/error_logs` holds one text a file: its address, the failure it should give first, and when it was collected. `seen`
texts were read before the patterns were written. The others were collected and labelled after it, run once, and only then
looked at and mended for; first answers right, and any answer given:

    held    39 and 42 of 69    many complaints in words, which missed most
    held-2  13 and 14 of 34    after mending for the first, from unusual threads
    held-3  11 and 14 of 21    after mending for both
    held-4  59 and 65 of 88    some searched by the names of errors, which is easier
    held-5  32 and 39 of 57    after more exact messages: they do not carry over
    held-6  21 and 28 of 40    after families of messages; many are cut off before the message
    held-7  20 and 24 of 31    after families and frames
    held-8   3 and  3 of 16    after all of them: comments in words, and texts cut off before any message

Four labels were made more exact afterwards, where a new entry told the cause better. Some texts of the last five rounds are
counted as missed and not kept, as their label was as doubtful as the answer. Names in paths are replaced. The tests below run
on all of the others, mended, so that they say nothing of texts that nobody has seen.
"""

import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_tools.cli.main import run
from qlora_tools.config import RunConfig, load_config, parse_config
from qlora_tools.config.overrides import settings_from_pairs
from qlora_tools.doctor import changed_config, diagnose
from qlora_tools.doctor.failures import FAILURES
from qlora_tools.doctor.log_text import read_log
from qlora_tools.guide import topics
from qlora_tools.jobs.layout import JobFolder, Workspace

from .finished_jobs import write_finished_jobs

LOGS = sorted((Path(__file__).parent / "error_logs").glob("*.txt"))
Output = pytest.CaptureFixture[str]


def told(path: Path) -> tuple[str, str]:
    """The expected failure and the text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# https://\S+", lines[0])
    return lines[1].removeprefix("# ").split()[0], "\n".join(lines[2:])


def config_with(**training: Any) -> RunConfig:
    return parse_config(
        {"model": {"name": "any"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}, "training": training}
    )


def first(text: str, config: RunConfig | None = None) -> str:
    report = diagnose(text, config=config)
    return report.findings[0].id if report.recognised else "nothing"


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_real_text_gives_its_failure_first_with_the_line_that_tells_it(path: Path) -> None:
    expected, text = told(path)
    finding = diagnose(text).findings[0]
    assert finding.id == expected
    assert 1 <= finding.line <= text.count("\n") + 1
    assert finding.evidence


def test_the_texts_are_many_and_of_many_kinds() -> None:
    kinds = Counter(told(path)[0] for path in LOGS)
    assert len(LOGS) >= 400
    assert len(kinds) >= 70
    assert kinds.keys() <= FAILURES.keys()


def test_every_failure_says_what_to_do_and_names_a_guide() -> None:
    assert len(FAILURES) >= 100
    for failure in FAILURES.values():
        assert failure.cause.endswith(".") and failure.next_step.endswith("."), failure.id
        assert failure.more in topics(), failure.id
        assert re.fullmatch(r"[a-z][a-z0-9_]+", failure.id)


def test_phrases_are_written_as_the_flat_text_is() -> None:
    for failure in FAILURES.values():
        for sign in failure.signs:
            assert sign.phrase == " ".join(sign.phrase.lower().split(" ")) and sign.phrase.isascii(), failure.id


def test_every_phrase_can_be_found_with_its_pattern() -> None:
    """A pattern that asks for a capital letter would never hold in lower-case text."""
    for failure in FAILURES.values():
        for sign in failure.signs:
            if sign.pattern is not None:
                assert not re.search(r"(?<!\\)[A-Z]", re.sub(r"\\[A-Z]", "", sign.pattern.pattern)), failure.id


@pytest.mark.parametrize("config", [None, config_with(), config_with(micro_batch_size=6, packing="off")])
def test_every_change_goes_with_the_config(config: RunConfig | None) -> None:
    fields = {f"{part}.{name}" for part, values in config_with().model_dump().items() for name in values}
    for failure in FAILURES.values():
        changes = failure.changes(config)
        known = {name: value for name, value in changes.items() if name in fields}
        assert changes.keys() - fields <= {"training.checkpoint_every_steps", "output.keep_checkpoints"}
        changed = changed_config(config or config_with(), known)
        assert changed.model_dump()["model"]["name"] == "any"


@pytest.mark.parametrize(("micro", "accumulation"), [(8, 2), (3, 5), (6, 1), (2, 16), (1, 16)])
def test_out_of_memory_keeps_the_effective_batch(micro: int, accumulation: int) -> None:
    config = config_with(micro_batch_size=micro, gradient_accumulation_steps=accumulation)
    report = diagnose("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", config=config)
    changed = changed_config(config, report.findings[0].changes).training
    assert changed.micro_batch_size * changed.gradient_accumulation_steps == micro * accumulation
    assert changed != config.training


def test_the_patch_is_the_same_in_both_forms() -> None:
    config = config_with(micro_batch_size=4, gradient_checkpointing=False)
    patch = diagnose("CUDA out of memory", config=config).patch
    assert patch is not None
    assert patch.merge == {
        "training": {"micro_batch_size": 2, "gradient_accumulation_steps": 32, "gradient_checkpointing": True}
    }
    settings = settings_from_pairs(patch.settings)
    assert settings == {f"training.{name}": value for name, value in patch.merge["training"].items()}


def test_a_change_that_the_rest_of_the_config_forbids_is_left_out() -> None:
    config = parse_config(
        {
            "model": {"name": "any"},
            "data": {"path": "rows.jsonl"},
            "output": {"directory": "out"},
            "quantization": {"kind": "none"},
            "lora": {"initialization": "pissa"},
        }
    )
    finding = diagnose("CUDA out of memory\nin from_pretrained(", config=config).findings[0]
    assert finding.id == "out_of_memory_loading"
    assert finding.changes.get("quantization.kind") is None


def test_the_first_error_of_a_chain_is_the_cause() -> None:
    text = (
        "Traceback (most recent call last):\n  File a\n"
        "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded with url: /x\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File b\n"
        "OSError: Can't load tokenizer for 'x'. If you were trying to load it from 'https://huggingface.co/models' ...\n"
    )
    assert first(text) == "hub_not_reached"


def test_the_last_traceback_counts_more_than_one_that_was_survived() -> None:
    text = (
        "Traceback (most recent call last):\nModuleNotFoundError: No module named 'flash_attn'\n"
        "going on without it\nstep 1\n"
        "Traceback (most recent call last):\nOSError: [Errno 28] No space left on device\n"
    )
    assert first(text) == "disk_full"


def test_what_follows_from_an_error_stands_behind_it() -> None:
    text = (
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB\n"
        "[rank0]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n"
    )
    assert first(text) == "gpu_out_of_memory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mRuntimeError\x1b[0m: CUDA out of\x1b[1m memory.", "gpu_out_of_memory"),
        ("line\r\nValueError: Attempting to unscale FP16 gradients.\r\n", "unscaling_fp16_gradients"),
        ("  1%|█   | 3/99\r  2%|█   | 4/99 Killed\rOSError: [Errno 28] No space left on device", "disk_full"),
        (
            "ValueError: Target modules {'q_proj'} not found in the\n    base model. Please check",
            "target_modules_not_found",
        ),
        ("{'loss': nan, 'grad_norm': 3.0}", "loss_not_finite"),
        ("{'loss': 0.0, 'grad_norm': 0.0}\n" * 3, "labels_all_masked"),
        ("{'loss': 2.31, 'grad_norm': 0.0}\n" * 3, "no_gradient"),
        ("\n".join(f"step {i}/40 · loss {2 + i / 10:.2f}" for i in range(40)), "loss_climbs"),
        ("\n".join(f"{{'loss': {3 - i / 10}}}\n{{'eval_loss': {1 + i / 10}}}" for i in range(12)), "overfitting"),
        ("The GPU ran out of memory while training.", "gpu_out_of_memory"),
        ("The config run.yaml has 2 problems:\n  - lora.rank: x", "config_invalid"),
        ("out holds the results of an earlier run (adapter).", "output_taken"),
        ("The loss is nan at step 7; no adapter was written.", "loss_not_finite"),
        ("The dataset rows.jsonl is not ready:\n- no answer", "data_not_ready"),
        (
            "The base x is not the model that this adapter was trained on: its config.json differs.",
            "adapter_of_another_base",
        ),
    ],
)
def test_other_forms_of_a_log(text: str, expected: str) -> None:
    assert first(text) == expected


def test_a_healthy_log_gives_no_cause() -> None:
    steps = "\n".join(f"{{'loss': {2 - i / 30:.3f}, 'grad_norm': 0.4, 'learning_rate': 1e-4}}" for i in range(40))
    warnings = (
        "Special tokens have been added in the vocabulary, make sure the associated word embeddings are trained.\n"
        "FutureWarning: `evaluation_strategy` is deprecated. Use `eval_strategy` instead\n"
        "Detected kernel version 5.4.0, which can cause the process to hang.\n"
        "trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196\n"
        "Setting `pad_token_id` to `eos_token_id`:2 for open-end generation.\n"
        "Fast tokenizer not available, using the slow tokenizer, training may differ\n"
    )
    report = diagnose("Loading checkpoint shards: 100%\n" + warnings + steps + "\nAdapter: out/adapter\n")
    assert (report.recognised, report.findings, report.patch) == (False, [], None)


@pytest.mark.parametrize(
    "text",
    [
        "  File 'views.py', line 4\nAttributeError: 'AnonymousUser' object has no attribute 'basket'",
        "  File 'scrape.py', line 14, in main\n    price = float(row['price'])\nKeyError: 'price'",
        "  File 'game.py', line 88, in update\nIndexError: list index out of range",
        "  File 'app.py', line 51, in handler\nZeroDivisionError: division by zero",
        "  File 'main.py', line 3\nTypeError: __init__() got an unexpected keyword argument 'timout'",
        "  File 'bot.py', line 12\ndiscord.errors.LoginFailure: Improper access code has been passed.",
    ],
)
def test_errors_of_other_fields_give_no_cause(text: str) -> None:
    assert first(f"Traceback (most recent call last):\n{text}\n") == "nothing"


@pytest.mark.parametrize(
    "text",
    [
        "npm ERR! code ERESOLVE\nnpm ERR! ERESOLVE unable to resolve dependency tree\nnpm ERR! Found: react@18.2.0",
        'psycopg2.errors.UndefinedColumn: column "emial" does not exist\nLINE 1: SELECT emial FROM users',
        "error[E0502]: cannot borrow `v` as mutable\n --> src/main.rs:6:5\nerror: aborting due to previous error",
        "The meeting is moved to 3 pm. The answers to last week's questions are attached; the results look good.",
        "How do I choose the LoRA rank for a 7B model? What does alpha do, and how much memory does 4-bit need?",
    ],
)
def test_texts_without_a_failure_of_this_field_give_no_cause(text: str) -> None:
    assert first(text) == "nothing"


def test_what_a_run_survived_is_no_cause() -> None:
    warnings = (
        "Token indices sequence length is longer than the specified maximum sequence length for this model (9 > 8).\n"
        "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 4294967296, reducing to 2147483648\n"
    )
    steps = "{'loss': 1.9, 'epoch': 0.1}\n{'loss': 1.6, 'epoch': 0.2}\n{'loss': 1.4, 'epoch': 0.3}\n"
    assert first(warnings + steps) == "nothing"
    assert first(steps + "OSError: [Errno 28] No space left on device\n") == "disk_full"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("训练到一半显存不足", "gpu_out_of_memory"),
        ("微调之后模型停不下来", "never_stops"),
        ("lora微调loss一直不下降", "loss_does_not_fall"),
        ("训练卡住不动了", "processes_out_of_step"),
    ],
)
def test_common_chinese_words_are_understood(text: str, expected: str) -> None:
    assert first(text) == expected


def test_complaints_are_not_read_into_a_log_with_a_traceback() -> None:
    text = "generation is slow\nTraceback (most recent call last):\n  File x\nmy.StrangeError: the moon is full\n"
    assert first(text) == "nothing"
    assert first("generation is slow") == "slow_inference"


def test_an_unknown_error_is_shown_with_its_line() -> None:
    report = diagnose("one\nTraceback (most recent call last):\n  File x\nmy.own.StrangeError: the moon is full\n")
    assert not report.recognised
    assert (report.last_error, report.last_error_line) == ("my.own.StrangeError: the moon is full", 4)
    assert "line 4" in report.next_step
    assert [(finding.id, finding.title, finding.confidence) for finding in report.findings] == [
        ("unknown_error", "StrangeError", "possible")
    ]


def test_of_an_unknown_error_the_library_is_named_whose_frame_raised_it() -> None:
    text = (
        'Traceback (most recent call last):\n  File "/x/train.py", line 3, in <module>\n'
        '  File "/x/lib/python3.12/site-packages/torch/nn/module.py", line 9, in forward\n'
        "KeyError: 'wibble'\n"
    )
    report = diagnose(text)
    assert (report.recognised, report.findings[0].title, report.findings[0].line) == (False, "KeyError in torch", 4)


def test_evidence_shows_neither_secrets_nor_hidden_characters() -> None:
    token = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
    finding = diagnose(f"OSError: gated repo\u202e, token={token}\x1b[2J").findings[0]
    assert token[8:] not in finding.evidence
    assert "\u202e" not in finding.evidence and "\x1b" not in finding.evidence


def test_a_log_of_30_mb_is_read_in_bounded_memory_and_time() -> None:
    line = b"{'loss': 1.25, 'grad_norm': 0.5, 'learning_rate': 0.0002, 'epoch': 0.1}\n"
    half = line * (15 * 2**20 // len(line))
    log = half + b"ValueError: Target modules x not found in the base model\n" + half + b"Killed\n"
    started = time.monotonic()
    text = read_log(io.BytesIO(log))
    assert sum(len(item.text) for item in text.lines) < 2 * 2**20
    report = diagnose(io.BytesIO(log))
    assert report.findings[0].id == "target_modules_not_found"
    assert report.findings[0].line == half.count(b"\n") + 1
    assert time.monotonic() - started < 60


def test_a_hostile_text_takes_no_longer() -> None:
    started = time.monotonic()
    for piece in (
        "loss ",
        "memory ",
        "a" * 50,
        "lora same output ",
        "error: ",
        "merge worse ",
        "keyerror: 'a.",
        "missing keys lora_a ",
        "RuntimeError: cpu ",
    ):
        diagnose(piece * (200_000 // len(piece)))
    assert time.monotonic() - started < 30


@pytest.fixture
def failed(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Writes a log and the run's config; returns both paths."""

    def write(text: str) -> tuple[str, str]:
        log, config = tmp_path / "run.log", tmp_path / "run.yaml"
        log.write_text(text, encoding="utf-8")
        raw = {
            "model": {"name": "any"},
            "data": {"path": "rows.jsonl"},
            "output": {"directory": "out"},
            "training": {"micro_batch_size": 4},
        }
        config.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return str(log), str(config)

    return write


def test_the_command_writes_the_changed_config_and_leaves_the_original(
    failed: Callable[[str], tuple[str, str]], tmp_path: Path, capsys: Output
) -> None:
    log, config = failed("torch.OutOfMemoryError: CUDA out of memory.")
    before = Path(config).read_text(encoding="utf-8")
    target = tmp_path / "mended.yaml"
    assert run(["doctor", log, "--config", config, "--apply", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written_to"] == str(target)
    assert document["patch"]["settings"] == [
        "training.micro_batch_size=2",
        "training.gradient_accumulation_steps=32",
    ]
    assert load_config(target).training.micro_batch_size == 2
    assert Path(config).read_text(encoding="utf-8") == before
    assert run(["doctor", log, "--config", config, "--apply", str(target), "--json"]) == 2


def test_nothing_is_written_where_no_change_of_the_config_mends_it(
    failed: Callable[[str], tuple[str, str]], tmp_path: Path, capsys: Output
) -> None:
    log, config = failed("OSError: You are trying to access a gated repo.")
    target = tmp_path / "mended.yaml"
    assert run(["doctor", log, "--config", config, "--apply", str(target)]) == 0
    said = capsys.readouterr()
    assert "model_gated" in said.out and "nothing was written" in said.err
    assert not target.exists()


def test_a_log_that_tells_nothing_gives_code_3(failed: Callable[[str], tuple[str, str]], capsys: Output) -> None:
    log, _ = failed("all is well\n")
    assert run(["doctor", log]) == 3
    assert "No known failure" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--apply", "x.yaml"], ["LOG", "--apply", "x.yaml"], ["no-such.log"], ["--config", "x.yaml"]]
)
def test_wrong_use_of_the_command_is_told(arguments: list[str], capsys: Output) -> None:
    assert run(["doctor", *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["next_step"]


@pytest.fixture
def failed_job(tmp_path: Path) -> Callable[[str, str], JobFolder]:
    """A job that failed, with the message of its verdict and its log."""

    def write(message: str, log: str) -> JobFolder:
        space = Workspace.at(tmp_path)
        [job_id] = write_finished_jobs(space, 1)
        job = space.job(job_id)
        verdict = {"state": "failed", "exit_code": 1, "message": message, "next_step": "Mend it.", "ended": None}
        job.attempt(1).exit_file.write_text(json.dumps(verdict), encoding="utf-8")
        job.log_file.write_text(log, encoding="utf-8")
        job.config_file.write_text(
            json.dumps(config_with(micro_batch_size=4).model_dump(mode="json")), encoding="utf-8"
        )
        return job

    return write


@pytest.mark.parametrize(
    ("message", "log"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", "ValueError: Target modules x not found in the base model\n"),
        ("It ended.", "step 1\ntorch.OutOfMemoryError: CUDA out of memory.\n"),
    ],
)
def test_a_job_is_diagnosed_by_its_message_first_with_its_own_config(
    failed_job: Callable[[str, str], JobFolder], tmp_path: Path, capsys: Output, message: str, log: str
) -> None:
    job = failed_job(message, log)
    target = tmp_path / "mended.yaml"
    for name in (job.id, job.id[:-3], "last"):
        assert run(["doctor", name, "--workspace", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["findings"][0]["id"] == "gpu_out_of_memory"
    assert run(["doctor", "last", "--workspace", str(tmp_path), "--apply", str(target)]) == 0
    assert load_config(target).training.micro_batch_size == 2


def test_a_job_that_is_not_there_is_told(tmp_path: Path, capsys: Output) -> None:
    assert run(["doctor", "nothing", "--workspace", str(tmp_path), "--json"]) == 2
    assert "no job 'nothing'" in json.loads(capsys.readouterr().out)["message"]
