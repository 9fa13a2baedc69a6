"""The figures in the guides are right: each is computed again, from code, catalogue or result file, and looked for."""

import json
import math
import random
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qlora_tools import estimate_memory
from qlora_tools.config.library_arguments import resolve_compute_dtype
from qlora_tools.guide import read_topic
from qlora_tools.memory.weights import optimizer_state
from qlora_tools.merging import agreement, parity
from qlora_tools.merging.prompts import PARITY_PROMPTS
from qlora_tools.models.gpus import find_gpu, load_gpus
from qlora_tools.planning import goals
from qlora_tools.results import MemoryReport

ROOT = Path(__file__).parent.parent


@cache
def result_file(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def one_line(text: str) -> str:
    return " ".join(text.split())


def rows_of(topic: str, first: str) -> list[list[str]]:
    """The cells of the table in `topic` whose first heading is `first`."""
    table = read_topic(topic).partition(f"\n| {first} |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert len(rows) >= 2, first
    return rows


GIB = 2**30
GRID = result_file("memory_grid.json")["rows"]
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
PARAMETERS_70B = WEIGHTS_70B + EMBEDDINGS_70B + (2 * 80 + 1) * 8192
ADAPTER = adapter_parameters(16)
BYTES_A_PARAMETER = 10 + 8 / 256


@cache
def normal_draws() -> NDArray[np.float64]:
    draw = random.Random(0)
    return np.array([draw.gauss(0, 1) for _ in range(256_000)])


def relative_rms_error(levels: tuple[float, ...], block: int = 64) -> float:
    """Error of storing standard normal weights by block-wise absmax and these levels; 256,000 draws."""
    weights = normal_draws().reshape(-1, block)
    absmax = np.abs(weights).max(axis=1, keepdims=True)
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    stored = np.array(levels)[np.searchsorted(middles, weights / absmax)] * absmax
    return float(np.sqrt(((weights - stored) ** 2).sum() / (weights**2).sum()))


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("quantization", f"(exactly {BITS_SAVED}"),
        ("quantization", f"= {0.5 - BITS_SAVED:.3f}"),
        ("quantization", f"and {4.5 - BITS_SAVED:.3f} with it"),
        ("quantization", f"**{SAVED_8B / 1e6:.0f} MB** ({SAVED_8B / GIB:.3f} GiB)"),
        ("quantization", f"**{SAVED_70B / 1e9:.1f} GB** ({SAVED_70B / GIB:.2f} GiB)"),
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
        ("lora", f"**{ADAPTER:,}**"),
        ("lora", f"which is {100 * ADAPTER / PARAMETERS_8B:.2f} %"),
        ("lora", f"model's {PARAMETERS_8B:,} parameters"),
        ("lora", f"{2 * ADAPTER / 1e6:.0f} MB (decimal)"),
        ("lora", f"{BYTES_A_PARAMETER * EMBEDDINGS_8B / 1e9:.1f} GB (decimal)"),
        ("qlora", f"{quantised_gb(WEIGHTS_8B, EMBEDDINGS_8B):.2f} GB (5.31 GiB)"),
        ("lora", f"r=8: {adapter_parameters(8):,}   r=16: {ADAPTER:,}   r=64: {adapter_parameters(64):,}"),
        ("lora", f"r=64: {BYTES_A_PARAMETER * adapter_parameters(64) / GIB:.2f} GiB"),
        ("lora", f"{LAYERS * 8 * (2 * HIDDEN + HIDDEN + KEY_VALUE):,} that many texts quote is r=8 on q and v"),
        ("lora", f"A layer has {ADAPTER // LAYERS:,}"),
        ("lora", f"at r=16, alpha=32 from 2 to {32 / 16**0.5:g}. Set alpha to {2 * 16**0.5:g}"),
        ("qlora", f"{EMBEDDINGS_8B:,} parameters, {2 * EMBEDDINGS_8B / 1e9:.2f} GB on Llama-3.1-8B"),
        ("qlora", f"{2 * PARAMETERS_8B / 1e9:.2f} GB in bf16"),
        ("qlora", f"would give {PARAMETERS_8B / 2e9:.2f} GB"),
        ("lora-or-qlora", f"| {16 * PARAMETERS_8B / 1e9:.1f} GB | {16 * PARAMETERS_70B / 1e9:,.0f} GB |"),
        ("lora-or-qlora", f"| {2 * PARAMETERS_8B / 1e9:.2f} GB | {2 * PARAMETERS_70B / 1e9:.1f} GB |"),
        (
            "lora-or-qlora",
            f"| {quantised_gb(WEIGHTS_8B, EMBEDDINGS_8B):.2f} GB | {quantised_gb(WEIGHTS_70B, EMBEDDINGS_70B):.2f} GB |",
        ),
        ("shipping", f"{4 * ADAPTER / 1e6:.0f} MB (4 x {ADAPTER:,})"),
        ("shipping", f"{2 * PARAMETERS_8B / 1e9:.1f} GB in bf16"),
        ("memory-surprises", f"8192 x 32 x 2 x 1024 x 2 = {8192 * LAYERS * 2 * KEY_VALUE * 2 / GIB:.2f} GiB"),
        (
            "optimizers",
            f"{3 * 16 * MLP * LAYERS:,} of {ADAPTER:,} parameters: {3 * 16 * MLP * LAYERS * 2 / 1e6:.0f} MB of values and "
            f"{3 * 16 * MLP * LAYERS * 8 / 256 / 1e6:.1f} MB of scales",
        ),
        ("evaluation", f"1.2 nats a token is {math.exp(1.2):.1f}"),
        ("evaluation", f"sqrt(40 - 2) / 200 = {100 * math.sqrt(40 - 20**2 / 200) / 200:.1f} points"),
        ("evaluation", f"sqrt(13 - 0.045) / 200 = {100 * math.sqrt(13 - 3**2 / 200) / 200:.1f} points"),
        ("evaluation", f"/ 150) = {100 * math.sqrt(0.833 * 0.167 / 150):.1f} points"),
        ("merging", f"a weight of 0.02 is stored to {2**-6 * 2**-7 / 2:.5f}"),
        ("dtypes", f"vanish below {2**-24:.0e}".replace("e-08", "e-8")),
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
    assert f"{TOKENS * VOCABULARY * 10 / GIB:.2f} GiB (bf16, fp32 copy, fp32 gradient)" in one_line(table)
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


def test_the_surprises_of_the_memory_guide_are_what_the_estimate_counts() -> None:
    text = one_line(read_topic("memory-surprises"))
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
    assert f"with bins the example takes {joined.mid_bytes / GIB:.2f} GiB instead of" in one_line(read_topic("memory"))
    plain = example(gradient_checkpointing=False)
    assert math.isclose(plain.high_bytes, 1.02 * (plain.mid_bytes - 18 * 2**20 + copies) + 18 * 2**20, rel_tol=1e-6)


def measured(model: str, rows: int, length: int, **others: object) -> str:
    """The measured peak in GiB of one run of the memory grid at rank 16, by what its settings add to the defaults."""
    batch = {"training.micro_batch_size": rows, "training.max_length_tokens": length}
    single = {"training.gradient_accumulation_steps": 1}
    values = {**batch, "lora.rank": 16, **single, **others}
    (found,) = (row for row in GRID if row["model"] == model and row["values"] == values and not row["padded"])
    return f"{found['peak_allocated_bytes'] / GIB:.2f}"


def test_what_the_memory_guides_call_measured_stands_in_the_committed_grid() -> None:
    text = one_line(read_topic("memory-surprises"))
    llama = "llama-3.1-8b-instruct"
    here = measured(llama, 4, 2048)
    told = f"{example('h100').mid_bytes / GIB:.2f} GiB were predicted and {here} measured"
    assert told in one_line(read_topic("memory"))
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


def in_example(topic: str, figure: str) -> None:
    assert figure in one_line(read_topic(topic)), figure


def test_what_other_guides_say_of_the_example_is_the_estimate() -> None:
    base = example()
    kept = example(**{"quantization.kind": "none"})
    in_example(
        "lora-or-qlora", f"{base.mid_bytes / GIB:.2f} GiB with NF4 and {kept.mid_bytes / GIB:.2f} GiB with a 16-bit"
    )
    torch_adam = example(optimizer="adamw_torch")
    saved = f"a run of {torch_adam.mid_bytes / GIB:.2f} GiB saves {(torch_adam.mid_bytes - base.mid_bytes) / GIB:.2f}"
    in_example("optimizers", saved)
    full = example(**{"quantization.compute_dtype": "float32"}).mid_bytes / GIB
    in_example("memory-surprises", f"{full:.2f} GiB in all")
    told = {row[0]: row[-1] for row in rows_of("dtypes", "dtype")}
    half = example(**{"quantization.compute_dtype": "float16"}).mid_bytes / GIB
    assert told == {"bf16": f"{base.mid_bytes / GIB:.2f} GiB", "fp16": f"{half:.2f} GiB", "fp32": f"{full:.2f} GiB"}
    t4 = example("t4")
    assert t4.gpu_bytes is not None and t4.fits and t4.compute_dtype == "float16"
    in_example("dtypes", f"needs {t4.needed_bytes / GIB:.2f} GiB free, and a T4 has {t4.gpu_bytes / GIB:.2f}")


def test_other_models_in_the_guides_have_the_figures_of_the_estimate() -> None:
    small = estimate_memory("llama-3.2-3b-instruct", gpu="4090")
    trained = small.parts["adapter (fp32)"] // 4
    in_example("lora", f"on Llama-3.2-3B is {trained:,} ({100 * trained / small.parameters:.2f} %)")
    one = estimate_memory("llama-3.2-1b-instruct", gpu="4090").parts
    frozen = ("base weights", "quantisation constants", "embeddings and head", "norms and biases")
    weights = sum(one[part] for part in frozen) / 1e9
    in_example(
        "memory-surprises", f"Llama-3.2-1B: {one['embeddings and head'] / 1e9:.2f} of {weights:.2f} GB of weights"
    )
    largest = estimate_memory("llama-3.1-405b-instruct", gpu="a100-80gb").parts
    in_example("lora-or-qlora", f"{sum(largest[part] for part in frozen) / 1e9:.1f} GB of weights")


def test_the_table_of_optimisers_is_what_the_estimator_counts() -> None:
    per_layer = [16 * side for pair in ((4096, 4096),) * 2 + ((4096, 1024),) * 2 + ((4096, MLP),) * 3 for side in pair]
    assert LAYERS * sum(per_layer) == ADAPTER
    rows = rows_of("optimizers", "`training.optimizer`")
    assert len(rows) == 8
    for name, _, _, stored, paged in rows:
        state = optimizer_state(name.split("`")[1], LAYERS * per_layer)
        told = [f"{size / 1e6:.0f} MB" if size else "0" for size in (state.allocated + state.paged, state.paged)]
        assert [stored, paged] == told, name


def test_the_table_of_cards_is_the_catalogue_of_gpus() -> None:
    words = {"bfloat16": "bf16", "float16": "fp16"}
    rows = {row[0]: row for row in rows_of("dtypes", "compute capability") if row[0] != "-"}
    for gpu in (gpu for gpu in load_gpus() if gpu.supported):
        assert gpu.compute_capability is not None
        major, minor = gpu.compute_capability
        (row,) = (row for named, row in rows.items() if {f"{major}.{minor}", f"{major}.x"} & set(named.split(", ")))
        assert row[2] == words[resolve_compute_dtype("auto", gpu.hardware())], gpu.name
        singles = [name for name in row[1].split(", ") if " to " not in name]
        assert any(gpu.name.startswith(name) for name in singles) or " to " in row[1] or gpu.name in row[1], gpu.name
    for named, row in rows.items():
        for name in (name for name in row[1].split(", ") if " to " not in name):
            major, minor = find_gpu(name).compute_capability or (0, 0)
            assert {f"{major}.{minor}", f"{major}.x"} & set(named.split(", ")), name


def test_the_values_by_goal_and_size_are_those_of_the_planner() -> None:
    told = [
        [cell.split("`")[1] if "`" in cell else cell for cell in row] for row in rows_of("hyperparameters", "`--goal`")
    ]
    assert [(row[0], int(row[2]), float(row[3])) for row in told] == [
        (goal, rank, 2.0 * rank) for goal, (rank, _) in goals._RANKS.items()
    ]
    assert [row[4] for row in told] == [
        f"{BYTES_A_PARAMETER * adapter_parameters(rank) / GIB:.2f}" for rank, _ in goals._RANKS.values()
    ]
    text = one_line(read_topic("hyperparameters"))
    rates = re.findall(r"(?:under|from) (\d+) billion(?: parameters)?: (\de-4)", text)
    sizes = (999_999_999, *(int(billions) * 10**9 for billions, _ in rates[1:]))
    assert [float(rate) for _, rate in rates] == [goals._learning_rate(size).value for size in sizes]
    assert goals._learning_rate(29_999_999_999).value == float(rates[1][1])
    epochs = [
        (int(rows.replace(",", "")), float(times)) for rows, times in re.findall(r"up to ([\d,]+) rows: (\d)", text)
    ]
    assert tuple(epochs) == goals._EPOCHS
    assert f"under {goals._SHORT_RUN_STEPS} steps: 5 % else: 3 %" in text


def test_what_the_merging_guide_says_is_what_merging_does() -> None:
    for name, host, disk in rows_of("merging", "model"):
        found = estimate_memory(f"{name.lower()}-instruct", task="merging").host
        assert found is not None
        assert (host, disk) == (f"{found.memory_bytes / 1e9:.1f} GB", f"{found.disk_bytes / 1e9:.1f} GB")
    least, most = (
        f"at least {100 * agreement._LEAST_AGREEMENT:.0f} %",
        f"at most {agreement._MOST_KL:.0e}".replace("e-03", "e-3"),
    )
    in_example("merging", f"answer {len(PARITY_PROMPTS)} prompts greedily")
    whole, mapped = (parity._ANSWER_TOKENS[method] for method in ("in memory", "out of its files"))
    in_example("merging", f"{mapped} tokens an answer instead of {whole}")
    in_example("merging", f"(within {agreement._NEAR_TIE} nats)")
    in_example("merging", least)
    in_example("merging", most)


def test_what_is_called_measured_stands_in_a_committed_result() -> None:
    cpu, gpu = result_file("demo_cpu.json"), result_file("demo_gpu.json")
    right, better = (f"{found['exact_match_percent']['adapter']:.1f} %" for found in (cpu, gpu))
    gain = f"{right} after {cpu['training']['steps']} steps on two CPU cores, {better} after {gpu['training']['steps']}"
    in_example("qlora", gain)
    in_example("evaluation", f"{cpu['held_out_rows']} held-out requests")
    in_example("evaluation", gain)
    proofs = [found["parity"] for found in (cpu, gpu)]
    same = [
        f"{proof['same_answers']} of {proof['prompts']} answers the same, mean KL {proof['mean_kl']:.1e}"
        for proof in proofs
    ]
    in_example("merging", f"{same[0]} on a CPU, {same[1]} on an H100")
    on, off = (row["tokens_per_second_median"] for row in result_file("gpu_stock.json")["llama_1b_shape"])
    in_example("qlora", f"{on:,} tokens a second with checkpointing, {off:,} without")
    in_example("lora-or-qlora", f"from {on:,} to {off:,} tokens a second")
    accuracy = result_file("memory_accuracy.json")["all"]
    in_example(
        "memory", f"On {accuracy['rows']} measured runs the estimate was off by {100 * accuracy['median_error']:.2f} %"
    )
    in_example("lora-or-qlora", f"against {accuracy['rows']} runs")


def test_the_standard_errors_are_those_of_their_formula() -> None:
    for rows, half, most in rows_of("evaluation", "n"):
        n = int(rows.replace(",", ""))
        errors = [f"{100 * math.sqrt(share * (1 - share) / n):.1f}" for share in (0.5, 0.83)]
        assert [half.removesuffix(" points"), most] == errors


def test_the_licences_are_counted_as_in_the_catalogue() -> None:
    entries = json.loads((ROOT / "qlora_tools" / "models" / "catalogue.json").read_text(encoding="utf-8"))
    counted = Counter(re.sub(r"^Llama .*", "Llama", entry["licence"]) for entry in entries)
    told = {
        re.sub(r"^Llama .*| \(.*", lambda m: "Llama" if m[0].startswith("L") else "", row[0]): row[1]
        for row in rows_of("licences", "licence")
    }
    assert {name: int(count) for name, count in told.items()} == counted
    in_example("licences", f"catalogue model ({len(entries)} entries)")


def test_what_readme_says_of_a_merge_was_measured() -> None:
    rows = result_file("merge_memory.json")["rows"]
    most = max(row["peak_above_imports_mib"] for row in rows)
    assert f"at most {most} MiB over its imports" in one_line((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {row["model"] for row in rows} == {"llama-3.1-8b-instruct", "llama-3.1-70b-instruct"}
