"""Faults while files are written: after a crash a name holds the old content or the new, whole, and never neither."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_tools import durable
from qlora_tools.checkpoints import (
    COMPLETE_FILE,
    checkpoints,
    last_complete,
    problem_of,
    prune,
    remove_leftovers,
    set_later_aside,
    write_checkpoint,
)
from qlora_tools.durable import exchange_directories, publish_directory, replace_file, write_once

from .crashing import crash_points

OLD, NEW = b"old" * 1000, b"new" * 2000
FILES = {"weights.safetensors": b"w" * 3000, "state.json": b'{"step": 2}'}


def test_replace_file_killed_anywhere_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def prepare() -> Callable[[], object]:
        path.write_bytes(OLD)
        return lambda: replace_file(path, NEW)

    seen = [path.read_bytes() for _ in crash_points(prepare)]
    assert set(seen) == {OLD, NEW}
    assert len(seen) >= 5
    replace_file(path, OLD)
    assert path.read_bytes() == OLD


def test_write_once_killed_anywhere_leaves_nothing_or_all_and_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def prepare() -> Callable[[], object]:
        path.unlink(missing_ok=True)
        return lambda: write_once(path, NEW)

    seen = []
    for _ in crash_points(prepare):
        seen.append(path.read_bytes() if path.exists() else None)
        if seen[-1] is None:
            write_once(path, OLD)
        else:
            with pytest.raises(FileExistsError):
                write_once(path, OLD)
        assert path.read_bytes() == (seen[-1] or OLD)
    assert set(seen) == {None, NEW}


def test_of_many_that_write_once_one_wins_and_all_others_know_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    won: list[int] = []
    lost: list[int] = []
    together = threading.Barrier(8)

    def write(number: int) -> None:
        together.wait()
        try:
            write_once(path, str(number).encode() * 5000)
            won.append(number)
        except FileExistsError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert path.read_bytes() == str(won[0]).encode() * 5000
    assert list(tmp_path.iterdir()) == [path]


def folder(path: Path, content: bytes) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "a").write_bytes(content)
    (path / "inner" / "b").write_bytes(content)
    return path


def content_of(directory: Path) -> set[bytes]:
    return {(directory / name).read_bytes() for name in ("a", "inner/b")}


def test_publish_directory_killed_anywhere_leaves_nothing_or_all(tmp_path: Path) -> None:
    directory = tmp_path / "published"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(tmp_path / "partial", ignore_errors=True)
        partial = folder(tmp_path / "partial", NEW)
        return lambda: publish_directory(partial, directory)

    seen = [content_of(directory) if directory.exists() else None for _ in crash_points(prepare)]
    assert [found for found in seen if found not in (None, {NEW})] == []
    assert seen[0] is None
    assert seen[-1] == {NEW}


def test_exchange_directories_killed_anywhere_leaves_one_of_both_whole(tmp_path: Path) -> None:
    directory, partial = tmp_path / "adapter", tmp_path / "partial"

    def prepare() -> Callable[[], object]:
        for path in (directory, partial):
            shutil.rmtree(path, ignore_errors=True)
        folder(directory, OLD)
        folder(partial, NEW)
        return lambda: exchange_directories(partial, directory)

    seen = [tuple(content_of(directory)) for _ in crash_points(prepare)]
    assert set(seen) == {(OLD,), (NEW,)}


def fill(directory: Path) -> None:
    for name, content in FILES.items():
        (directory / name).write_bytes(content)


def test_write_checkpoint_killed_anywhere_keeps_the_earlier_one_and_can_be_repeated(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, fill)
    steps = set()

    def prepare() -> Callable[[], object]:
        shutil.rmtree(tmp_path / "checkpoints" / "step-2", ignore_errors=True)
        return lambda: write_checkpoint(tmp_path, 2, fill)

    for _ in crash_points(prepare):
        last = last_complete(tmp_path)
        assert last is not None
        steps.add(last.name)
        assert problem_of(write_checkpoint(tmp_path, 2, fill)) is None
        remove_leftovers(tmp_path)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-1", "step-2"]
    assert steps == {"step-1", "step-2"}


def test_prune_killed_anywhere_keeps_the_best_and_the_last_and_can_be_repeated(tmp_path: Path) -> None:
    def prepare() -> Callable[[], object]:
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        for step in (1, 2, 3, 4):
            write_checkpoint(tmp_path, step, fill)
        return lambda: prune(tmp_path, keep=1, best_step=2)

    crashed = 0
    for _ in crash_points(prepare):
        crashed += 1
        assert all(problem_of(found.directory) is None for found in checkpoints(tmp_path))
        assert {2, 4} <= {found.step for found in checkpoints(tmp_path)}
        prune(tmp_path, keep=1, best_step=2)
        assert [found.step for found in checkpoints(tmp_path)] == [2, 4]
    assert crashed >= 4


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "a bit flipped": flipped,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", [*FILES, COMPLETE_FILE])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_never_taken_and_the_one_before_is(damage: str, name: str, tmp_path: Path) -> None:
    earlier = write_checkpoint(tmp_path, 2, fill)
    path = write_checkpoint(tmp_path, 4, fill) / name
    DAMAGES[damage](path)
    assert last_complete(tmp_path) == earlier
    assert [aside.name.startswith("damaged-step-4-") for aside, _ in set_later_aside(tmp_path, 2)] == [True]
    assert problem_of(write_checkpoint(tmp_path, 4, fill)) is None


def test_a_highest_checkpoint_without_its_mark_is_none_and_its_step_can_be_written_again(tmp_path: Path) -> None:
    earlier = write_checkpoint(tmp_path, 2, fill)
    partial = tmp_path / "checkpoints" / "step-9"
    partial.mkdir()
    fill(partial)
    assert last_complete(tmp_path) == earlier
    assert [found.step for found in checkpoints(tmp_path)] == [2]
    assert prune(tmp_path, keep=1, best_step=None) == []
    assert last_complete(tmp_path) == earlier
    assert write_checkpoint(tmp_path, 9, fill) == partial
    assert last_complete(tmp_path) == partial


def test_a_save_that_fails_half_way_leaves_nothing_new(tmp_path: Path) -> None:
    earlier = write_checkpoint(tmp_path, 2, fill)

    def broken(directory: Path) -> None:
        fill(directory)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_checkpoint(tmp_path, 4, broken)
    assert list(earlier.parent.iterdir()) == [earlier]


def test_without_a_call_that_exchanges_names_one_of_both_directories_is_always_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_exchanged", lambda *names: False)
    directory, partial = tmp_path / "adapter", tmp_path / "partial"

    def prepare() -> Callable[[], object]:
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        folder(directory, OLD)
        folder(partial, NEW)
        return lambda: exchange_directories(partial, directory)

    for _ in crash_points(prepare):
        found = [content_of(path) for path in tmp_path.iterdir()]
        assert sorted(found, key=str) == [{NEW}, {OLD}]
