"""What the machine has, read without any library: the NVIDIA driver, hidden GPUs, memory and its limits, disks."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..subprocesses import child_environment
from .check import Check

_GIB = 2**30
_SECONDS = 10
_LEAST_DISK, _LEAST_MEMORY, _LEAST_SHARED = 5 * _GIB, 8 * _GIB, _GIB
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_SHARED = Path("/dev/shm")  # noqa: S108 - its size is read, nothing is written
_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CUDA = re.compile(r"CUDA(?: UMD)? Version: *(\d+)\.(\d+)")
_DRIVER = re.compile(r"Driver Version: *([\d.]+)|Kernel Module[\w ]* +([\d.]+)")


def check_driver() -> list[Check]:
    """The NVIDIA driver with the newest CUDA that it knows; nothing where there is no sign of one."""
    said = _nvidia_smi()
    driver = _DRIVER.search(said or "")
    if said is not None and driver is not None:
        cuda = cuda_of_driver(said)
        knows = f", knows CUDA up to {cuda[0]}.{cuda[1]}" if cuda else ""
        return [Check(name="NVIDIA driver", status="ok", found=f"{driver[1] or driver[2]}{knows}")]
    if said is not None:
        mend = "Reboot, or install the driver again: the loaded module and its libraries may differ."
        return [Check(name="NVIDIA driver", status="failed", found=f"nvidia-smi says: {said.strip()[:200]}", mend=mend)]
    if _DRIVER_FILE.is_file():
        mend = "In a container: start it with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility."
        return [Check(name="NVIDIA driver", status="warning", found="loaded, but there is no nvidia-smi", mend=mend)]
    return []


def cuda_of_driver(said: str) -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, from what nvidia-smi says."""
    match = _CUDA.search(said)
    return (int(match[1]), int(match[2])) if match else None


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver of this machine knows, None without one."""
    said = _nvidia_smi()
    return cuda_of_driver(said) if said else None


def _nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, timeout=_SECONDS, env=child_environment(), check=False
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        return f"nothing: {error}"
    return done.stdout or done.stderr


def check_visibility() -> list[Check]:
    """Whether CUDA_VISIBLE_DEVICES hides GPUs; nothing where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return []
    if value.strip() in ("", "-1", "NoDevFiles", "none"):
        found = f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU"
        return [Check(name="visible GPUs", status="warning", found=found, mend="unset CUDA_VISIBLE_DEVICES")]
    return [Check(name="visible GPUs", status="ok", found=f"CUDA_VISIBLE_DEVICES={value}: those only, counted from 0")]


def check_host_memory() -> Check:
    """The host's memory, or the container's limit where that is lower."""
    total, limit = _host_memory(), _memory_limit()
    usable = min(total, limit) if limit else total
    found = f"{total / _GIB:.1f} GiB" + (
        f", this container may use {limit / _GIB:.1f}" if limit and limit < total else ""
    )
    if usable >= _LEAST_MEMORY:
        return Check(name="host memory", status="ok", found=found)
    mend = "Loading an 8B model takes 5 to 16 GiB: raise the container's limit (docker run --memory 32g), or add swap."
    return Check(name="host memory", status="warning", found=found, mend=mend)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory_limit() -> int | None:
    for file in _LIMIT_FILES:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        # Version 1 of cgroups writes a number near 2^63 for "no limit".
        return int(text) if text.isdecimal() and int(text) < 2**60 else None
    return None


def check_disks(directory: Path) -> Iterator[Check]:
    """Free space of `directory` and of the Hub's cache, and the size of /dev/shm."""
    yield _disk(
        "disk", directory, "An 8B model in 16 bits takes 16 GB; free some space, or choose another output.directory."
    )
    cache = hub_cache()
    mend = "export HF_HOME=/large/disk/huggingface, or: hf cache prune"
    yield _disk("Hugging Face cache", cache, mend)
    if _SHARED.is_dir():
        yield _shared_memory()


def hub_cache() -> Path:
    """Where models of the Hub are kept: HF_HUB_CACHE, HF_HOME, else the usual folder."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME")
    base = named or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")  # noqa: PTH118
    return Path(os.path.expanduser(base))  # noqa: PTH111 - Path.expanduser raises for unknown users


def _disk(name: str, directory: Path, mend: str) -> Check:
    existing = next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(name=name, status="warning", found=f"{existing} cannot be read: {error.strerror}", mend=mend)
    found = f"{free / _GIB:.1f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Check(name=name, status="warning", found=f"{existing} may not be written", mend=mend)
    return Check(
        name=name,
        status="ok" if free > _LEAST_DISK else "warning",
        found=found,
        mend=None if free > _LEAST_DISK else mend,
    )


def _shared_memory() -> Check:
    size = shutil.disk_usage(_SHARED).total
    found = f"{_SHARED} holds {size / _GIB:.2f} GiB"
    if size >= _LEAST_SHARED:
        return Check(name="shared memory", status="ok", found=found)
    mend = "docker run --shm-size=8g (or --ipc=host); it matters for data workers and several GPUs"
    return Check(name="shared memory", status="warning", found=found, mend=mend)
