"""The GPU of this machine as nvidia-smi tells it: at once, and without torch."""

import os
import re
import shutil
import subprocess
from dataclasses import replace

from ..subprocesses import child_environment
from .gpus import gpu_from_hardware_name
from .hardware import Hardware

_MIB = 2**20
_SECONDS = 5
_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_DEVICE = re.compile(r"\d+|GPU-[\w-]+")


def gpu_here() -> Hardware | None:
    """The first GPU that a program would see here, with the memory that is free on it now; None without one.

    A card of the table keeps its name and its figures there. Another goes by the name and the memory that nvidia-smi
    shows, less the 1.5 % that programs do not get, and is taken for one that computes bf16.
    """
    device = _visible_device()
    program = shutil.which("nvidia-smi")
    if device is None or program is None:
        return None
    try:
        done = subprocess.run(
            [program, *_QUERY, f"--id={device}"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=child_environment(),
            check=False,
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return None
    return _hardware(done.stdout) if done.returncode == 0 else None


def _visible_device() -> str | None:
    """The first of CUDA_VISIBLE_DEVICES, which nvidia-smi itself does not heed.

    None where all are hidden, and for a slice of a GPU, whose memory nvidia-smi tells in another way.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return first if _DEVICE.fullmatch(first) else None


def _hardware(answer: str) -> Hardware | None:
    name, *memory = [word.strip() for word in (answer.strip().splitlines() or [""])[0].rsplit(",", 2)]
    known = gpu_from_hardware_name(name)
    card = known.hardware() if known is not None else None
    # A GPU that shares the memory of its host tells none of its own.
    if len(memory) != 2 or not all(word.isdecimal() for word in memory):
        return card
    total, free = (int(word) * _MIB for word in memory)
    if card is None:
        usable = round(0.985 * total)
        return Hardware("cuda", name, usable, min(free, usable), computes_bfloat16=True)
    return replace(card, free_memory_bytes=min(free, card.memory_bytes))
