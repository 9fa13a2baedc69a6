"""The card says what is known, where it is known from, and lets nothing of a stranger's text become markup."""

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_tools.adapters.record import AdapterRecord
from qlora_tools.config.schema import QuantizationConfig
from qlora_tools.exporting import merge_with_card, push
from qlora_tools.exporting.base_name import PublishedBase
from qlora_tools.exporting.card import CardSubject, card_text
from qlora_tools.exporting.card_licence import base_licence
from qlora_tools.exporting.measures import read_measures
from qlora_tools.exporting.merged import write_merged_card
from qlora_tools.exporting.run_record import RunRecord, read_run_record
from qlora_tools.models.catalogue import CATALOGUE

from .small_adapters import small_adapter

Models = Callable[[str], Path]
HOSTILE = "![x](http://evil) <script>alert(1)</script> | ``` \n---\nlicense: mit\n# Title \x1b[31m\u202e"


@pytest.fixture(scope="module")
def run(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_adapter(tiny_model("qwen2"), tmp_path_factory.mktemp("run") / "tickets")


def subject(record: RunRecord, **changed: Any) -> CardSubject:
    base = PublishedBase("Qwen/Qwen2.5-0.5B-Instruct", "abc123", same_files=True)
    adapter = AdapterRecord(
        base_name=base.name,
        base_source="hub",
        base_revision=base.revision,
        base_config_sha256=None,
        quantization=QuantizationConfig(),
        compute_dtype="bfloat16",
        style="chat_template",
        chat_template_sha256=None,
        stop_token_ids=(2,),
    )
    told: dict[str, Any] = {"kind": "adapter", "name": "tickets", "base": base, "adapter": adapter, "tokenizer": None}
    return CardSubject(**{**told, "record": record, **changed})


def evaluation(path: Path, name: str = "exact match", summary: str = "It is better.") -> None:
    def side(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    sides = {"base": side(0.2), "adapter": side(0.7), "difference": side(0.5)}
    comparison = {"name": name, "rows": 40, **sides, "a field of a later version": 1}
    told = {"verdict": {"decision": "ship", "summary": summary}, "loss": {"loss": {"comparison": {"name": "broken"}}}}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**told, "metrics": [{"comparison": comparison}, None, {"comparison": {"rows": "x"}}]}))


def test_the_front_matter_is_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card_text(subject(RunRecord()))).data.to_dict()
    assert data == {
        "license": "apache-2.0",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "base_model_relation": "adapter",
        "tags": ["lora", "qlora", "qlora-tools"],
    }


def test_the_licence_of_every_model_of_the_catalogue_has_an_identifier_or_a_name_with_its_page() -> None:
    for model in CATALOGUE.values():
        told = base_licence(model.hub_id).front_matter
        assert told["license"] != "other" or {"license_name", "license_link"} <= told.keys()
    unknown = base_licence("acme/unheard-of")
    assert unknown.front_matter == {} and "not known" in unknown.words


def test_data_recipe_course_and_limits_stand_in_the_card(run: Path) -> None:
    card = card_text(subject(read_run_record(run)))
    for told in (
        "`tickets-rows.jsonl`, SHA-256 `",
        "read 20, used 18, tokens 900, learnt tokens 300",
        "- Rows too long: 2",
        "`few_rows: 20 rows`",
        "| method | `QLoRA, base in nf4 with double quantisation` |",
        "| learning rate | `0.0002, cosine, 3 % warm-up` |",
        "| hardware | `NVIDIA H100` |",
        "| time | `1 min 01 s` |",
        "| peak memory | `3.00 GiB` |",
        "| loss on held-out rows | `1.500 at step 30` |",
        "Not evaluated against its base",
    ):
        assert told in card, told
    assert "my secret row" not in card and str(run.parent) not in card


def test_data_that_changed_since_the_run_has_no_hash(run: Path) -> None:
    rows = run.parent / "tickets-rows.jsonl"
    rows.write_text("other\n")
    newer = (run / "result.json").stat().st_mtime + 10
    os.utime(rows, (newer, newer))
    assert read_run_record(run).sources[0].sha256 is None


def test_measures_of_an_evaluation_are_told_with_their_intervals_and_broken_ones_left_out(tmp_path: Path) -> None:
    evaluation(tmp_path / "evaluation" / "results.json")
    card = card_text(subject(RunRecord.model_validate(read_measures(tmp_path))))
    assert "| `exact match` | 40 | 0.2 [0.1, 0.3] | 0.7 [0.6, 0.8] | 0.5 [0.4, 0.6] |" in card
    assert "Verdict of the evaluation: `ship`" in card and "broken" not in card
    assert "Not evaluated" not in card


def test_no_evaluation_or_a_damaged_one_gives_no_measures(tmp_path: Path) -> None:
    assert read_measures(tmp_path) == {}
    (tmp_path / "evaluation").mkdir()
    for text in ("{", "[]", '{"verdict": 3, "loss": [], "metrics": {"a": 1}}'):
        (tmp_path / "evaluation" / "results.json").write_text(text)
        assert read_measures(tmp_path).get("measures", []) == []


def test_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation(tmp_path / "evaluation" / "results.json", HOSTILE, HOSTILE)
    told = {
        "sources": [{"name": HOSTILE, "on_hub": True, "sha256": HOSTILE}],
        "rows": {HOSTILE: 3},
        "dropped": {HOSTILE: 3},
        "findings": [HOSTILE],
        "languages": {HOSTILE: 3},
        "recipe": {HOSTILE: HOSTILE},
        "device": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        **read_measures(tmp_path),
    }
    card = card_text(subject(RunRecord.model_validate(told), notes=[f"Something of {HOSTILE}"]))
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0" and "datasets" not in yaml.safe_load(front)
    assert "\x1b" not in card and "\u202e" not in card
    assert [line for line in body.splitlines() if line.startswith("#") and "Title" in line] == []
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"(?ms)^```.*?^```$", "", body))
    assert "<script" not in outside and "](http://evil" not in outside
    for line in body.splitlines():
        if line.startswith("| `![x]"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "A1b2" * 8
    card = card_text(subject(RunRecord(device=f"card {secret}", findings=[secret]), notes=[f"See {secret}"]))
    assert secret not in card and "[secret]" in card


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8", "none"])
def test_the_code_of_a_card_is_python_that_loads_the_base_as_it_was_trained(kind: str) -> None:
    record = subject(RunRecord()).adapter
    assert record is not None
    trained = record.model_copy(update={"quantization": QuantizationConfig.model_validate({"kind": kind})})
    card = card_text(subject(RunRecord(), adapter=trained, stop_token_ids=[2, 7]))
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    ast.parse(code)
    assert 'revision="abc123"' in code and "eos_token_id=[2, 7]" in code
    assert ("quantization_config=quantization" in code) == (kind != "none")
    assert ("nf4" in code) == (kind == "nf4") and ("load_in_8bit" in code) == (kind == "int8")


def test_a_merged_model_gets_its_card_from_the_record_of_its_merge_and_keeps_the_record_of_its_run(
    run: Path, tiny_model: Models, tmp_path: Path
) -> None:
    place = tmp_path / "tickets-merged"
    shutil.copytree(tiny_model("qwen2"), place)
    parity = {"prompts": 64, "tokens": 900, "same_answers": 64, "top1_agreement": 1.0, "mean_kl": 1e-6, "passed": True}
    parity |= {"near_ties": 0, "clear_agreement": 1.0}
    told = {"base": "trained", "base_model": "smollm2-135m-instruct", "base_revision": None, "quantization": "nf4"}
    (place / "merge.json").write_text(json.dumps({**told, "parity": {**parity, "method": "in memory"}}))
    write_merged_card(place, adapters={str(run): 1.0})
    first = (place / "README.md").read_text()
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in first and "base_model_relation: finetune" in first
    assert "Merged into: `the weights dequantised from nf4, as it was trained`" in first
    assert "64 of 64 greedy answers equal, top-1 agreement 100.00 %" in first
    assert (
        "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>" in first
        and "An answer ends with `<|im_end|>`" in first
    )
    assert "| hardware | `NVIDIA H100` |" in first
    write_merged_card(place)
    assert "| hardware | `NVIDIA H100` |" in (place / "README.md").read_text()


def test_merging_writes_a_card_and_a_card_that_somebody_wrote_in_stays(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    for _ in range(2):
        assert merge_with_card(run, target, check=False).parity is None
        card = target / "README.md"
        assert "The merge was not compared with base plus adapter." in card.read_text()
        assert "| hardware | `NVIDIA H100` |" in card.read_text()
        card.write_text(card.read_text() + "\nIntended for tickets.\n")
    assert card.read_text().count("Intended for tickets.") == 2
    assert not any("names a directory" in note for note in push(target, "me/tickets").notes)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**settings, "_name_or_path": "/srv/models/base"}))
    assert push(target, "me/tickets").notes[-1].startswith("config.json names a directory")
    two = merge_with_card({str(run): 0.5, str(copied(run, tmp_path / "other")): 0.25}, tmp_path / "both", check=False)
    card = tmp_path / "both" / "README.md"
    assert len(two.adapters) == 2 and "merged: 2, with the weights 0.5, 0.25" in card.read_text()
    assert "NVIDIA H100" not in card.read_text()


def copied(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


def test_a_base_without_a_public_name_is_not_given_one(tiny_model: Models, tmp_path: Path) -> None:
    place = tmp_path / "merged"
    shutil.copytree(tiny_model("qwen2"), place)
    (place / "merge.json").write_text(json.dumps({"base": "original", "base_model": str(tiny_model("qwen2"))}))
    write_merged_card(place)
    card = (place / "README.md").read_text()
    assert "base_model" not in card.split("---")[1] and str(tiny_model("qwen2")) not in card
    assert "known by its directory only" in card
