"""Why a runner died without a word: what the kernel and the machine tell about it."""

from pathlib import Path
from typing import Any

from .clock import boot_id
from .facts import JobFacts

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def memory_kills() -> dict[str, Any] | None:
    """The kernel's counter of processes killed for want of memory, and the file it stands in; None where it has none."""
    for path in (*_group_files(), Path("/proc/vmstat")):
        count = _counted(path)
        if count is not None:
            return {"file": str(path), "count": count}
    return None


def cause_of_death(facts: JobFacts) -> tuple[str, str]:
    """A word for the cause, and what to tell: that the machine was restarted, memory ran out, or that it was killed."""
    started = facts.last.started or {}
    if started.get("boot_id") and boot_id() and started["boot_id"] != boot_id():
        return "restart", "the machine was restarted"
    if _killed_for_memory(facts):
        return "host-memory", (
            "it was killed, as it seems by the kernel, because host memory ran out (the counter of such kills has risen)"
        )
    if facts.last.stop_now is not None:
        return "asked", "it was killed as asked"
    return "killed", "it was killed (SIGKILL) or crashed"


def _killed_for_memory(facts: JobFacts) -> bool:
    """Whether the counter rose since the run last told it: later kills than its own count too, earlier ones do not."""
    started = (facts.last.started or {}).get("memory_kills") or {}
    if not started.keys() >= {"file", "count"}:
        return False
    told = facts.status.get("memory_kills") if facts.status.get("attempt") == facts.last.number else None
    now = _counted(Path(started["file"]))
    return now is not None and now > max(started["count"], told or 0)


def _group_files() -> list[Path]:
    try:
        lines = _GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        below = group.lstrip("/")
        if "memory" in controllers.split(","):
            files.append(_MOUNT / "memory" / below / "memory.oom_control")
        elif not controllers:
            files += [_MOUNT / below / "memory.events", _MOUNT / "unified" / below / "memory.events"]
    return files


def _counted(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    counts = dict(line.split(" ", 1) for line in lines if " " in line)
    count = counts.get("oom_kill", "")
    return int(count) if count.strip().isdecimal() else None
