"""What the instruments of evaluation return: what an adapter does, what it forgot, refusals, the cost of quantisation."""

from typing import Literal

from .base import Result


class Interval(Result):
    """A 95 % interval."""

    low: float
    high: float


class LayerEffect(Result):
    """How much an adapter changes one module.

    `update_norm` is the Frobenius norm of what is added to the weight, `relative_norm` that norm over the weight's own;
    None where the weight was not read (`note` says why). `trained` is false where nothing is added at all.
    """

    module: str
    update_norm: float
    relative_norm: float | None
    trained: bool
    note: str | None = None


class AdapterEffect(Result):
    """Whether an adapter does anything, at the compared positions and in its weights.

    Differences are of logits; divergences are of the adapter's prediction from the base's, in nats, KL(base || adapter).
    They are None where the adapter's logits are no numbers.
    """

    verdict: Literal["changes answers", "changes little", "does nothing", "broken"]
    reasons: list[str]
    positions: int
    mean_logit_difference: float | None
    max_logit_difference: float | None
    mean_kl: float | None
    max_kl: float | None
    changed_top1: float
    changed_answers: float | None
    answers: int
    layers: list[LayerEffect]
    untrained: list[str]
    not_finite: list[str]
    modules_to_save: list[str]
    active: bool


class RegressionItem(Result):
    """One general question, answered by base and adapter."""

    prompt: str
    kind: str
    base: str
    adapter: str
    base_right: bool
    adapter_right: bool


class TextLoss(Result):
    """Mean loss over one general text, in nats a token."""

    name: str
    kind: str
    tokens: int
    base_loss: float
    adapter_loss: float


class Forgetting(Result):
    """What the adapter lost of what the base could do.

    Only questions that the base answers count (`counted` = `kept` + `lost`); `gained` ones are told and count for nothing.
    """

    verdict: Literal["forgot", "no sign", "cannot tell"]
    reasons: list[str]
    items: list[RegressionItem]
    counted: int
    kept: int
    lost: int
    gained: int
    lost_share: float | None
    lost_share_interval: Interval
    texts: list[TextLoss]
    base_perplexity: float
    adapter_perplexity: float
    loss_difference: float
    loss_difference_interval: Interval


class RefusalAnswer(Result):
    """One prompt of the refusal set, answered by base and adapter."""

    prompt: str
    set: Literal["harmless", "careful"]
    base: str
    adapter: str
    base_refused: bool
    adapter_refused: bool


class RefusalShare(Result):
    """Refusals of one set in counts and shares; `p_value` is that of the exact McNemar test of the change."""

    set: Literal["harmless", "careful"]
    prompts: int
    base: int
    adapter: int
    base_interval: Interval
    adapter_interval: Interval
    started: int
    ceased: int
    p_value: float
    change: Literal["more", "fewer", "no change seen"]


class Refusals(Result):
    """Refusals of harmless and of careless requests, before and after. `limits` says what the detector cannot see."""

    shares: list[RefusalShare]
    changed: list[RefusalAnswer]
    answers: list[RefusalAnswer]
    reasons: list[str]
    limits: list[str]


class WeightError(Result):
    """The error of one stored tensor: ||W - read back||_F / ||W||_F, and the largest of one weight."""

    tensor: str
    kind: str
    parameters: int
    relative_error: float
    max_error: float
    bits_per_parameter: float


class KindWeights(Result):
    """The errors of all quantised tensors in one kind, and the bytes they take with their constants."""

    kind: str
    tensors: int
    relative_error: float
    worst_tensor: str
    worst_relative_error: float
    max_error: float
    bits_per_parameter: float
    size_bytes: int


class KindLoss(Result):
    """Loss of the base in one kind, in nats a token, and its difference from that of the 16-bit base on the same rows."""

    kind: str
    loss: float
    perplexity: float
    difference: float | None
    difference_interval: Interval | None


class SkippedKind(Result):
    """What was not measured, and why."""

    kind: str
    reason: str


class GridFinding(Result):
    """Whether weights take so few values that they must have been quantised before.

    `share_of_blocks` is the share of looked-at blocks of `block` weights that hold 16 different values at most;
    `mean_distinct` how many different values a block holds on average.
    """

    block: int
    blocks: int
    mean_distinct: float
    share_of_blocks: float
    on_grid: bool


class QuantisationCost(Result):
    """What each kind of quantisation costs a base: in its weights, tensor by tensor, and in loss against 16 bits."""

    model: str
    device: str
    compute_dtype: str
    weights: list[KindWeights]
    tensors: list[WeightError]
    losses: list[KindLoss]
    rows: int
    tokens: int
    unquantised_parameters: int
    unquantised_bytes: int
    grid: GridFinding
    skipped: list[SkippedKind]
    notes: list[str]
    seconds: float
