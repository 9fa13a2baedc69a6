"""The other way round: what a card takes. The largest models, and the longest row of each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import RunConfig
from ..config.overrides import config_with, field_path
from ..data.lengths import LENGTH_STEP
from ..models.catalogue import CATALOGUE, CatalogueModel
from ..models.hardware import Hardware
from ..models.shape import ModelShape
from .families import shape_of
from .needs import needed_bytes

# The schema's longest row, in steps.
_MOST_STEPS = 4_194_304 // LENGTH_STEP
# A model that takes no row of so many tokens does not count as one that fits.
USEFUL_TOKENS = 512


@dataclass(frozen=True)
class LongestRow:
    """Tokens that memory takes, and those that the model was made for (None where it does not say); 0 = not even 64."""

    fitting_tokens: int
    model_tokens: int | None

    @property
    def tokens(self) -> int:
        """What can be used: the smaller of both."""
        return min(self.fitting_tokens, self.model_tokens or self.fitting_tokens)


@dataclass(frozen=True)
class LargeModel:
    """A catalogue model that fits, with what it needs for a row of 512 tokens; `also` names those of equal shape."""

    name: str
    also: tuple[str, ...]
    parameters: int
    licence: str
    needed_bytes: int
    longest_row: LongestRow


def longest_row(shape: ModelShape, config: RunConfig, hardware: Hardware) -> LongestRow:
    """The longest row (a multiple of 64) with which `config` fits the free memory of `hardware` for sure."""
    return LongestRow(_last_fitting(_Missing(shape, config, hardware)) * LENGTH_STEP, shape.max_length)


@dataclass
class _Missing:
    """Bytes that a row of so many steps of 64 tokens lacks; negative where some are left. Remembers what it measured."""

    shape: ModelShape
    config: RunConfig
    hardware: Hardware
    _known: dict[int, int] = field(default_factory=dict)

    def __call__(self, steps: int) -> int:
        if steps not in self._known:
            self._known[steps] = self._needed(steps * LENGTH_STEP) - self.hardware.free_memory_bytes
        return self._known[steps]

    def _needed(self, tokens: int) -> int:
        training = self.config.training.model_copy(update={"max_length_tokens": tokens})
        config = self.config.model_copy(update={"training": training})
        return needed_bytes(config, self.shape, self.hardware)


def _last_fitting(missing: Callable[[int], int]) -> int:
    """The largest number of steps at which nothing is missing, by bisection that guesses along a line; 0 = none."""
    low, high = 0, _MOST_STEPS + 1
    known: list[tuple[int, int]] = []
    while high - low > 1:
        middle = min(max(_guess(known, low, high), low + 1), high - 1)
        known.append((middle, missing(middle)))
        low, high = (middle, high) if known[-1][1] <= 0 else (low, middle)
    return low


def _guess(known: Sequence[tuple[int, int]], low: int, high: int) -> int:
    """Where the line through the last two points meets zero; every fourth time the middle, since the line may bend."""
    if len(known) < len(_FIRST_GUESSES):
        return _FIRST_GUESSES[len(known)]
    if len(known) % 4 == 1:
        return (low + high) // 2
    (x, at_x), (other, at_other) = known[-1], known[-2]
    return (low + high) // 2 if at_x == at_other else math.floor(x - at_x * (x - other) / (at_x - at_other))


# A row of 512 tokens says whether anything useful fits, one of 4,096 how steep the line is.
_FIRST_GUESSES = (USEFUL_TOKENS // LENGTH_STEP, 64)


def largest_models(hardware: Hardware, settings: Mapping[str, Any] | None = None) -> tuple[LargeModel, ...]:
    """Catalogue models that can be trained in the free memory of `hardware`, largest first, each with its longest row.

    Rows one by one with checkpointing, beside `settings`; models of equal shape stand together. Raises `UsageError` and
    `ConfigError` for settings that make no sense.
    """
    config = config_with({**_SMALLEST, **{field_path(name): value for name, value in (settings or {}).items()}})
    # What a model was made for decides over no memory: shapes that differ in it alone are measured once.
    shapes: dict[ModelShape, list[CatalogueModel]] = {}
    for model in CATALOGUE.values():
        shapes.setdefault(replace(shape_of(model), max_length=None), []).append(model)
    found = [large for shape, models in shapes.items() for large in _fitting(_Missing(shape, config, hardware), models)]
    return tuple(sorted(found, key=lambda model: (model.parameters, model.longest_row.tokens), reverse=True))


_SMALLEST = {"training.micro_batch_size": 1, "training.gradient_checkpointing": True}


def _fitting(missing: _Missing, models: list[CatalogueModel]) -> Iterator[LargeModel]:
    """The models of one shape, one entry for each length that they were made for; none where no useful row fits."""
    if missing(_FIRST_GUESSES[0]) > 0:
        return
    tokens = _last_fitting(missing) * LENGTH_STEP
    made_for: dict[int | None, list[CatalogueModel]] = {}
    for model in models:
        made_for.setdefault(shape_of(model).max_length, []).append(model)
    for limit, (first, *others) in made_for.items():
        yield LargeModel(
            name=first.name,
            also=tuple(model.name for model in others),
            parameters=missing.shape.parameters,
            licence=first.licence,
            needed_bytes=missing(_FIRST_GUESSES[0]) + missing.hardware.free_memory_bytes,
            longest_row=LongestRow(tokens, limit),
        )
