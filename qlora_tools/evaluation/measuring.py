"""Losses and answers of base and adapter, batch by batch, each written as it comes. Runs where torch runs."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..data.examples import Conversation
from ..data.rows import TokenRow
from ..errors import UsageError, WorkStopped
from ..events import Listener, RunEvent, StopAsked
from ..generation.batch import Row
from ..generation.session import GenerationSession
from .rows import EvaluationRow
from .store import SIDES, EvaluationStore, Side, StoredAnswer, StoredLoss
from .token_losses import row_losses

# Rows that are written together: what a kill costs, at most.
_LOSS_ROWS, _ANSWER_ROWS = 64, 128


@dataclass(frozen=True)
class Watched:
    """Whom to tell, and whether to stop; asked after each batch."""

    on_event: Listener
    stop: StopAsked

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell how far it is; raises `WorkStopped` where a stop is asked for."""
        self.on_event(RunEvent("progress", what, {"done": done, "total": total}))
        self.leave_if_asked(f"{done:,} of {total:,} {what}")

    def leave_if_asked(self, done: str) -> None:
        """Raise `WorkStopped` where a stop is asked for."""
        if self.stop():
            raise WorkStopped(f"The evaluation was stopped after {done}.")

    def within(self, event: RunEvent) -> None:
        """A listener for instruments, which report after each batch of their own."""
        self.on_event(event)
        self.leave_if_asked("a part of an instrument")


def measure_losses(
    session: GenerationSession, rows: Sequence[TokenRow], store: EvaluationStore, watched: Watched
) -> None:
    """The loss of every row that has none yet, for both sides."""
    known, by_number = store.losses(), {row.number: row for row in rows}
    done = len(known)
    # Groups are made of all rows, so that a resumed evaluation computes what an uninterrupted one would have.
    for group in _groups({row.number: row.input_ids for row in rows}, _LOSS_ROWS):
        if all(number in known for number in group):
            continue
        batch = [by_number[number] for number in group]
        tokens = [(row.input_ids, row.labels) for row in batch]
        with _base(session):
            base = row_losses(session.model, tokens)
        adapter = row_losses(session.model, tokens)
        store.add(
            StoredLoss(row.number, of_base.tokens, of_base.nats, of_adapter.nats)
            for row, of_base, of_adapter in zip(batch, base, adapter, strict=True)
        )
        done += sum(number not in known for number in group)
        watched.progress("losses", done, len(rows))


def measure_answers(
    session: GenerationSession,
    rows: Sequence[EvaluationRow],
    max_new_tokens: int,
    store: EvaluationStore,
    watched: Watched,
) -> None:
    """Greedy answers of every row that has none yet, base first."""
    prompts = {row.number: prompt_tokens(session, row) for row in rows}
    stops = set(session.stop_token_ids())
    for side in SIDES:
        watched.on_event(RunEvent("phase", f"Answering {len(rows):,} rows with the {side}"))
        known = store.answers(side)
        done = len(known)
        for group in _groups(prompts, _ANSWER_ROWS):
            if all(number in known for number in group):
                continue
            told = _Ended(watched.on_event, f"answers of the {side}", done, len(rows))
            asked = [prompts[number] for number in group]
            with _base(session) if side == "base" else nullcontext():
                ids = session.generate_ids(asked, max_new_tokens, told=told, stop=watched.stop)
            store.add(_stored(session, side, number, found, stops) for number, found in zip(group, ids, strict=True))
            done += sum(number not in known for number in group)
            watched.progress(told.what, done, len(rows))


@dataclass
class _Ended:
    """Tells of the answers of a group that have come to their end: all of them may take minutes.

    Of the last one it is told when the group is written.
    """

    on_event: Listener
    what: str
    done: int
    total: int

    def __call__(self, row: Row) -> None:
        """A token was added to `row`."""
        if row.ended and self.done + 1 < self.total:
            self.done += 1
            self.on_event(RunEvent("progress", self.what, {"done": self.done, "total": self.total}))


def _stored(session: GenerationSession, side: Side, number: int, ids: list[int], stops: set[int]) -> StoredAnswer:
    answer = session.tokenizer.decode(ids, skip_special_tokens=True)
    return StoredAnswer(number, side, answer, len(ids), bool(ids) and ids[-1] in stops)


def prompt_tokens(session: GenerationSession, row: EvaluationRow) -> list[int]:
    """What the model is asked with. Raises `UsageError` for a row that has no prompt in the template."""
    if isinstance(row.example, Conversation) and row.example.tools:
        # Tools stand in the system turn, where the template writes them.
        text = session.renderer.prompt(row.asked, row.example.tools)
        ids: list[int] = session.tokenizer(text, add_special_tokens=session.renderer.adds_special_tokens)["input_ids"]
        return ids
    try:
        return session.prompt_ids(row.asked)
    except UsageError as error:
        raise UsageError(f"Row {row.number}: {error.message}", next_step=error.next_step) from None


def _base(session: GenerationSession) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = session.model.disable_adapter()
    return context


def _groups(tokens: dict[int, list[int]], rows: int) -> Iterator[list[int]]:
    """Rows of like length that are measured and written together; smaller batches are made of them."""
    ordered = sorted(tokens, key=lambda number: (len(tokens[number]), number))
    for start in range(0, len(ordered), rows):
        yield ordered[start : start + rows]
