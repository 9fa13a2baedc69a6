"""What jobs share: the GPUs that a submitter may use, or the memory and cores of the host."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..subprocesses import child_environment

AT_ONCE_VARIABLE = "QLORA_JOBS_AT_ONCE"
_MIB = 2**20
_SECONDS = 10
_NONE_VISIBLE = re.compile(r"\s*(-1.*|NoDevFiles|none|void)?\s*")


@dataclass(frozen=True)
class Device:
    """A GPU. `id` is what CUDA_VISIBLE_DEVICES calls it; sizes in bytes, None where nobody tells them (a MIG slice)."""

    id: str
    label: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Host:
    """Memory of this machine in bytes, and how many jobs may run on it at once."""

    total_bytes: int
    free_bytes: int
    at_once: int


def may_have_gpu(visible: str | None) -> bool:
    """Whether a run with this CUDA_VISIBLE_DEVICES (None: not set) may find a GPU; asks no program."""
    hidden = visible is not None and _NONE_VISIBLE.fullmatch(visible) is not None
    return not hidden and shutil.which("nvidia-smi") is not None


def devices_here(visible: str | None) -> list[Device]:
    """The GPUs that a run with this CUDA_VISIBLE_DEVICES sees, as nvidia-smi tells them now; none on other machines."""
    if not may_have_gpu(visible):
        return []
    found = [device for line in _listed() if (device := _device(line)) is not None]
    if visible is None:
        return [device for _, device in found]
    return _chosen(found, [word.strip() for word in visible.split(",")])


def host_here() -> Host:
    """Memory and cores of this machine, within the limits of the group of processes that we are in."""
    total, free = _memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Host(total, free, jobs_at_once() or max(1, cores))


def jobs_at_once() -> int | None:
    """How many jobs the user allows at once; None where they did not say."""
    given = os.environ.get(AT_ONCE_VARIABLE, "")
    return max(1, int(given)) if given.isdecimal() else None


def _listed() -> list[str]:
    import subprocess

    program = shutil.which("nvidia-smi") or "nvidia-smi"
    query = ["--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, timeout=_SECONDS, env=child_environment(), check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []


def _device(line: str) -> tuple[str, Device] | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != 4 or not words[0].isdecimal():
        return None
    index, uuid, total, free = words
    sizes = [int(size) * _MIB if size.isdecimal() else None for size in (total, free)]
    return index, Device(uuid, f"GPU {index}", *sizes)


def _chosen(found: list[tuple[str, Device]], words: list[str]) -> list[Device]:
    """Those that the words name, in their order; CUDA stops at the first word that it does not know."""
    chosen: list[Device] = []
    for word in words:
        named = [device for index, device in found if word == index or (word and device.id.startswith(word))]
        if word.startswith("MIG-"):
            named = [Device(word, f"GPU slice {word[:12]}", None, None)]
        if not named:
            break
        chosen.append(named[0])
    return chosen


def _memory() -> tuple[int, int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError):
        total = free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _group_limit()
    return (min(total, limit), min(free, limit)) if limit is not None else (total, free)


def _group_limit() -> int | None:
    """The memory limit of a container; that of groups further out is not looked for."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            return int(text)
    return None
