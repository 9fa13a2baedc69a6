"""From what was measured to the result: comparisons, stopping, the answers worth reading, the verdict."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from ..data.rows import TokenRows
from ..hiding import hidden_secrets
from ..requirements import TRAINING_LIBRARIES
from ..results import (
    EvaluatedAnswer,
    EvaluatedRows,
    EvaluationResult,
    FieldScore,
    HarnessScore,
    HeldOutLoss,
    Leakage,
    MetricResult,
    ScoreInterval,
    Stopping,
    Verdict,
)
from ..results.base import Result
from ..untrusted import visible_text
from .json_metrics import field_scores
from .leakage import find_leakage
from .metrics import ChosenMetrics
from .rows import EvaluationRow, EvaluationRows
from .statistics import PairedSums, compare
from .store import PAGE_FILE, EvaluationStore, StoredAnswer, StoredLoss
from .verdict import Evidence, decide

_ROWS_NAMED = 10
_WORST, _OTHERS = 20, 20
_LONGEST_TEXT = 2000
Answers = Mapping[int, StoredAnswer]


@dataclass(frozen=True)
class Measured:
    """What was measured with the model in memory; losses and answers lie in the store."""

    adapter: str
    model: str
    device: str
    tokens: TokenRows
    long_rows: tuple[int, ...]
    answered: tuple[EvaluationRow, ...]
    reference_tokens: Mapping[int, int]
    max_new_tokens: int
    instruments: Mapping[str, Result]
    harness: tuple[HarnessScore, ...]


@dataclass(frozen=True)
class _Sides:
    """Both sides of the answered rows, in their order."""

    rows: Sequence[EvaluationRow]
    base: list[StoredAnswer]
    adapter: list[StoredAnswer]

    @property
    def texts(self) -> tuple[list[str], list[str], list[str]]:
        """Answers of the base, of the adapter, and references."""
        return (
            [found.answer for found in self.base],
            [found.answer for found in self.adapter],
            [row.reference or "" for row in self.rows],
        )


def assembled(
    measured: Measured,
    rows: EvaluationRows,
    chosen: ChosenMetrics,
    store: EvaluationStore,
    *,
    seed: int,
    began: float,
) -> EvaluationResult:
    """The whole result, with its verdict."""
    losses, leakage = _losses(measured, store), find_leakage(rows)
    leaked = {found.row for found in leakage.rows}
    sides = _sides(measured, store)
    paired = [metric.of(*sides.texts) for metric in chosen.metrics]
    numbers = [row.number for row in sides.rows]
    metrics = [
        _metric(metric.name, sums, numbers, leaked, seed) for metric, sums in zip(chosen.metrics, paired, strict=True)
    ]
    loss = _held_out_loss(losses, leaked, seed)
    stopping = _stopping(measured, sides)
    instruments: Mapping[str, object] = measured.instruments
    verdict = decide(
        Evidence(
            loss=loss.loss,
            metrics=metrics,
            leakage=leakage,
            stopping=stopping,
            effect=instruments.get("adapter_effect"),  # type: ignore[arg-type]
            forgetting=instruments.get("forgetting"),  # type: ignore[arg-type]
            refusals=instruments.get("refusals"),  # type: ignore[arg-type]
            changed_answers=sum(one.answer != two.answer for one, two in zip(sides.base, sides.adapter, strict=True)),
        )
    )
    scores = paired[0] if paired else None
    return EvaluationResult(
        adapter=measured.adapter,
        model=measured.model,
        device=measured.device,
        output_directory=str(store.directory),
        page=str(store.directory / PAGE_FILE),
        verdict=verdict,
        next_step=_next_step(verdict, measured.adapter, str(store.directory / PAGE_FILE)),
        rows=_row_counts(measured, rows),
        loss=loss,
        metrics=metrics,
        metrics_reason=chosen.reason,
        fields=_fields(chosen, sides),
        stopping=stopping,
        leakage=leakage,
        **{name: instruments.get(name) for name in ("adapter_effect", "forgetting", "refusals", "quantisation_cost")},  # type: ignore[arg-type]
        harness=list(measured.harness),
        row_losses=[(found.row, found.base / found.tokens, found.adapter / found.tokens) for found in losses],
        answers=_worth_reading(sides, scores, losses, leaked),
        not_done=_not_done(measured, leakage, sides),
        seed=seed,
        seconds=time.monotonic() - began,
        versions={name: version(name) for name in TRAINING_LIBRARIES},
    )


def _losses(measured: Measured, store: EvaluationStore) -> list[StoredLoss]:
    found = store.losses()
    return [found[row.number] for row in measured.tokens.rows]


def _sides(measured: Measured, store: EvaluationStore) -> _Sides:
    base, adapter = store.answers("base"), store.answers("adapter")
    numbers = [row.number for row in measured.answered]
    return _Sides(measured.answered, [base[number] for number in numbers], [adapter[number] for number in numbers])


def _metric(
    name: str,
    sums: PairedSums,
    numbers: Sequence[int],
    leaked: set[int],
    seed: int,
    *,
    higher_is_better: bool = True,
) -> MetricResult:
    """The comparison over all rows, and over those that were not trained on where that is another and there are any."""
    clean = [place for place, number in enumerate(numbers) if number not in leaked]
    without = None
    if 0 < len(clean) < len(numbers):
        without = compare(name, sums.chosen(clean), higher_is_better=higher_is_better, seed=seed)
    return MetricResult(
        comparison=compare(name, sums, higher_is_better=higher_is_better, seed=seed), without_leaked=without
    )


def _held_out_loss(losses: Sequence[StoredLoss], leaked: set[int], seed: int) -> HeldOutLoss:
    import numpy as np

    tables = (np.array([[found.base, found.tokens] for found in losses]),
              np.array([[found.adapter, found.tokens] for found in losses]))  # fmt: skip
    sums = PairedSums(*tables, lambda summed: summed[:, 0] / summed[:, 1])
    numbers = [found.row for found in losses]
    loss = _metric("loss", sums, numbers, leaked, seed, higher_is_better=False)
    return HeldOutLoss(
        loss=loss,
        base_perplexity=_exp(loss.comparison.base),
        adapter_perplexity=_exp(loss.comparison.adapter),
        tokens=sum(found.tokens for found in losses),
    )


def _exp(found: ScoreInterval) -> ScoreInterval:
    """Perplexity; a loss of more than 700 nats would be no number, and one that is none stays so."""
    value, low, high = (math.exp(min(loss, 700.0)) for loss in (found.value, found.low, found.high))
    return ScoreInterval(value=value, low=low, high=high)


def _stopping(measured: Measured, sides: _Sides) -> Stopping | None:
    if not sides.rows:
        return None
    fitting = [
        place for place, row in enumerate(sides.rows) if measured.reference_tokens[row.number] < measured.max_new_tokens
    ]
    return Stopping(
        max_new_tokens=measured.max_new_tokens,
        rows=len(fitting),
        base=sum(not sides.base[place].stopped for place in fitting),
        adapter=sum(not sides.adapter[place].stopped for place in fitting),
    )


def _fields(chosen: ChosenMetrics, sides: _Sides) -> list[FieldScore]:
    is_json = any(metric.name == "json_fields" for metric in chosen.metrics)
    return field_scores(*sides.texts) if is_json else []


def _row_counts(measured: Measured, rows: EvaluationRows) -> EvaluatedRows:
    tokens = measured.tokens
    unusable = [*rows.unusable, *tokens.unusable]
    return EvaluatedRows(
        source=rows.source,
        held_out_by_training=rows.held_out,
        read=rows.read,
        used=len(tokens.rows),
        unusable=len(unusable),
        nothing_to_learn=tokens.dropped_nothing_to_learn,
        cut=tokens.cut,
        dropped_long=tokens.dropped_long,
        left_out=rows.left_out,
        with_reference=sum(row.reference is not None for row in rows.rows),
        problems=[(number, shown(reason)) for number, reason in unusable[:_ROWS_NAMED]],
        long_rows=list(measured.long_rows[:_ROWS_NAMED]),
    )


def _worth_reading(
    sides: _Sides, scores: PairedSums | None, losses: Sequence[StoredLoss], leaked: set[int]
) -> list[EvaluatedAnswer]:
    """The rows on which the adapter is worst against the base, worst first, then others spread over the rest."""
    of_base, of_adapter = (side.tolist() for side in scores.of_rows) if scores else ([], [])
    known = {found.row: found for found in losses}

    def told(place: int) -> EvaluatedAnswer:
        row, loss = sides.rows[place], known[sides.rows[place].number]
        return EvaluatedAnswer(
            row=row.number,
            prompt=shown(row.asked[-1]["content"]),
            reference=shown(row.reference or ""),
            base=shown(sides.base[place].answer),
            adapter=shown(sides.adapter[place].answer),
            base_score=of_base[place],
            adapter_score=of_adapter[place],
            base_loss=loss.base / loss.tokens,
            adapter_loss=loss.adapter / loss.tokens,
            leaked=row.number in leaked,
            base_stopped=sides.base[place].stopped,
            adapter_stopped=sides.adapter[place].stopped,
        )

    answers = sorted(map(told, range(len(sides.rows))), key=_how_much_better)
    rest = answers[_WORST:]
    step = max(1, math.ceil(len(rest) / _OTHERS))
    return [*answers[:_WORST], *rest[::step]]


def _how_much_better(found: EvaluatedAnswer) -> tuple[float, float]:
    gained = (found.adapter_score or 0.0) - (found.base_score or 0.0)
    return gained, (found.base_loss or 0.0) - (found.adapter_loss or 0.0)


def shown(text: str) -> str:
    """Text of data or model as it may be shown: visible characters, no secrets, at most 2,000 of them."""
    visible = hidden_secrets(visible_text(text[: 2 * _LONGEST_TEXT]))
    return visible if len(visible) <= _LONGEST_TEXT else f"{visible[: _LONGEST_TEXT - 1]}…"


def _not_done(measured: Measured, leakage: Leakage, sides: _Sides) -> list[str]:
    not_done = [f"leakage: {reason}" for reason in leakage.not_checked]
    if not sides.rows:
        not_done.append("answers: no row ends with an answer in text")
    return not_done


def _next_step(verdict: Verdict, adapter: str, page: str) -> str:
    if verdict.decision == "ship":
        return f"Read some answers in {page}, then `qlora merge {adapter} -o DIR`."
    if verdict.decision == "cannot tell":
        return "Evaluate on more rows that were not trained on: --data FILE, --max-rows."
    return f"Read the worst answers first: {page}."
