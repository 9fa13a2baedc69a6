"""What the values of a config cost in memory, by the estimator: parts of the peak, and the peak with another value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import RunConfig
from ..errors import ConfigError, ModelError
from ..memory import MemoryEstimate, estimate_training
from ..models.hardware import Hardware
from ..models.known import KnownModel, find_model
from ..models.reference import ModelReference

_GIB, _MIB = 2**30, 2**20
# Figures of a config that leaves the dtype to the machine are those of a GPU that computes in bf16.
_GPU = Hardware("cuda", "a GPU with bf16", 0, 0, computes_bfloat16=True, compute_capability=(9, 0))
_WEIGHTS = (
    *("base weights", "quantisation constants", "experts (not quantised)"),
    *("embeddings and head", "norms and biases"),
)
_TRAINED = ("adapter (fp32)", "gradients (fp32)", "optimiser state")
_OF_THE_BASE = ("load", "quantization.kind", "quantization.double_quantization")
_UNSAID = "What a line costs in memory is not said"
_OUTSIDE = (*_WEIGHTS, *_TRAINED, "cuBLAS workspaces")


@dataclass(frozen=True)
class Costs:
    """What each field or topic costs in memory, in words, by its name; `notes` say why there are none."""

    words: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def memory_costs(config: RunConfig, *, trains: bool = True) -> Costs:
    """The costs of `config` on the GPU, of a model whose shape is known without a network; nothing is fetched.

    A script that does not train has those of the base alone.
    """
    try:
        known = _known_offline(config)
        if known is None:
            return Costs(notes=(f"{_UNSAID}: the model's config.json is not on this machine.",))
        words = _Compared(config, known).words()
    except (ModelError, ConfigError) as error:
        return Costs(notes=(f"{_UNSAID}: {error.message}",))
    return Costs(words if trains else {name: words[name] for name in _OF_THE_BASE if name in words})


def _known_offline(config: RunConfig) -> KnownModel | None:
    model = config.model
    reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
    return None if reference.source == "hub" else find_model(model.name, source=model.source)


class _Compared:
    """The estimate of a config, beside those of configs that differ from it in one field."""

    def __init__(self, config: RunConfig, known: KnownModel) -> None:
        self._config, self._known = config, known
        self._here = self._estimate(config)

    def words(self) -> dict[str, str]:
        """What each field or topic costs."""
        training, lora, quantization = self._config.training, self._config.lora, self._config.quantization
        weights, trained = self._sum(_WEIGHTS), self._trained()
        activations = self._here.mid_bytes - sum(self._here.parts.get(name, 0) for name in _OUTSIDE)
        words = {
            "model.name": f"{_size(self._here.mid_bytes)} at the peak, {_size(weights)} of it the base",
            "load": f"{_size(weights)} for the base",
            "quantization.kind": f"{_size(weights)} for the base{self._against('quantization', kind='none')}",
            "lora": trained,
            "lora.rank": f"{trained}{self._against('lora', rank=min(2 * lora.rank, 1024))}",
            "lora.target_modules": trained,
            "master_weights": f"{_size(self._sum(('adapter (fp32)',)))}; bf16 would take half",
            "training.optimizer": self._optimizer(),
            "training.micro_batch_size": f"{_size(activations)} for activations and logits"
            + self._against("training", micro_batch_size=2 * training.micro_batch_size),
            "training.max_length_tokens": f"{_size(activations)} for activations and logits"
            + self._against("training", max_length_tokens=2 * training.max_length_tokens),
            "training.gradient_checkpointing": self._switch(
                "training", "gradient_checkpointing", on=training.gradient_checkpointing
            ),
        }
        if quantization.kind in ("nf4", "fp4"):
            words["quantization.double_quantization"] = self._switch(
                "quantization", "double_quantization", on=quantization.double_quantization
            )
        for name, on in (("use_dora", lora.use_dora), ("dropout", lora.dropout > 0)):
            if on:
                words[f"lora.{name}"] = self._switch("lora", name, on=True)
        return words

    def _trained(self) -> str:
        adapter, gradients, state = (self._sum((name,)) for name in _TRAINED)
        whole = adapter + gradients + state + self._here.paged_bytes
        parts = f"adapter {_size(adapter)}, gradients {_size(gradients)}"
        return f"{_size(whole)}: {parts}, optimiser {_size(state + self._here.paged_bytes)}"

    def _optimizer(self) -> str:
        paged = self._here.paged_bytes
        moved = f", of which {_size(paged)} may move to the host" if paged else ""
        state = _size(self._sum(("optimiser state",)) + paged)
        return f"{state} of state{moved}{self._against('training', optimizer='adamw_torch')}"

    def _against(self, part: str, **other: Any) -> str:
        """How much more or less the peak is with another value; nothing where it is the same."""
        ((name, value),) = other.items()
        estimate = self._with(part, name, value)
        difference = _whole(estimate) - _whole(self._here)
        if not difference:
            return ""
        return f"; {_signed(difference)} with {name} {value}"

    def _switch(self, part: str, name: str, *, on: bool) -> str:
        """What a field that is on or off saves or costs."""
        was = getattr(getattr(self._config, part), name)
        saved = _whole(self._with(part, name, (not was) if isinstance(was, bool) else 0)) - _whole(self._here)
        if not on:
            return f"on, it would save {_size(-saved)}" if saved < 0 else f"on, it would cost {_size(saved)}"
        return f"saves {_size(saved)}" if saved >= 0 else f"costs {_size(-saved)}"

    def _with(self, part: str, name: str, value: Any) -> MemoryEstimate:
        changed = getattr(self._config, part).model_copy(update={name: value})
        return self._estimate(self._config.model_copy(update={part: changed}))

    def _estimate(self, config: RunConfig) -> MemoryEstimate:
        dtype = resolve_compute_dtype(config.quantization.compute_dtype, _GPU)
        # A script trains as the stock engine does, whichever the config names.
        stock = config.model_copy(update={"training": config.training.model_copy(update={"engine": "stock"})})
        return estimate_training(stock, self._known.shape, compute_dtype=dtype)

    def _sum(self, names: tuple[str, ...]) -> int:
        return sum(self._here.parts.get(name, 0) for name in names)


def _whole(estimate: MemoryEstimate) -> int:
    """Allocated by torch and paged: what an optimiser's state takes shows in one or the other."""
    return estimate.mid_bytes + estimate.paged_bytes


def _signed(size: int) -> str:
    return f"{'+' if size > 0 else '-'}{_size(abs(size))}"


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / _MIB:.1f} MiB"
