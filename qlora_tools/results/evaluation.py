"""What an evaluation returns: base and adapter on the same rows, the instruments, and one verdict."""

from typing import Literal

from pydantic import Field

from .base import Result
from .instruments import AdapterEffect, Forgetting, QuantisationCost, Refusals


class ScoreInterval(Result):
    """A figure and its 95 % interval over rows."""

    value: float
    low: float
    high: float


class Comparison(Result):
    """One measure of base and adapter on the same rows.

    `difference` is adapter - base; `better`, `worse` and `same` count rows from the adapter's side. `noise_floor` is the
    true difference that so many rows show four times in five at p < 0.05; a smaller one is mostly missed. None where the
    rows tell nothing of it. `is_share` marks measures that call each row right or wrong.
    """

    name: str
    higher_is_better: bool
    is_share: bool
    rows: int
    base: ScoreInterval
    adapter: ScoreInterval
    difference: ScoreInterval
    p_value: float
    test: str
    noise_floor: float | None
    better: int
    worse: int
    same: int

    @property
    def gain(self) -> float:
        """How much better the adapter is, whichever way is better."""
        return self.difference.value if self.higher_is_better else -self.difference.value


class MetricResult(Result):
    """A measure over all rows, and over those that were not in the training data (None where that is the same)."""

    comparison: Comparison
    without_leaked: Comparison | None = None

    @property
    def decisive(self) -> Comparison:
        """What the verdict goes by: the rows that were not trained on."""
        return self.without_leaked or self.comparison


class FieldScore(Result):
    """One field of JSON answers: how often references have it, and (precision, recall, F1) of its values."""

    field: str
    values: int
    base: tuple[float, float, float]
    adapter: tuple[float, float, float]


class HeldOutLoss(Result):
    """Loss of the answers in nats a token, as it is trained, and exp of it. `tokens` are those that count."""

    loss: MetricResult
    base_perplexity: ScoreInterval
    adapter_perplexity: ScoreInterval
    tokens: int


class EvaluatedRows(Result):
    """What became of the rows. `used` were measured: `read` - `unusable` - `nothing_to_learn` - `dropped_long` - `left_out`.

    `cut` were longer than the training's limit and measured up to it. `left_out` were not chosen, since `max_rows` is less.
    `problems` has number and reason of up to ten unusable rows, `long_rows` the numbers of up to ten long ones.
    """

    source: str
    held_out_by_training: bool
    read: int
    used: int
    unusable: int
    nothing_to_learn: int
    cut: int
    dropped_long: int
    left_out: int
    with_reference: int
    problems: list[tuple[int, str]] = Field(default_factory=list)
    long_rows: list[int] = Field(default_factory=list)


class LeakedRow(Result):
    """A row of the evaluation that stands in the training data, and as which row there, where that is known."""

    row: int
    kind: Literal["exact", "same prompt", "near"]
    training_row: int | None


class Leakage(Result):
    """Rows that were trained on. `not_checked` says what was not compared, and why; empty where all was."""

    exact: int
    same_prompt: int
    near: int
    rows: list[LeakedRow]
    not_checked: list[str]

    @property
    def leaked(self) -> int:
        """All of them."""
        return self.exact + self.same_prompt + self.near


class Stopping(Result):
    """Answers that reached `max_new_tokens` without a stop token, among rows whose reference is shorter than that."""

    max_new_tokens: int
    rows: int
    base: int
    adapter: int


class EvaluatedAnswer(Result):
    """One row with both answers. Scores are those of the first metric; losses are nats a token."""

    row: int
    prompt: str
    reference: str
    base: str
    adapter: str
    base_score: float | None
    adapter_score: float | None
    base_loss: float | None
    adapter_loss: float | None
    leaked: bool
    base_stopped: bool
    adapter_stopped: bool


class HarnessScore(Result):
    """A metric of one task of lm-eval-harness, on the same documents for both sides."""

    task: str
    metric: str
    higher_is_better: bool
    rows: int
    base: float
    adapter: float
    comparison: Comparison | None


class HarnessScores(Result):
    """What one task gave, as it is kept while an evaluation goes on."""

    scores: list[HarnessScore]


class Reason(Result):
    """One thing that spoke for or against; `check` names it for programs."""

    check: str
    side: Literal["for", "against", "unsure", "note"]
    message: str


class Verdict(Result):
    """Whether to ship the adapter. `reasons` are in the order of their weight."""

    decision: Literal["ship", "do not ship", "cannot tell"]
    summary: str
    reasons: list[Reason]


class EvaluationResult(Result):
    """Base against adapter: losses, metrics, instruments, leakage, answers, and the verdict that follows from them.

    What was not asked for or could not be measured is None or empty, and `not_done` says why. `row_losses` has
    (row, base, adapter) in nats a token. `answers` are the worst regressions first, then some others.
    """

    adapter: str
    model: str
    device: str
    output_directory: str
    page: str
    verdict: Verdict
    next_step: str
    rows: EvaluatedRows
    loss: HeldOutLoss
    metrics: list[MetricResult]
    metrics_reason: str
    fields: list[FieldScore]
    stopping: Stopping | None
    leakage: Leakage
    adapter_effect: AdapterEffect | None
    forgetting: Forgetting | None
    refusals: Refusals | None
    quantisation_cost: QuantisationCost | None
    harness: list[HarnessScore]
    row_losses: list[tuple[int, float, float]]
    answers: list[EvaluatedAnswer]
    not_done: list[str]
    seed: int
    seconds: float
    versions: dict[str, str]
