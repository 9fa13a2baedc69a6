"""Curves, drawn by matplotlib without a display."""

import io
from collections.abc import Mapping, Sequence


def loss_curve_svg(losses: Sequence[float], evaluation_losses: Mapping[int, float]) -> str:
    """Training loss over logged steps as a line, evaluation losses (by step) as dots; an `<svg>` element."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, color="#2b6cb0", linewidth=1.5)
    if evaluation_losses:
        axes.plot(list(evaluation_losses), list(evaluation_losses.values()), "o", color="#c05621", markersize=5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
