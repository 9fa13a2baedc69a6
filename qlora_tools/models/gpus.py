"""Accelerators by name, so that a run can be planned for a machine that is not at hand.

`gpus.json` beside this module holds one accelerator a line:

- `memory_mib` is the total that nvidia-smi shows; for unified memory, the largest configuration sold.
- `usable_mib` is the total that CUDA reports to a program, which is less. Where `usable_measured` is true it is the lowest
  published reading from Linux; another driver may give up to 2 % more, and Windows shows nearly all of `memory_mib`.
  Where it is false no reading was found: it is an estimate, 0.985 x `memory_mib`, of which small cards may lack 3 %.
- `tflops_16bit` is the dense peak of the tensor cores in fp16 or bf16 with sums in fp32; null where it is not published.
- One entry stands for the SXM and PCIe forms of P100, V100 and A100, with the figures of the slower.
- `supported` means that bitsandbytes has 4-bit code for it: compute capability 6.0 and later. P100 and V100 also need
  PyTorch's build for CUDA 12.6; later builds leave them out.
"""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import MachineError, UsageError
from .hardware import Hardware

_MIB = 2**20

_VENDOR_WORDS = re.compile("nvidia|geforce|tesla|amd|radeon|instinct|apple|intel|google")
_SEPARATORS = re.compile(r"[\s_/()-]+")
_SPACED_SIZE = re.compile(r"(\d)\s+(?=gi?b?\b)")
_SIZE = re.compile(r"(\d+)gi?b?")
_SXM = re.compile(r"sxm\d")
_FORM_WORDS = frozenset({"sxm", "pcie", "nvl", "hbm3"})


@dataclass(frozen=True)
class Gpu:
    """An accelerator: memory in MiB, bandwidth in GB/s, peak in TFLOP/s. `reason` says why it is not supported."""

    name: str
    vendor: str
    memory_mib: int
    usable_mib: int
    usable_measured: bool
    compute_capability: tuple[int, int] | None
    bandwidth_gb_s: float
    tflops_16bit: float | None
    supported: bool
    reason: str | None
    aliases: tuple[str, ...]

    @property
    def usable_bytes(self) -> int:
        """What CUDA reports as total memory, in bytes."""
        return self.usable_mib * _MIB

    @property
    def computes_bfloat16(self) -> bool:
        """Whether it multiplies bf16 natively; older cards emulate it at a fraction of the speed of fp16."""
        return self.compute_capability is not None and self.compute_capability >= (8, 0)

    def hardware(self) -> Hardware:
        """The machine to plan for: this card with nothing else on it. Raises `MachineError` if it is not supported."""
        if not self.supported:
            raise MachineError(
                f"{self.name} is not supported: {self.reason}",
                next_step="Plan for an NVIDIA GPU, such as T4, RTX 4090 or A100 80GB.",
            )
        return Hardware(
            kind="cuda",
            name=self.name,
            memory_bytes=self.usable_bytes,
            free_memory_bytes=self.usable_bytes,
            computes_bfloat16=self.computes_bfloat16,
            compute_capability=self.compute_capability,
        )


@cache
def load_gpus() -> tuple[Gpu, ...]:
    """Every accelerator in `gpus.json`, in its order."""
    entries = json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    return tuple(_gpu(entry) for entry in entries)


def find_gpu(name: str) -> Gpu:
    """The accelerator that `name` means: its name, an alias, or the device name that torch reports.

    Case, spaces, dashes, underscores and vendors' words do not count, and a size may follow: `a100-80gb`.
    A name that several cards answer to (`a100`, `h100`, `3080`) means the one with the least usable memory, so that
    what is planned for it fits the others too. Unsupported accelerators are found; `Gpu.hardware` refuses them.
    Raises `UsageError` with the nearest names.
    """
    found = gpu_from_hardware_name(name)
    if found is None:
        near = _nearest(name)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        raise UsageError(
            f"No GPU called {name!r} is among the {len(load_gpus())} known ones.{hint}",
            next_step="Use a known name, or give the memory of the GPU in GiB instead: --memory-limit-gib 24.",
        )
    return found


def gpu_from_hardware_name(name: str) -> Gpu | None:
    """The accelerator of a detected device, by rules of `find_gpu`; None where it is not known, as for a slice of one."""
    exact = _by_label().get(_key(name))
    if exact is not None:
        return exact
    words, gigabytes = _without_size(_words(name))
    family = _by_family().get("".join(words), ())
    fitting = [gpu for gpu in family if gigabytes is None or _comes_with(gpu, gigabytes)]
    return min(fitting, key=lambda gpu: gpu.usable_mib, default=None)


def _comes_with(gpu: Gpu, gigabytes: int) -> bool:
    # Error correction takes a sixteenth of GDDR memory, and "GB" on a box is at times 10^9 bytes.
    # What is refused anyway is refused in every size: Apple sells each chip in several.
    return not gpu.supported or 0.92 * gigabytes <= gpu.memory_mib / 1024 <= 1.02 * gigabytes


def _gpu(entry: dict[str, object]) -> Gpu:
    capability = entry["compute_capability"]
    aliases = entry["aliases"]
    assert isinstance(aliases, list)
    major_minor = tuple(capability) if isinstance(capability, list) else None
    return Gpu(**{**entry, "compute_capability": major_minor, "aliases": tuple(aliases)})  # type: ignore[arg-type]


def _words(name: str) -> list[str]:
    bare = _SPACED_SIZE.sub(r"\1", _VENDOR_WORDS.sub(" ", name.lower()))
    return [_plain(word) for word in _SEPARATORS.split(bare) if word]


def _plain(word: str) -> str:
    size = _SIZE.fullmatch(word)
    if size:
        return f"{size[1]}gb"
    return "sxm" if _SXM.fullmatch(word) else word


def _key(name: str) -> str:
    return "".join(_words(name))


def _without_size(words: Iterable[str]) -> tuple[list[str], int | None]:
    kept, gigabytes = [], None
    for word in words:
        size = _SIZE.fullmatch(word)
        if size:
            gigabytes = int(size[1])
        else:
            kept.append(word)
    return kept, gigabytes


@cache
def _by_label() -> dict[str, Gpu]:
    return {_key(label): gpu for gpu in load_gpus() for label in (gpu.name, *gpu.aliases)}


@cache
def _by_family() -> dict[str, tuple[Gpu, ...]]:
    """Cards by their names without size, and without size and form: `A100 80GB PCIe` is also `a100pcie` and `a100`."""
    families: dict[str, tuple[Gpu, ...]] = {}
    for gpu in load_gpus():
        for label in (gpu.name, *gpu.aliases):
            words, _ = _without_size(_words(label))
            formless = [word for word in words if word not in _FORM_WORDS]
            for key in ("".join(words), "".join(formless)):
                families[key] = (*families.get(key, ()), gpu)
    return families


def _nearest(name: str) -> list[str]:
    words, _ = _without_size(_words(name))
    keys = difflib.get_close_matches("".join(words), _by_family(), n=3, cutoff=0.6)
    return list(dict.fromkeys(gpu.name for key in keys for gpu in _by_family()[key]))[:4]
