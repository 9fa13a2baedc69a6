"""What goes through a layer of the fast engine, and the sizes of its projections."""

from dataclasses import dataclass

# The engine pads the ranks of projections that share an input, so that rows are whole 16 bytes.
RANK_MULTIPLE = 8
# Tokens of the MLP at once.
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class FastBatch:
    """One micro-batch without padding, and how it is computed.

    `width` is that of the compute dtype. `equal` rows need no list of lengths for attention. Weights `in_4bit` are decoded
    for each product: on a GPU those of a group together into memory that all share, with `plain` operations one by one.
    Inputs of layers that are computed again wait on the host if `on_host`. Inputs of adapters may have `dropout`.
    """

    tokens: int
    width: int
    rank: int
    targets: frozenset[str]
    equal: bool = True
    in_4bit: bool = True
    plain: bool = False
    on_host: bool = False
    dropout: bool = False

    @property
    def part(self) -> int:
        """Tokens of the largest part that the MLP takes at once."""
        return -(-self.tokens // -(-self.tokens // TOKENS_AT_ONCE))


@dataclass(frozen=True)
class GroupSize:
    """Projections that share an input: features of input and outputs, ranks of the adapters that are there."""

    inputs: int
    outputs: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def wide(self) -> int:
        """Outputs of all projections."""
        return sum(self.outputs)

    @property
    def rank(self) -> int:
        """All ranks, padded."""
        return -(-sum(self.ranks) // RANK_MULTIPLE) * RANK_MULTIPLE

    @property
    def b_elements(self) -> int:
        """Elements of every B."""
        return sum(outputs * rank for outputs, rank in zip(self.outputs, self.ranks, strict=True))

    @property
    def copied_elements(self) -> int:
        """Elements of the copies: A of all projections below each other, and every B."""
        return self.rank * self.inputs + self.b_elements

    @property
    def decoded_elements(self) -> int:
        """The larger of `[W B]`, which the forward pass multiplies with, and `[W; A]`, for the backward pass."""
        return max(self.wide * (self.inputs + self.rank), (self.wide + self.rank) * self.inputs)
