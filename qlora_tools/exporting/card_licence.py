"""The licence of a base, as the Hub names it."""

from dataclasses import dataclass

from ..models.catalogue import CATALOGUE, CatalogueModel

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses; what is not there is "other" with a name.
_IDENTIFIERS = {
    "Apache-2.0": "apache-2.0",
    "BigCode OpenRAIL-M": "bigcode-openrail-m",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "Gemma": "gemma",
    "Llama 2 Community": "llama2",
    "Llama 3 Community": "llama3",
    "Llama 3.1 Community": "llama3.1",
    "Llama 3.2 Community": "llama3.2",
    "Llama 3.3 Community": "llama3.3",
    "MIT": "mit",
}


@dataclass(frozen=True)
class BaseLicence:
    """What is known of a base's licence; `front_matter` are the keys of a card's YAML."""

    words: str
    front_matter: dict[str, str]


def base_licence(hub_id: str | None) -> BaseLicence:
    """The licence of a model of the catalogue; of others nothing is guessed."""
    model = _catalogue_model(hub_id)
    if model is None:
        return BaseLicence("not known to the catalogue: read the base's page before passing this on.", {})
    identifier = _IDENTIFIERS.get(model.licence)
    words = f"{model.licence} ({model.source}); it holds for this model too."
    if identifier is not None:
        return BaseLicence(words, {"license": identifier})
    name = model.licence.lower().replace(" ", "-")
    return BaseLicence(words, {"license": "other", "license_name": name, "license_link": model.source})


def _catalogue_model(hub_id: str | None) -> CatalogueModel | None:
    return next((model for model in CATALOGUE.values() if model.hub_id == hub_id), None)
