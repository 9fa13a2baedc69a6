"""The operations of the stock path (Transformers, PEFT, bitsandbytes) as they stand on the tape.

Each method says what autograd saves and what a kernel borrows, read from the code of the libraries: torch 2.11 to 2.13,
Transformers 5.17 to 5.23, PEFT 0.21, bitsandbytes 0.50. Sizes in elements and bytes; nothing here is fitted.
"""

from dataclasses import dataclass, field
from typing import Literal

from .tape import Tape, Tensor

BLOCK = 64  # weights that share one scale
NESTED_BLOCK = 256  # scales that share one scale of scales
EXPERTS = "experts"  # among the targets: PEFT adapts the 3-D tensors of experts too

# Activations that Transformers writes as several operations, and what each saves beside its input.
ACTIVATION_CHAINS = {"gelu_new": 3, "gelu_fast": 3, "quick_gelu": 1, "relu2": 1}

Kind = Literal["nf4", "fp4", "int8", "none"]
AttentionKernel = Literal["flash", "masked", "eager"]


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at once, and how: rows x length tokens, bytes of the compute dtype, the adapter.

    `autocast` is on for 16-bit compute: adapters are fp32 then, and cast for every product. `attention` is the kernel:
    flash stores no scores, masked takes a mask of length x length a row (padded rows, sliding windows), eager keeps them.
    """

    rows: int
    length: int
    width: int
    quantization: Kind
    nested: bool
    rank: int
    targets: frozenset[str]
    dropout: bool = False
    dora: bool = False
    attention: AttentionKernel = "flash"

    @property
    def tokens(self) -> int:
        """Rows x length."""
        return self.rows * self.length

    @property
    def autocast(self) -> bool:
        """Whether products run under autocast, which is so for every 16-bit dtype."""
        return self.width == 2


@dataclass
class Recorder:
    """Records blocks for one micro-batch."""

    batch: MicroBatch
    tape: Tape = field(default_factory=Tape)

    def tensor(self, features: int, width: int | None = None) -> Tensor:
        """A tensor of so many features a token."""
        return Tensor(self.batch.tokens * features, width or self.batch.width)

    def linear(self, x: Tensor, name: str, shape: tuple[int, int], outliers: float = 0.0) -> Tensor:
        """A linear layer of the base with the adapter that PEFT puts beside it.

        `outliers` is the share of the input's features that int8 multiplies in 16 bits.
        """
        inputs, outputs = shape
        base = self._base_linear(x, inputs, outputs, outliers)
        if name not in self.batch.targets:
            return base
        if self.batch.quantization in ("nf4", "fp4"):
            base = self._pass_on("clone", (base,), Tensor(base.elements, base.width))
        seen, wide = self._adapter_input(x, inputs)
        high = self._low_rank(seen, inputs, outputs)
        delta = self._dora(base, high, shape) if self.batch.dora else self._scaled(high)
        # The caller of the layer and the layer itself still name what came in.
        return self.add(base, delta, held=(x, wide))

    def _base_linear(self, x: Tensor, inputs: int, outputs: int, outliers: float) -> Tensor:
        batch, weight = self.batch, inputs * outputs
        record = self.tape.record
        if batch.quantization == "none":
            x = self._cast(x, batch.width)
            return record("linear", (x,), self.tensor(outputs))
        if batch.quantization == "int8":
            # fp16 copy of the input, its absolute values and the mask of outliers, its codes; int32 and fp16 results.
            forward = batch.tokens * (inputs * (2 + 2 + 1 + 1) + outputs * (4 + 2))
            return record(
                "linear int8",
                (x,),
                self.tensor(outputs, x.width),
                # Held by attributes of the autograd function, which checkpointing does not see.
                kept=(x, self.tensor(round(inputs * outliers), 2)),
                forward_scratch=forward,
                backward_scratch=weight * x.width,
            )
        # bitsandbytes casts to the compute dtype and back, and dequantises the whole weight for each product.
        scratch = weight * batch.width + (4 * weight // BLOCK if batch.nested else 0)
        narrow = record(
            "linear 4-bit",
            (self._cast(x, batch.width),),
            self.tensor(outputs),
            forward_scratch=scratch,
            backward_scratch=scratch,
        )
        return self._cast(narrow, x.width)

    def _adapter_input(self, x: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
        """What `lora_A` saves, and what it is given: PEFT casts to fp32 beside a 16-bit base, autocast casts back."""
        batch = self.batch
        if batch.quantization == "none" and batch.autocast and x.width != 4:
            x = self._cast(x, 4)
        if batch.dropout:
            mask = self.tensor(inputs, 1)
            x = self.tape.record("dropout", (x,), Tensor(x.elements, x.width), saved=(mask,))
        return self._cast(x, batch.width), x

    def _low_rank(self, x: Tensor, inputs: int, outputs: int) -> Tensor:
        rank, width, record = self.batch.rank, self.batch.width, self.tape.record
        copy = 2 if self.batch.autocast else 0  # 16-bit copies of A and B, made by autocast and saved for backward
        a, b = Tensor(rank * inputs * bool(copy), 2, False), Tensor(rank * outputs * bool(copy), 2, False)
        low = record("lora_A", (x,), self.tensor(rank), saved=(x, a), backward_scratch=rank * inputs * width)
        return record("lora_B", (low,), self.tensor(outputs), saved=(low, b), backward_scratch=rank * outputs * width)

    def _scaled(self, x: Tensor) -> Tensor:
        return self.tape.record("scale", (x,), Tensor(x.elements, x.width))

    def _dora(self, base: Tensor, high: Tensor, shape: tuple[int, int]) -> Tensor:
        """DoRA's update: base and low-rank product, each times an fp32 magnitude, so that the sum is fp32.

        PEFT finds the norm of the merged weight by sending an identity of inputs x inputs through A and B in fp32, and
        adds the dequantised weight: scratch that can outgrow everything else.
        """
        inputs, outputs = shape
        width, record = self.batch.width, self.tape.record
        identity, weight = inputs * inputs, inputs * outputs * width
        scratch = max(identity * (4 + width) + weight, identity * width + 4 * weight)
        first = Tensor(base.elements, 4)
        record("dora base", (base,), first, saved=(base,), forward_scratch=scratch, backward_scratch=first.size)
        second = Tensor(high.elements, 4)
        record("dora update", (high,), second, saved=(high,), backward_scratch=second.size)
        return self.add(first, self._scaled(second))

    def add(self, first: Tensor, second: Tensor, held: tuple[Tensor, ...] = ()) -> Tensor:
        """A sum; the wider dtype wins."""
        output = Tensor(first.elements, max(first.width, second.width))
        return self._pass_on("add", (first, second), output, held)

    def _pass_on(self, name: str, inputs: tuple[Tensor, ...], output: Tensor, held: tuple[Tensor, ...] = ()) -> Tensor:
        return self.tape.record(name, inputs, output, passes=True, held=held)

    def _cast(self, x: Tensor, width: int) -> Tensor:
        return x if x.width == width else self.tape.record("cast", (x,), Tensor(x.elements, width))

    def norm(self, x: Tensor, kind: str) -> Tensor:
        """A norm over the features, or over the heads' features, of `x`."""
        return self._rms_norm(x) if kind == "rms" else self._layer_norm(x)

    def _rms_norm(self, x: Tensor) -> Tensor:
        record, width = self.tape.record, x.width
        wide = self._cast(x, 4)
        # One path through the mean of squares, one through the product; the first needs two temporaries in backward.
        square = record("square", (wide,), Tensor(wide.elements, 4), saved=(wide,), backward_scratch=2 * wide.size)
        normed = Tensor(wide.elements, 4)
        record("normalise", (wide, square), normed, saved=(wide,), backward_scratch=wide.size)
        narrow = self._cast(normed, width)
        return record("weight", (narrow,), Tensor(narrow.elements, width))

    def _layer_norm(self, x: Tensor) -> Tensor:
        # Autocast runs layer_norm in fp32, and leaves its output so.
        wide = self._cast(x, 4) if self.batch.autocast else x
        return self.tape.record("layer_norm", (wide,), Tensor(wide.elements, wide.width), saved=(wide,))

    def rope(self, x: Tensor) -> Tensor:
        """Rotary positions: x cos + rotate(x) sin. Cosine and sine are shared by all blocks."""
        return self.tape.record(
            "rope", (x,), Tensor(x.elements, x.width), forward_scratch=2 * x.size, backward_scratch=3 * x.size
        )

    def part(self, whole: Tensor, features: int) -> Tensor:
        """A view of some features of `whole`; its gradient comes back in the size of the whole."""
        part = Tensor(self.batch.tokens * features, whole.width, whole=whole)
        return self.tape.record("part", (whole,), part)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, heads: int, *, capped: bool = False) -> Tensor:
        """Scaled dot product attention by the kernel of the batch; `capped` scores go through a tanh."""
        batch = self.batch
        query, key, value = (self._cast(tensor, batch.width) for tensor in (query, key, value))
        if batch.attention != "flash" and query.elements // heads < key.elements < query.elements:
            # Heads of keys and values are copied for every head of queries; a single one is only looked at repeatedly.
            key, value = self._repeat(key, query.elements), self._repeat(value, query.elements)
        scores = batch.rows * heads * batch.length**2
        if batch.attention == "eager":
            return self._eager(query, key, value, scores, capped=capped)
        sums = Tensor(batch.tokens * heads, 4)
        output = Tensor(query.elements, batch.width)
        mask = (Tensor(batch.rows * batch.length**2, batch.width, False),) if batch.attention == "masked" else ()
        # Gradient of the queries summed up in fp32, and keys' and values' for all query heads.
        grouped = 2 * query.size if key.elements != query.elements else 0
        saved = (query, key, value, output, sums, *mask)
        scratch = 4 * query.elements + grouped + sums.size
        return self.tape.record("attention", (query, key, value), output, saved=saved, backward_scratch=scratch)

    def _repeat(self, x: Tensor, elements: int) -> Tensor:
        return self.tape.record("repeat", (x,), Tensor(elements, x.width))

    def _eager(self, query: Tensor, key: Tensor, value: Tensor, scores: int, *, capped: bool) -> Tensor:
        record, width = self.tape.record, self.batch.width
        raw = record("scores", (query, key), Tensor(scores, width), saved=(query, key))
        scaled = record("scale", (raw,), Tensor(scores, width))
        if capped:
            bounded = Tensor(scores, width)
            scaled = record("cap", (record("tanh", (scaled,), bounded, saved=(bounded,)),), Tensor(scores, width))
        wide = self._cast(record("mask", (scaled,), Tensor(scores, width)), 4)
        shares = Tensor(scores, 4)
        # Its backward multiplies gradient and output first.
        record("softmax", (wide,), shares, saved=(shares,), backward_scratch=shares.size)
        narrow = self._cast(shares, width)
        mixed = record("values", (narrow, value), Tensor(query.elements, width), saved=(narrow, value))
        return record("layout", (mixed,), Tensor(query.elements, width))

    def activation(self, x: Tensor, name: str) -> Tensor:
        """SiLU, GELU and their kin: one kernel that saves its input, or the chain of operations that some are written as."""
        more = ACTIVATION_CHAINS.get(name, 0)
        parts = tuple(Tensor(x.elements, x.width, needs_grad=False) for _ in range(more))
        scratch = x.size if more else 0
        output = Tensor(x.elements, x.width)
        return self.tape.record("activation", (x,), output, saved=(x, *parts), backward_scratch=scratch)

    def dropout(self, x: Tensor) -> Tensor:
        """Dropout of the residual stream, where the model's own config has one: it saves a mask of bytes."""
        mask = Tensor(x.elements, 1, needs_grad=False)
        return self.tape.record("dropout", (x,), Tensor(x.elements, x.width), saved=(mask,))

    def multiply(self, first: Tensor, second: Tensor, held: tuple[Tensor, ...] = ()) -> Tensor:
        """A product of two tensors; each is saved for the other's gradient."""
        output = Tensor(first.elements, max(first.width, second.width))
        return self.tape.record("multiply", (first, second), output, saved=(first, second), held=held)
