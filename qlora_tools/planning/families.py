"""Which catalogue models belong together, so that a smaller or a larger one can be named."""

import re
from collections.abc import Iterator

from ..models.catalogue import CATALOGUE, CatalogueModel
from ..models.shape import ModelShape

# A generation: `llama-3.1` is 3, `qwen2.5` is 2; the 7b of `gemma-7b` is a size.
_NAME = re.compile(r"([a-z]+)-?(?:(\d+)(?:\.\d+)?(?![\d.]*[bm](?![a-z])))?")
_LARGER, _SMALLER = 1.3, 0.9


def shape_of(model: CatalogueModel) -> ModelShape:
    """The shape of a catalogue model."""
    return ModelShape.from_config(model.config)


def smaller_models(name: str, shape: ModelShape) -> Iterator[CatalogueModel]:
    """Smaller models, nearest kin first (generation, maker, anything), the largest of each first."""
    most = _SMALLER * shape.parameters
    for kin in _circles(name, shape):
        yield from (other for other in reversed(kin) if other.parameters <= most)


def larger_model(name: str, shape: ModelShape) -> CatalogueModel | None:
    """The next larger model of the same generation, else of the same maker; sparse ones only beside sparse ones."""
    least = _LARGER * shape.parameters
    sparse = shape.experts is not None
    for kin in _circles(name, shape)[:2]:
        fitting = [
            other for other in kin if other.parameters >= least and (shape_of(other).experts is not None) == sparse
        ]
        if fitting:
            # Of those of one size the last one: the catalogue lists the newest last.
            return [other for other in fitting if other.parameters == fitting[0].parameters][-1]
    return None


def _circles(name: str, shape: ModelShape) -> tuple[list[CatalogueModel], ...]:
    """Catalogue models of the same generation, of the same maker, and all, each by size."""
    by_size = sorted(CATALOGUE.values(), key=lambda other: other.parameters)
    entry = CATALOGUE.get(name) or next((other for other in by_size if other.hub_id.lower() == name.lower()), None)
    if entry is None:
        kin = [other for other in by_size if other.config.get("model_type") == shape.model_type]
        return kin, kin, by_size
    line, maker = _line(entry.name), entry.hub_id.split("/")[0]
    same_line = [other for other in by_size if _line(other.name) == line and other.hub_id.split("/")[0] == maker]
    same_maker = [other for other in by_size if other.hub_id.split("/")[0] == maker]
    return same_line, same_maker, by_size


def _line(name: str) -> tuple[str, str | None]:
    match = _NAME.match(name)
    return (match[1], match[2]) if match else (name, None)
