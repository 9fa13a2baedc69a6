"""What one layer of the fast engine takes, keeps and gives back: line by line as its `layer`, `self_attention` and `mlp`.

The engine has a forward and a backward pass of its own, so that its tensors live as long as its code says and not as long
as autograd does: a ledger follows its lines where `tape.py` replays operations. Nothing here is fitted.
"""

from dataclasses import dataclass
from functools import cached_property

from ..models.shape import ModelShape
from .fast_batch import FastBatch, GroupSize
from .ledger import Ledger
from .tape import Moment

_OF_MLP = ("MLP norm", "gate and up", "MLP thin")


@dataclass(frozen=True)
class FastLayer:
    """A decoder layer of the fast engine on one micro-batch; sizes in bytes."""

    shape: ModelShape
    batch: FastBatch

    @cached_property
    def groups(self) -> tuple[GroupSize, GroupSize, GroupSize, GroupSize]:
        """Query, key and value; output; gate and up; down."""
        linears, batch, traits = self.shape.linear_shapes(sparse=False), self.batch, self.shape.traits
        fused = ("q_proj", "k_proj", "v_proj") if traits.fused_qkv is None else (traits.fused_qkv,)
        made = [
            GroupSize(
                linears[names[0]][0],
                tuple(linears[name][1] for name in names),
                tuple(batch.rank if name in batch.targets else 0 for name in names),
            )
            for names in (fused, (traits.output_name,), traits.mlp_names[:-1], traits.mlp_names[-1:])
        ]
        return made[0], made[1], made[2], made[3]

    @cached_property
    def copies(self) -> int:
        """Copies of the adapters in the compute dtype, and the biases of a group in one."""
        biases = self.groups[0].wide if self.shape.traits.qkv_bias else 0
        return self.batch.width * (sum(group.copied_elements for group in self.groups) + biases)

    @cached_property
    def gradients(self) -> int:
        """fp32 gradients of the adapters; those of the A of a group lie in one tensor, padding included."""
        return 4 * sum(group.copied_elements for group in self.groups)

    @cached_property
    def decoded(self) -> int:
        """The shared memory that the weights of a group are decoded into."""
        if self.batch.plain or not self.batch.in_4bit:
            return 0
        return self.batch.width * max(group.decoded_elements for group in self.groups)

    @cached_property
    def entry(self) -> int:
        """The input of a layer, or its output."""
        return self._features(self.shape.hidden_size)

    @cached_property
    def stored(self) -> int:
        """What a layer that is computed again stores: its input, unless that waits on the host, and a thin product."""
        return self._thin + (0 if self.batch.on_host else self.entry)

    @cached_property
    def kept(self) -> int:
        """What a layer stores that is kept."""
        ledger = Ledger()
        self._attention(ledger, keep=True)
        return self.entry + self._thin + ledger.held + self._opened_bytes(self.batch.tokens)

    @cached_property
    def keeping(self) -> Moment:
        """The fullest moment of the forward pass of a kept layer, above its input and what the layers before it store."""
        ledger = Ledger()
        self._attention(ledger, keep=True)
        ledger.take("output", self.entry)
        ledger.take("earlier parts", self._opened_bytes(self.batch.tokens - self.batch.part))
        self._mlp(ledger)
        return ledger.fullest

    @cached_property
    def passing(self) -> Moment:
        """The same of a layer that will be computed again. An input that goes to the host lives until the copy is made."""
        ledger = Ledger({"input before it": self.entry if self.batch.on_host else 0})
        self._attention(ledger, keep=False)
        self._mlp(ledger)
        return ledger.fullest

    @cached_property
    def backward(self) -> Moment:
        """The fullest moment of the backward pass of a kept layer, above what it and the layers before it store.

        The gradient that comes in is counted.
        """
        ledger = Ledger({"gradient of the output": self.entry})
        self._output_room(ledger)
        self._earlier_part(ledger)
        self._mlp_backward(ledger)
        ledger.drop("earlier part")
        ledger.take("given back by the MLP", -self._opened_bytes(self.batch.tokens) - self.entry)
        self._attention_backward(ledger)
        return ledger.fullest

    @cached_property
    def backward_again(self) -> Moment:
        """The same of a layer that is computed again; inputs that waited on the host come back two at a time."""
        ledger = Ledger({"gradient of the output": self.entry, "inputs": 2 * self.entry if self.batch.on_host else 0})
        self._attention(ledger, keep=True)
        self._output_room(ledger)
        self._earlier_part(ledger)
        self._opened(ledger)
        self._mlp_backward(ledger)
        ledger.drop("earlier part", "middle", *_OF_MLP)
        self._attention_backward(ledger)
        return ledger.fullest

    def _earlier_part(self, ledger: Ledger) -> None:
        """What is still there of earlier parts of the MLP when one is computed: the gradients of adapters."""
        several = self.batch.part < self.batch.tokens
        ledger.take("earlier part", 4 * sum(group.copied_elements for group in self.groups[2:]) if several else 0)

    def _attention(self, ledger: Ledger, *, keep: bool) -> None:
        """`SelfAttention.forward`."""
        (qkv, output), hidden = self.groups[:2], self.shape.hidden_size
        ledger.take("input room", self._features(hidden + qkv.rank), self._plain(3 * hidden))
        ledger.take("attention norm", self._single(1))
        ledger.take("heads", self._features(qkv.wide), max(self._dropped(qkv, 1), self._product(qkv)))
        self._turned(ledger)
        ledger.take("attention thin", self._features(qkv.rank))
        ledger.drop("input room")
        ledger.take("saved by attention", self._saved_by_attention)
        ledger.take("attention", self._features(self._queries))
        if not keep:
            ledger.drop("saved by attention")
        ledger.take("input room", self._features(output.inputs + output.rank))
        ledger.take("middle", self.entry, max(self._dropped(output, 1), self._product(output, adds=True)))
        ledger.take("output thin", self._features(output.rank))
        ledger.drop("input room")

    def _turned(self, ledger: Ledger) -> None:
        turning = self.shape.heads + self.shape.key_value_heads
        if self.shape.traits.qk_norm != "none":
            ledger.take("turned heads", self._features(self.groups[0].wide))
            ledger.take("head norms", self._single(turning))
        ledger.borrow("rotary positions", self._plain(3 * turning * self.shape.head_size))

    def _mlp(self, ledger: Ledger) -> None:
        """`Mlp.forward` on its last part; those before have left their thin products."""
        down, part = self.groups[3], self.batch.part
        ledger.take("thin products of parts", self._thin)
        self._opened(ledger)
        room = self._features(down.inputs + down.rank, part)
        ledger.take("input room", room, self._plain(3 * down.inputs, part))
        ledger.borrow("down", max(self._dropped(down, 1, part), self._product(down, part, adds=True)))
        ledger.drop("input room")
        ledger.take("down thin", self._thin)

    def _opened(self, ledger: Ledger) -> None:
        """`Mlp._opened` on a part."""
        gate_up, hidden, part = self.groups[2], self.shape.hidden_size, self.batch.part
        ledger.take("input room", self._features(hidden + gate_up.rank, part), self._plain(3 * hidden, part))
        ledger.take("MLP norm", self._single(1, part))
        borrowed = max(self._dropped(gate_up, 1, part), self._product(gate_up, part))
        ledger.take("gate and up", self._features(gate_up.wide + gate_up.rank, part), borrowed)
        ledger.take("MLP thin", self._features(gate_up.rank, part))
        ledger.drop("input room")

    def _opened_bytes(self, tokens: int) -> int:
        """What `_opened` makes of so many tokens."""
        gate_up = self.groups[2]
        return self._single(1, tokens) + self._features(gate_up.wide + 2 * gate_up.rank, tokens)

    def _output_room(self, ledger: Ledger) -> None:
        output = self.groups[1]
        ledger.take("gradient of the middle", self._features(output.wide + output.rank))

    def _mlp_backward(self, ledger: Ledger) -> None:
        """`Mlp._part_backward` and what follows it, on a part."""
        gate_up, down = self.groups[2:]
        part, hidden = self.batch.part, self.shape.hidden_size
        ledger.take("gradient room", self._features(down.wide + down.rank, part))
        self._b_gradients(ledger, down, part)
        borrowed = max(self._dropped(down, 2, part), self._product(down, part))
        ledger.take("gradient of the inner", self._features(down.inputs, part), borrowed)
        # Plain operations widen both halves where they are narrow, and make four more.
        ledger.borrow("gate", self._plain((6 if self.batch.width == 2 else 4) * down.inputs, part))
        self._a_gradients(ledger, down, part)
        ledger.drop("gradient of the inner", "gradient room")
        self._b_gradients(ledger, gate_up, part)
        borrowed = max(self._dropped(gate_up, 2, part), self._product(gate_up, part))
        ledger.take("gradient of the normed", self._features(hidden, part), borrowed)
        ledger.take("normed", self._features(hidden, part), self._plain(2 * hidden, part))
        self._a_gradients(ledger, gate_up, part)
        ledger.drop("normed")
        ledger.borrow("norm", self._plain(4 * hidden, part))
        ledger.drop("gradient of the normed")

    def _attention_backward(self, ledger: Ledger) -> None:
        """`SelfAttention.backward`."""
        (qkv, output), hidden = self.groups[:2], self.shape.hidden_size
        self._b_gradients(ledger, output)
        borrowed = max(self._dropped(output, 2), self._product(output))
        ledger.take("gradient of attention", self._features(self._queries), borrowed)
        self._a_gradients(ledger, output)
        ledger.take("gradients of heads", self._features(qkv.wide), self._attention_scratch)
        ledger.take("given back by attention", -self._saved_by_attention)
        ledger.take("gradient room", self._features(qkv.wide + qkv.rank), self._plain(self._turning * self._queries))
        ledger.drop("gradients of heads", "gradient of attention")
        self._b_gradients(ledger, qkv)
        ledger.take("normed", self.entry, self._plain(2 * hidden))
        self._a_gradients(ledger, qkv)
        ledger.drop("normed")
        ledger.take("gradient of the input", self.entry, max(self._dropped(qkv, 2), self._product(qkv)))
        ledger.borrow("norm", self._plain(4 * hidden))

    def _b_gradients(self, ledger: Ledger, group: GroupSize, tokens: int | None = None) -> None:
        ledger.take("gradients of adapters", 4 * group.b_elements, self._copied(max(group.outputs), tokens))

    def _a_gradients(self, ledger: Ledger, group: GroupSize, tokens: int | None = None) -> None:
        size = 4 * group.rank * group.inputs
        if not size:
            return
        masked = self._dropped(group, min(2, len(group.outputs)), tokens)
        ledger.take("gradients of adapters", size, self._copied(group.inputs, tokens) + masked)

    def _dropped(self, group: GroupSize, copies: int, tokens: int | None = None) -> int:
        """Inputs of adapters with a part of them dropped."""
        return copies * self._features(group.inputs, tokens) if self.batch.dropout and group.rank else 0

    def _product(self, group: GroupSize, tokens: int | None = None, *, adds: bool = False) -> int:
        """What a product borrows where weights are multiplied one by one: the decoded one, and a sum before the residual."""
        batch = self.batch
        if batch.in_4bit and not batch.plain:
            return 0
        decoded = batch.width * group.inputs * max(group.outputs) if batch.in_4bit else 0
        return decoded + (self._features(max(group.outputs), tokens) if adds else 0)

    def _copied(self, features: int, tokens: int | None) -> int:
        """A CPU has no product of 16-bit matrices with fp32 results: the larger side is copied to fp32 first."""
        return self._single(features, tokens) if self.batch.plain and self.batch.width == 2 else 0

    def _plain(self, features: int, tokens: int | None = None) -> int:
        """fp32 copies that plain operations make of so many features."""
        return self._single(features, tokens) if self.batch.plain else 0

    @cached_property
    def _thin(self) -> int:
        return self._features(self.groups[3].rank)

    @property
    def _turning(self) -> int:
        """fp32 tensors that plain operations make where heads are turned back."""
        return 2 if self.shape.traits.qk_norm == "none" else 4

    @cached_property
    def _queries(self) -> int:
        return self.shape.heads * self.shape.head_size

    @cached_property
    def _saved_by_attention(self) -> int:
        """Logarithms of sums, and copies of key and value heads: by lengths, torch 2.11 wants as many as query heads."""
        repeats = not (self.batch.equal or self.batch.plain) and self.shape.heads != self.shape.key_value_heads
        return self._single(self.shape.heads) + (2 * self._features(self._queries) if repeats else 0)

    @cached_property
    def _attention_scratch(self) -> int:
        """The gradient of the queries summed up in fp32, those of keys and values for all query heads, and sums of rows."""
        if self.batch.plain:
            return self._single(self.shape.heads)
        grouped = 2 * self._features(self._queries) if self.shape.heads != self.shape.key_value_heads else 0
        return self._single(self._queries) + grouped + self._single(self.shape.heads)

    def _features(self, features: int, tokens: int | None = None) -> int:
        """So many features a token, in the compute dtype; of all tokens where no part is named."""
        return (self.batch.tokens if tokens is None else tokens) * features * self.batch.width

    def _single(self, features: int, tokens: int | None = None) -> int:
        """So many fp32 values a token."""
        return 4 * (self.batch.tokens if tokens is None else tokens) * features
