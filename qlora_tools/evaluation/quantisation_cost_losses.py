"""The loss of a base in each kind of quantisation on the same rows: loaded one after the other, freed in between."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import QuantizationConfig
from ..engine.device import detect_hardware, release_memory
from ..engine.loading import load_model, load_tokenizer
from ..errors import MachineError, UsageError, WorkStopped
from ..events import Listener, RunEvent, StopAsked
from ..models.hardware import Hardware
from ..models.reference import ResolvedModel
from ..results.instruments import KindLoss, SkippedKind
from .token_losses import RowLoss, TokenRow, loss_difference, mean_loss, perplexity, row_losses, text_rows

REFERENCE = "16-bit"
_QUANTIZATIONS = {
    REFERENCE: QuantizationConfig(kind="none"),
    "nf4": QuantizationConfig(kind="nf4", double_quantization=False),
    "nf4-double": QuantizationConfig(kind="nf4", double_quantization=True),
    "fp4": QuantizationConfig(kind="fp4", double_quantization=False),
    "int8": QuantizationConfig(kind="int8"),
}


@dataclass(frozen=True)
class LossCosts:
    """Losses of each kind that could be loaded, the 16-bit base first, and over how many rows and tokens."""

    losses: list[KindLoss]
    skipped: list[SkippedKind]
    rows: int
    tokens: int


def rows_to_measure(resolved: ResolvedModel, texts: Sequence[str], rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Texts as rows of the model's tokenizer, and the given rows; those without a counted token are left out.

    Raises `UsageError` for rows whose labels are not as many as their ids.
    """
    if any(len(ids) != len(labels) for ids, labels in rows):
        raise UsageError("A row has not as many labels as ids.", next_step="Give one label for each token, or -100.")
    found = [*(text_rows(load_tokenizer(resolved), texts) if texts else []), *rows]
    return [row for row in found if any(label != -100 for label in row[1][1:])]


def measure_losses(
    resolved: ResolvedModel, rows: Sequence[TokenRow], kinds: Sequence[str], *, on_event: Listener, stop: StopAsked
) -> LossCosts:
    """Losses in 16 bits and in each of `kinds`; a kind that does not run here is skipped with the machine's reason.

    Raises `ModelError` for an unusable model, `WorkStopped` when asked to end.
    """
    # It says for every product of int8 that inputs become fp16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    hardware = detect_hardware()
    found: dict[str, list[RowLoss]] = {}
    skipped: list[SkippedKind] = []
    for kind in (REFERENCE, *kinds):
        if stop():
            raise WorkStopped(f"Measuring losses was stopped after {len(found)} of {len(kinds) + 1} kinds.")
        on_event(RunEvent("phase", f"Measuring the base in {kind}"))
        try:
            found[kind] = _losses(resolved, rows, kind, hardware, on_event)
        except MachineError as error:
            skipped.append(SkippedKind(kind=kind, reason=error.message))
        release_memory()
    losses = [_against(found.get(REFERENCE), kind, measured) for kind, measured in found.items()]
    return LossCosts(losses, skipped, len(rows), sum(loss.tokens for loss in next(iter(found.values()), [])))


def _losses(
    resolved: ResolvedModel, rows: Sequence[TokenRow], kind: str, hardware: Hardware, on_event: Listener
) -> list[RowLoss]:
    loaded = load_model(
        resolved,
        _QUANTIZATIONS[kind],
        compute_dtype=resolve_compute_dtype("auto", hardware),
        attention_implementation="auto",
        hardware=hardware,
    )
    return row_losses(loaded.model.eval(), rows, on_event=on_event)


def _against(reference: Sequence[RowLoss] | None, kind: str, losses: Sequence[RowLoss]) -> KindLoss:
    base = None if kind == REFERENCE else reference
    return KindLoss(
        kind=kind,
        loss=mean_loss(losses),
        perplexity=perplexity(losses),
        difference=mean_loss(losses) - mean_loss(base) if base else None,
        difference_interval=loss_difference(base, losses) if base else None,
    )
