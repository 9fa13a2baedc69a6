"""Causes are told from real error texts of issue threads, and the change that mends them keeps the rest of the config.

`tests/error_logs` holds one text a file: its address, the failure it should give first, and when it was collected. `seen`
texts were read before the patterns were written. The others were collected and labelled after it, run once, and only then
looked at and mended for; first answers right, and any answer given:

    held    39 and 42 of 69    many complaints in words, which missed most
    held-2  13 and 14 of 34    after mending for the first, from unusual threads
    held-3  11 and 14 of 21    after mending for both

Four labels were made more exact afterwards, where a new entry told the cause better. Names in paths are replaced. The tests
below run on all of them, mended, so that they say nothing of texts that nobody has seen.
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
    findings = diagnose(text, config=config).findings
    return findings[0].id if findings else "nothing"


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_real_text_gives_its_failure_first_with_the_line_that_tells_it(path: Path) -> None:
    expected, text = told(path)
    finding = diagnose(text).findings[0]
    assert finding.id == expected
    assert 1 <= finding.line <= text.count("\n") + 1
    assert finding.evidence


def test_the_texts_are_many_and_of_many_kinds() -> None:
    kinds = Counter(told(path)[0] for path in LOGS)
    assert len(LOGS) >= 200
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


def test_complaints_are_not_read_into_a_log_with_a_traceback() -> None:
    text = "generation is slow\nTraceback (most recent call last):\n  File x\nmy.StrangeError: the moon is full\n"
    assert first(text) == "nothing"
    assert first("generation is slow") == "slow_inference"


def test_an_unknown_error_is_shown_with_its_line() -> None:
    report = diagnose("one\nTraceback (most recent call last):\n  File x\nmy.own.StrangeError: the moon is full\n")
    assert not report.recognised
    assert (report.last_error, report.last_error_line) == ("my.own.StrangeError: the moon is full", 4)
    assert "line 4" in report.next_step


def test_evidence_shows_neither_secrets_nor_hidden_characters() -> None:
    token = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
    finding = diagnose(f"OSError: gated repo\u202e, token={token}\x1b[2J").findings[0]
    assert token[8:] not in finding.evidence
    assert "\u202e" not in finding.evidence and "\x1b" not in finding.evidence


def test_a_log_of_100_mb_is_read_in_bounded_memory_and_time() -> None:
    line = b"{'loss': 1.25, 'grad_norm': 0.5, 'learning_rate': 0.0002, 'epoch': 0.1}\n"
    block = line * (2**20 // len(line))

    class Long(io.RawIOBase):
        """A stream of 100 blocks with an error in the 50th and one at its end."""

        read_blocks = 0

        def read(self, size: int = -1) -> bytes:
            self.read_blocks += 1
            ends = {50: b"ValueError: Target modules x not found in the base model\n", 100: b"Killed\n"}
            return block + ends.get(self.read_blocks, b"") if self.read_blocks <= 100 else b""

        def readline(self, size: int | None = -1) -> bytes:
            return b""

    started = time.monotonic()
    text = read_log(Long())  # type: ignore[arg-type]
    assert sum(len(item.text) for item in text.lines) < 16 * 2**20
    lines_before = 50 * (len(block) // len(line))
    report = diagnose(Long())  # type: ignore[arg-type]
    assert report.findings[0].id == "target_modules_not_found"
    assert report.findings[0].line == lines_before + 1
    assert time.monotonic() - started < 60


def test_a_hostile_text_takes_no_longer() -> None:
    started = time.monotonic()
    for piece in ("loss ", "memory ", "a" * 50, "lora same output ", "error: ", "merge worse "):
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
