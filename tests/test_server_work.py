"""Work in child processes: once for equal calls, never for ever, and nothing left behind."""

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from qlora_tools.server import work
from qlora_tools.server.result_words import result_lines
from qlora_tools.server.work import Work, WorkRoom

from qlora_tools.errors import MachineError, QloraError
from qlora_tools.worker.warm import WarmWorker

from .job_workspace import until


async def ignore(event: dict[str, Any]) -> None:
    """Nobody listens."""


def asked(room: WorkRoom, task: str, times: int, **arguments: Any) -> list[Any]:
    found: list[Any] = []

    async def ask() -> None:
        try:
            found.append(await room.done(task, arguments, ignore))
        except QloraError as error:
            found.append(error)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(times):
                group.start_soon(ask)

    anyio.run(run)
    return found


def test_equal_calls_at_once_are_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Work] = []
    start = Work.start
    monkeypatch.setattr(Work, "start", lambda one: (begun.append(one), start(one))[1])
    found = asked(WorkRoom(), "largest", 4, gpu="no such card", memory_limit_gib=None, settings={})
    assert len(begun) == 1
    assert all("no such card" in str(error) for error in found)


def test_an_answer_that_ends_in_a_bug_is_told_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **more: object) -> None:
        raise RuntimeError("the sky fell")

    traces: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", traces.append)
    monkeypatch.setattr(WarmWorker, "ask", fail)
    (error,) = asked(WorkRoom(), "generate", 1, adapter="out", prompts=["hello"])
    assert isinstance(error, MachineError) and "RuntimeError: the sky fell" in error.message
    assert len(traces) == 1


def test_nothing_is_told_of_results_that_are_not_there() -> None:
    assert [result_lines(kind, {}) for kind in ("evaluate", "merge", "export", "train")] == [[]] * 4


def test_more_work_than_there_is_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_MOST_AT_ONCE", 0)
    (error,) = asked(WorkRoom(), "largest", 1, gpu="t4")
    assert isinstance(error, MachineError)
    assert "make one of those calls again" in error.next_step


def test_a_worker_that_is_killed_is_told_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    room, begun = WorkRoom(), []
    start = Work.start
    monkeypatch.setattr(Work, "start", lambda one: (start(one), begun.append(one), one.kill())[0])
    (error,) = asked(room, "environment", 1, directory="/")
    assert isinstance(error, MachineError)
    assert "ended with code -9" in error.message
    pid = begun[0]._child.pid
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_half_written_line_is_no_answer() -> None:
    half = Work("largest", {})
    half._take('{"result": {"gpu": "T4", "mod')
    with pytest.raises(MachineError, match="it said nothing"):
        _ = half.answer


def test_rows_that_were_mended_since_are_other_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("bad")
    before = work._key("inspect", {"data": str(rows)})
    rows.write_text("good rows")
    assert work._key("inspect", {"data": str(rows)}) != before


def test_a_room_that_is_closed_ends_its_work() -> None:
    room, one = WorkRoom(), Work("environment", {"directory": "/"})
    room._works["key"] = one
    one.start()
    room.close()
    until(lambda: one.ended)
