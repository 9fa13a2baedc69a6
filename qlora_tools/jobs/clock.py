"""The one clock of the job layer, and what tells one process and one start of the machine from another."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path


def now() -> float:
    """Seconds since 1970; everything that the job layer dates asks here."""
    return time.time()


def stamp(moment: float | None = None) -> str:
    """`moment`, or now, as records show it: UTC, to the millisecond."""
    at = now() if moment is None else moment
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def boot_id() -> str:
    """Names this start of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_started(pid: int) -> str:
    """Names the process `pid` among all that ever had this number; empty when it is gone or a zombie.

    Where the system has no /proc it says only that such a process is there.
    """
    if not Path("/proc/self").exists():
        return _by_signal(pid)
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in ("Z", "X") else words[19]


def _by_signal(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "present"
    return "present"
