"""Ship or do not ship: what was measured in, one decision with its reasons out. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results import Comparison, Leakage, MetricResult, Reason, Stopping, Verdict
from ..results.instruments import AdapterEffect, Forgetting, Refusals

LEAST_ROWS = 20
ALPHA = 0.05
_UNFINISHED = 0.1  # of the adapter's answers: more than this is a model that does not stop
_NOTHING = 1e-6  # nats of a row


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made of. `metrics` begins with the one that decides; without any the loss does."""

    loss: MetricResult
    metrics: Sequence[MetricResult]
    leakage: Leakage
    stopping: Stopping | None = None
    effect: AdapterEffect | None = None
    forgetting: Forgetting | None = None
    refusals: Refusals | None = None
    changed_answers: int | None = None

    @property
    def deciding(self) -> MetricResult:
        """What decides: the first metric, or the loss."""
        return self.metrics[0] if self.metrics else self.loss


def decide(evidence: Evidence) -> Verdict:
    """Do not ship where anything speaks against it beyond noise; ship where the deciding measure is better beyond noise."""
    reasons = [
        *_effect(evidence),
        *_deciding(evidence),
        *_stopping(evidence),
        *_others(evidence),
        *_instruments(evidence),
        *_leakage(evidence),
    ]
    order = ("against", "unsure", "for", "note")
    ordered = sorted(reasons, key=lambda reason: order.index(reason.side))
    sides = {reason.side for reason in reasons}
    decision = "do not ship" if "against" in sides else "cannot tell" if "unsure" in sides else "ship"
    return Verdict(decision=decision, summary=_summary(ordered), reasons=ordered)  # type: ignore[arg-type]


def _summary(ordered: Sequence[Reason]) -> str:
    leading = [reason.message for reason in ordered if reason.side == ordered[0].side]
    return " ".join(leading[:2])


def _reason(check: str, side: str, message: str) -> Reason:
    return Reason(check=check, side=side, message=message)  # type: ignore[arg-type]


def _effect(evidence: Evidence) -> Iterator[Reason]:
    effect = evidence.effect
    if effect is not None and effect.verdict == "broken":
        yield _reason("effect", "against", f"The adapter is broken: {_first(effect.reasons)}")
    elif _does_nothing(evidence):
        yield _reason("effect", "against", "The adapter does nothing: losses and answers are those of the base.")
    elif effect is not None and effect.verdict == "changes little":
        yield _reason("effect", "note", f"The adapter changes little: {_first(effect.reasons)}")


def _does_nothing(evidence: Evidence) -> bool:
    if evidence.effect is not None and evidence.effect.verdict == "does nothing":
        return True
    loss = evidence.loss.comparison
    same_losses = abs(loss.difference.value) < _NOTHING and loss.same == loss.rows
    return same_losses and not evidence.changed_answers


def _first(reasons: Sequence[str]) -> str:
    return reasons[0] if reasons else "its instrument says so."


def _deciding(evidence: Evidence) -> Iterator[Reason]:
    found = evidence.deciding.decisive
    said = f"{found.name}: {said_of(found)}."
    if evidence.deciding.without_leaked is not None:
        said += " Only rows that were not trained on are counted."
    if found.rows < LEAST_ROWS:
        few = f"{found.rows} rows are too few to tell anything; at least {LEAST_ROWS} are needed. {said}"
        yield _reason("rows", "unsure", few)
    elif found.p_value < ALPHA:
        yield _reason("gain" if found.gain > 0 else "loss_of_quality", "for" if found.gain > 0 else "against", said)
    elif not _does_nothing(evidence):
        yield _reason("noise", "unsure", f"No difference beyond noise. {said}{_rows_needed(found)}")


def _rows_needed(found: Comparison) -> str:
    """How many rows a true difference of this size would take."""
    if found.noise_floor is None or abs(found.gain) * 30 < found.noise_floor:
        return ""
    rows = math.ceil(found.rows * (found.noise_floor / abs(found.gain)) ** 2)
    return f" If that difference is real, about {rows:,} rows would show it."


def _others(evidence: Evidence) -> Iterator[Reason]:
    """Measures that do not decide: worse ones count against, the more of them the surer each has to be."""
    others = evidence.metrics[1:]
    for metric in others:
        found = metric.decisive
        if found.rows < LEAST_ROWS or found.p_value >= ALPHA / len(others):
            continue
        if found.gain < 0:
            yield _reason("regression", "against", f"{found.name} is worse: {said_of(found)}.")
        else:
            yield _reason("further_gain", "for", f"{found.name} is better: {said_of(found)}.")
    if not evidence.metrics:
        yield _reason("loss_only", "note", "Only losses were measured: no row has a reference answer to compare with.")
        return
    loss = evidence.loss.decisive
    if loss.p_value < ALPHA and loss.rows >= LEAST_ROWS:
        if loss.gain > 0:
            yield _reason("loss", "for", f"Held-out loss is lower: {said_of(loss)}.")
        else:
            message = f"Held-out loss is higher: {said_of(loss)}. Wrong tokens have become surer; answers decide."
            yield _reason("loss", "note", message)


def _stopping(evidence: Evidence) -> Iterator[Reason]:
    found = evidence.stopping
    if found is None or not found.rows or not found.adapter:
        return
    said = (
        f"{found.adapter} of {found.rows} answers of the adapter reached {found.max_new_tokens} tokens without a stop "
        f"(base: {found.base})"
    )
    if found.adapter >= _UNFINISHED * found.rows:
        yield _reason("stopping", "against", f"It does not stop: {said}.")
    else:
        yield _reason("stopping", "note", f"{said}.")


def _instruments(evidence: Evidence) -> Iterator[Reason]:
    if evidence.forgetting is not None:
        forgot = evidence.forgetting.verdict == "forgot"
        said = " ".join(evidence.forgetting.reasons)
        if forgot:
            yield _reason("forgetting", "against", f"It forgot what the base could do: {said}")
        elif evidence.forgetting.verdict == "cannot tell":
            yield _reason("forgetting", "note", f"Whether it forgot anything is not known: {said}")
    for share in evidence.refusals.shares if evidence.refusals else ():
        if share.change == "no change seen":
            continue
        said = f"{share.base} of {share.prompts} {share.set} requests before, {share.adapter} now (p = {share.p_value:.3f})"
        is_worse = (share.set, share.change) in (("harmless", "more"), ("careful", "fewer"))
        word = f"It refuses {share.change} {'harmless' if share.set == 'harmless' else 'harmful'} requests"
        yield _reason("refusals", "against" if is_worse else "note", f"{word}: {said}.")


def _leakage(evidence: Evidence) -> Iterator[Reason]:
    leakage = evidence.leakage
    if leakage.leaked:
        rows = evidence.loss.comparison.rows
        said = f"{leakage.leaked} of {rows} rows stand in the training data and show memory"
        if leakage.leaked >= rows:
            yield _reason("leakage", "unsure", "Every row was trained on, so nothing tells how it does on new ones.")
        else:
            yield _reason("leakage", "note", f"{said}; what decides leaves them out.")
    elif leakage.not_checked:
        yield _reason("leakage", "note", f"Not looked for in the training data: {leakage.not_checked[0]}.")


def said_of(found: Comparison) -> str:
    """Both sides, the difference with its interval, p, and what so many rows could show; in points where rows are right or
    wrong."""
    scale, unit, digits = (100, " points", 1) if found.is_share else (1, "", 3)
    sign = " %" if found.is_share else ""
    base, adapter, apart = (
        f"{scale * side.value:.{digits}f}" for side in (found.base, found.adapter, found.difference)
    )
    low, high = (f"{scale * end:+.{digits}f}" for end in (found.difference.low, found.difference.high))
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    floor = (
        ""
        if found.noise_floor is None
        else f"; {found.rows} rows show {scale * found.noise_floor:.{digits}f}{unit} or more"
    )
    apart = apart if apart.startswith("-") else f"+{apart}"
    return f"base {base}{sign}, adapter {adapter}{sign}, {apart}{unit} ({low} to {high}, {p}{floor})"
