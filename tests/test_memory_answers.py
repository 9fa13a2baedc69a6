"""What users are told about memory: by name, for every task, offline, in no time, and with a way out of bad input."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qlora_tools import QloraError, estimate_memory
from qlora_tools.config.overrides import config_with, field_path, settings_from_pairs
from qlora_tools.errors import ConfigError, MachineError, ModelError, UsageError
from qlora_tools.memory.history import RunRecord, past_runs, record_run
from qlora_tools.models.catalogue import CATALOGUE
from qlora_tools.models.known import find_model
from qlora_tools.models.shape import ModelShape

GIB = 2**30


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_shape_of_a_catalogue_model_has_as_many_parameters_as_the_model(name: str) -> None:
    known = CATALOGUE[name]
    assert known.source.startswith("https://huggingface.co/")
    assert known.licence
    assert find_model(name).shape.parameters == pytest.approx(known.parameters, rel=2e-4)


def test_the_catalogue_is_wide() -> None:
    sizes = [model.parameters for model in CATALOGUE.values()]
    assert len(sizes) >= 40
    assert min(sizes) < 0.2e9
    assert max(sizes) >= 405e9
    assert sum(find_model(name).shape.experts is not None for name in CATALOGUE) >= 5


def test_every_catalogue_model_is_known_by_its_hub_id_too() -> None:
    assert find_model("meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b-instruct"


def test_an_estimate_by_name_takes_no_torch_and_under_100_milliseconds() -> None:
    code = """
import json, sys, time
from qlora_tools import estimate_memory
estimate_memory("gpt2")
began = time.perf_counter()
estimate_memory("llama-3.1-405b-instruct", gpu="h100", settings={"lora.rank": 64})
print(json.dumps([time.perf_counter() - began, "torch" in sys.modules, "transformers" in sys.modules]))
"""
    best = min(_run(code)[0] for _ in range(2))
    assert best < 0.1
    assert _run(code)[1:] == [False, False]


def _run(code: str) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("task", ["training", "full", "inference"])
def test_the_parts_of_every_task_sum_to_its_middle_figure(task: Any) -> None:
    report = estimate_memory("qwen3-8b", gpu="a100-80gb", task=task)
    assert sum(report.parts.values()) == report.mid_bytes
    assert report.low_bytes <= report.mid_bytes <= report.high_bytes < report.needed_bytes
    assert report.mid_bytes < report.reserved_bytes < report.device_bytes


def test_full_fine_tuning_of_7b_takes_16_bytes_a_parameter_before_activations() -> None:
    parts = estimate_memory("llama-2-7b-chat", task="full").parts
    states = sum(size for name, size in parts.items() if "(" in name)
    assert states == 16 * CATALOGUE["llama-2-7b-chat"].parameters


def test_merging_says_host_memory_and_disk() -> None:
    host = estimate_memory("llama-3.1-8b-instruct", task="merging").host
    assert host is not None
    assert host.disk_bytes == 2 * CATALOGUE["llama-3.1-8b-instruct"].parameters
    assert 2**29 < host.memory_bytes < 2**30


def test_the_cache_of_keys_and_values_grows_with_length_and_rows() -> None:
    def cache(rows: int, length: int) -> int:
        settings = {"micro_batch_size": rows, "max_length_tokens": length}
        return estimate_memory("llama-3.1-8b-instruct", task="inference", settings=settings).parts["keys and values"]

    assert cache(1, 8192) == 8192 * 32 * 2 * 1024 * 2
    assert cache(4, 2048) == cache(1, 8192)


def test_experts_stay_in_16_bits_and_the_answer_says_so() -> None:
    report = estimate_memory("qwen3-30b-a3b", gpu="4090")
    assert report.parts["experts (not quantised)"] > 50 * GIB
    assert any("experts unquantised" in note for note in report.notes)
    assert report.fits is False


def test_capped_scores_grow_with_the_square_of_the_length() -> None:
    short, long = (
        estimate_memory("gemma-2-9b-it", settings={"max_length_tokens": length}).mid_bytes for length in (4096, 8192)
    )
    plain = [
        estimate_memory("llama-3.1-8b-instruct", settings={"max_length_tokens": n}).mid_bytes for n in (4096, 8192)
    ]
    assert long - short > 3 * (plain[1] - plain[0])


@pytest.mark.parametrize(
    ("gpu", "model", "fits"),
    [
        ("4090", "llama-3.1-8b-instruct", True),
        ("t4", "llama-3.1-8b-instruct", True),
        ("4090", "llama-3.1-70b-instruct", False),
    ],
)
def test_what_fits_a_card_fits(gpu: str, model: str, fits: bool) -> None:
    report = estimate_memory(model, gpu=gpu)
    assert report.fits is fits
    assert report.compute_dtype == ("float16" if gpu == "t4" else "bfloat16")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "llama-3.1-8b-instuct"}, ModelError, "llama-3.1-8b-instruct"),
        ({"model": "gpt2", "gpu": "RTX 4091"}, UsageError, "RTX 4090"),
        ({"model": "gpt2", "gpu": "M3 Max"}, MachineError, "Metal"),
        ({"model": "gpt2", "memory_limit_gib": -1}, UsageError, "makes no sense"),
        ({"model": "gpt2", "memory_limit_gib": float("nan")}, UsageError, "makes no sense"),
        ({"model": "gpt2", "settings": {"rnk": 8}}, UsageError, "lora.rank"),
        ({"model": "gpt2", "settings": {"rank": -8}}, ConfigError, "lora.rank"),
        ({"model": "gpt2", "settings": {"rank": "many"}}, ConfigError, "lora.rank"),
        ({"model": "./nowhere"}, ModelError, "config.json"),
    ],
)
def test_bad_input_is_answered_in_words(arguments: dict[str, Any], error: type[QloraError], words: str) -> None:
    with pytest.raises(error) as caught:
        estimate_memory(**arguments)
    assert words in str(caught.value)
    assert caught.value.next_step


def test_a_config_without_the_needed_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}), encoding="utf-8")
    with pytest.raises(ModelError, match="num_attention_heads"):
        estimate_memory(str(tmp_path))


def test_a_family_that_was_not_read_is_counted_by_its_own_code_and_gets_a_wide_band(tmp_path: Path) -> None:
    values = {
        "model_type": "arcee",
        "architectures": ["ArceeForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    shape = find_model(str(tmp_path)).shape
    assert shape.counted is not None
    # No gate: two matrices in the MLP, where a Llama has three.
    assert shape.linear_parameters == 2 * (64 * 64 * 2 + 64 * 32 * 2 + 2 * 64 * 256)
    assert ModelShape.from_config(values).linear_parameters > shape.linear_parameters
    report = estimate_memory(str(tmp_path))
    assert report.high_bytes - report.mid_bytes > 0.14 * (report.mid_bytes - report.parts["cuBLAS workspaces"])
    assert "counted by its own code" in report.notes[0]


def test_a_setting_is_found_by_its_last_name_where_that_is_unique() -> None:
    assert field_path("rank") == "lora.rank"
    assert field_path("training.epochs") == "training.epochs"
    pairs = settings_from_pairs(["rank=64", "quantization.kind=none", "target_modules=[q_proj, v_proj]"])
    assert pairs == {"lora.rank": 64, "quantization.kind": "none", "lora.target_modules": ["q_proj", "v_proj"]}
    assert config_with(pairs).lora.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize("pair", ["rank", "=3", "rank=3\nlora.alpha=4", "nothing.here=1"])
def test_a_setting_of_another_form_is_refused(pair: str) -> None:
    with pytest.raises(UsageError):
        settings_from_pairs([pair])


def test_past_runs_tell_how_far_predictions_were_off_on_such_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLORA_MEMORY_HISTORY", str(tmp_path / "deep" / "history.jsonl"))
    assert past_runs("RTX 4090") is None
    for measured in (102, 99, 110):
        device = "NVIDIA GeForce RTX 4090"
        record_run(
            RunRecord("2026-11-22", device, "m", "nf4", predicted_bytes=100, high_bytes=110, measured_bytes=measured)
        )
    record_run(RunRecord("2026-11-22", "Tesla T4", "m", "nf4", 100, 110, 300))
    (tmp_path / "deep" / "history.jsonl").open("a").write('{"broken": \n')
    past = past_runs("RTX 4090")
    assert past is not None
    assert (past.runs, round(past.median_error, 3), round(past.largest_error, 3)) == (3, 0.02, 0.10)
    assert estimate_memory("gpt2", gpu="4090").past == past


def test_a_history_that_cannot_be_written_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLORA_MEMORY_HISTORY", "/proc/nowhere/history.jsonl")
    record_run(RunRecord("2026-11-22", "Tesla T4", "m", "nf4", 1, 1, 1))
    assert past_runs("t4") is None


def test_many_estimates_are_quick() -> None:
    began = time.perf_counter()
    for length in range(512, 512 * 41, 512):
        estimate_memory("qwen3-14b", gpu="4090", settings={"max_length_tokens": length})
    assert time.perf_counter() - began < 4


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_hidden_layers", 10**9, "layers are believed"),
        ("num_key_value_heads", 5, "do not go together"),
        ("num_key_value_heads", 64, "do not go together"),
        ("num_experts", "64", "positive whole number"),
        ("architectures", 1.5, "a list is needed"),
        ("layer_types", 3, "a list is needed"),
        ("resid_pdrop", [1], "a number is needed"),
        ("tie_word_embeddings", "false", "true or false"),
        ("hidden_size", 10**12, "positive whole number"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_and_never_guessed(
    tmp_path: Path, field: str, value: object, words: str
) -> None:
    values = {**CATALOGUE["llama-3.1-8b-instruct"].config, "sliding_window": 100, field: value}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match=words):
        estimate_memory(str(tmp_path))


def test_experts_in_every_second_block_leave_the_others_dense() -> None:
    values = {**CATALOGUE["olmoe-1b-7b-0924-instruct"].config, "decoder_sparse_step": 2}
    assert ModelShape.from_config(values).sparse_layers == 8
    listed = {**CATALOGUE["olmoe-1b-7b-0924-instruct"].config, "mlp_only_layers": [0, 1, 99]}
    assert ModelShape.from_config(listed).dense_layers == 2


@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_modules_that_the_model_does_not_have_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        estimate_memory("llama-3.1-8b-instruct", settings={field: ["nosuch"]})


def test_a_part_of_a_block_that_is_saved_counts_with_all_its_linears() -> None:
    def adapter(*names: str) -> int:
        report = estimate_memory("llama-3.1-8b-instruct", settings={"modules_to_save": list(names)})
        return report.parts["adapter (fp32)"]

    assert adapter("mlp") == adapter("gate_proj", "up_proj", "down_proj") > adapter("up_proj") > adapter()
    assert adapter("lm_head", "model.lm_head") == adapter("lm_head")


@pytest.mark.parametrize(
    "arguments",
    [{"task": "nope"}, {"memory_limit_gib": "24"}, {"memory_limit_gib": True}, {"settings": {"model.name": "gpt2"}}],
)
def test_arguments_of_the_wrong_kind_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        estimate_memory("llama-3.1-8b-instruct", **arguments)


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        settings_from_pairs(["rank=8", "lora.rank=64"])
