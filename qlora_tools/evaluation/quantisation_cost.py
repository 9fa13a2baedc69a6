"""The cost of quantisation, measured on the base at hand: weights tensor by tensor, and loss against 16 bits."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..models.reference import ModelReference, resolve_model
from ..requirements import require_training_libraries
from ..results.instruments import GridFinding, Interval, KindLoss, QuantisationCost, SkippedKind
from .general_set import general_texts

if TYPE_CHECKING:
    from .quantisation_cost_losses import LossCosts

KINDS = ("nf4", "nf4-double", "fp4", "int8")


def quantisation_cost(
    model: str | Path,
    *,
    texts: Sequence[str] | None = None,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]] = (),
    kinds: Sequence[str] = KINDS,
    on_event: Listener = ignore,
    stop: StopAsked = never,
) -> QuantisationCost:
    """What each of `kinds` costs the base `model` (catalogue name, directory or Hub id).

    Losses are measured on `texts` (None: the committed general ones) and on `rows` of token ids and labels; with `texts=[]`
    and no rows only the weights are. The model is loaded once a kind for that, and not at all for the weights.

    Raises `UsageError` for an unknown kind or rows that fit no model, `ModelError` for an unusable model, `WorkStopped`.
    """
    require_training_libraries("measuring the cost of quantisation")
    began = time.monotonic()
    _check_kinds(kinds)
    resolved = resolve_model(ModelReference.parse(str(model)))
    from ..config.library_arguments import resolve_compute_dtype
    from ..engine.device import detect_hardware
    from .quantisation_cost_losses import measure_losses, rows_to_measure
    from .quantisation_cost_weights import measure_weights

    hardware = detect_hardware()
    given = [text.text for text in general_texts()] if texts is None else texts
    measured = rows_to_measure(resolved, given, rows)
    on_event(RunEvent("phase", "Measuring the weights"))
    weights = measure_weights(
        Path(resolved.location), list(dict.fromkeys(kinds)), on_event=on_event, stop=stop, device=hardware.kind
    )
    losses: LossCosts | None = None
    if measured:
        losses = measure_losses(resolved, measured, list(dict.fromkeys(kinds)), on_event=on_event, stop=stop)
    found, skipped = (losses.losses, losses.skipped) if losses else ([], [])
    return QuantisationCost(
        model=str(model),
        device=hardware.name,
        compute_dtype=resolve_compute_dtype("auto", hardware),
        weights=weights.kinds,
        tensors=weights.tensors,
        losses=found,
        rows=losses.rows if losses else 0,
        tokens=losses.tokens if losses else 0,
        unquantised_parameters=weights.unquantised_parameters,
        unquantised_bytes=weights.unquantised_bytes,
        grid=weights.grid,
        skipped=skipped,
        notes=_notes(weights.grid, found, skipped),
        seconds=time.monotonic() - began,
    )


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(
            f"There is no kind of quantisation {unknown[0]!r}." if unknown else "No kind of quantisation was named.",
            next_step=f"Choose from {', '.join(KINDS)}.",
        )


def _notes(grid: GridFinding, losses: Sequence[KindLoss], skipped: Sequence[SkippedKind]) -> list[str]:
    notes = []
    if grid.on_grid:
        notes.append(
            f"The weights lie on a 4-bit grid already: {grid.share_of_blocks:.0%} of {grid.blocks:,} blocks of {grid.block} "
            f"hold 16 different values at most. They were quantised before they were stored, so neither errors nor losses "
            "here say what quantising the original model costs: do not quote them."
        )
    if losses and losses[0].kind != "16-bit":
        notes.append("The 16-bit base could not be measured here, so losses have nothing to be compared with.")
    unclear = [one.kind for one in losses if one.difference_interval and _holds_zero(one.difference_interval)]
    if unclear:
        notes.append(f"The loss of {', '.join(unclear)} cannot be told from that of 16 bits on so few rows; give more.")
    notes.extend(f"{one.kind} was skipped: {one.reason}" for one in skipped)
    return notes


def _holds_zero(interval: Interval) -> bool:
    return interval.low <= 0 <= interval.high
