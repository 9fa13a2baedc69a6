"""What is checked before a server starts, beside what the server itself would refuse."""

import errno
import ipaddress
import socket
from pathlib import Path

from ..config.schema import QuantizationConfig
from ..errors import QloraError
from ..exporting.source import AdapterSource
from ..memory import estimate_memory
from ..models.gpu_here import gpu_here
from ..results import ServingCheck

_MERGE = "Merge it: `qlora merge ADAPTER -o DIR`, then `qlora serve DIR`."


def port_check(host: str, port: int) -> ServingCheck:
    """Whether something listens there already, or may not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is in use" if taken else f"cannot be used: {error.strerror or error}"
        step = (
            f"Choose another with --port, such as {port + 1 if port < 65535 else 8000}." if taken else "Check --host."
        )
        return ServingCheck(name="port", passed=False, message=f"Port {port} of {host} {why}.", next_step=step)
    return ServingCheck(name="port", passed=True, message=f"Port {port} of {host} is free.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def whole_modules_check(source: AdapterSource) -> ServingCheck:
    """`transformers serve` loads the base with its own shapes: what was resized or trained whole does not belong there."""
    whole = source.facts.settings.get("modules_to_save") or sorted({*source.facts.replaced, *source.facts.tokens})
    if not whole:
        return ServingCheck(name="whole modules", passed=True, message="No whole module was trained, no token added.")
    shown = ", ".join(map(str, whole))[:200]
    message = f"Modules that were trained whole, or resized, are not served beside a base: {shown}."
    return ServingCheck(name="whole modules", passed=False, message=message, next_step=_MERGE)


def memory_check(model: Path, quantization: QuantizationConfig) -> list[ServingCheck]:
    """Whether the model and one prompt of 2,048 tokens fit the free memory of the GPU here; empty where nobody knows."""
    gpu = gpu_here()
    if gpu is None:
        return []
    settings = {
        "quantization.kind": quantization.kind,
        "quantization.double_quantization": quantization.double_quantization,
        "training.micro_batch_size": 1,
        "training.max_length_tokens": 2048,
    }
    try:
        told = estimate_memory(str(model), task="inference", settings=settings)
    except QloraError:
        return []
    needed, free = told.high_bytes + told.context_bytes, gpu.free_memory_bytes
    message = f"It needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free on {gpu.name}."
    step = None if needed <= free else "Stop what uses the GPU, or serve a smaller or a quantised model."
    return [ServingCheck(name="memory", passed=needed <= free, message=message, next_step=step)]


def gpu_check() -> ServingCheck:
    """vLLM's wheels are built for GPUs."""
    if gpu_here() is not None:
        return ServingCheck(name="GPU", passed=True, message="There is a GPU.")
    return ServingCheck(
        name="GPU",
        passed=False,
        message="vLLM needs a GPU, and none is visible here.",
        next_step="Use --with transformers.",
    )
