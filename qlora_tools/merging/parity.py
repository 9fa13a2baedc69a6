"""Whether a merged model answers as base plus adapter did, on the same prompts.

Both compute in fp32 where it fits: in bf16 two computations of one model differ by more than a merge may.
The reference answers greedily. The merged model then reads each answer token by token: where its most likely token is
the reference's at every place, its own greedy answer is the same by induction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.record import adapter_directory
from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import QuantizationConfig
from ..data.examples import Message
from ..engine.device import detect_hardware, host_hardware, release_memory
from ..engine.loading import load_model
from ..generation.session import GenerationSession
from ..models.hardware import Hardware
from ..models.reference import ModelReference, resolve_model
from ..results import ParityResult

_ANSWER_TOKENS = 32
_LEAST_AGREEMENT = 0.99
_MOST_KL = 1e-3


@dataclass(frozen=True)
class Reference:
    """One answered prompt: token ids, and log-probabilities `[answer tokens, vocabulary]` in fp32 on the host."""

    prompt_ids: list[int]
    answer_ids: list[int]
    log_probabilities: torch.Tensor


def check_parity(source: Path, merged: Path, prompts: Sequence[str], *, base: str, stored_bytes: int) -> ParityResult:
    """Compare the model in `merged` with base plus adapter over the tokens of the reference's answers to `prompts`.

    `stored_bytes` is the size of one stored parameter: with the files it tells how much memory fp32 takes.
    """
    release_memory()
    parameters = sum(path.stat().st_size for path in merged.glob("*.safetensors")) // stored_bytes
    hardware, dtype = _where_it_fits(parameters)
    references = reference_answers(source, prompts, base=base, compute_dtype=dtype, hardware=hardware)
    release_memory()
    return compare(merged, references, compute_dtype=dtype, hardware=hardware)


def reference_answers(
    source: Path, prompts: Sequence[str], *, base: str, compute_dtype: str, hardware: Hardware
) -> list[Reference]:
    """Greedy answers of base plus adapter: the base as it was trained, or the original 16-bit one."""
    quantization = QuantizationConfig(kind="none") if base == "original" else None
    session = GenerationSession.open(
        adapter_directory(source), quantization=quantization, compute_dtype=compute_dtype, hardware=hardware
    )
    asked = [session.prompt_ids([Message(role="user", content=prompt)]) for prompt in prompts]
    answered = session.generate_ids(asked, _ANSWER_TOKENS)
    return [
        Reference(prompt, answer, _log_probabilities(session.model, prompt, answer))
        for prompt, answer in zip(asked, answered, strict=True)
    ]


def compare(merged: Path, references: Sequence[Reference], *, compute_dtype: str, hardware: Hardware) -> ParityResult:
    """Agreement of the model in `merged` with the references, over all their answer tokens."""
    loaded = load_model(
        resolve_model(ModelReference(str(merged), "local")),
        QuantizationConfig(kind="none"),
        compute_dtype=compute_dtype,
        attention_implementation="auto",
        hardware=hardware,
    )
    measured = [_compared(loaded.model.eval(), reference) for reference in references]
    tokens = sum(len(reference.answer_ids) for reference in references)
    agreeing = sum(int(same.sum()) for same, _ in measured)
    divergence = float(sum(kl for _, kl in measured)) / tokens
    return ParityResult(
        prompts=len(references),
        tokens=tokens,
        same_answers=sum(bool(same.all()) for same, _ in measured),
        top1_agreement=agreeing / tokens,
        mean_kl=divergence,
        passed=agreeing / tokens >= _LEAST_AGREEMENT and divergence <= _MOST_KL,
    )


def _where_it_fits(parameters: int) -> tuple[Hardware, str]:
    """The GPU in fp32, else the host in fp32 (merging has just held the model there), else the GPU in its own dtype."""
    gpu, host = detect_hardware(), host_hardware()
    needed = 4 * parameters * 5 // 4  # a quarter more, for activations
    for hardware in (gpu, host):
        if needed < hardware.free_memory_bytes:
            return hardware, "float32"
    return gpu, resolve_compute_dtype("auto", gpu)


def _compared(model: Any, reference: Reference) -> tuple[torch.Tensor, float]:
    """Where the most likely token agrees, and the summed KL divergence from the reference in nats."""
    mine = _log_probabilities(model, reference.prompt_ids, reference.answer_ids)
    theirs = reference.log_probabilities
    same = mine.argmax(-1) == theirs.argmax(-1)
    return same, float((theirs.exp() * (theirs - mine)).sum())


def _log_probabilities(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt_ids + answer_ids], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    return logits.float().log_softmax(-1).cpu()
