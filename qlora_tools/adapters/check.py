"""Whether an adapter belongs to its base and both are whole, from headers alone: said before anything is loaded."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ModelError
from ..models.reference import ResolvedModel
from ..models.stored_tensors import StoredTensor, model_tensors
from .lora import AdapterFacts, LowRank, read_lora
from .record import AdapterRecord

# Checkpoints of some families leave names of inner models out, have more of them, or in another order.
_INNER = re.compile(r"((model|transformer|gpt_neox|language_model)\.)+")
_NEXT = "Give the base that it was trained on; the adapter's qlora_tools.json or adapter_config.json names it."


def check_adapter(directory: Path, record: AdapterRecord) -> AdapterFacts:
    """The facts of the adapter, once all its tensors fit the base that its record names.

    Raises `ModelError` for files that are damaged or missing, another base, and a tokenizer with more tokens than the model
    has rows.
    """
    facts = read_lora(directory)
    base = record.base()
    require_fit(facts, model_tensors(Path(base.location)), base)
    return facts


def require_fit(facts: AdapterFacts, base: Mapping[str, StoredTensor], resolved: ResolvedModel) -> None:
    """Raise `ModelError` unless the adapter fits the tensors of `base`.

    Modules that a checkpoint stores in another form pass.
    """
    name = resolved.reference.name
    weights = {module: stored_name(f"{module}.weight", base) for module in facts.pairs}
    known = {module: base[stored] for module, stored in weights.items() if stored is not None}
    if facts.pairs and not known:
        first = next(iter(facts.pairs))
        raise ModelError(
            f"The adapter {facts.directory} does not belong to {name}: the model has no {first}.", next_step=_NEXT
        )
    wrong = [pair for pair in facts.pairs.values() if not _fits(pair, known.get(pair.module), facts)]
    if wrong:
        pair = wrong[0]
        raise ModelError(
            f"The adapter {facts.directory} does not fit {name}: it was made for a {pair.module} of "
            f"{list(pair.delta_shape)} and finds {list(known[pair.module].shape)} ({len(wrong)} of {len(facts.pairs)} "
            "modules differ).",
            next_step=_NEXT,
        )
    _require_same_width(facts, base, name)
    _require_vocabulary(facts, base, Path(resolved.location))


def stored_name(wanted: str, names: Iterable[str]) -> str | None:
    """The name in a checkpoint of the parameter that is called `wanted` in memory; None where it has another form there."""
    known = names if isinstance(names, Mapping | set | frozenset) else set(names)
    if wanted in known:
        return wanted
    return next((name for name in known if _inside(name) == _inside(wanted)), None)


def _inside(name: str) -> str:
    inner = _INNER.match(name)
    # The head of GPT-NeoX has its old name in files.
    return (name[inner.end() :] if inner else name).replace("embed_out.", "lm_head.")


def _fits(pair: LowRank, weight: StoredTensor | None, facts: AdapterFacts) -> bool:
    if weight is None or f"{pair.module}.weight" in facts.replaced:
        return True  # A resized embedding brings its own weight.
    # GPT-2's layers are stored the other way round. The config's fan_in_fan_out tells that of one of the layers only.
    turned = () if pair.embedding else pair.delta_shape[::-1]
    return tuple(weight.shape) in (pair.delta_shape, turned)


def _require_same_width(facts: AdapterFacts, base: Mapping[str, StoredTensor], name: str) -> None:
    """What replaces a parameter has its shape; only an embedding or a head may have another number of rows."""
    for parameter, tensor in facts.replaced.items():
        stored = stored_name(parameter, base)
        if stored is not None and tensor.shape[1:] != base[stored].shape[1:]:
            raise ModelError(
                f"The adapter {facts.directory} does not fit {name}: its {parameter} is {list(tensor.shape)}, the model's is "
                f"{list(base[stored].shape)}.",
                next_step=_NEXT,
            )


def _require_vocabulary(facts: AdapterFacts, base: Mapping[str, StoredTensor], location: Path) -> None:
    """No token of the tokenizer may lie beyond the embedding: it would be read from memory that is not there."""
    directory = facts.directory if (facts.directory / "tokenizer.json").is_file() else location
    last = _last_token(directory / "tokenizer.json")
    rows = [*_embedding_rows(facts.replaced), *_embedding_rows(base)]
    if last is not None and rows and last >= rows[0]:
        raise ModelError(
            f"The tokenizer in {directory} has token ids up to {last}, and the embedding has {rows[0]} rows.",
            next_step="Restore the tokenizer of the training run; tokens that were added need embeddings that were saved "
            "with the adapter.",
        )


def _embedding_rows(tensors: Mapping[str, StoredTensor]) -> list[int]:
    words = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
    return [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(words)]


def _last_token(path: Path) -> int | None:
    """The largest token id of a tokenizer.json; None where there is none that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = told["model"].get("vocab") or {}
        # Unigram models list their pieces in the order of their ids.
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return max([*ids, *(token["id"] for token in told.get("added_tokens") or ())], default=None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", next_step="Restore the file.") from None
