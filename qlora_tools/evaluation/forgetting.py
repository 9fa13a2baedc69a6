"""What an adapter forgot: general questions that the base answers, and the loss on texts unlike the training data."""

import math
from collections.abc import Sequence
from typing import Literal

from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..generation.session import GenerationSession
from ..results.instruments import Forgetting, Interval, RegressionItem, TextLoss
from ..untrusted import visible_text
from .general_set import GeneralPrompt, answers_of_sides, general_prompts, general_texts
from .intervals import exact_share
from .token_losses import RowLoss, loss_difference, mean_loss, perplexity, row_losses, text_rows

_ANSWER_TOKENS = 32
# Greedy answers flip at changes that mean nothing, so a tenth may be lost; so few questions cannot show that it is less
# than three tenths unless nearly all are kept.
_SURELY_LOST, _MOST_LOST = 0.1, 0.3
_MOST_NATS = math.log(1.1)
_LEAST_ANSWERED = 8
_MOST_SHOWN = 400

Verdict = Literal["forgot", "no sign", "cannot tell"]


def forgetting(session: GenerationSession, *, on_event: Listener = ignore, stop: StopAsked = never) -> Forgetting:
    """Ask base and adapter the committed general questions and measure both on the committed general texts.

    A question that the base does not answer counts for nothing. "forgot": with 95 % more than a tenth of the answers is
    lost, or perplexity rises by more than a tenth. "no sign": less than three tenths, and less than a tenth in perplexity.
    Raises `AnsweringStopped`.
    """
    items = _asked(session, on_event, stop)
    counted = [item for item in items if item.base_right]
    lost = sum(not item.adapter_right for item in counted)
    share = exact_share(lost, len(counted))
    base, adapter = _text_losses(session, on_event)
    difference = loss_difference(base, adapter)
    by_answers, said = _judged_answers(lost, len(counted), share)
    by_texts, also_said = _judged_texts(base, adapter, difference)
    return Forgetting(
        verdict=_together(by_answers, by_texts, answered=len(counted)),
        reasons=[said, also_said],
        items=items,
        counted=len(counted),
        kept=len(counted) - lost,
        lost=lost,
        gained=sum(item.adapter_right and not item.base_right for item in items),
        lost_share=lost / len(counted) if counted else None,
        lost_share_interval=share,
        texts=_texts(base, adapter),
        base_perplexity=perplexity(base),
        adapter_perplexity=perplexity(adapter),
        loss_difference=mean_loss(adapter) - mean_loss(base),
        loss_difference_interval=difference,
    )


def _asked(session: GenerationSession, on_event: Listener, stop: StopAsked) -> list[RegressionItem]:
    prompts = general_prompts()
    sides = answers_of_sides(
        session,
        [prompt.prompt for prompt in prompts],
        _ANSWER_TOKENS,
        on_event=on_event,
        stop=stop,
    )
    return [_item(prompt, *answers) for prompt, *answers in zip(prompts, *sides, strict=True)]


def _item(prompt: GeneralPrompt, base: str, adapter: str) -> RegressionItem:
    return RegressionItem(
        prompt=prompt.prompt,
        kind=prompt.kind,
        base=visible_text(base)[:_MOST_SHOWN],
        adapter=visible_text(adapter)[:_MOST_SHOWN],
        base_right=prompt.accepts(base),
        adapter_right=prompt.accepts(adapter),
    )


def _text_losses(session: GenerationSession, on_event: Listener) -> tuple[list[RowLoss], list[RowLoss]]:
    rows = text_rows(session.tokenizer, [text.text for text in general_texts()])
    on_event(RunEvent("phase", "Measuring base and adapter on general texts"))
    with session.model.disable_adapter():
        base = row_losses(session.model, rows, on_event=on_event)
    return base, row_losses(session.model, rows, on_event=on_event)


def _texts(base: Sequence[RowLoss], adapter: Sequence[RowLoss]) -> list[TextLoss]:
    return [
        TextLoss(
            name=text.name,
            kind=text.kind,
            tokens=before.tokens,
            base_loss=before.nats / before.tokens,
            adapter_loss=after.nats / after.tokens,
        )
        for text, before, after in zip(general_texts(), base, adapter, strict=True)
    ]


def _judged_answers(lost: int, counted: int, share: Interval) -> tuple[Verdict, str]:
    if counted < _LEAST_ANSWERED:
        return "cannot tell", (
            f"The base answers only {counted} of {len(general_prompts())} general questions, too few to see lost ones."
        )
    said = (
        f"Of {counted} general questions that the base answers, the adapter answers {counted - lost}; it loses "
        f"{lost / counted:.0%} (95 % interval {share.low:.0%} to {share.high:.0%}; forgetting begins at {_SURELY_LOST:.0%})."
    )
    return _placed(share, _SURELY_LOST, _MOST_LOST), said


def _judged_texts(base: Sequence[RowLoss], adapter: Sequence[RowLoss], change: Interval) -> tuple[Verdict, str]:
    if not math.isfinite(mean_loss(adapter)):
        return "forgot", "The adapter's losses on general texts are no numbers: it is broken."
    said = (
        f"Perplexity on {len(base)} general texts goes from {perplexity(base):.4g} to {perplexity(adapter):.4g} (factor "
        f"{_factor(change.low)} to {_factor(change.high)} with 95 %; up to 1.1 is let pass)."
    )
    return _placed(change, _MOST_NATS, _MOST_NATS), said


def _placed(interval: Interval, sure: float, most: float) -> Verdict:
    if interval.low > sure:
        return "forgot"
    return "no sign" if interval.high <= most else "cannot tell"


def _together(by_answers: Verdict, by_texts: Verdict, *, answered: int) -> Verdict:
    """One sign is enough; a base that answers too few questions leaves it to the texts."""
    if "forgot" in (by_answers, by_texts):
        return "forgot"
    if by_answers == by_texts or answered < _LEAST_ANSWERED:
        return by_texts
    return "cannot tell"


def _factor(nats: float) -> str:
    return f"{math.exp(nats):.3g}" if nats < 700 else "more than a number holds"
