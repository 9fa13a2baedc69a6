"""The reference texts are short, sourced, and right: every figure here is computed again and looked for in the text."""

import bisect
import math
import random
import re
from itertools import pairwise

import pytest
from pydantic import BaseModel

from qlora_tools.config import RunConfig
from qlora_tools.errors import UsageError
from qlora_tools.guide import read_topic, topics

TOPICS = ("hyperparameters", "memory", "qlora", "quantization")

GIB = 2**30
LAYERS, HIDDEN, KEY_VALUE, MLP, VOCABULARY = 32, 4096, 1024, 14336, 128_256  # Llama-3.1-8B
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


def test_the_worked_memory_example_adds_up() -> None:
    layer = 2 * TOKENS * (10 * HIDDEN + 6 * MLP)
    scratch = 2 * HIDDEN * MLP
    logits = TOKENS * VOCABULARY * (2 + 4 + 4)
    resident = [
        WEIGHTS_8B / 2,
        WEIGHTS_8B / 64 * (1 + 4 / 256),
        2 * EMBEDDINGS_8B,
        4 * ADAPTER,
        4 * ADAPTER,
        (2 + 8 / 256) * ADAPTER,
        2 * TOKENS * HIDDEN * LAYERS,
    ]
    told = re.findall(r"^\| [^|]+ \| [^|]+ \| (\d+\.\d\d) \|$", read_topic("memory"), flags=re.MULTILINE)
    assert told == [f"{part / GIB:.2f}" for part in [*resident, layer, scratch]]
    assert f"| **{(sum(resident) + layer + scratch) / GIB:.2f}** |" in read_topic("memory")
    assert f"**{(sum(resident) + logits) / GIB:.2f}** GiB" in read_topic("memory")


@pytest.mark.parametrize(
    ("label", "levels", "block"),
    [("NF4", NF4, 64), ("int4", INT4, 64), ("FP4", FP4, 64), ("NF4 at block 256 has", NF4, 256)],
)
def test_the_stated_quantisation_errors_come_out_of_the_simulation(
    label: str, levels: tuple[float, ...], block: int
) -> None:
    stated = f"{label} {100 * relative_rms_error(levels, block):.1f} %"
    assert stated in one_line(read_topic("quantization"))


def test_an_unknown_topic_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("Quantisation")
    assert caught.value.next_step == "Did you mean `qlora guide quantization`?"
    assert "'Quantisation'" in str(caught.value) and "hyperparameters, memory, qlora, quantization" in str(caught.value)


def test_a_topic_unlike_all_others_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        read_topic("../errors.py")
    assert caught.value.next_step == "Run `qlora guide` to list them with a summary."
