"""All random number generators of this process, taken and put back as one."""

import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch


@dataclass(frozen=True)
class RandomState:
    """States of Python's, NumPy's and torch's generators, and of the GPU's where one is used."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None

    @classmethod
    def take(cls) -> "RandomState":
        """The states now. The GPU's lives on the host: no device sync."""
        on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        legacy: Any = numpy.random.get_state()
        return cls(
            random.getstate(), tuple(legacy), torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
        )

    def put(self) -> None:
        """Go on from these states."""
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch_cuda)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The states as tensors, for safetensors."""
        kept = {"rng.torch_cpu": self.torch_cpu, "rng.numpy": torch.tensor(self.numpy[1].tolist(), dtype=torch.int64)}
        kept["rng.python"] = torch.tensor(self.python[1], dtype=torch.int64)
        return kept if self.torch_cuda is None else {**kept, "rng.torch_cuda": self.torch_cuda}

    def scalars(self) -> dict[str, Any]:
        """What is left, for JSON."""
        return {
            "python": [self.python[0], self.python[2]],
            "numpy": [self.numpy[0], *(float(value) for value in self.numpy[2:])],
        }

    @classmethod
    def from_parts(cls, tensors: dict[str, torch.Tensor], scalars: dict[str, Any]) -> "RandomState":
        """The inverse of `tensors` and `scalars`."""
        version, gauss = scalars["python"]
        name, place, has_gauss, cached = scalars["numpy"]
        keys = numpy.array(tensors["rng.numpy"].tolist(), dtype=numpy.uint32)
        return cls(
            (version, tuple(tensors["rng.python"].tolist()), gauss),
            (name, keys, int(place), int(has_gauss), cached),
            tensors["rng.torch_cpu"],
            tensors.get("rng.torch_cuda"),
        )
