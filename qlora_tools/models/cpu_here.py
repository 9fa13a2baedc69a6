"""The CPU of this machine as something to train on, without torch."""

import os
import platform
from pathlib import Path

from .hardware import Hardware

CPU = "cpu"


def cpu_here() -> Hardware:
    """Host memory, and what of it is free now."""
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    name = f"CPU ({platform.machine()}, {os.cpu_count()} threads)"
    return Hardware("cpu", name, page * pages, _available() or page * pages, _computes_bfloat16())


def _available() -> int | None:
    """What the kernel says can be had without swapping; None where it does not tell."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _computes_bfloat16() -> bool:
    """Whether Linux names the instructions that torch looks for."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in text or "amx_tile" in text
