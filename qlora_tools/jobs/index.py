"""The index: finished jobs in one SQLite file, so that listing ten thousand reads none of them. It is a cache and no more.

A row holds a finished job as it is told, and counts while the modification time of the job's folder is the stored one: a
verdict never changes, and a new attempt changes the folder. Whatever is wrong with the file, the folders are read instead.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .clock import now
from .records import JobStatus

_VERSION = 1
_BUSY_MILLISECONDS = 300
_MADE = (
    "PRAGMA journal_mode = WAL",
    "DROP TABLE IF EXISTS finished",
    "DROP TABLE IF EXISTS compared",
    "CREATE TABLE finished (id TEXT PRIMARY KEY, modified INTEGER NOT NULL, created TEXT NOT NULL, state TEXT NOT NULL, "
    "document TEXT NOT NULL)",
    "CREATE INDEX by_creation ON finished (created DESC, state)",
    "CREATE TABLE compared (modified INTEGER NOT NULL, unfinished TEXT NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)
# id, modification time of the folder, and what is told
Row = tuple[str, int, JobStatus]
T = TypeVar("T")


@dataclass(frozen=True)
class Compared:
    """When the index was last held against the folders: the modification time of theirs, and which had not finished."""

    modified: int
    unfinished: frozenset[str]


class Index:
    """The index of one workspace. No method raises for a file that is locked, broken or of another version."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.notes: list[str] = []

    def compared(self) -> Compared | None:
        """The last comparison; None where there was none or the file is of no use."""

        def read(database: sqlite3.Connection) -> Compared | None:
            row = database.execute("SELECT modified, unfinished FROM compared").fetchone()
            return None if row is None else Compared(int(row[0]), frozenset(json.loads(row[1])))

        return self._with_database(read)

    def ids(self) -> set[str]:
        """The ids of all rows."""

        def read(database: sqlite3.Connection) -> set[str]:
            return {str(name) for (name,) in database.execute("SELECT id FROM finished")}

        return self._with_database(read) or set()

    def newest(self, states: Collection[str], limit: int | None) -> tuple[int, list[Row]] | None:
        """How many rows have one of the states (none given: all), and the newest of them; None without an index."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""

        def read(database: sqlite3.Connection) -> tuple[int, list[Row]]:
            count = database.execute(f"SELECT count(*) FROM finished {where}", list(states)).fetchone()[0]  # noqa: S608
            query = f"SELECT id, modified, document FROM finished {where} ORDER BY created DESC LIMIT ?"  # noqa: S608
            rows = database.execute(query, [*states, -1 if limit is None else limit])
            return count, [(name, modified, JobStatus.model_validate_json(text)) for name, modified, text in rows]

        return self._with_database(read)

    def store(self, rows: Sequence[Row], gone: Iterable[str], compared: Compared | None) -> bool:
        """Add or replace rows, drop those of `gone`, and note the comparison; whether that worked."""
        values = [(name, modified, job.created, job.state, job.model_dump_json()) for name, modified, job in rows]

        def write(database: sqlite3.Connection) -> bool:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM finished WHERE id = ?", [(name,) for name in gone])
            database.executemany("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?)", values)
            database.execute("DELETE FROM compared")
            if compared is not None:
                unfinished = json.dumps(sorted(compared.unfinished))
                database.execute("INSERT INTO compared VALUES (?, ?)", (compared.modified, unfinished))
            database.execute("COMMIT")
            return True

        return self._with_database(write) or False

    def _with_database(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `act` makes of the database; None where it cannot be used."""
        try:
            with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as database:
                return act(database) if self._usable(database) else None
        except sqlite3.OperationalError:
            return None  # Locked, read-only, or no folder: the truth is elsewhere.
        except (sqlite3.DatabaseError, ValueError):
            self._move_aside()
            return None

    def _usable(self, database: sqlite3.Connection) -> bool:
        database.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version < _VERSION:
            for statement in _MADE:
                database.execute(statement)
        database.execute("PRAGMA synchronous = NORMAL")
        return bool(version <= _VERSION)

    def _move_aside(self) -> None:
        """Out of the way with a broken file; the next look makes a new one from the folders."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{int(now())}")
        try:
            self._path.rename(aside)
        except OSError:
            return
        for ending in ("-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        self.notes.append(f"The index {self._path.name} was damaged: moved to {aside.name} and made anew.")
