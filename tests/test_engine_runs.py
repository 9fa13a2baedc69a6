"""What a run promises: same seed, same losses; rows counted; every option of the config does what it says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from qlora_tools.config import parse_config
from qlora_tools.config.choices import Optimizer
from qlora_tools.errors import CheckFailed, ConfigError, DataError, DiskSpaceError, MissingLibraryError, UsageError

from .conftest import write_rows

Raw = Callable[..., dict[str, Any]]
Models = Callable[[str], Path]


def train(raw: dict[str, Any]) -> Any:
    from qlora_tools import train as train_from_config

    return train_from_config(parse_config(raw))


def load_in_nf4(directory: Path, compute_dtype: str) -> tuple[Any, Any]:
    """The resolved model and what `load_model` makes of it on this machine's device."""
    from qlora_tools.config import QuantizationConfig
    from qlora_tools.engine.device import detect_hardware
    from qlora_tools.engine.loading import load_model
    from qlora_tools.models import ModelReference, resolve_model

    resolved = resolve_model(ModelReference(str(directory), "local"))
    loaded = load_model(
        resolved,
        QuantizationConfig(),
        compute_dtype=compute_dtype,
        attention_implementation="auto",
        hardware=detect_hardware(),
    )
    return resolved, loaded


@pytest.fixture
def llama(tiny_model: Models) -> Path:
    return tiny_model("llama")


def test_two_runs_of_one_config_have_identical_losses_and_another_seed_has_others(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    first, again = (train(config_for(llama, chat_rows, lora={"dropout": 0.1})) for _ in range(2))
    other = train(config_for(llama, chat_rows, lora={"dropout": 0.1}, training={"seed": 7}))
    assert first.losses == again.losses
    assert first.losses != other.losses


def test_a_smoke_generation_and_evaluations_change_no_loss(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    """Guards against bitsandbytes repacking weights in eval mode, which ruins the gradients of all later steps."""
    plain = train(config_for(llama, chat_rows, data={"evaluation_fraction": 0.2}))
    watched = config_for(
        llama,
        chat_rows,
        data={"evaluation_fraction": 0.2},
        training={"evaluation_every_steps": 1, "smoke_generation": True, "keep_best": False},
    )
    result = train(watched)
    assert result.losses == plain.losses
    assert list(result.evaluation_losses) == [1, 2, 3]
    assert result.smoke_answer is not None
    assert plain.evaluation_losses.keys() == {3}


def test_gradients_after_an_evaluation_equal_those_before_it_on_every_4_bit_layer(llama: Path) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    from qlora_tools.config import LoraConfig
    from qlora_tools.engine.adapters import attach_adapter

    resolved, loaded = load_in_nf4(llama, "float32")
    assert not any(m.support_avx512bf16_for_cpu for m in loaded.model.modules() if isinstance(m, Linear4bit))
    assert loaded.model.get_input_embeddings().weight.dtype == torch.float32
    model = attach_adapter(loaded.model, LoraConfig(rank=4), resolved)
    tokens = torch.arange(10, 26)[None].to(model.device)

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=tokens)
    for one, other in zip(before, gradients(), strict=True):
        assert torch.equal(one, other)


def test_a_bfloat16_base_keeps_its_embeddings_and_head_in_bfloat16(tiny_model: Models) -> None:
    import torch

    from qlora_tools.config import LoraConfig
    from qlora_tools.engine.adapters import attach_adapter

    resolved, loaded = load_in_nf4(tiny_model("mistral"), "bfloat16")
    model = attach_adapter(loaded.model, LoraConfig(), resolved)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


# The others train in test_scripts_parity.py too.
@pytest.mark.parametrize(
    "kind", ["nf4", "none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("fp4", "int8"))]
)
def test_every_quantisation_kind_trains(kind: str, llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, quantization={"kind": kind}, training={"max_steps": 6, "learning_rate": 5e-3})
    result = train(raw)
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param({"use_rslora": True}, marks=pytest.mark.slow),
        {"use_dora": True},
        pytest.param({"initialization": "loftq"}, marks=pytest.mark.slow),
        {"target_modules": "attention"},
        {"target_modules": ["down_proj", "q_proj"]},
        {"modules_to_save": ["lm_head"], "target_modules": "attention"},
    ],
    ids=str,
)
def test_every_form_of_adapter_trains_and_saves(
    lora: dict[str, Any], llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    result = train(config_for(llama, chat_rows, lora=lora, training={"max_steps": 6, "learning_rate": 5e-3}))
    saved = json.loads((Path(result.adapter_directory) / "adapter_config.json").read_text())
    assert saved["use_dora"] == lora.get("use_dora", False)
    assert saved["use_rslora"] == lora.get("use_rslora", False)
    assert result.losses[-1] < result.losses[0]


def test_pissa_on_a_16_bit_base_saves_a_plain_adapter_that_answers_as_trained(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    from qlora_tools import generate

    raw = config_for(
        llama,
        chat_rows,
        quantization={"kind": "none"},
        lora={"initialization": "pissa", "rank": 4},
        training={"max_steps": 6, "learning_rate": 5e-3},
    )
    result = train(raw)
    saved = json.loads((Path(result.adapter_directory) / "adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True
    assert saved["r"] == 8
    assert result.losses[-1] < result.losses[0]
    assert generate(result.adapter_directory, ["say number 1"], max_new_tokens=4).answers[0].adapter is not None


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(name, marks=[pytest.mark.slow] if number >= 1 else [])
        for number, name in enumerate(get_args(Optimizer))
    ],
)
def test_every_optimiser_moves_the_adapter(optimizer: str, llama: Path, chat_rows: Path, config_for: Raw) -> None:
    result = train(config_for(llama, chat_rows, training={"optimizer": optimizer, "warmup_fraction": 0.0}))
    assert len(set(result.losses)) == 3


def test_checkpointing_changes_no_loss(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    losses = [
        train(config_for(llama, chat_rows, training={"gradient_checkpointing": on})).losses for on in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_bins_hold_whole_rows_and_keep_them_apart(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    result = train(
        config_for(
            llama, chat_rows, training={"packing": "bins", "max_length_tokens": 128, "epochs": 1.0, "max_steps": None}
        )
    )
    assert result.packing == "bins"
    assert result.training_rows.used == 20
    # 20 rows of about 30 tokens fill five or six bins of 128: two steps of four bins.
    assert result.steps == 2


def test_long_rows_are_cut_or_dropped_and_counted(llama: Path, tmp_path: Path, config_for: Raw) -> None:
    rows = [{"prompt": "say " * size, "completion": "number one"} for size in (1, 2, 60, 70)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    cut = train(config_for(llama, data, data={"loss_on": "all", "check": "warn"}))
    dropped = train(config_for(llama, data, data={"long_rows": "drop", "check": "warn"}))
    cut_away = train(config_for(llama, data, data={"check": "warn"}))
    assert (cut.training_rows.used, cut.training_rows.cut, cut.training_rows.dropped_long) == (4, 2, 0)
    assert (dropped.training_rows.used, dropped.training_rows.cut, dropped.training_rows.dropped_long) == (2, 0, 2)
    # Cut before their answer begins, two rows have nothing left to learn: counted, not silent.
    assert (cut_away.training_rows.used, cut_away.training_rows.dropped_nothing_to_learn) == (2, 2)


def test_early_stopping_keeps_the_best_adapter(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(
        llama,
        chat_rows,
        data={"evaluation_fraction": 0.2},
        training={
            "max_steps": 40,
            "learning_rate": 1.0,
            "evaluation_every_steps": 1,
            "early_stopping_patience": 2,
            "max_gradient_norm": 100.0,
        },
    )
    result = train(raw)
    best = min(result.evaluation_losses, key=lambda step: result.evaluation_losses[step])
    assert result.stopped_early
    assert result.steps < 40
    assert result.saved_step == best
    assert result.saved_step < result.steps


def test_metrics_are_on_disk_a_line_each_step(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    result = train(config_for(llama, chat_rows))
    lines = [json.loads(line) for line in (Path(result.output_directory) / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == result.losses
    assert {"step", "epoch", "learning_rate", "gradient_norm", "tokens_per_second", "peak_allocated_bytes"} <= lines[
        0
    ].keys()


def test_results_of_an_earlier_run_are_kept_unless_told_otherwise(
    llama: Path, chat_rows: Path, config_for: Raw
) -> None:
    raw = config_for(llama, chat_rows)
    first = train(raw)
    with pytest.raises(UsageError, match="holds the results of an earlier run"):
        train(raw)
    raw["output"]["overwrite"] = True
    assert train(raw).losses == first.losses


def test_a_refused_run_writes_nothing(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, lora={"target_modules": ["q_prj"]})
    with pytest.raises(
        ConfigError, match=r"lora\.target_modules: the model has no linear layer q_prj \(did you mean q_proj\?\)"
    ):
        train(raw)
    assert not Path(raw["output"]["directory"]).exists()


def test_weights_that_are_no_numbers_end_the_run_without_an_adapter(
    tiny_model: Models, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "broken")
    _spoil_norm(tmp_path / "broken")
    found_early = config_for(tmp_path / "broken", chat_rows, training={"smoke_generation": True})
    with pytest.raises(CheckFailed, match="before any training"):
        train(found_early)
    assert not Path(found_early["output"]["directory"]).exists()
    found_late = config_for(tmp_path / "broken", chat_rows)
    with pytest.raises(CheckFailed, match="The loss is nan at step 1; no adapter was written"):
        train(found_late)
    assert not (Path(found_late["output"]["directory"]) / "adapter").exists()


def _spoil_norm(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_loftq_starts_nearer_to_the_original_weights(llama: Path) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora.bnb import Linear4bit
    from safetensors.torch import load_file

    from qlora_tools.config import LoraConfig
    from qlora_tools.engine.adapters import attach_adapter

    resolved, loaded = load_in_nf4(llama, "float32")
    model = attach_adapter(loaded.model, LoraConfig(rank=8, initialization="loftq"), resolved)
    originals = load_file(llama / "model.safetensors")
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    for name, module in layers:
        packed = module.get_base_layer().weight
        quantised = dequantize_4bit(packed.data, packed.quant_state).float().cpu()
        original = originals[name.removeprefix("base_model.model.") + ".weight"].float()
        corrected = quantised + module.get_delta_weight("default").float().cpu()
        assert torch.linalg.norm(original - corrected) < 0.9 * torch.linalg.norm(original - quantised)


def test_a_full_disk_is_told_before_the_run(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    raw = config_for(llama, chat_rows)
    with pytest.raises(DiskSpaceError, match="0 MiB are free"):
        train(raw)
    assert not Path(raw["output"]["directory"]).exists()


def test_a_disk_that_fills_up_while_saving_leaves_no_half_adapter(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from peft import PeftModel

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PeftModel, "save_pretrained", full)
    raw = config_for(llama, chat_rows)
    with pytest.raises(DiskSpaceError, match="is full"):
        train(raw)
    output = Path(raw["output"]["directory"])
    left = sorted(path.name for path in output.iterdir() if path.name != ".run.lock")
    assert left == ["checkpoints", "config.yaml", "data_report.json", "metrics.jsonl"]


def test_a_tracker_that_is_not_installed_is_told_before_the_run(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, training={"tracking": "mlflow"})
    with pytest.raises(MissingLibraryError, match="package mlflow is not installed"):
        train(raw)
    assert not Path(raw["output"]["directory"]).exists()


def test_tensorboard_gets_the_losses(
    llama: Path, chat_rows: Path, config_for: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(config_for(llama, chat_rows, training={"tracking": "tensorboard"}))
    assert list(Path(result.output_directory).rglob("events.out.tfevents.*"))


def test_a_base_without_a_template_learns_instruction_form_and_plain_pairs_as_written(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from qlora_tools.data.formats.detect import detect_mapping, to_example
    from qlora_tools.data.rendering import Renderer
    from qlora_tools.data.rows import IGNORED, LengthLimit, tokenize_examples

    from .families import make_model

    make_model("llama", tmp_path / "base", template=False)

    def learnt(row: dict[str, str], row_format: str) -> tuple[str, str]:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
        example = to_example(row, detect_mapping([row], row_format=row_format))
        renderer = Renderer.for_examples(tokenizer, [example])
        tokens = tokenize_examples([example], renderer, loss_on="completions", limit=LengthLimit(99, "cut"))
        row_tokens = tokens.rows[0]
        labels = [label for label in row_tokens.labels if label != IGNORED]
        return str(tokenizer.decode(row_tokens.input_ids)), str(tokenizer.decode(labels))

    assert learnt({"instruction": "say one", "output": "one"}, "alpaca") == (
        "### Instruction:\nsay one\n\n### Response:\none<|eot_id|>",
        "one<|eot_id|>",
    )
    assert learnt({"prompt": "say one:", "completion": " one"}, "prompt_completion") == (
        "say one: one<|eot_id|>",
        " one<|eot_id|>",
    )
    assert learnt({"text": "say one"}, "text") == ("say one<|eot_id|>", "say one<|eot_id|>")


def test_rows_that_end_with_a_question_are_counted_and_a_file_of_them_is_refused(
    llama: Path, tmp_path: Path, config_for: Raw
) -> None:
    asked = {"messages": [{"role": "user", "content": "say one"}]}
    answered = {"messages": [*asked["messages"], {"role": "assistant", "content": "one"}]}
    some = write_rows(tmp_path / "some.jsonl", [answered, asked])
    with pytest.raises(CheckFailed, match="nothing to learn"):
        train(config_for(llama, some))
    result = train(config_for(llama, some, data={"check": "warn"}))
    assert (result.training_rows.used, result.training_rows.dropped_nothing_to_learn) == (1, 1)
    none = write_rows(tmp_path / "none.jsonl", [asked])
    with pytest.raises(DataError, match="1 have no answer"):
        train(config_for(llama, none, data={"check": "warn"}))


def test_a_path_with_brackets_means_that_file_and_values_stay_what_was_written(tmp_path: Path) -> None:
    from qlora_tools.config import DataConfig
    from qlora_tools.data.dataset import read_dataset
    from qlora_tools.data.formats.detect import detect_mapping, to_example

    write_rows(tmp_path / "rows1.jsonl", [{"prompt": "wrong", "completion": "file"}])
    dated = {"prompt": "when?", "completion": "2024-01-05"}
    write_rows(tmp_path / "rows[1].jsonl", [dated])
    read = read_dataset(DataConfig(path=str(tmp_path / "rows[1].jsonl")), 0)
    assert read.training.examples == (to_example(dated, detect_mapping([dated])),)
    (tmp_path / "rows.csv").write_text('question,answer\n"agent, please",007\nempty?,NA\n', encoding="utf-8")
    read = read_dataset(DataConfig(path=str(tmp_path / "rows.csv")), 0)
    assert [example.messages[1]["content"] for example in read.training.examples] == ["007", "NA"]


def test_parquet_and_json_arrays_are_read(tmp_path: Path) -> None:
    from datasets import Dataset

    from qlora_tools.config import DataConfig
    from qlora_tools.data.dataset import read_dataset

    rows = [{"question": "one?", "answer": "1"}, {"question": "two?", "answer": "2"}]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    read = [read_dataset(DataConfig(path=str(tmp_path / f"rows.{suffix}")), 0) for suffix in ("parquet", "json")]
    assert read[0] == read[1]


def test_plain_text_keeps_its_bos_and_is_learnt_whole_on_a_chat_model(llama: Path) -> None:
    from transformers import AutoTokenizer

    from qlora_tools.data.examples import PlainText
    from qlora_tools.data.rendering import Renderer
    from qlora_tools.data.rows import LengthLimit, tokenize_examples

    tokenizer = AutoTokenizer.from_pretrained(llama)
    text = PlainText("one<|eot_id|>two")
    renderer = Renderer.for_examples(tokenizer, [text])
    row = tokenize_examples([text], renderer, loss_on="completions", limit=LengthLimit(99, "cut")).rows[0]
    assert renderer.style == "verbatim"
    assert tokenizer.decode([label for label in row.labels if label >= 0]) == "one<|eot_id|>two<|eot_id|>"


def test_turns_that_would_be_left_out_of_the_text_are_refused(llama: Path, tmp_path: Path, config_for: Raw) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
    data = write_rows(tmp_path / "rows.jsonl", [{"messages": [{"role": "user", "content": "a"}, call]}])
    with pytest.raises(CheckFailed, match="the model's chat template leaves out tool calls"):
        train(config_for(llama, data))


def test_an_earlier_adapter_stays_when_the_run_that_was_to_replace_it_fails(
    llama: Path, chat_rows: Path, config_for: Raw, tmp_path: Path
) -> None:
    raw = config_for(llama, chat_rows, output={"overwrite": True})
    first = train(raw)
    weights = (Path(first.adapter_directory) / "adapter_model.safetensors").read_bytes()
    shutil.copytree(llama, tmp_path / "broken")
    _spoil_norm(tmp_path / "broken")
    raw["model"]["name"] = str(tmp_path / "broken")
    with pytest.raises(CheckFailed):
        train(raw)
    assert (Path(first.adapter_directory) / "adapter_model.safetensors").read_bytes() == weights


def test_an_adapter_folder_of_others_is_never_replaced(llama: Path, chat_rows: Path, config_for: Raw) -> None:
    raw = config_for(llama, chat_rows, output={"overwrite": True})
    theirs = Path(raw["output"]["directory"]) / "adapter" / "adapter_model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="was not made by qlora-tools"):
        train(raw)
    assert theirs.read_bytes() == b"theirs"
