"""Runs in a child process: imports the heavy libraries, tries the GPU and a 4-bit layer, prints one JSON line."""

import json
import platform

import torch

from ..engine.device import detect_hardware
from ..models.hardware import Hardware
from .environment import Check


def main() -> None:
    """Print the checks that need the libraries."""
    hardware = detect_hardware()
    checks = [_device(hardware), _memory(hardware), _bfloat16(hardware), _four_bit(hardware)]
    print(json.dumps({"device": hardware.name, "checks": [check.model_dump() for check in checks]}))


def _device(hardware: Hardware) -> Check:
    if hardware.compute_capability is not None:
        major, minor = hardware.compute_capability
        found = f"{hardware.name}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"
        return Check(name="GPU", status="ok", found=found)
    built = f"this torch is built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU only'}"
    return Check(
        name="GPU",
        status="warning",
        found=f"none; training runs on the CPU ({platform.machine()}); {built}",
        mend="With an NVIDIA card: check nvidia-smi, then install the CUDA build of torch.",
    )


def _memory(hardware: Hardware) -> Check:
    where = "GPU memory" if hardware.kind == "cuda" else "host memory"
    found = f"{hardware.free_memory_bytes / 2**30:.1f} of {hardware.memory_bytes / 2**30:.1f} GiB free"
    return Check(name=where, status="ok", found=found)


def _bfloat16(hardware: Hardware) -> Check:
    if hardware.computes_bfloat16:
        return Check(name="bfloat16", status="ok", found="computed natively")
    instead = "float16" if hardware.kind == "cuda" else "float32"
    return Check(name="bfloat16", status="ok", found=f"not native; compute_dtype auto uses {instead}")


def _four_bit(hardware: Hardware) -> Check:
    try:
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32).to(hardware.kind)
        finite = bool(torch.isfinite(layer(torch.ones(1, 64, device=hardware.kind))).all())
    except (RuntimeError, ImportError, OSError, AttributeError) as error:
        mend = "pip install --upgrade bitsandbytes; its CUDA libraries need a driver for CUDA 11.8 or newer."
        return Check(
            name="bitsandbytes 4-bit", status="failed", found=str(error)[:300] or type(error).__name__, mend=mend
        )
    if not finite:
        return Check(
            name="bitsandbytes 4-bit", status="failed", found="computes NaN", mend="pip install --upgrade bitsandbytes"
        )
    return Check(name="bitsandbytes 4-bit", status="ok", found="an NF4 layer computes")


if __name__ == "__main__":
    main()
