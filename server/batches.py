"""Equal questions that wait for their turn are asked once."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio


class _Batch:
    """Callers with one question whose answer is not being looked for yet."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.found: list[Any] = []


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
        while (batch := self._waiting.get(question)) is not None:
            await batch.done.wait()
            # Nothing where whoever was to ask went away or met an error: the next one asks again.
            if batch.found:
                return batch.found[0]
        return await self._first(question, find)

    async def _first(self, question: str, find: Callable[[], Awaitable[Any]]) -> Any:
        batch = self._waiting[question] = _Batch()
        try:
            async with self._turn:
                del self._waiting[question]
                batch.found.append(await find())
                return batch.found[0]
        finally:
            if self._waiting.get(question) is batch:
                del self._waiting[question]
            batch.done.set()
