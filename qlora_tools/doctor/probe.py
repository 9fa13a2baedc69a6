"""Runs in a child process: imports the heavy libraries, tries the GPU and a 4-bit layer, prints one JSON line."""

import importlib
import importlib.util
import json
import platform

import torch

from ..engine.device import detect_hardware
from ..models.hardware import Hardware
from .check import Check
from .machine import driver_cuda

_TORCH_INDEX = "https://download.pytorch.org/whl"
_FLASH_CAPABILITY, _INT8_CAPABILITY, _NF4_CAPABILITY = (8, 0), (7, 5), (6, 0)


def main() -> None:
    """Print the checks that need the libraries."""
    hardware = detect_hardware()
    checks = [_device(hardware), *_driver(), *_build(hardware), _memory(hardware), _bfloat16(hardware)]
    checks += [*_capability(hardware), _native_library(hardware), _four_bit(hardware), *_attention(hardware)]
    print(json.dumps({"device": hardware.name, "checks": [check.model_dump() for check in checks]}))


def _device(hardware: Hardware) -> Check:
    if hardware.compute_capability is not None:
        major, minor = hardware.compute_capability
        count = torch.cuda.device_count()
        found = f"{hardware.name}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"
        return Check(name="GPU", status="ok", found=found + (f"; {count} are visible" if count > 1 else ""))
    built = f"this torch is built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU only'}"
    mend = "With an NVIDIA card: check nvidia-smi, and that CUDA_VISIBLE_DEVICES hides nothing."
    if not torch.version.cuda:
        mend = f"With an NVIDIA card: pip install --force-reinstall torch --index-url {_TORCH_INDEX}/cu128"
    found = f"none; training runs on the CPU ({platform.machine()}); {built}"
    return Check(name="GPU", status="warning", found=found, mend=mend)


def _driver() -> list[Check]:
    """The CUDA of torch against what the driver knows; within one major version newer builds run on older drivers."""
    knows, built = driver_cuda(), torch.version.cuda
    if knows is None or built is None:
        return []
    major = int(built.split(".")[0])
    if major <= knows[0]:
        return [Check(name="driver and torch", status="ok", found=f"torch's CUDA {built} runs on this driver")]
    index = f"{_TORCH_INDEX}/cu{knows[0]}{knows[1]}"
    found = f"torch is built for CUDA {built}, the driver knows {knows[0]}.{knows[1]}"
    mend = f"Update the driver, or: pip install --force-reinstall torch --index-url {index}"
    return [Check(name="driver and torch", status="failed", found=found, mend=mend)]


def _build(hardware: Hardware) -> list[Check]:
    """Whether this torch has code for this GPU."""
    if hardware.compute_capability is None:
        return []
    major, minor = hardware.compute_capability
    kinds = torch.cuda.get_arch_list()
    if not kinds or any(_runs(kind, major, minor) for kind in kinds):
        return []
    mend = f"pip install --upgrade torch --index-url {_TORCH_INDEX}/cu128 (older cards: cu126)"
    found = f"this torch has code for {', '.join(kinds)}, not for sm_{major}{minor}"
    return [Check(name="torch and this GPU", status="failed", found=found, mend=mend)]


def _runs(kind: str, major: int, minor: int) -> bool:
    """Code runs on later minor versions of its major one; PTX (compute_) is compiled for any later card."""
    name, _, digits = kind.partition("_")
    digits = digits.rstrip("af")
    built = (int(digits[:-1]), int(digits[-1])) if digits.isdecimal() else (0, 0)
    return built <= (major, minor) and (name == "compute" or built[0] == major)


def _memory(hardware: Hardware) -> Check:
    where = "GPU memory" if hardware.kind == "cuda" else "free host memory"
    found = f"{hardware.free_memory_bytes / 2**30:.1f} of {hardware.memory_bytes / 2**30:.1f} GiB free"
    return Check(name=where, status="ok", found=found)


def _bfloat16(hardware: Hardware) -> Check:
    if hardware.computes_bfloat16:
        return Check(name="bfloat16", status="ok", found="computed natively")
    instead = "float16" if hardware.kind == "cuda" else "float32"
    return Check(name="bfloat16", status="ok", found=f"not native; compute_dtype auto uses {instead}")


def _capability(hardware: Hardware) -> list[Check]:
    """What this compute capability rules out."""
    capability = hardware.compute_capability
    if capability is None or capability >= _FLASH_CAPABILITY:
        return []
    lacks = [
        f"{name} needs {least[0]}.{least[1]}"
        for name, least in (
            ("nf4", _NF4_CAPABILITY),
            ("int8", _INT8_CAPABILITY),
            ("flash-attn and bf16", _FLASH_CAPABILITY),
        )
        if capability < least
    ]
    status = "failed" if capability < _NF4_CAPABILITY else "warning"
    mend = "Set quantization.kind: nf4, leave compute_dtype and attention_implementation at auto, or use a newer GPU."
    return [
        Check(
            name="compute capability",
            status=status,
            found=f"{capability[0]}.{capability[1]}: {'; '.join(lacks)}",
            mend=mend,
        )
    ]


def _native_library(hardware: Hardware) -> Check:
    """The compiled part of bitsandbytes: what was loaded, or the library's own words on why not."""
    name = "bitsandbytes library"
    try:
        extension = importlib.import_module("bitsandbytes.cextension")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        mend = "pip install --upgrade --force-reinstall --no-deps bitsandbytes"
        return Check(name=name, status="failed", found=f"cannot be imported: {_one_line(error)}", mend=mend)
    # Any attribute that is asked of the library itself becomes a function.
    reason = vars(extension.lib).get("error_msg")
    if reason is None and (hardware.kind == "cpu" or getattr(extension.lib, "compiled_with_cuda", True)):
        return Check(name=name, status="ok", found=f"loaded ({type(extension.lib).__name__})")
    found = str(reason)[:300] if reason else "its CPU library was loaded, though there is a GPU"
    return Check(name=name, status="failed", found=found, mend=_library_mend(str(reason)))


def _library_mend(reason: str) -> str:
    if "cudart" in reason or "cannot open shared object" in reason:
        return "pip install --force-reinstall torch bitsandbytes (torch brings libcudart), then: python -m bitsandbytes"
    return "pip install --upgrade bitsandbytes, then: python -m bitsandbytes"


def _four_bit(hardware: Hardware) -> Check:
    try:
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32).to(hardware.kind)
        finite = bool(torch.isfinite(layer(torch.ones(1, 64, device=hardware.kind))).all())
    except (RuntimeError, ImportError, OSError, AttributeError) as error:
        mend = "pip install --upgrade bitsandbytes; its CUDA libraries need a driver for CUDA 11.8 or newer."
        return Check(name="bitsandbytes 4-bit", status="failed", found=_one_line(error), mend=mend)
    if not finite:
        return Check(
            name="bitsandbytes 4-bit", status="failed", found="computes NaN", mend="pip install --upgrade bitsandbytes"
        )
    return Check(name="bitsandbytes 4-bit", status="ok", found="an NF4 layer computes")


def _attention(hardware: Hardware) -> list[Check]:
    """Which attention implementations work here; a flash-attn that is installed and broken is told apart."""
    works = ["eager", "sdpa"]
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is not None:
        works.append("flex_attention")
    broken = _flash_attention_error()
    if broken is None:
        works.append("flash_attention_2")
    found = Check(name="attention", status="ok", found=f"{', '.join(works)}; auto takes sdpa where the model has it")
    if not broken:
        return [found]
    mend = "pip uninstall -y flash-attn, then: pip install flash-attn --no-build-isolation --no-cache-dir"
    return [found, Check(name="flash-attn", status="warning", found=f"installed and broken: {broken}", mend=mend)]


def _flash_attention_error() -> str | None:
    """None where flash-attn works, an empty text where it is not installed, else why it cannot be imported."""
    if importlib.util.find_spec("flash_attn") is None:
        return ""
    try:
        importlib.import_module("flash_attn")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    main()
