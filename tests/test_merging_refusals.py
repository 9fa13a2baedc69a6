"""What is said before a merge begins, what is left when one is cut off, and how it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.cli.main import run
from qlora_tools.errors import DiskSpaceError, ModelError, UsageError, WorkStopped
from qlora_tools.merging import check_merge
from qlora_tools.models.stored_tensors import file_tensors

from .test_merging_arithmetic import save_adapter

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def adapter(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of plain PEFT on the tiny Llama."""
    return save_adapter(tiny_model("llama"), tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def settings_of(adapter: Path, **changes: Any) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return adapter


def test_an_adapter_whose_weights_are_cut_off_is_refused(copy: Path, tmp_path: Path) -> None:
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its header describes"):
        check_merge(copy, tmp_path / "merged")
    weights.write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="cut off, or no safetensors"):
        check_merge(copy, tmp_path / "merged")


def test_an_adapter_of_a_base_with_other_shapes_is_refused(adapter: Path, tmp_path: Path, tiny_model: Models) -> None:
    other = Path(shutil.copytree(tiny_model("llama"), tmp_path / "other"))
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    ).save_pretrained(other)
    with pytest.raises(ModelError, match=r"was made for a model\.layers\.0.* and finds"):
        check_merge(adapter, tmp_path / "merged", base_model=str(other))
    with pytest.raises(ModelError, match=r"does not belong to .*: the model has no"):
        _on_gpt2(adapter, tmp_path, tiny_model)


def _on_gpt2(adapter: Path, tmp_path: Path, tiny_model: Models) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    place = Path(
        shutil.copytree(tiny_model("llama"), tmp_path / "gpt2", ignore=shutil.ignore_patterns("*.safetensors"))
    )
    GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2)).save_pretrained(place)
    check_merge(adapter, tmp_path / "merged", base_model=str(place))


def test_a_base_that_lacks_a_shard_or_a_tensor_is_refused(adapter: Path, tmp_path: Path, tiny_model: Models) -> None:
    base = Path(shutil.copytree(tiny_model("llama"), tmp_path / "base"))
    places = dict.fromkeys(file_tensors(base / "model.safetensors"), "model.safetensors")
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**places, "model.layers.7.weight": "model.safetensors"}}))
    with pytest.raises(ModelError, match="lacks 1 tensors that its index names"):
        check_merge(adapter, tmp_path / "merged", base_model=str(base))
    index.write_text(json.dumps({"weight_map": {**places, "x": "model-2.safetensors"}}))
    with pytest.raises(ModelError, match="lacks 1 of 2 shards"):
        check_merge(adapter, tmp_path / "merged", base_model=str(base))
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(ModelError, match="not a valid index"):
        check_merge(adapter, tmp_path / "merged", base_model=str(base))


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(
    copy: Path, tmp_path: Path, tiny_model: Models
) -> None:
    told = json.loads((tiny_model("llama") / "tokenizer.json").read_text())
    told["added_tokens"].append({**told["added_tokens"][0], "id": 9_000, "content": "<|new|>"})
    (copy / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="token ids up to 9000, and the embedding has 512 rows"):
        check_merge(copy, tmp_path / "merged")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa"}, "started by pissa"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "parameters of experts"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "repeated layers"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
        ({"peft_type": "VERA"}, "only LORA can be read"),
    ],
)
def test_adapters_that_are_no_sums_on_the_published_base_are_refused(
    settings: Any, said: str, copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        check_merge(settings_of(copy, **settings), tmp_path / "merged")


def test_adapters_that_cannot_be_mixed_are_refused(adapter: Path, tiny_model: Models, tmp_path: Path) -> None:
    dora = save_adapter(tiny_model("llama"), tmp_path / "dora", use_dora=True, target_modules=["q_proj"])
    saved = save_adapter(
        tiny_model("llama"), tmp_path / "saved", target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    other = save_adapter(tiny_model("qwen3"), tmp_path / "other", target_modules=["q_proj"])
    again = Path(shutil.copytree(saved, tmp_path / "again"))
    for weights, said in (
        ({str(adapter): 1.0, str(dora): 1.0}, "magnitudes cannot be weighted"),
        ({str(saved): 0.5}, "have no weight"),
        ({str(saved): 1.0, str(again): 1.0}, "Two adapters replace lm_head.weight"),
    ):
        with pytest.raises(ModelError, match=said):
            check_merge(weights, tmp_path / "merged")
    with pytest.raises(UsageError, match="different bases"):
        check_merge({str(adapter): 1.0, str(other): 1.0}, tmp_path / "merged")
    with pytest.raises(UsageError, match="no adapter to merge"):
        check_merge({}, tmp_path / "merged")


def test_an_adapter_whose_names_peft_would_leave_out_is_refused(copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "adapter_model.safetensors")
    for change in (lambda name: name.replace("lora_A.", "lora_A.default."), lambda name: name[len("base_model.") :]):
        save_file({change(name): tensor for name, tensor in weights.items()}, copy / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="a name that PEFT does not read"):
            check_merge(copy, tmp_path / "merged")


def test_what_the_model_does_not_have_is_not_written_beside_it(copy: Path, tiny_model: Models, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from qlora_tools import merge

    weights = load_file(copy / "adapter_model.safetensors")
    weights["base_model.model.score.weight"] = next(iter(weights.values())).clone()
    save_file(weights, copy / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"no score\.weight, which the adapter changes"):
        merge(copy, tmp_path / "merged", base="original")
    half = save_adapter(tiny_model("llama"), tmp_path / "half", resize=520, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(ModelError, match="embedding has 520 rows, and the head 512"):
        merge(half, tmp_path / "merged", base="original")


def test_a_base_that_is_not_where_it_was_is_told_with_the_way_out(
    copy: Path, tmp_path: Path, tiny_model: Models
) -> None:
    for name in ("/nowhere/base", None):
        with pytest.raises(ModelError, match="base of the adapter is not there") as caught:
            check_merge(settings_of(copy, base_model_name_or_path=name), tmp_path / "merged")
        assert "base_model_name_or_path" in str(caught.value.next_step)
        check_merge(copy, tmp_path / "merged", base_model=str(tiny_model("llama")))


def test_a_merge_that_was_not_compared_is_not_given_for_one_that_was(adapter: Path, tmp_path: Path) -> None:
    from qlora_tools import merge

    first = merge(adapter, tmp_path / "merged", base="original", check=False)
    assert merge(adapter, tmp_path / "merged", base="original", check=False) == first
    with pytest.raises(UsageError, match="exists"):
        merge(adapter, tmp_path / "merged", base="original")
    with pytest.raises(UsageError, match=r"The weight of .* is nan"):
        merge({str(adapter): float("nan")}, tmp_path / "other")


def test_too_little_disk_is_said_before_anything_is_written(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_tools import merge

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match=r"0\.0 GB are free"):
        merge(adapter, tmp_path / "merged", base="original", check=False)
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_merge_that_was_cut_off_goes_on_and_loads_from_its_shards(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from qlora_tools import merge
    from qlora_tools.merging.workplace import workplace_of

    monkeypatch.setitem(merge.__globals__, "SHARD_BYTES", 100_000)
    target, asked = tmp_path / "merged", iter(range(1000))
    with pytest.raises(WorkStopped, match="was stopped after"):
        merge(adapter, target, base="original", dtype="float32", check=False, stop=lambda: next(asked) > 12)
    place = workplace_of(target)
    done = {file: file.stat().st_ino for file in place.glob("model-*.safetensors")}
    assert done
    assert not target.exists()
    result = merge(adapter, target, base="original", dtype="float32", check=False)
    assert result.shards > len(done)
    assert {(target / file.name).stat().st_ino for file in done} == set(done.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]
    whole = merge(adapter, tmp_path / "whole", base="original", dtype="float32", check=False)
    assert whole.shards == result.shards
    first, second = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (target, tmp_path / "whole")
    )
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_what_another_merge_left_is_not_taken_over(adapter: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from qlora_tools import merge

    target, asked = tmp_path / "merged", iter(range(1000))
    with pytest.raises(WorkStopped):
        merge(adapter, target, base="original", dtype="float32", check=False, stop=lambda: next(asked) > 12)
    merge(adapter, target, base="original", dtype="bfloat16", check=False)
    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {torch.bfloat16}


def test_two_merges_do_not_write_to_one_place(tmp_path: Path) -> None:
    import subprocess
    import sys

    from qlora_tools.merging.workplace import workplace

    code = (
        "import sys, pathlib\n"
        "from qlora_tools.errors import UsageError\n"
        "from qlora_tools.merging.workplace import workplace\n"
        "try: workplace(pathlib.Path(sys.argv[1]), {}).__enter__()\n"
        "except UsageError as error: print(error)"
    )
    with workplace(tmp_path / "merged", {}):
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "merged")],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "Another process is making" in said.stdout


def test_the_command_merges_several_adapters_and_tells_the_proof(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    arguments = ["merge", str(adapter), "-o", str(tmp_path / "merged"), "--base", "original", "--weight", "0.5"]
    assert run([*arguments, "--also", f"{other}=0.25", "--dtype", "float32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parity"]["passed"]
    assert told["parity"]["prompts"] == 64
    assert list(told["adapters"].values()) == [0.5, 0.25]
    record = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert record["parity"] == told["parity"]
    assert "/" not in record["base_model"]
    assert str(tmp_path) not in json.dumps(record)
    assert run([*arguments[:3], str(tmp_path / "x"), "--also", "nonsense"]) == 2
    assert "has no weight" in capsys.readouterr().err
