"""Equal questions that wait for their turn are asked once."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio


class _Batch:
    """Callers with one question whose answer is not being looked for yet."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: tuple[Any, Exception | None] | None = None


class Batches:
    """Answers questions one after the other.

    A question that is asked while an equal one still waits for its turn gets that one's answer: nothing that happened before
    it was asked is missing from it. One whose turn has come already is not shared, since it may have missed something.
    """

    def __init__(self) -> None:
        self._turn = anyio.Lock()
        self._waiting: dict[str, _Batch] = {}

    async def ask(self, question: str, find: Callable[[], Awaitable[Any]]) -> Any:
        """The answer that `find` finds. Raises what it raises."""
        while True:
            batch = self._waiting.get(question)
            if batch is None:
                return await self._first(question, find)
            await batch.done.wait()
            # None where whoever was to ask went away.
            if batch.outcome is not None:
                found, error = batch.outcome
                if error is not None:
                    raise error
                return found

    async def _first(self, question: str, find: Callable[[], Awaitable[Any]]) -> Any:
        batch = self._waiting[question] = _Batch()
        try:
            async with self._turn:
                del self._waiting[question]
                found = await find()
                batch.outcome = (found, None)
                return found
        except Exception as error:
            batch.outcome = (None, error)
            raise
        finally:
            if self._waiting.get(question) is batch:
                del self._waiting[question]
            batch.done.set()
