"""What each tensor of the merged model is made of: settled before a byte is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..adapters.check import stored_name
from ..adapters.lora import AdapterFacts, LowRank
from ..errors import ModelError
from ..models.stored_tensors import BYTES_OF, FLOATING, StoredTensor

if TYPE_CHECKING:
    from ..engine.skeleton import Skeleton

STORED_DTYPE = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# Adapters that are more than sums of low-rank products, or lie on a base that is not the published one.
_NOT_SUMS = {
    "alora_invocation_tokens": "an activated LoRA, which works on part of the text only",
    "arrow_config": "an Arrow router, which chooses adapters token by token",
    "layer_replication": "made for a model with repeated layers",
    "use_qalora": "a QALoRA adapter, made for GPTQ bases",
    "use_bdlora": "a block-diagonal adapter",
    "kasa_config": "a KaSA adapter",
    "monteclora_config": "a MonteCLoRA adapter",
}
_MOVED_BASES = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter and how much of it is merged: 1 is what was trained."""

    facts: AdapterFacts
    weight: float = 1.0


@dataclass(frozen=True)
class Addition:
    """A low-rank product that is added, times `scaling`."""

    pair: LowRank
    scaling: float
    fan_in_fan_out: bool


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the merged model: its source, what is added to it, and which rows are replaced."""

    name: str
    dtype: str
    source: StoredTensor
    quantized: bool = False
    additions: tuple[Addition, ...] = ()
    rows: tuple[int, ...] = ()
    row_values: StoredTensor | None = None

    @property
    def size_bytes(self) -> int:
        """What it will take."""
        return self.source.elements * BYTES_OF[self.dtype]

    @property
    def is_copy(self) -> bool:
        """Whether its bytes are those of its source."""
        changed = self.quantized or self.additions or self.rows
        return not changed and self.dtype == self.source.dtype


@dataclass(frozen=True)
class MergePlan:
    """All tensors of the merged model. `untied`: head and embedding were one tensor and are two now."""

    tensors: tuple[OutputTensor, ...]
    untied: bool
    resized: bool
    vocabulary: int

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)


def plan_merge(
    base: Mapping[str, StoredTensor], adapters: Sequence[WeightedAdapter], skeleton: "Skeleton", dtype: str
) -> MergePlan:
    """Every tensor of `base` with what the adapters do to it, stored in `dtype`.

    Raises `ModelError` where the base stores what they change in another form.
    """
    names = _Names(base, skeleton)
    tied = skeleton.tied and not _untied(adapters, skeleton)
    sources = dict(_sources(base, adapters, names))
    head = None if skeleton.head is None else f"{skeleton.head}.weight"
    if head is not None and tied:
        sources.pop(stored_name(head, base) or head, None)
    elif head is not None and stored_name(head, sources) is None and skeleton.tied:
        sources[head] = base[names.stored(f"{skeleton.embedding}.weight")]
    changes = _Changes(adapters, names, tied, head)
    unknown = sources.keys() - base.keys() - {head}
    if unknown:
        raise _not_there(min(unknown))
    tensors = tuple(
        changes.of(OutputTensor(name, _dtype(name, source, dtype, skeleton), source, names.is_quantized(name)))
        for name, source in sources.items()
    )
    changes.require_all_placed()
    before = base[names.embedding].shape[0]
    rows = _rows(tensors, names.embedding, head, before)
    return MergePlan(tensors, skeleton.tied and not tied, rows != before, rows)


def require_mergeable(adapters: Sequence[WeightedAdapter]) -> None:
    """Raise `ModelError` for adapters that cannot be put into plain weights, and where two of them replace one parameter."""
    for adapter in adapters:
        _require_sum(adapter.facts)
    _require_compatible(adapters)


class _Names:
    """Names in memory as names in the checkpoint."""

    def __init__(self, base: Mapping[str, StoredTensor], skeleton: "Skeleton") -> None:
        self._base, self._transposed = base, skeleton.transposed
        self._quantized = {stored_name(f"{module}.weight", base) for module in skeleton.quantized}
        self.embedding = self.stored(f"{skeleton.embedding}.weight")

    def stored(self, parameter: str) -> str:
        """The name in the checkpoint. Raises `ModelError` where it is stored in another form."""
        found = stored_name(parameter, self._base)
        if found is None:
            raise ModelError(
                f"The checkpoint of the base has no {parameter}: this family stores it in another form.",
                next_step="Serve base and adapter apart (`qlora serve`), or adapt the attention projections only.",
            )
        return found

    def is_transposed(self, module: str) -> bool:
        return module in self._transposed

    def is_quantized(self, name: str) -> bool:
        return name in self._quantized


class _Changes:
    """What the adapters add to or replace in the tensors, each exactly once."""

    def __init__(self, adapters: Sequence[WeightedAdapter], names: _Names, tied: bool, head: str | None) -> None:
        self._names = names
        self._additions: dict[str, list[Addition]] = {}
        self._tokens: dict[str, tuple[tuple[int, ...], StoredTensor]] = {}
        for adapter in adapters:
            for module, pair in adapter.facts.pairs.items():
                if tied and f"{module}.weight" == head:
                    _require_plain(pair, adapter.facts)
                    continue  # Tied with the adapter of the embedding, which is merged into the one tensor.
                self._add(adapter, pair, _name_of(f"{module}.weight", names, head))
            for module, values in adapter.facts.tokens.items():
                if tied and f"{module}.weight" == head:
                    continue  # Those of the embedding again.
                rows = tuple(adapter.facts.token_rows(module))
                self._tokens[_name_of(f"{module}.weight", names, head)] = (rows, values)
        self._unplaced = {*self._additions, *self._tokens}

    def of(self, tensor: OutputTensor) -> OutputTensor:
        """The tensor with its changes."""
        self._unplaced.discard(tensor.name)
        rows, values = self._tokens.get(tensor.name, ((), None))
        return replace(tensor, additions=tuple(self._additions.get(tensor.name, ())), rows=rows, row_values=values)

    def require_all_placed(self) -> None:
        """Raise `ModelError` where something would be left out in silence."""
        if self._unplaced:
            raise _not_there(min(self._unplaced))

    def _add(self, adapter: WeightedAdapter, pair: LowRank, name: str) -> None:
        turned = self._names.is_transposed(pair.module)
        scaling = adapter.facts.scaling(pair.module) * adapter.weight
        self._additions.setdefault(name, []).append(Addition(pair, scaling, turned))
        if pair.bias is not None:
            bias = name.removesuffix("weight") + "bias"
            self._additions.setdefault(bias, []).append(Addition(pair, scaling, turned))


def _require_plain(head: LowRank, facts: AdapterFacts) -> None:
    """PEFT decomposes a tied head by its rows and the embedding by its columns: no single tensor is both."""
    if head.magnitude is not None:
        raise ModelError(
            f"The adapter {facts.directory} cannot be merged: it is a DoRA on a head that is tied with the embedding.",
            next_step="Serve base and adapter apart (`qlora serve`).",
        )


def _rows(tensors: Sequence[OutputTensor], embedding: str, head: str | None, before: int) -> int:
    """The vocabulary after merging, of which a head of its own must have as many rows."""
    rows = {tensor.name: tensor.source.shape[0] for tensor in tensors if tensor.name in (embedding, head)}
    if rows[embedding] != before and len({*rows.values()}) > 1:
        raise ModelError(
            f"The adapter's embedding has {rows[embedding]} rows, and the head {rows[str(head)]}: it was saved without it.",
            next_step="Save it again with save_pretrained(..., save_embedding_layers=True) and the head in modules_to_save.",
        )
    return rows[embedding]


def _not_there(parameter: str) -> ModelError:
    return ModelError(
        f"The model has no {parameter}, which the adapter changes.",
        next_step="Give the base that the adapter was trained on.",
    )


def _name_of(parameter: str, names: _Names, head: str | None) -> str:
    """A head that was tied gets its own tensor, under its own name."""
    try:
        return names.stored(parameter)
    except ModelError:
        if parameter != head:
            raise
        return parameter


def _sources(
    base: Mapping[str, StoredTensor], adapters: Sequence[WeightedAdapter], names: _Names
) -> Iterator[tuple[str, StoredTensor]]:
    replaced: dict[str, StoredTensor] = {}
    for adapter in adapters:
        for parameter, tensor in adapter.facts.replaced.items():
            replaced[stored_name(parameter, base) or parameter] = tensor
    for name, stored in base.items():
        yield name, replaced.pop(name, stored)
    yield from replaced.items()


def _untied(adapters: Sequence[WeightedAdapter], skeleton: "Skeleton") -> bool:
    """Whether head and embedding differ after merging: in memory the head keeps the base's weight unless PEFT ties it too."""
    embedding, head = skeleton.embedding, skeleton.head or ""
    for adapter in adapters:
        facts = adapter.facts
        resized = f"{embedding}.weight" in facts.replaced and _is_resized(facts, f"{embedding}.weight")
        of_head = head in facts.pairs or (f"{head}.weight" in facts.replaced and not resized)
        of_embedding = embedding in facts.pairs or (f"{embedding}.weight" in facts.replaced and not resized)
        if (of_head or of_embedding) and not facts.settings.get("ensure_weight_tying"):
            return True
    return False


def _is_resized(facts: AdapterFacts, parameter: str) -> bool:
    """A vocabulary that grew is saved without being named as a module to save."""
    named = facts.settings.get("modules_to_save") or []
    return not any(parameter.removesuffix(".weight").endswith(name) for name in named)


def _dtype(name: str, source: StoredTensor, dtype: str, skeleton: "Skeleton") -> str:
    kept = source.dtype == "F32" and any(part in name for part in skeleton.kept_in_fp32)
    return source.dtype if kept or source.dtype not in FLOATING else STORED_DTYPE[dtype]


def _require_sum(facts: AdapterFacts) -> None:
    settings = facts.settings
    reasons = [reason for name, reason in _NOT_SUMS.items() if settings.get(name)]
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_MOVED_BASES[:-1]):
        reasons.append(f"started by {start}, which moved the weights of its base, and was not converted")
    if settings.get("target_parameters"):
        reasons.append("on parameters of experts (target_parameters), which checkpoints store in another form")
    if reasons:
        raise ModelError(
            f"The adapter {facts.directory} cannot be merged: it is {reasons[0]}.",
            next_step="Serve base and adapter apart, or convert it to a plain LoRA with PEFT first.",
        )


def _require_compatible(adapters: Sequence[WeightedAdapter]) -> None:
    if len(adapters) == 1 and adapters[0].weight == 1:
        return
    for adapter in adapters:
        if adapter.facts.uses_dora:
            raise ModelError(
                f"{adapter.facts.directory} is a DoRA adapter: its magnitudes cannot be weighted or mixed with others.",
                next_step="Merge it alone, with weight 1.",
            )
        if adapter.weight != 1 and (adapter.facts.replaced or adapter.facts.tokens):
            raise ModelError(
                f"{adapter.facts.directory} replaces whole parameters, which have no weight.",
                next_step="Give it the weight 1.",
            )
    seen: dict[str, AdapterFacts] = {}
    for adapter in adapters:
        for parameter in [*adapter.facts.replaced, *adapter.facts.tokens]:
            if parameter in seen:
                raise ModelError(
                    f"Two adapters replace {parameter}: {seen[parameter].directory} and {adapter.facts.directory}.",
                    next_step="Merge one of them.",
                )
            seen[parameter] = adapter.facts
