"""Does the adapter do anything: base and adapter at the same positions, and the weights that make the difference."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..data.examples import Message
from ..errors import UsageError
from ..events import Listener, RunEvent, ignore
from ..generation.session import GenerationSession
from ..results.instruments import AdapterEffect, LayerEffect
from .adapter_effect_layers import layer_effects, not_finite_parameters
from .token_losses import LogitPiece, TokenRow, batched, collate, in_slices, logit_pieces

_LITTLE_TOP1 = 0.01
_LITTLE_KL = 1e-3
_SHOWN = 3


@dataclass
class _Differences:
    """Sums over the compared positions; the mean difference is over the vocabulary too."""

    positions: int = 0
    changed: int = 0
    difference: float = 0.0
    largest: float = 0.0
    divergence: float = 0.0
    largest_divergence: float = 0.0

    def add(self, base: torch.Tensor, adapter: torch.Tensor) -> None:
        """Count positions of logits `[positions, vocabulary]` in fp32."""
        apart = (adapter - base).abs()
        before, after = base.log_softmax(-1), adapter.log_softmax(-1)
        divergences = (before.exp() * (before - after)).sum(-1)
        self.positions += len(base)
        self.changed += int((base.argmax(-1) != adapter.argmax(-1)).sum())
        self.difference += float(apart.mean(-1).sum())
        self.largest = max(self.largest, float(apart.max()))
        self.divergence += float(divergences.sum())
        self.largest_divergence = max(self.largest_divergence, float(divergences.max()))

    @property
    def finite(self) -> bool:
        """False once a logit was NaN: sums keep it."""
        return math.isfinite(self.difference) and math.isfinite(self.divergence)


def adapter_effect(
    session: GenerationSession,
    prompts: Sequence[Sequence[Message]],
    *,
    rows: Sequence[TokenRow] = (),
    answers: tuple[Sequence[str], Sequence[str]] | None = None,
    on_event: Listener = ignore,
) -> AdapterEffect:
    """Compare base and adapter on every position of `prompts` and on the labelled ones of `rows`, and look at the weights.

    `answers` are greedy answers of base and adapter to the same prompts, where the caller has them. Raises `UsageError`
    where there is nothing to compare on.
    """
    model = session.model
    compared = [*(_prompt_row(session.prompt_ids(turns)) for turns in prompts), *rows]
    if not any(label != -100 for _, labels in compared for label in labels[1:]):
        raise UsageError("There is no token to compare base and adapter on.", next_step="Give prompts or rows.")
    differences = _compare(model, compared, on_event)
    weights = _weights(model)
    changed, count = _changed(answers)
    verdict, reasons = _judged(differences, weights, changed)
    whole = differences.finite
    return AdapterEffect(
        verdict=verdict,
        reasons=reasons,
        positions=differences.positions,
        mean_logit_difference=differences.difference / differences.positions if whole else None,
        max_logit_difference=differences.largest if whole else None,
        mean_kl=differences.divergence / differences.positions if whole else None,
        max_kl=differences.largest_divergence if whole else None,
        changed_top1=differences.changed / differences.positions,
        changed_answers=changed,
        answers=count,
        layers=weights.layers,
        untrained=weights.untrained,
        not_finite=weights.not_finite,
        modules_to_save=[layer.module for layer in weights.layers if layer.note == "trained in full"],
        active=weights.active,
    )


@dataclass(frozen=True)
class _Weights:
    layers: list[LayerEffect]
    not_finite: list[str]
    active: bool

    @property
    def untrained(self) -> list[str]:
        return [layer.module for layer in self.layers if not layer.trained]


def _weights(model: Any) -> _Weights:
    status = model.get_model_status()
    active = status.enabled is True and bool(status.active_adapters)
    return _Weights(layer_effects(model), not_finite_parameters(model), active)


def _prompt_row(ids: list[int]) -> TokenRow:
    """Every position of a prompt, the last one too: there the answer begins. What is predicted does not matter."""
    return [*ids, ids[-1]], [-100, *ids[1:], ids[-1]]


def _compare(model: Any, rows: Sequence[TokenRow], on_event: Listener) -> _Differences:
    differences, done = _Differences(), 0
    for numbers in batched(model, rows):
        with torch.inference_mode():
            for base, adapter in _both(model, [rows[number] for number in numbers]):
                for part in in_slices(base):
                    differences.add(base.logits[part].float(), adapter.logits[part].float())
        done += len(numbers)
        on_event(RunEvent("progress", "adapter effect", {"done": done, "total": len(rows)}))
    return differences


def _both(model: Any, rows: Sequence[TokenRow]) -> Iterator[tuple[LogitPiece, LogitPiece]]:
    """The pieces of base and adapter side by side; each generator computes while its side is switched on."""
    batch = collate(rows, model.device)
    bases, adapters = logit_pieces(model, batch), logit_pieces(model, batch)
    while True:
        with model.disable_adapter():
            base = next(bases, None)
        adapter = next(adapters, None)
        if base is None or adapter is None:
            return
        yield base, adapter


def _changed(answers: tuple[Sequence[str], Sequence[str]] | None) -> tuple[float | None, int]:
    if not answers or not answers[0]:
        return None, 0
    pairs = list(zip(*answers, strict=True))
    return sum(base.strip() != adapter.strip() for base, adapter in pairs) / len(pairs), len(pairs)


def _judged(
    differences: _Differences, weights: _Weights, changed: float | None
) -> tuple[Literal["changes answers", "changes little", "does nothing", "broken"], list[str]]:
    if weights.not_finite or not differences.finite:
        return "broken", _broken(weights)
    if reasons := _why_nothing(differences, weights):
        return "does nothing", reasons
    share, divergence = differences.changed / differences.positions, differences.divergence / differences.positions
    reasons = [
        f"The most likely token changes at {share:.1%} of {differences.positions:,} positions; the mean divergence from the "
        f"base is {divergence:.2g} nats.",
        *([f"{changed:.0%} of the answers differ."] if changed is not None else []),
        *_partly(weights),
    ]
    little = share < _LITTLE_TOP1 and divergence < _LITTLE_KL and not changed
    return ("changes little" if little else "changes answers"), reasons


def _broken(weights: _Weights) -> list[str]:
    if weights.not_finite:
        named = _named(weights.not_finite)
        return [
            f"The adapter holds NaN or infinity in {len(weights.not_finite)} modules ({named}): its training diverged."
        ]
    return ["The logits are not finite although the weights are: the compute dtype overflows; try bfloat16 or float32."]


def _why_nothing(differences: _Differences, weights: _Weights) -> list[str]:
    if not weights.active:
        return ["No adapter is active on the model: it was not loaded, or it was switched off."]
    if len(weights.untrained) == len(weights.layers):
        return [
            f"All {len(weights.layers)} modules of the adapter add exactly nothing (lora_B is zero): it was never trained, "
            "or its weights were saved under names that were not loaded."
        ]
    if differences.largest == 0:
        return [
            "Its weights are not zero, and yet no logit changes: the trained modules are not used for these tokens."
        ]
    return []


def _partly(weights: _Weights) -> list[str]:
    if not weights.untrained:
        return []
    count, named = len(weights.untrained), _named(weights.untrained)
    return [f"{count} of {len(weights.layers)} modules were never trained and add nothing ({named})."]


def _named(modules: Sequence[str]) -> str:
    more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
    return ", ".join(modules[:_SHOWN]) + more
