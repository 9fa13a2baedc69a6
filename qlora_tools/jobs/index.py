"""The index: finished jobs in one SQLite file, so that listing ten thousand reads none of them. It is a cache and no more.

A row holds a finished job as it is told; a verdict never changes, and the row of a resumed job is forgotten before its next
verdict loses its ticket. Every change has a number of its own: whoever has read rows stores what they lack, or reads more of
them, only while nobody else has changed anything. Whatever is wrong with the file, the folders are read instead.
"""

import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .clock import now

if TYPE_CHECKING:
    from .records import JobStatus

_VERSION = 3
_BUSY_MILLISECONDS = 300
_MADE = (
    "DROP TABLE IF EXISTS finished",
    "DROP TABLE IF EXISTS compared",
    "CREATE TABLE finished (id TEXT PRIMARY KEY, modified INTEGER NOT NULL, created TEXT NOT NULL, state TEXT NOT NULL, "
    "document TEXT NOT NULL)",
    "CREATE INDEX by_creation ON finished (created DESC, state)",
    "CREATE TABLE compared (number INTEGER NOT NULL, modified INTEGER NOT NULL, unfinished TEXT NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)
_NEVER = -1
# id, modification time of the folder, and what is told
Row = tuple[str, int, "JobStatus"]
T = TypeVar("T")


@dataclass(frozen=True)
class Compared:
    """The index as change `number` left it: the modification time of the folder of all jobs when it was last held against
    that, and which jobs had not finished."""

    number: int
    modified: int
    unfinished: frozenset[str]


@dataclass(frozen=True)
class Change:
    """What the index lacks, and the jobs whose rows have to go. Without `modified` it is not held against the folders."""

    rows: Sequence[Row]
    gone: Iterable[str]
    modified: int | None
    unfinished: Collection[str]


class Index:
    """The index of one workspace. No method raises for a file that is locked, broken or of another version.

    Inside `with` one connection serves all calls: opening takes longer than asking.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.notes: list[str] = []
        self._kept = False
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "Index":
        self._kept = True
        return self

    def __exit__(self, *error: object) -> None:
        self._kept = False
        self._close()

    def compared(self) -> Compared | None:
        """The last comparison; None where the file is of no use."""
        return self._with_database(_compared)

    def ids(self) -> set[str]:
        """The ids of all rows."""

        def read(database: sqlite3.Connection) -> set[str]:
            return {str(name) for (name,) in database.execute("SELECT id FROM finished")}

        return self._with_database(read) or set()

    def newest(
        self, states: Collection[str], limit: int | None, *, besides: Collection[str], number: int
    ) -> tuple[int, list[Row]] | None:
        """How many rows `besides` those have one of the states (none given: all), and the newest of them.

        None without an index, and where another has changed it since change `number`.
        """
        from .records import JobStatus

        where = "WHERE id NOT IN (SELECT value FROM json_each(?))"
        where += f" AND state IN ({', '.join('?' * len(states))})" if states else ""
        chosen = [json.dumps(sorted(besides)), *states]

        def read(database: sqlite3.Connection) -> tuple[int, list[Row]] | None:
            database.execute("BEGIN")
            if _compared(database).number != number:
                return None
            count = database.execute(f"SELECT count(*) FROM finished {where}", chosen).fetchone()[0]  # noqa: S608
            query = f"SELECT id, modified, document FROM finished {where} ORDER BY created DESC LIMIT ?"  # noqa: S608
            rows = database.execute(query, [*chosen, -1 if limit is None else limit])
            return count, [(name, modified, JobStatus.model_validate_json(text)) for name, modified, text in rows]

        return self._with_database(read)

    def store(self, change: Change, *, number: int) -> int | None:
        """Apply `change`, and return its number; None where another has changed something since change `number`."""
        values = [
            (name, modified, job.created, job.state, job.model_dump_json()) for name, modified, job in change.rows
        ]

        def write(database: sqlite3.Connection) -> int | None:
            database.execute("BEGIN IMMEDIATE")
            if _compared(database).number != number:
                return None
            database.executemany("DELETE FROM finished WHERE id = ?", [(name,) for name in change.gone])
            database.executemany("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?)", values)
            return _changed(database, change.modified, change.unfinished)

        return self._with_database(write)

    def forget(self, job_id: str) -> bool:
        """Drop the row of a job that got another verdict; whether no such row can be there any more."""

        def write(database: sqlite3.Connection) -> bool:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM finished WHERE id = ?", [job_id])
            _changed(database, None, ())
            return True

        if not self._path.exists() or self._with_database(write):
            return True
        try:
            # Its log of changes goes first: it would be taken for that of the next file.
            for ending in ("-journal", ""):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _with_database(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `act` makes of the database; None where it cannot be used."""
        try:
            if self._database is None:
                self._database = sqlite3.connect(self._path, timeout=0, isolation_level=None)
                if not self._usable(self._database):
                    self._close()
                    return None
            return act(self._database)
        except (sqlite3.OperationalError, sqlite3.IntegrityError):
            return None  # Locked, read-only, full, or no folder: the truth is elsewhere.
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._close()
            self._move_aside()
            return None
        finally:
            self._end_of_call()

    def _end_of_call(self) -> None:
        """No transaction outlives a call, and no connection either unless it is kept."""
        if self._database is None:
            return
        if not self._kept:
            self._close()
        elif self._database.in_transaction:
            self._database.rollback()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _usable(self, database: sqlite3.Connection) -> bool:
        database.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        if _version(database) < _VERSION:
            # A write-ahead log maps memory that is cut when the file is made anew; whoever reads it then dies of SIGBUS.
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("BEGIN IMMEDIATE")
            if _version(database) < _VERSION:  # nobody else was faster
                for statement in _MADE:
                    database.execute(statement)
                _changed(database, None, ())
            else:
                database.execute("ROLLBACK")
        database.execute("PRAGMA synchronous = NORMAL")
        return _version(database) == _VERSION

    def _move_aside(self) -> None:
        """Out of the way with a broken file; the next look makes a new one from the folders."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{int(now())}")
        try:
            self._path.rename(aside)
        except OSError:
            return
        self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
        self.notes.append(f"The index {self._path.name} was damaged: moved to {aside.name} and made anew.")


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _compared(database: sqlite3.Connection) -> Compared:
    number, modified, unfinished = database.execute("SELECT number, modified, unfinished FROM compared").fetchone()
    return Compared(int(number), int(modified), frozenset(json.loads(unfinished)))


def _changed(database: sqlite3.Connection, modified: int | None, unfinished: Collection[str]) -> int:
    """End the transaction with a number that no other change has, in this file or one that was here before."""
    number = secrets.randbits(62)
    database.execute("DELETE FROM compared")
    kept = _NEVER if modified is None else modified
    database.execute("INSERT INTO compared VALUES (?, ?, ?)", (number, kept, json.dumps(sorted(unfinished))))
    database.execute("COMMIT")
    return number
