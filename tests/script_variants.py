"""A covering array over the variants of RunConfig: every two options that go together stand in one config at least."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from qlora_tools.config import parse_config
from qlora_tools.config.choices import Attention, DtypeChoice, Optimizer, Quantization, Schedule, Tracker
from qlora_tools.errors import ConfigError

from .script_rows import ROWS

Options = Mapping[str, Any]
Pair = tuple[tuple[str, int], tuple[str, int]]


def _each(field: str, values: Sequence[Any]) -> tuple[Options, ...]:
    return tuple({field: value} for value in values)


# The name of a dimension -> its options, each by fields of a config. `rows` and `model` are none: they name what is made.
DIMENSIONS: dict[str, tuple[Options, ...]] = {
    "rows": _each("rows", [*ROWS, "hub", "hub subset"]),
    "optimizer": _each("training.optimizer", get_args(Optimizer)),
    "schedule": _each("training.schedule", get_args(Schedule)),
    "attention": _each("model.attention_implementation", get_args(Attention)),
    "tracking": _each("training.tracking", get_args(Tracker)),
    "kind": _each("quantization.kind", get_args(Quantization)),
    "compute": _each("quantization.compute_dtype", get_args(DtypeChoice)),
    "storage": _each("quantization.storage_dtype", ("uint8", "bfloat16", "float16", "float32")),
    "evaluation": (
        {"data.evaluation_fraction": 0.0},
        {"data.evaluation_fraction": 0.25},
        {"data.evaluation_fraction": 0.0, "data.evaluation_path": "held"},
        {"data.evaluation_fraction": 0.0, "data.evaluation_split": "validation"},
    ),
    "packing": _each("training.packing", ("auto", "off", "padding_free", "bins")),
    "targets": _each("lora.target_modules", ("all-linear", "attention", ["q_proj", "down_proj"])),
    "initialization": _each("lora.initialization", ("default", "loftq", "pissa")),
    "model": _each("model", ("local", "hub", "revision")),
    "loss": _each("data.loss_on", ("completions", "assistant", "all")),
    "checkpoints": _each("training.checkpoint_every_steps", (None, 1, 4)),
    "double": _each("quantization.double_quantization", (True, False)),
    "rslora": _each("lora.use_rslora", (False, True)),
    "dora": _each("lora.use_dora", (False, True)),
    "modules": _each("lora.modules_to_save", ((), ["lm_head"])),
    "checkpointing": _each("training.gradient_checkpointing", (True, False)),
    "every": _each("training.evaluation_every_steps", (None, 2)),
    "samples": _each("training.evaluation_samples", (0, 2)),
    "patience": _each("training.early_stopping_patience", (None, 2)),
    "best": _each("training.keep_best", (True, False)),
    "smoke": _each("training.smoke_generation", (True, False)),
    "long": _each("data.long_rows", ("cut", "drop")),
    "length": _each("training.max_steps", (None, 3)),
    "overwrite": _each("output.overwrite", (False, True)),
    "script": _each("script", ("train", "notebook")),
}
# What rules of RunConfig are about; two of their options go together if one of these configs takes both.
_RULED = ("kind", "storage", "initialization", "dora", "modules", "evaluation", "every", "patience")
_BASES: tuple[Options, ...] = tuple(
    {"quantization.kind": kind, "data.evaluation_fraction": share, "training.evaluation_every_steps": every}
    for kind in ("nf4", "none")
    for share, every in ((0.25, 2), (0.0, None))
)


@dataclass(frozen=True)
class Variant:
    """One config of the array: for each dimension the place of its option."""

    places: Mapping[str, int]

    @property
    def options(self) -> dict[str, Any]:
        """All fields that its options set."""
        return _together(self.places.items())

    def raw(self, directory: Path, output: Path, model_of: Callable[[str], Path]) -> dict[str, Any]:
        """The raw config, its rows made in `directory`; `model_of` makes the model that goes with a kind of rows."""
        options = self.options
        rows, model = options.pop("rows"), options.pop("model")
        parts = _nested({name: value for name, value in options.items() if name != "script"})
        data = HUB_ROWS[rows] if rows in HUB_ROWS else ROWS[rows](directory)
        if parts["data"].get("evaluation_path") == "held":
            parts["data"]["evaluation_path"] = data["path"]
        parts["data"] = {**data, "check": "warn", **parts["data"]}
        names = {"local": str(model_of(rows)), "hub": "owner/name", "revision": "owner/name"}
        parts["model"] |= {"name": names[model]} | ({"revision": "main"} if model == "revision" else {})
        parts["output"]["directory"] = str(output)
        parts["training"] |= {"micro_batch_size": 2, "gradient_accumulation_steps": 2, "max_length_tokens": 64}
        return parts


HUB_ROWS: dict[str, dict[str, Any]] = {
    "hub": {"path": "owner/rows", "format": "messages"},
    "hub subset": {"path": "owner/rows", "format": "alpaca", "subset": "small", "split": "test"},
}


def _together(places: Any) -> dict[str, Any]:
    return {name: value for dimension, place in places for name, value in DIMENSIONS[dimension][place].items()}


def _nested(options: Options) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {
        name: {} for name in ("model", "data", "lora", "quantization", "training", "output")
    }
    for name, value in options.items():
        part, _, field = name.partition(".")
        parts[part][field] = value
    return parts


@cache
def _goes_together(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether some config has both options."""
    wanted = _together((one, other))
    if one[0] in _RULED and other[0] in _RULED:
        return any(_is_taken({**base, **wanted}) for base in _BASES)
    rows, model = wanted.get("rows", ""), wanted.get("model")
    if rows and "evaluation" in (one[0], other[0]):
        # A split is one of a dataset on the Hub; held-out rows of another kind of file are no plain reading.
        return not ("data.evaluation_split" in wanted and not rows.startswith("hub"))
    # Rows that need their tokens cannot be rendered without a model.
    return not (rows in ("mixed", "transcripts") and model in ("hub", "revision"))


def _is_taken(options: Options) -> bool:
    parts = _nested(options)
    parts["model"]["name"], parts["data"]["path"], parts["output"]["directory"] = "owner/name", "owner/rows", "./run"
    try:
        parse_config(parts)
    except ConfigError:
        return False
    return True


def covering_array() -> list[Variant]:
    """Few configs that hold every pair of options that go together; the first ones hold the most new pairs."""
    open_pairs = dict.fromkeys(_pairs())
    found = []
    while open_pairs:
        places: dict[str, int] = dict(next(iter(open_pairs)))
        for dimension in DIMENSIONS:
            if dimension not in places:
                places[dimension] = _best(dimension, places, open_pairs)
        for pair in combinations(sorted(places.items()), 2):
            open_pairs.pop(pair, None)
        found.append(Variant(places))
    return found


def _pairs() -> list[Pair]:
    options = [[(dimension, place) for place in range(len(DIMENSIONS[dimension]))] for dimension in sorted(DIMENSIONS)]
    return [
        (one, other)
        for some, others in combinations(options, 2)
        for one in some
        for other in others
        if _goes_together(one, other)
    ]


def _best(dimension: str, places: Mapping[str, int], open_pairs: Mapping[Pair, None]) -> int:
    """The option that goes with all that are chosen and makes the most new pairs with them."""
    fitting = [
        place
        for place in range(len(DIMENSIONS[dimension]))
        if all(_goes_together(chosen, (dimension, place)) for chosen in places.items())
    ]

    def gain(place: int) -> int:
        return sum(tuple(sorted((chosen, (dimension, place)))) in open_pairs for chosen in places.items())

    return max(fitting, key=gain)
