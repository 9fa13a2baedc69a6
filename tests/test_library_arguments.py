"""What a config means to Transformers, PEFT, bitsandbytes and TRL, held against the installed libraries.

The only unit tests that import torch; about 15 s, nearly all of it imports.
"""

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from qlora_tools.config import LoraConfig, QuantizationConfig, RunConfig, parse_config
from qlora_tools.config.library_arguments import (
    FIELD_USE,
    lora_arguments,
    quantization_arguments,
    resolve_compute_dtype,
    trainer_arguments,
)
from qlora_tools.config.schema import Optimizer, Quantization, Schedule, Tracker
from qlora_tools.models import Hardware

# `from_pretrained` takes **kwargs, so that a signature cannot tell.
FROM_PRETRAINED = {"pretrained_model_name_or_path", "revision", "attn_implementation"}
ENGINE_PREFIX = "qlora_tools: "


def config_with(**parts: dict[str, Any]) -> RunConfig:
    named = {"model": {"name": "o/m"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}
    return parse_config({**named, **parts})


def arguments_of(config: RunConfig, directory: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"steps": 20, "compute_dtype": "float32", "on_gpu": False, "evaluates": False}
    return trainer_arguments(config, **{**given, **changes}, output_directory=directory)


def library_uses() -> list[tuple[str, str, str]]:
    """Field, library class and argument for each argument that `FIELD_USE` names."""
    uses = []
    for field, use in FIELD_USE.items():
        if use.startswith(ENGINE_PREFIX):
            assert len(use) > len(ENGINE_PREFIX)
            continue
        named = re.fullmatch(r"([\w.]+)\((\w+(?:, \w+)*)\)", use)
        assert named, f"{field}: {use!r} is neither Class(argument, ...) nor {ENGINE_PREFIX!r} and a purpose"
        uses += [(field, named[1], argument) for argument in named[2].split(", ")]
    return uses


def test_every_field_says_who_reads_it_and_no_entry_is_stale() -> None:
    parts = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    fields = [f"{part}.{name}" for part, model in parts.items() if model for name in model.model_fields]
    assert list(FIELD_USE) == fields


def test_every_named_argument_exists_in_the_installed_library() -> None:
    from peft import LoraConfig as PeftLoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    classes = {"BitsAndBytesConfig": BitsAndBytesConfig, "LoraConfig": PeftLoraConfig, "SFTConfig": SFTConfig}
    known = {name: set(inspect.signature(cls).parameters) for name, cls in classes.items()}
    known["AutoModelForCausalLM.from_pretrained"] = FROM_PRETRAINED
    assert [use for use in library_uses() if use[2] not in known[use[1]]] == []


def test_every_named_argument_is_really_passed(tmp_path: Path) -> None:
    config = config_with(
        data={"path": "rows.jsonl", "evaluation_fraction": 0.1},
        training={"evaluation_every_steps": 5, "early_stopping_patience": 2},
    )
    passed = {
        "BitsAndBytesConfig": {"load_in_8bit", *(quantization_arguments(config.quantization, "bfloat16") or ())},
        "LoraConfig": set(lora_arguments(config.lora, "all-linear")),
        "SFTConfig": set(arguments_of(config, tmp_path, evaluates=True)),
        "AutoModelForCausalLM.from_pretrained": FROM_PRETRAINED,
    }
    assert [use for use in library_uses() if use[2] not in passed[use[1]]] == []


@pytest.mark.parametrize("kind", get_args(Quantization))
@pytest.mark.parametrize("double", [True, False])
def test_each_kind_of_quantisation_makes_a_bitsandbytes_config(kind: str, double: bool) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    quantization = QuantizationConfig(kind=kind, double_quantization=double)  # type: ignore[arg-type]
    arguments = quantization_arguments(quantization, "bfloat16")
    if kind == "none":
        assert arguments is None
        return
    made = BitsAndBytesConfig(**arguments or {})
    assert (made.load_in_4bit, made.load_in_8bit) == (kind != "int8", kind == "int8")
    if kind != "int8":
        assert made.bnb_4bit_quant_type == kind
        assert made.bnb_4bit_use_double_quant is double
        assert made.bnb_4bit_compute_dtype == torch.bfloat16
        assert made.bnb_4bit_quant_storage == torch.uint8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtypes_by_name_become_torch_dtypes(dtype: str) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    quantization = QuantizationConfig(storage_dtype=dtype)  # type: ignore[arg-type]
    made = BitsAndBytesConfig(**quantization_arguments(quantization, dtype) or {})
    assert made.bnb_4bit_compute_dtype == made.bnb_4bit_quant_storage == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        (LoraConfig(), {"r": 16, "lora_alpha": 32.0, "lora_dropout": 0.0, "init_lora_weights": True}),
        (LoraConfig(rank=64, alpha=8.0, dropout=0.1), {"r": 64, "lora_alpha": 8.0, "lora_dropout": 0.1}),
        (LoraConfig(use_rslora=True), {"use_rslora": True, "use_dora": False}),
        (LoraConfig(use_dora=True), {"use_rslora": False, "use_dora": True}),
        (LoraConfig(initialization="pissa"), {"init_lora_weights": "pissa"}),
        (LoraConfig(initialization="loftq"), {"init_lora_weights": True}),
        (LoraConfig(modules_to_save=("lm_head",)), {"modules_to_save": ["lm_head"]}),
    ],
)
def test_each_adapter_makes_a_peft_config_that_holds_its_values(lora: LoraConfig, expected: dict[str, Any]) -> None:
    from peft import LoraConfig as PeftLoraConfig

    made = PeftLoraConfig(**lora_arguments(lora, ["q_proj", "v_proj"]))
    assert {name: getattr(made, name) for name in expected} == expected
    assert made.target_modules == {"q_proj", "v_proj"}
    assert (made.task_type, made.bias) == ("CAUSAL_LM", "none")


def test_the_words_for_all_linear_layers_reach_peft() -> None:
    from peft import LoraConfig as PeftLoraConfig

    made = PeftLoraConfig(**lora_arguments(LoraConfig(), "all-linear"))
    assert made.target_modules == "all-linear"
    assert made.modules_to_save is None


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_each_optimiser_is_one_of_transformers(optimizer: str, tmp_path: Path) -> None:
    from trl import SFTConfig

    made = SFTConfig(**arguments_of(config_with(training={"optimizer": optimizer}), tmp_path))
    assert made.optim == {"adamw_8bit": "adamw_bnb_8bit"}.get(optimizer, optimizer)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_each_schedule_is_one_of_transformers(schedule: str, tmp_path: Path) -> None:
    from trl import SFTConfig

    made = SFTConfig(**arguments_of(config_with(training={"schedule": schedule}), tmp_path))
    assert made.lr_scheduler_type == schedule


def test_each_tracker_is_one_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl import SFTConfig

    trackers = set(get_args(Tracker)) - {"none"}
    assert trackers <= set(INTEGRATION_TO_CALLBACK)
    for tracker in [name for name in trackers if importlib.util.find_spec(name)]:
        assert SFTConfig(**arguments_of(config_with(training={"tracking": tracker}), tmp_path)).report_to == [tracker]
    assert SFTConfig(**arguments_of(config_with(), tmp_path)).report_to == []


def test_the_trainer_holds_the_values_of_the_config(tmp_path: Path) -> None:
    from trl import SFTConfig

    training = {
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 3,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "max_gradient_norm": 0.5,
        "log_every_steps": 7,
        "seed": 5,
    }
    made = SFTConfig(**arguments_of(config_with(training=training), tmp_path, steps=100))
    assert (made.per_device_train_batch_size, made.per_device_eval_batch_size) == (4, 4)
    assert (made.gradient_accumulation_steps, made.gradient_checkpointing) == (3, False)
    assert (made.learning_rate, made.weight_decay, made.max_grad_norm) == (1e-3, 0.1, 0.5)
    assert (made.logging_steps, made.seed, made.max_steps) == (7, 5, 100)
    assert made.output_dir == str(tmp_path)
    assert (made.max_length, made.remove_unused_columns) == (None, False)
    assert made.train_sampling_strategy == "sequential"
    assert made.dataset_kwargs == {"skip_prepare_dataset": True}
    assert (made.eval_strategy, made.save_strategy) == ("no", "no")


@pytest.mark.parametrize(
    ("fraction", "steps", "warmup"), [(0.03, 20, 1), (0.03, 100, 3), (0.03, 101, 4), (0.0, 20, 0), (0.5, 1, 0)]
)
def test_warm_up_is_in_whole_steps(fraction: float, steps: int, warmup: int, tmp_path: Path) -> None:
    from trl import SFTConfig

    config = config_with(training={"warmup_fraction": fraction})
    made = SFTConfig(**arguments_of(config, tmp_path, steps=steps))
    assert made.warmup_steps == warmup
    assert made.get_warmup_steps(steps) == warmup


@pytest.mark.parametrize(
    ("dtype", "flags"), [("bfloat16", (True, False)), ("float16", (False, True)), ("float32", (False, False))]
)
def test_mixed_precision_follows_the_compute_dtype(dtype: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    from trl import SFTConfig

    arguments = arguments_of(config_with(), tmp_path, compute_dtype=dtype)
    assert (arguments["bf16"], arguments["fp16"], arguments["use_cpu"]) == (*flags, True)
    made = SFTConfig(**arguments)
    assert (made.bf16, made.fp16, made.use_cpu) == (*flags, True)
    assert arguments_of(config_with(), tmp_path, compute_dtype=dtype, on_gpu=True)["use_cpu"] is False


def test_evaluation_steps_are_passed_where_there_are_rows_to_evaluate_on(tmp_path: Path) -> None:
    from trl import SFTConfig

    config = config_with(
        data={"path": "rows.jsonl", "evaluation_fraction": 0.1}, training={"evaluation_every_steps": 5}
    )
    made = SFTConfig(**arguments_of(config, tmp_path, evaluates=True))
    assert (made.eval_strategy, made.eval_steps) == ("steps", 5)
    assert SFTConfig(**arguments_of(config, tmp_path, evaluates=False)).eval_strategy == "no"


@pytest.mark.parametrize(
    ("choice", "kind", "has_bfloat16", "expected"),
    [
        ("auto", "cuda", True, "bfloat16"),
        ("auto", "cuda", False, "float16"),
        ("auto", "cpu", True, "bfloat16"),
        ("auto", "cpu", False, "float32"),
        ("float32", "cuda", True, "float32"),
        ("float16", "cpu", True, "float16"),
        ("bfloat16", "cuda", False, "bfloat16"),
    ],
)
def test_auto_means_the_fastest_dtype_that_the_hardware_computes(
    choice: str, kind: Any, has_bfloat16: bool, expected: str
) -> None:
    hardware = Hardware(kind, "Test", 1, 1, computes_bfloat16=has_bfloat16)
    assert resolve_compute_dtype(choice, hardware) == expected
