"""Versions that are each fine alone and do not work together. Looks at what is installed and imports nothing."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..requirements import TRAINING_LIBRARIES
from ..subprocesses import child_environment
from .check import Check, installed, numbers

_PIP_SECONDS = 30
_LOOKED_AT = (
    *TRAINING_LIBRARIES,
    "triton",
    "torchvision",
    "torchaudio",
    "torchao",
    "flash-attn",
    "xformers",
    "tokenizers",
)
_LOOKED_AT_TOO = ("huggingface-hub", "safetensors", "numpy", "vllm", "unsloth", "qlora-tools")


@dataclass(frozen=True)
class _Bad:
    """`first` from a version on (or below it) beside `second` below one (or from it on): `>=1.2` and `<3` are read."""

    first: str
    first_is: str
    second: str
    second_is: str
    why: str
    mend: str


# Each with the thread or source that tells it.
_KNOWN = (
    _Bad(
        "peft",
        ">=0.18.1",
        "torchao",
        "<0.16",
        "peft raises ImportError as soon as such a torchao is installed",  # PrunaAI/pruna#630, peft/import_utils.py
        "pip install --upgrade torchao, or: pip uninstall -y torchao",
    ),
    _Bad(
        "torchao",
        ">=0.18",
        "torch",
        "<2.11",
        "torchao imports names that this torch does not have",  # daydreamlive/DEMON#325
        "pip install 'torchao>=0.17,<0.18', or: pip install --upgrade torch",
    ),
    _Bad(
        "triton",
        ">=3.2",
        "bitsandbytes",
        "<0.45",
        "bitsandbytes imports triton.ops, which is gone",  # bitsandbytes#1492
        "pip install --upgrade bitsandbytes",
    ),
    _Bad(
        "numpy",
        ">=2",
        "torch",
        "<2.3",
        "torch was compiled for NumPy 1",  # securefederatedai/openfederatedlearning#999
        "pip install 'numpy<2', or: pip install --upgrade torch",
    ),
    _Bad(
        "peft",
        ">=0.14",
        "transformers",
        "<4.43",
        "peft imports EncoderDecoderCache, which this transformers does not have",  # peft#2292
        "pip install --upgrade transformers",
    ),
    _Bad(
        "peft",
        ">=0.15",
        "accelerate",
        "<0.30",
        "peft imports clear_device_cache, which this accelerate does not have",  # nullquant/ComfyUI-BrushNet#183
        "pip install --upgrade accelerate",
    ),
    _Bad(
        "transformers",
        ">=5",
        "trl",
        "<0.12",
        "trl hands the trainer the argument tokenizer, which is gone",  # trl#6168
        "pip install --upgrade trl",
    ),
)


def check_combinations() -> list[Check]:
    """One check a combination that does not work, or a single one that all is well."""
    found = [*_known(), *_torchvision(), *_unmet_requirements()]
    return found or [Check(name="versions together", status="ok", found="no combination known to fail")]


def _known(version_of: Callable[[str], str | None] = installed) -> Iterator[Check]:
    for bad in _KNOWN:
        first, second = version_of(bad.first), version_of(bad.second)
        if first and second and _holds(first, bad.first_is) and _holds(second, bad.second_is):
            found = f"{bad.first} {first} with {bad.second} {second}: {bad.why}"
            yield Check(name=f"{bad.first} and {bad.second}", status="failed", found=found, mend=bad.mend)


def _holds(version: str, condition: str) -> bool:
    if condition.startswith(">="):
        return numbers(version) >= numbers(condition[2:])
    return numbers(version) < numbers(condition[1:])


def _torchvision(version_of: Callable[[str], str | None] = installed) -> Iterator[Check]:
    """torchvision 0.(n + 15) is built for torch 2.n; another one fails with
    `operator torchvision::nms does not exist`."""
    torch, vision = version_of("torch"), version_of("torchvision")
    if not torch or not vision or numbers(torch)[0] != 2 or numbers(vision)[0] != 0:
        return
    expected = f"0.{numbers(torch)[1] + 15}"
    if numbers(vision)[:2] != numbers(expected):
        found = f"torchvision {vision} with torch {torch}, which goes with {expected}"
        mend = f"pip install --force-reinstall --no-deps 'torchvision=={expected}.*'"
        yield Check(name="torch and torchvision", status="failed", found=found, mend=mend)


def _unmet_requirements() -> list[Check]:
    """What `pip check` says of our libraries; nothing where this environment has no pip."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
            env=child_environment(),
            check=False,
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return []
    return [_unmet(line) for line in done.stdout.splitlines() if _is_ours(line)]


def _is_ours(line: str) -> bool:
    said = (" has requirement " in line or " requires " in line) and not line.startswith("WARNING")
    return said and line.split(" ", 1)[0].lower().replace("_", "-") in (*_LOOKED_AT, *_LOOKED_AT_TOO)


def _unmet(line: str) -> Check:
    name, _, rest = line.partition(" ")
    wanted = (
        rest.partition(" has requirement ")[2].partition(", but")[0]
        or rest.partition(" requires ")[2].partition(",")[0]
    )
    mend = f"pip install '{wanted.replace(' ', '')}', or: pip install --upgrade {name}"
    return Check(name=f"what {name} needs", status="warning", found=line[:300], mend=mend)
