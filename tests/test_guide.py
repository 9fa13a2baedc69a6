"""The reference texts are short, sourced, and right: every figure here is computed again and looked for in the text."""

import ast
import bisect
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qlora_tools import estimate_memory
from qlora_tools.config import RunConfig
from qlora_tools.data.formats.detect import FORMATS
from qlora_tools.data.lengths import LENGTH_STEP
from qlora_tools.errors import UsageError
from qlora_tools.guide import read_topic, topics
from qlora_tools.inspection.inspect import ROWS_CHECKED, inspect_dataset
from qlora_tools.inspection.near import NEAR
from qlora_tools.results import MemoryReport

from .conftest import write_rows
from .good_rows import good_rows

INSPECTION = Path(__file__).parent.parent / "qlora_tools" / "inspection"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
GRID = json.loads((RESULTS / "memory_grid.json").read_text(encoding="utf-8"))["rows"]
TOPICS = ("data", "failures", "hyperparameters", "memory", "qlora", "quantization")

GIB = 2**30
ROWS = 100
Row = dict[str, Any]
LAYERS, HIDDEN, KEY_VALUE, MLP, VOCABULARY = 32, 4096, 1024, 14336, 128_256  # Llama-3.1-8B
HEADS = 32
TOKENS = 4 * 2048
BITS_SAVED = 32 / 64 - (8 / 64 + 32 / (64 * 256))
NF4_UP_TO_ZERO = (-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0)
NF4 = (*NF4_UP_TO_ZERO, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1)
FP4 = tuple(sorted({sign * level / 12 for sign in (1, -1) for level in (0, 0.0625, 2, 3, 4, 6, 8, 12)}))
INT4 = tuple(level / 7 for level in range(-7, 8))


def linear_weights(layers: int, hidden: int, mlp: int, key_value: int = KEY_VALUE) -> int:
    return layers * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * mlp)


def adapter_parameters(rank: int) -> int:
    attention = 2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEY_VALUE)
    return LAYERS * rank * (attention + 3 * (HIDDEN + MLP))


def quantised_gb(weights: int, embeddings: int) -> float:
    return (weights * (4 + 0.5 - BITS_SAVED) / 8 + 2 * embeddings) / 1e9


WEIGHTS_8B = linear_weights(LAYERS, HIDDEN, MLP)
WEIGHTS_70B = linear_weights(80, 8192, 28_672)
EMBEDDINGS_8B, EMBEDDINGS_70B = 2 * VOCABULARY * HIDDEN, 2 * VOCABULARY * 8192
PARAMETERS_8B = WEIGHTS_8B + EMBEDDINGS_8B + (2 * LAYERS + 1) * HIDDEN
SAVED_8B, SAVED_70B = WEIGHTS_8B * BITS_SAVED / 8, WEIGHTS_70B * BITS_SAVED / 8
ADAPTER = adapter_parameters(16)


def relative_rms_error(levels: tuple[float, ...], block: int = 64) -> float:
    """Error of storing standard normal weights by block-wise absmax and these levels; 256,000 draws."""
    draw = random.Random(0)
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    squared_error = squared_weight = 0.0
    for _ in range(256_000 // block):
        weights = [draw.gauss(0, 1) for _ in range(block)]
        absmax = max(map(abs, weights))
        stored = [levels[bisect.bisect(middles, weight / absmax)] * absmax for weight in weights]
        squared_error += sum((weight - value) ** 2 for weight, value in zip(weights, stored, strict=True))
        squared_weight += sum(weight**2 for weight in weights)
    return math.sqrt(squared_error / squared_weight)


def config_defaults() -> dict[str, object]:
    defaults: dict[str, object] = {}
    for part, info in RunConfig.model_fields.items():
        model = info.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        defaults |= {f"{part}.{name}": field.default for name, field in model.model_fields.items()}
    return defaults


def one_line(text: str) -> str:
    return " ".join(text.split())


def fields_named_in(text: str) -> set[str]:
    return set(re.findall(r"`((?:model|data|lora|quantization|training|output)\.[a-z_]+)", text))


def test_every_topic_is_listed_with_its_summary() -> None:
    listed = topics()
    assert tuple(listed) == TOPICS
    for name, summary in listed.items():
        assert summary.endswith(".") and not summary.startswith("#") and len(summary) <= 120
        assert read_topic(name).splitlines()[2] == summary


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_is_short_and_names_its_sources(name: str) -> None:
    text = read_topic(name)
    assert text.startswith("# ")
    assert 60 <= len(text.splitlines()) <= 140
    sources = re.split(r"\n(?=- )", text.partition("\n## Sources\n")[2])[1:]
    assert len(sources) >= 3
    for source in sources:
        assert re.search(r", (19|20)\d\d\.\s+arXiv:\d{4}\.\d{5}$", source.rstrip()), source


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_names_only_fields_that_the_config_has(name: str) -> None:
    named = fields_named_in(read_topic(name))
    assert named
    assert named <= config_defaults().keys()


def test_the_defaults_in_the_tables_are_those_of_the_config() -> None:
    known = config_defaults()
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| ([^|]+) \|", read_topic("hyperparameters"), flags=re.MULTILINE)
    assert len(rows) >= 20
    words = {"on": True, "off": False, "none": None, "all linear layers": "all-linear"}
    for field, shown in rows:
        value = shown.strip(" `")
        expected = known[field]
        told = float(value) if isinstance(expected, (int, float)) and value not in words else words.get(value, value)
        assert told == expected, field


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("quantization", f"(exactly {BITS_SAVED}"),
        ("quantization", f"= {0.5 - BITS_SAVED:.3f}"),
        ("quantization", f"and {4.5 - BITS_SAVED:.3f} with it"),
        ("quantization", f"**{SAVED_8B / 1e6:.0f} MB** ({SAVED_8B / GIB:.3f} GiB)"),
        ("quantization", f"**{SAVED_70B / 1e9:.1f} GB** ({SAVED_70B / GIB:.2f} GiB)"),
        ("quantization", f"give {7e9 * BITS_SAVED / 8 / 1e6:.0f} MB and {70e9 * BITS_SAVED / 8 / 1e9:.2f} GB"),
        (
            "quantization",
            f"| {WEIGHTS_8B:,} | {WEIGHTS_8B / 16 / 1e6:.0f} MB | {WEIGHTS_8B / 64 * (1 + 4 / 256) / 1e6:.0f} MB |",
        ),
        (
            "quantization",
            f"| {WEIGHTS_70B:,} | {WEIGHTS_70B / 16e9:.2f} GB | {WEIGHTS_70B / 64e9 * (1 + 4 / 256):.2f} GB |",
        ),
        ("quantization", f"= {quantised_gb(WEIGHTS_8B, EMBEDDINGS_8B) * 1e9 / GIB:.2f} GiB"),
        ("quantization", f"= {quantised_gb(WEIGHTS_70B, EMBEDDINGS_70B) * 1e9 / GIB:.1f} GiB"),
        (
            "quantization",
            f"= {EMBEDDINGS_8B:,} parameters, {EMBEDDINGS_8B * 2 / 1e9:.2f} GB ({EMBEDDINGS_8B * 2 / GIB:.2f} GiB)",
        ),
        ("qlora", f"**{ADAPTER:,}**"),
        ("qlora", f"which is {100 * ADAPTER / PARAMETERS_8B:.2f} %"),
        ("qlora", f"model's {PARAMETERS_8B:,} parameters"),
        ("qlora", f"{2 * ADAPTER / 1e6:.0f} MB (decimal)"),
        ("qlora", f"{(4 + 4 + 2 + 8 / 256) * EMBEDDINGS_8B / 1e9:.1f} GB (decimal)"),
        ("qlora", f"{quantised_gb(WEIGHTS_8B, EMBEDDINGS_8B):.2f} GB (5.31 GiB)"),
        ("hyperparameters", f"r=8: {adapter_parameters(8):,}   r=16: {ADAPTER:,}   r=64: {adapter_parameters(64):,}"),
        ("hyperparameters", f"r=64: {(10 + 8 / 256) * adapter_parameters(64) / GIB:.2f} GiB"),
        ("hyperparameters", f"{LAYERS * 8 * (2 * HIDDEN + HIDDEN + KEY_VALUE):,} parameters"),
        ("memory", f"{7e9 * 16 / 1e9:.0f} GB"),
        (
            "memory",
            f"{3 * 16 * MLP * LAYERS:,} of {ADAPTER:,} parameters, and {3 * 16 * MLP * LAYERS * 2 / 1e6:.0f} MB",
        ),
    ],
)
def test_a_figure_in_the_text_is_what_its_arithmetic_gives(name: str, figure: str) -> None:
    assert one_line(figure) in one_line(read_topic(name))


def example(gpu: str = "4090", **settings: object) -> MemoryReport:
    """The estimate of the worked example, with `settings` beside it."""
    asked = {"micro_batch_size": 4, "gradient_accumulation_steps": 1, **settings}
    return estimate_memory("llama-3.1-8b-instruct", gpu=gpu, settings=asked)


def test_the_worked_memory_example_is_its_arithmetic_and_that_is_the_estimate() -> None:
    paged = 3 * 16 * MLP * LAYERS
    live = TOKENS * (18 * HIDDEN + 4 * KEY_VALUE + 12 * MLP + 12 * 16 + 4 * HEADS)
    copies = 2 * (ADAPTER // LAYERS - 16 * (MLP + HIDDEN))
    rows = [
        (WEIGHTS_8B // 2, ["base weights"]),
        (WEIGHTS_8B // 64 + 4 * WEIGHTS_8B // 64 // 256 + 7 * LAYERS * 2048, ["quantisation constants"]),
        (2 * EMBEDDINGS_8B, ["embeddings and head"]),
        (4 * ADAPTER, ["adapter (fp32)"]),
        (2 * (ADAPTER - paged) + 8 * (ADAPTER - paged) // 256, ["optimiser state"]),
        (2 * TOKENS * HIDDEN * LAYERS, ["saved activations"]),
        (live + copies, ["live block"]),
        (
            18 * 2**20 + 2 * (2 * LAYERS + 1) * HIDDEN + 24 * TOKENS + 4 * 2048 * 128,
            ["cuBLAS workspaces", "norms and biases", "batch and masks"],
        ),
    ]
    report = example()
    assert [size for size, _ in rows] == [sum(report.parts[name] for name in names) for _, names in rows]
    assert sum(size for size, _ in rows) == report.mid_bytes
    table = read_topic("memory").partition("## Worked example")[2].partition("## Gradient checkpointing")[0]
    told = re.findall(r"^\| [^|]+ \| [^|]+ \| (\d+\.\d\d) \|$", table, flags=re.MULTILINE)
    assert told == [f"{size / GIB:.2f}" for size, _ in rows]
    assert f"| **{report.mid_bytes / GIB:.2f}** |" in table
    assert f"{report.reserved_bytes / GIB:.2f} GiB reserved, and {report.needed_bytes / GIB:.2f} free" in table
    assert f"{TOKENS * VOCABULARY * 10 / GIB:.2f} GiB (bf16, fp32 copy, fp32 gradient)" in table
    tile = 2 * 4096 * 32_768
    assert f"and takes {(TOKENS * (12 * HIDDEN + 32) + tile) / GIB:.2f}." in table


def test_what_a_block_keeps_without_checkpointing_is_its_arithmetic_and_the_estimate() -> None:
    kept = TOKENS * (16 * HIDDEN + 4 * KEY_VALUE + 8 * MLP + 14 * 16 + 4 * HEADS) + 2 * ADAPTER // LAYERS
    report = example(gradient_checkpointing=False)
    assert report.parts["saved activations"] == LAYERS * kept
    assert (
        f"{kept / GIB:.2f} GiB here, {LAYERS * kept / GIB:.2f} GiB for 32, in place of "
        f"{2 * TOKENS * HIDDEN * LAYERS / GIB:.2f} GiB. The peak is {report.mid_bytes / GIB:.2f} GiB."
    ) in one_line(read_topic("memory"))


def test_the_savings_in_the_memory_guide_are_those_of_the_estimate_in_the_order_of_the_planner() -> None:
    base = example()

    def saved(*, before: MemoryReport = base, after: MemoryReport = base) -> str:
        return f"{(before.mid_bytes - after.mid_bytes) / GIB:.2f}"

    rows = [
        ("micro_batch_size", [saved(after=example(micro_batch_size=2, gradient_accumulation_steps=2))]),
        ("gradient_checkpointing", [saved(before=example(gradient_checkpointing=False))]),
        ("optimizer", [saved(before=example(optimizer="adamw_torch")), f"{base.paged_bytes / GIB:.2f}"]),
        ("kind", [saved(before=example(**{"quantization.kind": kind})) for kind in ("none", "int8")]),
        ("max_length_tokens", [saved(after=example(max_length_tokens=1024))]),
        ("rank", [saved(after=example(rank=8)), saved(after=example(target_modules="attention"))]),
    ]
    text = read_topic("memory").partition("## Out of memory")[2]
    steps = re.findall(r"^\| (\d)\. `\w+\.(\w+)[^|]*\| ([^|]+) \|", text, flags=re.MULTILINE)
    assert [(int(number), field) for number, field, _ in steps] == [(n, row[0]) for n, row in enumerate(rows, start=1)]
    assert [re.findall(r"\d+\.\d\d", told) for *_, told in steps] == [figures for _, figures in rows]
    assert f"r=8 saves {saved(after=example(rank=8))} GiB of {base.mid_bytes / GIB:.2f}" in read_topic("memory")


def test_the_surprises_of_the_memory_guide_are_what_the_estimate_counts() -> None:
    text = one_line(read_topic("memory"))
    int8 = example(**{"quantization.kind": "int8"}).parts["saved activations"] - 2 * TOKENS * HIDDEN * LAYERS
    assert int8 == TOKENS * 2 * (3 * HIDDEN + 2 * MLP) * LAYERS
    assert f"T x 2 x (3 h + 2 i) x L = {int8 / GIB:.2f} GiB" in text
    dora = example(use_dora=True)
    assert dora.parts["scratch"] == 6 * MLP**2 + 2 * MLP * HIDDEN
    assert dora.parts["saved activations"] == TOKENS * HIDDEN * (4 * (LAYERS - 1) + 2)
    assert (
        f"= {dora.parts['scratch'] / GIB:.2f} GiB of scratch, stream {dora.parts['saved activations'] / GIB:.2f}"
        in text
    )
    assert f"{dora.mid_bytes / GIB:.2f} GiB in all" in text
    wide, narrow = (example(**kind).parts["live block"] for kind in ({"quantization.kind": "none"}, {}))
    assert f"live block {wide / GIB:.2f} GiB instead of {narrow / GIB:.2f}" in text
    copies = LAYERS * (4 * TOKENS * (HIDDEN - KEY_VALUE) + 2 * 4 * 2048**2) + 4 * 2048**2
    assert f"in the example without checkpointing {copies / GIB:.2f} GiB" in text
    joined = example(packing="bins")
    assert f"with bins the example takes {joined.mid_bytes / GIB:.2f} GiB instead of" in text
    plain = example(gradient_checkpointing=False)
    assert math.isclose(plain.high_bytes, 1.02 * (plain.mid_bytes - 18 * 2**20 + copies) + 18 * 2**20, rel_tol=1e-6)


def measured(model: str, rows: int, length: int, **others: object) -> str:
    """The measured peak in GiB of one run of the memory grid at rank 16, by what its settings add to the defaults."""
    batch = {"training.micro_batch_size": rows, "training.max_length_tokens": length}
    single = {"training.gradient_accumulation_steps": 1}
    values = {**batch, "lora.rank": 16, **single, **others}
    (found,) = (row for row in GRID if row["model"] == model and row["values"] == values and not row["padded"])
    return f"{found['peak_allocated_bytes'] / GIB:.2f}"


def test_what_the_memory_guide_calls_measured_stands_in_the_committed_grid() -> None:
    text = one_line(read_topic("memory"))
    llama = "llama-3.1-8b-instruct"
    here = measured(llama, 4, 2048)
    assert f"{example('h100').mid_bytes / GIB:.2f} GiB were predicted and {here} measured" in text
    int8, plain = (measured(llama, 2, 2048, **{"quantization.kind": kind}) for kind in ("int8", "none"))
    unnested = measured(llama, 2, 2048, **{"quantization.double_quantization": False})
    assert f"Measured at 2 x 2048: int8 {int8}, 16 bits {plain}, NF4 with plain constants {unnested}" in text
    sparse, dense = (measured(model, 2, 2048) for model in ("olmoe-1b-7b-0924-instruct", "olmo-2-1124-7b-instruct"))
    assert f"OLMoE 1B-7B at 2 x 2048 {sparse} GiB, the dense OLMo-2 7B {dense}." in text
    assert f"7B at 1 x 1024: {measured('falcon-7b-instruct', 1, 1024)} GiB" in text
    tables = measured("qwen2.5-7b-instruct", 1, 1024, **{"lora.modules_to_save": ["lm_head", "embed_tokens"]})
    without = measured("qwen2.5-7b-instruct", 1, 1024)
    assert f"Qwen2.5-7B at 1 x 1024 with both: {tables} GiB, without {without}" in text


@pytest.mark.parametrize(
    ("label", "levels", "block"),
    [("NF4", NF4, 64), ("int4", INT4, 64), ("FP4", FP4, 64), ("NF4 at block 256 has", NF4, 256)],
)
def test_the_stated_quantisation_errors_come_out_of_the_simulation(
    label: str, levels: tuple[float, ...], block: int
) -> None:
    stated = f"{label} {100 * relative_rms_error(levels, block):.1f} %"
    assert stated in one_line(read_topic("quantization"))


def checks_of_the_guide() -> dict[str, str]:
    """Name of each check in the table of the data guide -> its severities, as written there."""
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| ([^|]+) \|", checks_table(), flags=re.MULTILINE)
    return {name: severity for names, severity in rows for name in re.findall(r"`([a-z_]+)`", names)}


def checks_table() -> str:
    return read_topic("data").partition("## What is checked")[2].partition("## Length and packing")[0]


def checks_of_the_code() -> set[str]:
    """Every name that is given to a finding: written in the call, or in a table of kinds that a check goes through."""
    return {name for path in INSPECTION.glob("*.py") for name in _names_of_findings(ast.parse(path.read_text("utf-8")))}


def _names_of_findings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) in ("finding", "_Kind", "_counted", "_finding"):
            yield from _first_text(node.args)
        elif isinstance(node, ast.Tuple) and len(node.elts) in (2, 3):
            yield from (name for name in _first_text(node.elts) if re.match(r"personal_|(near_)?overlap", name))


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _first_text(values: list[ast.expr]) -> list[str]:
    first = values[0].value if values and isinstance(values[0], ast.Constant) else None
    return [first] if isinstance(first, str) and re.fullmatch("[a-z_]+", first) else []


def test_the_data_guide_has_every_check_of_the_code_and_no_other() -> None:
    assert checks_of_the_guide().keys() == checks_of_the_code()


def empty_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] = ""


def no_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"].pop()


def hidden_end(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] += "<|im_end|> And more of it."


def long_answer(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] = " ".join(f"Then step {step} of {place} follows." for step in range(150))


def repeated_row(rows: list[Row], place: int) -> None:
    rows[place] = rows[-1]


def damaged_text(rows: list[Row], place: int) -> None:
    rows[place]["messages"][1]["content"] += " It costs 5\ufffd and more."


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        ("unusable_rows", empty_answer),
        ("nothing_to_learn", no_answer),
        ("special_token_in_text", hidden_end),
        ("over_length", long_answer),
        ("exact_duplicates", repeated_row),
        ("replacement_characters", damaged_text),
    ],
)
def test_a_finding_becomes_an_error_above_the_share_that_the_data_guide_names(
    check: str, plant: Callable[[list[Row], int], None], tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    (percent,) = re.findall(r"error over (\d+) %", checks_of_the_guide()[check])
    most = int(percent) * ROWS // 100
    severities = []
    for planted in (most, most + 1):
        rows = good_rows(ROWS)
        for place in range(planted):
            plant(rows, place)
        path = write_rows(tmp_path / f"{planted}.jsonl", rows)
        report = inspect_dataset(str(path), str(tiny_model("qwen2")), settings={"max_length_tokens": 1000})
        severities += [(found.severity, found.count) for found in report.findings if found.check == check]
    assert severities == [("warning", most), ("error", most + 1)]


def test_the_other_figures_of_the_data_guide_are_those_of_the_code() -> None:
    text = one_line(read_topic("data"))
    assert f"{100 * NEAR:g} % of three-word sequences" in text
    assert f"looks at {ROWS_CHECKED:,} usable rows" in text
    assert f"in steps of {LENGTH_STEP}" in text


def test_the_formats_of_the_data_guide_are_read_as_it_says(tmp_path: Path) -> None:
    table = read_topic("data").partition("## Formats")[2].partition("## What is checked")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\{.*?\})`(?: \||:)", table, flags=re.MULTILINE)
    assert tuple(name for name, _ in rows) == FORMATS
    for name, example in rows:
        file = tmp_path / f"{name}.jsonl"
        file.write_text(example + "\n", encoding="utf-8")
        mapping = inspect_dataset(str(file)).mapping
        assert mapping is not None and mapping.format == name


def test_an_unknown_topic_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("Quantisation")
    assert caught.value.next_step == "Did you mean `qlora guide quantization`?"
    assert "'Quantisation'" in str(
        caught.value
    ) and "data, failures, hyperparameters, memory, qlora, quantization" in str(caught.value)


def test_a_topic_unlike_all_others_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("../errors.py")
    assert caught.value.next_step == "Run `qlora guide` to list them with a summary."
