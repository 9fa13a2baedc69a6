"""The peak of a training step, found by walking through its moments: each block's backward, the loss, the optimiser."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from ..config.schema import RunConfig
from ..models.shape import ModelShape
from .block import masked, record_block
from .operations import AttentionKernel, MicroBatch, Recorder
from .tape import Block, Moment
from .weights import adapter_tensors, base_weights, kind_of, optimizer_state, target_names, trained_tables

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# The fused head of TRL 1.15 and 1.16 computes logits in tiles of so many tokens and vocabulary columns.
_TILE = (4096, 32_768)


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a run as torch counts it, part by part, and what torch does not count."""

    parts: dict[str, int]
    moment: str
    paged_bytes: int

    @property
    def allocated_bytes(self) -> int:
        """What torch.cuda.max_memory_allocated() shows."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Workload:
    """What decides memory beside model and config.

    The share of tokens that are learnt; whether rows are padded to each other; and how many tiles of logits the loss holds
    at once: one on a GPU, about nine where Triton is missing and plain operations take its place (TRL 1.16).
    """

    learnt_fraction: float = 1.0
    padded: bool = False
    tiles: int = 1


def training_peak(config: RunConfig, shape: ModelShape, *, compute_dtype: str, workload: Workload) -> Peak:
    """Walk through one step of `config` on a model of `shape` and return its fullest moment."""
    width = WIDTHS[compute_dtype]
    tensors, tables = adapter_tensors(shape, config.lora), trained_tables(shape, config.lora)
    flat = [elements for block in tensors for elements in block] + tables
    state = optimizer_state(config.training.optimizer, flat)
    fixed = {
        **base_weights(shape, config.quantization, width),
        "adapter (fp32)": 4 * sum(flat),
        "optimiser state": state.allocated,
    }
    accumulates = config.training.gradient_accumulation_steps > 1
    step = _Step(config, shape, width, workload, tuple(sum(block) for block in tensors), sum(tables))
    moments = [*step.moments(accumulates=accumulates), _optimiser_moment(flat, state.step)]
    name, parts = max(moments, key=lambda item: sum(item[1].values()))
    return Peak({key: value for key, value in {**fixed, **parts}.items() if value}, name, state.paged)


def _optimiser_moment(tensors: Sequence[int], borrowed: int) -> tuple[str, dict[str, int]]:
    return "optimiser step", {"gradients (fp32)": 4 * sum(tensors), "optimiser scratch": borrowed}


Moments = Iterator[tuple[str, dict[str, int]]]


def _moment(name: str, moment: Moment, parts: dict[str, int], saved: int) -> tuple[str, dict[str, int]]:
    live = {"live block": moment.saved + moment.transient, "scratch": moment.scratch}
    return f"{name} ({moment.operation})", {**parts, "saved activations": saved, **live}


def _fullest(block: Block, *, recomputes: bool) -> Moment:
    """The fullest moment of a block's backward; under checkpointing it runs forward first, beside the gradient."""
    recomputed = block.saving_forward_peak
    if recomputes and recomputed.total + block.exit.size > block.backward_peak.total:
        return replace(recomputed, transient=recomputed.transient + block.exit.size)
    return block.backward_peak


@dataclass(frozen=True)
class _Step:
    """One optimiser step: `trained` elements in each block, `tables` in embedding and head."""

    config: RunConfig
    shape: ModelShape
    width: int
    workload: Workload
    trained: tuple[int, ...]
    tables: int

    def moments(self, *, accumulates: bool) -> Moments:
        """Every moment that can be the fullest, with its parts beside the fixed ones."""
        blocks, checkpointing = self._blocks(), self.config.training.gradient_checkpointing
        stored = [block.kept_bytes + block.entry.size if checkpointing else block.saved_bytes for block in blocks]
        # Embeddings that are scaled outside their module stay beside the scaled ones.
        embedded = blocks[0].entry.size if self.shape.traits.scaled_residual else 0
        shared = {"batch and masks": self._batch_bytes() + embedded}
        # With accumulation all gradients are there from the first micro-batch on; else they come one by one.
        everything = 4 * (sum(self.trained) + self.tables) if accumulates else 0
        held = {**shared, "gradients (fp32)": everything}
        for name, parts in self._loss_moments(blocks[-1], checkpointing=checkpointing):
            yield name, {**held, "saved activations": sum(stored), **parts}
        if not checkpointing:
            yield _moment("forward of the last block", blocks[-1].saving_forward_peak, held, sum(stored[:-1]))
        for name, parts in self._backward_moments(blocks, stored, everything):
            yield name, {**shared, **parts}
        gradients = 4 * (sum(self.trained) + self.tables)
        embeddings = {"live block": blocks[0].entry.size, "gradients (fp32)": gradients}
        yield "backward of the embeddings", {**shared, **embeddings}

    def _backward_moments(self, blocks: list[Block], stored: list[int], everything: int) -> Moments:
        """Each block's backward, from the last to the first: behind it gradients grow, before it activations go."""
        checkpointing = self.config.training.gradient_checkpointing
        before, gradients = sum(stored), self._head_gradient()
        for index in reversed(range(len(blocks))):
            fullest = _fullest(blocks[index], recomputes=checkpointing)
            held = before if checkpointing else before - stored[index]
            parts = {"gradients (fp32)": everything or gradients}
            yield _moment(f"backward of block {index + 1}", fullest, parts, held)
            before -= stored[index]
            gradients += 4 * self.trained[index]

    def _blocks(self) -> list[Block]:
        sliding = self._sliding_masked()
        blocks: list[Block] = []
        width = 4 if self.tables and "embed_tokens" in str(self.config.lora.modules_to_save) else self.width
        kinds = [index >= self.shape.dense_layers for index in range(self.shape.layers)]
        # One of each kind: looking one up means hashing the whole config.
        batches = {sparse: self._batch(sparse) for sparse in set(kinds)}
        for index, sparse in enumerate(kinds):
            batch = batches[sparse]
            # Which blocks slide does not matter for the peak, only how many; they are put first.
            batch = masked(batch) if index < sliding else batch
            block = record_block(self.shape, batch, sparse=sparse, entry_width=width)
            width = block.exit.width
            blocks.append(block)
        return blocks

    def _sliding_masked(self) -> int:
        """Blocks whose window is expressed by a mask: shorter rows need none, and flash_attention_2 knows windows."""
        window = self.shape.sliding_window
        masks = self.config.model.attention_implementation in ("auto", "sdpa")
        return self.shape.sliding_layers if masks and window and self._layout[1] > window else 0

    @cached_property
    def _layout(self) -> tuple[int, int]:
        """Rows and their length as the model sees them: joined rows are one long row."""
        training = self.config.training
        rows, length = training.micro_batch_size, training.max_length_tokens
        return (1, rows * length) if self._joined else (rows, length)

    @property
    def _joined(self) -> bool:
        packing, attention = self.config.training.packing, self.config.model.attention_implementation
        return packing in ("bins", "padding_free") or (packing == "auto" and attention == "flash_attention_2")

    def _batch(self, sparse: bool) -> MicroBatch:
        return _micro_batch(self.config, self.shape, self._layout, self.width, sparse, self._kernel())

    def _kernel(self) -> AttentionKernel:
        asked = self.config.model.attention_implementation
        if asked == "eager" or (asked == "auto" and self.shape.traits.eager_only):
            return "eager"
        # What keeps joined rows apart, and padding out, is a mask; flash_attention_2 is told where rows end.
        apart = self._joined or self.workload.padded
        return "masked" if asked in ("auto", "sdpa") and apart else "flash"

    def _batch_bytes(self) -> int:
        """Token ids, labels and mask as int64, positions' cosines and sines, and a mask of pairs where there is one."""
        rows, length = self._layout
        pairs = rows * length**2 * (self._kernel() != "flash" or self._sliding_masked() > 0)
        if self._kernel() == "eager":
            pairs *= self.width
        return 3 * 8 * rows * length + 2 * self.width * length * self.shape.head_size + pairs

    def _loss_moments(self, last: Block, *, checkpointing: bool) -> Moments:
        """The head computes tiles of logits of the learnt tokens, and sums their gradient up in fp32."""
        recorder = Recorder(self._batch(sparse=False))
        entry = recorder.tensor(self.shape.hidden_size, last.exit.width)
        final = Block(recorder.tape, entry, recorder.norm(entry, self.shape.traits.norm))
        tokens = recorder.batch.tokens
        learnt = max(1, round(tokens * self.workload.learnt_fraction))
        tile = self.workload.tiles * min(learnt, _TILE[0]) * _TILE[1] * self.width
        gathered = learnt * self.shape.hidden_size * final.exit.width
        table = self._head_gradient()
        # Two slices of a head in fp32 are cast at a time.
        slices = 2 * _TILE[1] * self.shape.hidden_size * self.width if table and self.width == 2 else 0
        # Under checkpointing nobody else holds the 16-bit copies of the adapter that autocast makes.
        copies = 2 * sum(self.trained) if checkpointing and self.width == 2 else 0
        statistics = 8 * 4 * learnt
        yield (
            "loss, forward",
            {
                "loss": final.saved_bytes + final.exit.size + gathered + tile + statistics,
                "adapter copies": copies,
            },
        )
        summed = learnt * self.shape.hidden_size * 4
        yield (
            "loss, backward",
            {
                "loss": final.saved_bytes + 2 * gathered + summed + tile + statistics + table + slices,
            },
        )
        yield "final norm, backward", {"loss": final.backward_peak.total, "gradients of tables (fp32)": table}

    def _head_gradient(self) -> int:
        """The gradient of a head that is trained in full."""
        trained = any(name.rsplit(".", 1)[-1] in ("lm_head", "embed_out") for name in self.config.lora.modules_to_save)
        return 4 * self.shape.vocabulary * self.shape.hidden_size * trained


@lru_cache(maxsize=64)
def _micro_batch(
    config: RunConfig, shape: ModelShape, layout: tuple[int, int], width: int, sparse: bool, kernel: AttentionKernel
) -> MicroBatch:
    lora = config.lora
    return MicroBatch(
        rows=layout[0],
        length=layout[1],
        width=width,
        quantization=kind_of(shape, config.quantization),
        nested=config.quantization.double_quantization,
        rank=lora.rank,
        targets=target_names(lora, shape, sparse=sparse),
        dropout=lora.dropout > 0,
        dora=lora.use_dora,
        attention=kernel,
    )
