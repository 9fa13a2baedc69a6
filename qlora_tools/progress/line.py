"""A run in one line, as a terminal shows it while the run goes."""

from collections.abc import Mapping

from .durations import duration_words

_BETWEEN = " · "


def status_line(values: Mapping[str, float | None]) -> str:
    """The line of the latest `values` of a course; what is missing or no number is left out.

    Read are step, planned_steps, loss, evaluation_loss, tokens_per_second, peak_allocated_bytes (host_bytes without a
    GPU) and eta_seconds.
    """
    known = {name: value for name, value in values.items() if value is not None and value == value}
    parts = [_steps(known)]
    parts += [f"loss {known['loss']:.3f}"] if "loss" in known else []
    parts += [f"eval {known['evaluation_loss']:.3f}"] if "evaluation_loss" in known else []
    parts += [f"{known['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in known else []
    memory = known.get("peak_allocated_bytes") or known.get("host_bytes")
    parts += [f"{memory / 2**30:.1f} GiB"] if memory else []
    parts += [f"ETA {duration_words(known['eta_seconds'])}"] if "eta_seconds" in known else []
    return _BETWEEN.join(parts)


def _steps(known: Mapping[str, float]) -> str:
    planned = known.get("planned_steps")
    return f"step {known.get('step', 0):,.0f}" + (f"/{planned:,.0f}" if planned else "")
