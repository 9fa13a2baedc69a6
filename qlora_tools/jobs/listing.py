"""Many jobs at once: finished ones as the index has them, all others as their folders tell."""

from collections.abc import Collection
from dataclasses import dataclass, field

from .adoption import active_tickets
from .clock import now
from .index import Change, Compared, Index, Row
from .layout import Workspace, names_in
from .records import JobList, JobStatus
from .tickets import positions
from .verdicts import settled
from .views import told

# Folders that changed so lately may change again without another modification time.
_SETTLED_SECONDS = 2.0
# Others may change the index between two looks; then it is looked at again, and after that done without.
_TRIES = 3


@dataclass
class _Found:
    """What reading folders brought: finished jobs as rows, the others, and ids of the index that are `gone`."""

    rows: list[Row] = field(default_factory=list)
    unfinished: dict[str, JobStatus] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def jobs(self) -> dict[str, JobStatus]:
        """All of them by their ids."""
        return {name: job for name, _, job in self.rows} | self.unfinished


def listed(space: Workspace, states: Collection[str], limit: int | None) -> JobList:
    """The newest jobs in one of these states (none given: in any), of a workspace that has jobs."""
    with Index(space.index_file) as index:
        for _ in range(_TRIES):
            compared = index.compared()
            if compared is None:
                continue
            found, number = _outside(space, index, compared)
            indexed = index.newest(states, limit, besides=found.jobs().keys() | found.gone, number=number)
            if indexed is not None:
                everything = _checked(space, indexed[1]) | found.jobs()
                more = indexed[0] - len(indexed[1])
                return _chosen(everything, states, limit, more, index.notes)
    return _chosen(_read(space, _present(space)).jobs(), states, limit, 0, index.notes)


def _chosen(
    everything: dict[str, JobStatus], states: Collection[str], limit: int | None, more: int, notes: list[str]
) -> JobList:
    """The newest of `everything` that are in one of the states, beside which the index has so many `more`."""
    chosen = [job for job in everything.values() if not states or job.state in states]
    chosen.sort(key=lambda job: job.created, reverse=True)
    return JobList(jobs=chosen[:limit], total=len(chosen) + more, notes=notes)


def _outside(space: Workspace, index: Index, last: Compared) -> tuple[_Found, int]:
    """The jobs that the index does not have as they are, and the number of its last change, which may be to have them."""
    # Asked before all else: what changes meanwhile makes the comparison count no more.
    status = space.jobs.stat()
    settled = now() - status.st_mtime > _SETTLED_SECONDS
    active = {ticket.job_id for ticket in active_tickets(space)}
    if last.modified == status.st_mtime_ns:
        found = _read(space, active | last.unfinished)
    else:
        present, indexed = _present(space), index.ids()
        found = _read(space, (present - indexed) | (active & present))
        found.gone = indexed - present
    modified = status.st_mtime_ns if settled else None
    as_before = (modified or last.modified) == last.modified and found.unfinished.keys() == last.unfinished
    if as_before and not (found.rows or found.gone):
        return found, last.number
    # A resumed job has a row of the attempt before.
    change = Change(found.rows, found.gone | found.unfinished.keys(), modified, found.unfinished)
    return found, index.store(change, number=last.number) or last.number


def _present(space: Workspace) -> set[str]:
    return {name for name in names_in(space.jobs) if not name.startswith(".")}


def _read(space: Workspace, names: Collection[str]) -> _Found:
    found = _Found()
    places = positions(space) if names else {}
    for name in names:
        modified = _modified(space, name)
        facts = settled(space.job(name))
        if facts is None:
            continue
        # The result of a long run has a loss for each step: a list does without.
        job = told(facts, places.get(name)).model_copy(update={"result": None})
        if modified is None or facts.last.exit is None or "damaged" in facts.last.exit or "damaged" in facts.plan:
            # What cannot be read now may be readable later.
            found.unfinished[name] = job
        else:
            found.rows.append((name, modified, job))
    return found


def _checked(space: Workspace, rows: list[Row]) -> dict[str, JobStatus]:
    """The jobs of these rows; those whose folders have changed are read again."""
    stale = {name for name, modified, _ in rows if modified != _modified(space, name)}
    kept = {name: job for name, _, job in rows if name not in stale}
    return kept | _read(space, stale).jobs()


def _modified(space: Workspace, name: str) -> int | None:
    try:
        return space.job(name).path.stat().st_mtime_ns
    except OSError:
        return None
