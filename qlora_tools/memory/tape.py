"""A tape of tensor sizes: what one decoder block allocates, keeps and frees in forward and backward.

The tape knows sizes and lifetimes, never values. Operations are recorded in forward order with what autograd saves for
each; `Block` replays them as PyTorch's engine does: an output lives until its last use or as long as it is saved,
a gradient until its operation has run, and gradients of one tensor are summed in place where nobody else holds them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(eq=False)
class Tensor:
    """A tensor by its size: elements, bytes of one element, and whether a gradient flows through it.

    A view has the tensor that owns its memory as `whole`: whoever keeps the view keeps all of that.
    """

    elements: int
    width: int
    needs_grad: bool = True
    whole: "Tensor | None" = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * self.width

    @property
    def owner(self) -> "Tensor":
        """The tensor whose memory this is."""
        return self if self.whole is None else self.whole.owner


@dataclass(eq=False)
class Operation:
    """One recorded operation.

    `saved` is what autograd keeps through its hooks, so that checkpointing can drop it; `kept` is what the operation
    holds by itself, which checkpointing does not reach. `held` are tensors that its callers still name when it runs. With
    `passes` the inputs get the output's gradient unchanged.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    saved: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    held: tuple[Tensor, ...] = ()
    passes: bool = False
    forward_scratch: int = 0
    backward_scratch: int = 0


@dataclass
class Tape:
    """Records the operations of one decoder block."""

    operations: list[Operation] = field(default_factory=list)

    def record(
        self,
        name: str,
        inputs: Sequence[Tensor],
        output: Tensor,
        saved: Sequence[Tensor] = (),
        **details: int | bool | tuple[Tensor, ...],
    ) -> Tensor:
        """Append an operation and return its output."""
        operation = Operation(name, tuple(inputs), output, tuple(saved), **details)  # type: ignore[arg-type]
        output.needs_grad = any(tensor.needs_grad for tensor in inputs) or bool(saved)
        self.operations.append(operation)
        return output


@dataclass(frozen=True)
class Moment:
    """The fullest moment of a replay, in bytes above what was held before: activations that were saved, and the rest."""

    saved: int
    transient: int
    scratch: int
    operation: str

    @property
    def total(self) -> int:
        """Bytes at this moment."""
        return self.saved + self.transient + self.scratch


@dataclass(frozen=True)
class Block:
    """A recorded block, replayed."""

    tape: Tape
    entry: Tensor
    exit: Tensor

    @cached_property
    def saved_bytes(self) -> int:
        """What the block keeps from forward to backward without checkpointing; its entry is counted where it is saved."""
        return sum(tensor.size for tensor in _owners(t for op in self.tape.operations for t in (*op.saved, *op.kept)))

    @cached_property
    def kept_bytes(self) -> int:
        """What it keeps even under checkpointing, beside its entry."""
        return sum(tensor.size for tensor in _owners(t for op in self.tape.operations for t in op.kept))

    @cached_property
    def forward_peak(self) -> Moment:
        """The fullest moment of a forward pass whose saved tensors are dropped (inference, or before recomputation)."""
        return _Forward(self, keeps=False).run()

    @cached_property
    def saving_forward_peak(self) -> Moment:
        """The fullest moment of a forward pass that saves for backward: also that of a recomputation."""
        return _Forward(self, keeps=True).run()

    @cached_property
    def backward_peak(self) -> Moment:
        """The fullest moment of backward, saved tensors of the block and the gradient that comes in included."""
        return _Backward(self).run()


class _Forward:
    def __init__(self, block: Block, *, keeps: bool) -> None:
        self._operations = block.tape.operations
        self._last_use = {
            id(t.owner): i for i, op in enumerate(self._operations) for t in (op.output, *op.inputs, *op.held)
        }
        self._last_use[id(block.exit.owner)] = len(self._operations)
        self._keeps = keeps
        self._entry = block.entry

    def run(self) -> Moment:
        saved: dict[int, int] = {}
        live: dict[int, int] = {}
        fullest = Moment(0, 0, 0, "start")
        for index, op in enumerate(self._operations):
            if op.output.whole is None:
                live[id(op.output)] = op.output.size
            held = {**live, **saved}
            now = Moment(sum(saved.values()), sum(held.values()) - sum(saved.values()), op.forward_scratch, op.name)
            fullest = max(fullest, now, key=lambda moment: moment.total)
            for tensor in _owners((*op.saved, *op.kept) if self._keeps else op.kept):
                if tensor is not self._entry:
                    saved[id(tensor)] = tensor.size
            for tensor in _owners((*op.inputs, *op.held, op.output)):
                if self._last_use[id(tensor)] <= index:
                    live.pop(id(tensor), None)
        return fullest


class _Backward:
    """Replays the operations in reverse. A gradient is a buffer with a count of holders."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._holders: dict[int, int] = {}
        for op in block.tape.operations:
            for tensor in _owners((*op.saved, *op.kept)):
                self._holders[id(tensor)] = self._holders.get(id(tensor), 0) + 1
        self._saved = block.saved_bytes
        self._buffers: dict[int, list[int]] = {}  # tensor -> [bytes, holders], shared by those that pass it on

    def run(self) -> Moment:
        last = self._block.exit
        self._buffers[id(last)] = [last.size, 1]
        fullest = Moment(self._saved, last.size, 0, "start")
        for op in reversed(self._block.tape.operations):
            incoming = self._buffers.pop(id(op.output), None)
            if incoming is None:
                continue
            now = self._run(op, incoming)
            fullest = max(fullest, now, key=lambda moment: moment.total)
        return fullest

    def _run(self, op: Operation, incoming: list[int]) -> Moment:
        wanted = [tensor for tensor in op.inputs if tensor.needs_grad]
        if op.passes:
            self._pass_on(wanted, incoming)
            fresh = 0
        else:
            fresh = sum(tensor.size for tensor in wanted)
        now = Moment(self._saved, self._live(incoming) + fresh, op.backward_scratch, op.name)
        if not op.passes:
            for tensor in wanted:
                self._add(tensor)
            incoming[1] -= 1
        for tensor in _owners((*op.saved, *op.kept)):
            self._holders[id(tensor)] -= 1
            if self._holders[id(tensor)] == 0:
                self._saved -= tensor.size
        return now

    def _pass_on(self, wanted: list[Tensor], incoming: list[int]) -> None:
        incoming[1] -= 1
        for tensor in wanted:
            earlier = self._buffers.get(id(tensor))
            if earlier is None:
                incoming[1] += 1
                self._buffers[id(tensor)] = incoming
            elif earlier[1] > 1:
                earlier[1] -= 1
                self._buffers[id(tensor)] = [tensor.size, 1]

    def _add(self, tensor: Tensor) -> None:
        """A new gradient: summed in place into an earlier one, or a new buffer where that one is shared."""
        earlier = self._buffers.get(id(tensor))
        if earlier is not None and earlier[1] > 1:
            earlier[1] -= 1
            earlier = None
        if earlier is None:
            self._buffers[id(tensor)] = [tensor.size, 1]

    def _live(self, incoming: list[int]) -> int:
        buffers = {id(buffer): buffer[0] for buffer in (*self._buffers.values(), incoming) if buffer[1] > 0}
        return sum(buffers.values())


def _owners(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors whose memory is held, each once."""
    return list({id(tensor.owner): tensor.owner for tensor in tensors}.values())
