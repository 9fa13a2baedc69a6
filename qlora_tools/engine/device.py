"""The device of this process, and its memory counters."""

import gc
import platform
import resource
import time
from dataclasses import dataclass

import psutil
import torch
from bitsandbytes.optim import GlobalOptimManager

from ..errors import MachineError
from ..models.hardware import Hardware


def detect_hardware() -> Hardware:
    """The GPU that torch uses by default, else the CPU."""
    return _cuda_hardware() if torch.cuda.is_available() else _cpu_hardware()


def _cuda_hardware() -> Hardware:
    free, total = torch.cuda.mem_get_info()
    capability = torch.cuda.get_device_capability()
    return Hardware(
        kind="cuda",
        name=torch.cuda.get_device_name(),
        memory_bytes=total,
        free_memory_bytes=free,
        # is_bf16_supported() counts emulation, which a T4 offers at a tenth of the speed of fp16.
        computes_bfloat16=capability >= (8, 0),
        compute_capability=capability,
    )


def host_hardware() -> Hardware:
    """The CPU of this machine, for work that needs no GPU."""
    return _cpu_hardware()


def _cpu_hardware() -> Hardware:
    memory = psutil.virtual_memory()
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Hardware(
        kind="cpu",
        name=f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)",
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        computes_bfloat16=bool(native),
    )


def require_capable(hardware: Hardware, quantization: str) -> None:
    """Raise `MachineError` where bitsandbytes has no code for this processor."""
    if quantization == "none":
        return
    least = (7, 5) if quantization == "int8" else (6, 0)
    if hardware.compute_capability is not None and hardware.compute_capability < least:
        major, minor = hardware.compute_capability
        raise MachineError(
            f"{hardware.name} has compute capability {major}.{minor}; {quantization} needs {least[0]}.{least[1]}.",
            next_step="Use a newer GPU, or hide this one with CUDA_VISIBLE_DEVICES= to train on the CPU.",
        )
    if hardware.kind == "cpu" and platform.machine() in ("x86_64", "AMD64") and _lacks_avx2():
        raise MachineError(
            "This CPU has no AVX2, which the 4-bit and 8-bit code of bitsandbytes needs.",
            next_step="Use another machine, or set quantization.kind: none.",
        )


def _lacks_avx2() -> bool:
    return bool(torch.backends.cpu.get_cpu_capability() == "DEFAULT")


def forget_optimised_modules() -> None:
    """Empty bitsandbytes' list of modules with optimiser settings of their own.

    Transformers puts the embedding there; the list lives as long as the process and would keep its memory.
    """
    GlobalOptimManager.get_instance().module_weight_config_triple.clear()


def release_memory() -> None:
    """Give back what the last model held: trainers and their callbacks refer to each other, so it takes a collection."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class PeakMemory:
    """Highest memory use of this process so far, in bytes. On a CPU both figures are its resident memory."""

    allocated_bytes: int
    reserved_bytes: int


def reset_peak_memory(hardware: Hardware) -> None:
    """Start measuring the GPU's peak anew; the host's peak can only be read since the process began."""
    if hardware.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory(hardware: Hardware) -> PeakMemory:
    """The peak so far."""
    if hardware.kind == "cuda":
        return PeakMemory(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return PeakMemory(kibibytes * 1024, kibibytes * 1024)


def memory_now(hardware: Hardware) -> PeakMemory:
    """What is allocated and reserved at this moment; on a CPU the resident memory of this process, twice."""
    if hardware.kind == "cuda":
        return PeakMemory(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    resident = host_bytes()
    return PeakMemory(resident, resident)


def host_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def memory_summary() -> str:
    """Torch's account of the GPU's memory, for people."""
    return str(torch.cuda.memory_summary()) if torch.cuda.is_available() else "There is no GPU to ask.\n"


class Utilization:
    """How busy the GPU is, asked of NVML every two seconds at most, and no more once it does not tell."""

    _SECONDS = 2.0

    def __init__(self, hardware: Hardware) -> None:
        self._asks = hardware.kind == "cuda"
        self._asked = float("-inf")
        self._percent: float | None = None

    def percent(self) -> float | None:
        """Share of the last moments in which the GPU worked; None where nobody knows."""
        if self._asks and time.monotonic() - self._asked >= self._SECONDS:
            self._asked, self._percent = time.monotonic(), _utilization_percent()
            self._asks = self._percent is not None
        return self._percent


def _utilization_percent() -> float | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return float(torch.cuda.utilization())
    except (RuntimeError, AttributeError, pynvml.NVMLError):
        return None
