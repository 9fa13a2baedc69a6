"""The peak of a training step of the fast engine, with some layers kept and the others computed again.

The last layers are kept: they are the first that the backward pass uses up, so that none of them is left when it comes to the
first one that is computed again. Were the first ones kept, a whole layer more would live at that moment.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..config.schema import RunConfig
from ..models.shape import ModelShape
from .fast_batch import FastBatch
from .fast_layer import FastLayer
from .tape import Moment
from .training import WIDTHS, Moments, Peak, Workload
from .weights import OptimizerState, adapter_tensors, base_weights, optimizer_state, target_names

# Logits that the loss holds at once, of whole tokens.
CHUNK_ELEMENTS = 2**26


@dataclass(frozen=True)
class FastTraining:
    """Training of `config` on a model of `shape` by the fast engine, and what stays the same whatever is kept."""

    config: RunConfig
    shape: ModelShape
    compute_dtype: str
    on_cpu: bool
    on_host: bool = False

    def peak(self, *, kept: int, workload: Workload) -> Peak:
        """The fullest moment of one step whose last `kept` layers keep their activations."""
        layer = self.layer(workload)
        accumulates = self.config.training.gradient_accumulation_steps > 1
        step = _FastStep(layer, kept, workload, self.shape.layers * layer.gradients if accumulates else 0)
        moments = [*step.moments(4 * self._trained), ("optimiser step", step.stepping(self._state.step))]
        name, parts = max(moments, key=lambda item: sum(item[1].values()))
        found = {**self._fixed, **parts}
        return Peak({key: value for key, value in found.items() if value}, name, self._state.paged)

    def layer(self, workload: Workload) -> FastLayer:
        """One layer, which stands for all."""
        return self._unequal if workload.padded else self._equal

    @cached_property
    def _fixed(self) -> dict[str, int]:
        layer = self._equal
        return {
            **base_weights(self.shape, self.config.quantization, layer.batch.width),
            "adapter (fp32)": 4 * self._trained,
            "adapter copies (fast engine)": self.shape.layers * layer.copies,
            "decoded weights": layer.decoded,
            "optimiser state": self._state.allocated,
        }

    @cached_property
    def _tensors(self) -> list[int]:
        return [elements for block in adapter_tensors(self.shape, self.config.lora) for elements in block]

    @cached_property
    def _trained(self) -> int:
        return sum(self._tensors)

    @cached_property
    def _state(self) -> OptimizerState:
        return optimizer_state(self.config.training.optimizer, self._tensors)

    @cached_property
    def _equal(self) -> FastLayer:
        """A layer on rows that are of one length, as far as the config leaves them so."""
        return FastLayer(self.shape, self._batch(equal=True))

    @cached_property
    def _unequal(self) -> FastLayer:
        return FastLayer(self.shape, self._batch(equal=False))

    def _batch(self, *, equal: bool) -> FastBatch:
        training = self.config.training
        flash = self.config.model.attention_implementation == "flash_attention_2"
        packs = training.packing in ("bins", "padding_free") or (training.packing == "auto" and flash)
        windowed = bool(self.shape.sliding_layers and (self.shape.sliding_window or 0) < training.max_length_tokens)
        return FastBatch(
            tokens=training.micro_batch_size * training.max_length_tokens,
            width=WIDTHS[self.compute_dtype],
            rank=self.config.lora.rank,
            targets=target_names(self.config.lora, self.shape, sparse=False),
            equal=equal and not (packs or windowed),
            in_4bit=self.config.quantization.kind != "none",
            plain=self.on_cpu,
            on_host=self.on_host,
            dropout=self.config.lora.dropout > 0,
        )


@dataclass(frozen=True)
class _FastStep:
    """One optimiser step; `accumulated` are the gradients that earlier micro-batches of it left."""

    layer: FastLayer
    kept: int
    workload: Workload
    accumulated: int

    def moments(self, trained: int) -> Moments:
        """Every moment that can be the fullest, with its parts beside the fixed ones; `trained` are the adapters' bytes."""
        shared = {"batch and masks": self._batch_bytes, "gradients (fp32)": self.accumulated}
        yield "copying the adapters", {**shared, "scaled adapters": trained}
        layer, first_kept = self.layer, self._layers - self.kept
        last = layer.keeping if self.kept else layer.passing
        yield _moment("forward of the last layer", last, shared, self._saved(self._layers - 1) + layer.entry)
        for name, size in self._loss_moments():
            yield name, {**shared, "saved activations": self._saved(self._layers), "loss": size}
        for index in self._turning_points():
            found = layer.backward if index >= first_kept else layer.backward_again
            behind = self.accumulated or (self._layers - 1 - index) * layer.gradients
            parts = {**shared, "gradients (fp32)": behind}
            yield _moment(f"backward of layer {index + 1}", found, parts, self._saved(index + 1))

    def stepping(self, borrowed: int) -> dict[str, int]:
        """The optimiser's step, which borrows so much."""
        return {"gradients (fp32)": self._layers * self.layer.gradients, "optimiser scratch": borrowed}

    @property
    def _layers(self) -> int:
        return self.layer.shape.layers

    def _saved(self, count: int) -> int:
        """What the first `count` layers have saved."""
        kept = max(0, count - (self._layers - self.kept))
        return (count - kept) * self.layer.stored + kept * self.layer.kept

    def _turning_points(self) -> Iterator[int]:
        """The ends of the layers that are kept and of those that are not: in between, sizes change by equal steps."""
        first_kept = self._layers - self.kept
        yield from {index for index in (self._layers - 1, first_kept, first_kept - 1, 0) if 0 <= index < self._layers}

    @property
    def _batch_bytes(self) -> int:
        """The trainer's ids, labels and mask, the rows without padding as int64, and cosines and sines in fp32."""
        tokens = self.layer.batch.tokens
        return (3 + 4) * 8 * tokens + 2 * 4 * tokens * self.layer.shape.head_size

    def _loss_moments(self) -> Iterator[tuple[str, int]]:
        """`SummedCrossEntropy`: the gradient of the hidden states is there before the backward pass begins."""
        batch, shape = self.layer.batch, self.layer.shape
        learnt = max(1, round(batch.tokens * self.workload.learnt_fraction))
        gathered = learnt * shape.hidden_size * batch.width
        logits = min(max(1, CHUNK_ELEMENTS // shape.vocabulary), learnt) * shape.vocabulary
        wide = 4 * logits if batch.plain and batch.width == 2 else 0
        yield "loss, forward", self.layer.entry + 2 * gathered + 4 * learnt + logits * batch.width + wide
        scaled = learnt * shape.hidden_size * 4
        yield "loss, backward", gathered + scaled + max(scaled, gathered)
        yield "loss, gradient of all tokens", gathered + self.layer.entry


def _moment(name: str, moment: Moment, parts: dict[str, int], saved: int) -> tuple[str, dict[str, int]]:
    live = {"live block": moment.transient, "scratch": moment.scratch}
    return f"{name} ({moment.operation})", {**parts, "saved activations": saved, **live}
