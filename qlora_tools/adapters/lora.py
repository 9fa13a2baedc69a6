"""The tensors of a LoRA adapter, sorted by what they do to which module of the base."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.stored_tensors import StoredTensor, file_tensors
from .record import ADAPTER_WEIGHTS, require_adapter

_PREFIX = "base_model.model."
_KIND = re.compile(
    r"(?P<module>.+)\.(?:(?P<linear>lora_[AB])\.weight|(?P<bias>lora_B)\.bias|(?P<embedding>lora_embedding_[AB])"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?|token_adapter\.(?P<tokens>trainable_tokens_delta))"
)
# Names of PEFT's wrappers around a module that was trained in full, or that has an adapter beside it.
_OF_LORA = re.compile(r"\.(lora_|token_adapter)")
_OF_WRAPPERS = re.compile(r"\.(modules_to_save|(token_adapter\.)?base_layer)\.")


@dataclass(frozen=True)
class LowRank:
    """What is added to the weight of one module: `b @ a`, `[out, rank] @ [rank, in]`.

    Of an embedding a is `[rank, tokens]` and b `[width, rank]`. `magnitude` is DoRA's, `bias` that of lora_bias.
    """

    module: str
    a: StoredTensor
    b: StoredTensor
    embedding: bool
    magnitude: StoredTensor | None = None
    bias: StoredTensor | None = None

    @property
    def rank(self) -> int:
        """Of the product."""
        return self.a.shape[0]

    @property
    def delta_shape(self) -> tuple[int, int]:
        """Of the module's weight, as `[out, in]`, and of an embedding as `[tokens, width]`."""
        if self.embedding:
            return self.a.shape[1], self.b.shape[0]
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class AdapterFacts:
    """One adapter, from its config and the header of its weights. Names of modules are those of the model in memory.

    `replaced` are parameters that were trained in full or resized; `tokens` are rows of embeddings that were.
    """

    directory: Path
    settings: Mapping[str, Any] = field(repr=False)
    pairs: Mapping[str, LowRank] = field(repr=False)
    replaced: Mapping[str, StoredTensor] = field(repr=False)
    tokens: Mapping[str, StoredTensor] = field(repr=False)

    @property
    def tensors(self) -> list[StoredTensor]:
        """All tensors of its file."""
        factors = [tensor for pair in self.pairs.values() for tensor in (pair.a, pair.b)]
        return [*factors, *self.replaced.values(), *self.tokens.values()]

    @property
    def uses_dora(self) -> bool:
        """Whether weights are decomposed into magnitude and direction."""
        return any(pair.magnitude is not None for pair in self.pairs.values())

    @property
    def largest_rank(self) -> int:
        """The largest rank of all modules; 0 where only whole modules were trained."""
        return max((pair.rank for pair in self.pairs.values()), default=0)

    def scaling(self, module: str) -> float:
        """alpha / rank, or alpha / sqrt(rank) with rsLoRA (arXiv 2312.03732), as PEFT finds it for this module."""
        settings = self.settings
        alpha = float(_of_pattern(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8)))
        rank = self.pairs[module].rank
        return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank

    def token_rows(self, module: str) -> list[int]:
        """The rows of the embedding `module` that were trained apart."""
        indices = self.settings.get("trainable_token_indices") or []
        if isinstance(indices, Mapping):
            indices = next((rows for name, rows in indices.items() if _is_called(module, name)), [])
        return [int(row) for row in indices]


def read_lora(directory: Path) -> AdapterFacts:
    """The facts of the adapter in `directory`; reads no weights. Raises `ModelError` where it is missing or damaged."""
    require_adapter(directory)
    settings = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    parts: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for name, tensor in file_tensors(directory / ADAPTER_WEIGHTS).items():
        if ".original_module." in name:
            continue  # The base's own, saved along with what replaced it.
        plain = _OF_WRAPPERS.sub(".", name.removeprefix(_PREFIX))
        found = _KIND.fullmatch(plain)
        if not name.startswith(_PREFIX) or (found is None and _OF_LORA.search(plain)):
            raise _unread(directory, name)
        if found is None:
            replaced[plain] = tensor
        else:
            parts.setdefault(found["module"], {})[_part(found)] = tensor
    tokens = {module: part["tokens"] for module, part in parts.items() if "tokens" in part}
    pairs = {module: _pair(directory, module, part) for module, part in parts.items() if part.keys() - {"tokens"}}
    if not (pairs or replaced or tokens):
        raise ModelError(f"The adapter {directory} is empty.", next_step="Restore its files, or train again.")
    return AdapterFacts(directory, settings, pairs, replaced, tokens)


def _unread(directory: Path, name: str) -> ModelError:
    """PEFT leaves such a tensor out without a word, so that the adapter has no effect."""
    return ModelError(
        f"The adapter {directory} holds {name[:200]!a}, a name that PEFT does not read; it would have no effect.",
        next_step="Save it with PEFT's save_pretrained: names are then like "
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.",
    )


def _part(found: re.Match[str]) -> str:
    if found["tokens"]:
        return "tokens"
    return found["linear"] or found["embedding"] or found["magnitude"] or "bias"


def _pair(directory: Path, module: str, part: Mapping[str, StoredTensor]) -> LowRank:
    embedding = "lora_embedding_A" in part or "lora_embedding_B" in part
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    missing = [name for name in names if name not in part]
    if missing:
        raise _damaged(directory, f"{module} has no {missing[0]}")
    a, b = part[names[0]], part[names[1]]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise _damaged(directory, f"the factors of {module} have the shapes {list(a.shape)} and {list(b.shape)}")
    return LowRank(module, a, b, embedding, part.get("lora_magnitude_vector"), part.get("bias"))


def _damaged(directory: Path, what: str) -> ModelError:
    return ModelError(
        f"The adapter {directory} is damaged: {what}.",
        next_step="Save or copy it again; shards of FSDP or DeepSpeed have to be gathered before saving.",
    )


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _is_called(module: str, name: str) -> bool:
    return module == name or module.endswith("." + name)
