"""Many jobs at once: finished ones as the index has them, all others as their folders tell."""

from collections.abc import Collection
from dataclasses import dataclass, field

from .adoption import active_tickets
from .clock import now
from .index import Compared, Index, Row
from .layout import Workspace, names_in
from .records import JobList, JobStatus
from .tickets import positions
from .verdicts import settled
from .views import told

# Folders that changed so lately may change again without another modification time.
_SETTLED_SECONDS = 2.0


@dataclass
class _Found:
    """What reading folders brought: finished jobs as rows, and the others."""

    rows: list[Row] = field(default_factory=list)
    unfinished: dict[str, JobStatus] = field(default_factory=dict)


def listed(space: Workspace, states: Collection[str], limit: int | None) -> JobList:
    """The newest jobs in one of these states (none given: in any), of a workspace that has jobs."""
    index = Index(space.index_file)
    found = _outside(space, index)
    indexed = index.newest(states, limit)
    if indexed is None:
        found, indexed = _read(space, _present(space)), (0, [])
        everything = [job for _, _, job in found.rows] + list(found.unfinished.values())
    else:
        everything = _checked(space, indexed[1]) + list(found.unfinished.values())
    chosen = [job for job in everything if not states or job.state in states]
    chosen.sort(key=lambda job: job.created, reverse=True)
    total = max(len(chosen), indexed[0] + len(chosen) - len(indexed[1]))
    return JobList(jobs=chosen[:limit], total=total, notes=index.notes)


def _outside(space: Workspace, index: Index) -> _Found:
    """Bring the index up to date, and return the jobs that do not belong there."""
    # Asked before all else: what changes meanwhile makes the comparison count no more.
    status = space.jobs.stat()
    settled = now() - status.st_mtime > _SETTLED_SECONDS
    active = {ticket.job_id for ticket in active_tickets(space)}
    last = index.compared()
    if last is not None and last.modified == status.st_mtime_ns:
        found, gone = _read(space, active | last.unfinished), frozenset[str]()
    else:
        present, indexed = _present(space), index.ids()
        found, gone = _read(space, (present - indexed) | (active & present)), frozenset(indexed - present)
    compared = Compared(status.st_mtime_ns, frozenset(found.unfinished)) if settled else None
    if found.rows or gone or compared != last:
        # A resumed job has a row of the attempt before.
        index.store(found.rows, gone | set(found.unfinished), compared)
    return found


def _present(space: Workspace) -> set[str]:
    return {name for name in names_in(space.jobs) if not name.startswith(".")}


def _read(space: Workspace, names: set[str]) -> _Found:
    found = _Found()
    places = positions(space) if names else {}
    for name in names:
        modified = _modified(space, name)
        facts = settled(space.job(name))
        if facts is None or modified is None:
            continue
        # The result of a long run has a loss for each step: a list does without.
        job = told(facts, places.get(name)).model_copy(update={"result": None})
        if facts.last.exit is None:
            found.unfinished[name] = job
        else:
            found.rows.append((name, modified, job))
    return found


def _checked(space: Workspace, rows: list[Row]) -> list[JobStatus]:
    """The jobs of these rows; those whose folders have changed are read again."""
    stale = {name for name, modified, _ in rows if modified != _modified(space, name)}
    again = _read(space, stale)
    fresh = {name: job for name, _, job in again.rows} | again.unfinished
    kept = {name: job for name, _, job in rows if name not in stale}
    return list((kept | fresh).values())


def _modified(space: Workspace, name: str) -> int | None:
    try:
        return space.job(name).path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
