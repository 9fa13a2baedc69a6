"""Where the time of one step on a GPU goes, by kind of kernel."""

import re
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first that a kernel's name matches.
_KINDS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("decoding of 4-bit weights", r"dequant|decode"),
    ("head and loss", r"cross_entropy|softmax|nll|lse_forward|lce"),
    ("optimiser", r"optimizer|multi_tensor|adam"),
    ("matrix products", r"gemm|cutlass|nvjet|xmma|cublas|splitk"),
    ("copies", r"memcpy|memset|copy"),
)
_ANNOTATIONS = ("Optimizer.", "ProfilerStep", "Torch-")


class StepProfile:
    """Kernels of one step, between `start` and `stop`."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CUDA])

    def start(self) -> None:
        """Begin, after a profile of nothing: the first one of a process takes seconds that are not the step's."""
        with profile(activities=[ProfilerActivity.CUDA]):
            torch.cuda.synchronize()
        self._profile.start()

    def stop(self, seconds: float) -> dict[str, float]:
        """Milliseconds by kind; `no kernel` is what is left of the `seconds` that the step took."""
        self._profile.stop()
        kernels = [event for event in self._profile.key_averages() if event.device_type == DeviceType.CUDA]
        return by_kind({event.key: event.self_device_time_total / 1000 for event in kernels}, seconds * 1000)


def by_kind(kernels: dict[str, float], whole: float) -> dict[str, float]:
    """Sums of the milliseconds of kernels by kind, and the part of `whole` that none of them took."""
    found: dict[str, Any] = {}
    for name, milliseconds in kernels.items():
        if not name.startswith(_ANNOTATIONS):
            found[kind_of(name)] = found.get(kind_of(name), 0.0) + milliseconds
    found["no kernel"] = max(0.0, whole - sum(found.values()))
    return {kind: round(milliseconds, 2) for kind, milliseconds in found.items()}


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name; what is none of the known ones is element-wise."""
    return next((kind for kind, words in _KINDS if re.search(words, kernel, re.IGNORECASE)), "element-wise")
