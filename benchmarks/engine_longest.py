"""The longest row that an engine trains within a memory limit.

Memory grows in a line with the length, and is highest when the whole forward pass and the first layers' backward pass are
done: everything later gives memory back. So trials stop there, two short ones give the line, and the length that it predicts
is tried. At several hundred thousand tokens a whole step takes ten minutes, nearly all of it attention.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from engine_work import Work, work_of
from transformers import TrainerCallback

_SHARES = (0.99, 0.97, 0.94, 0.90, 0.80)  # of the predicted length, one after another until one fits
_LAYERS_BACK = 2  # a whole layer below the last one, so that nothing of the head's backward pass is there any more
_ROUND = 256


class HighestPointPassed(Exception):  # noqa: N818 - it is no error
    """Leaves a step that has had its highest memory."""


def find_longest(work: Work, prepared: Any, release: Callable[[], None]) -> dict[str, Any]:
    """The longest row in tokens, and every trial with its length, peak and seconds."""
    limit = float(work.case.limit_gib or 0) * 2**30
    trials = [_trial(work, prepared, release, length) for length in (work.case.length, 2 * work.case.length)]
    found: dict[str, Any] = {"longest_tokens": None, "trials": trials}
    if not all(trial["fits"] for trial in trials):
        return found
    low, high = (trial["peak_reserved_bytes"] for trial in trials)
    predicted = 2 * work.case.length + (limit - high) * work.case.length / (high - low)
    for share in _SHARES:
        length = int(share * predicted) // _ROUND * _ROUND
        trials.append(_trial(work, prepared, release, length))
        if trials[-1]["fits"]:
            return {**found, "longest_tokens": length, **_whole(work, prepared, release, length)}
    return found


def _whole(work: Work, prepared: Any, release: Callable[[], None], length: int) -> dict[str, Any]:
    if not work.case.whole_step:
        return {"whole_step": None}
    return {"whole_step": _trial(work, prepared, release, length, whole=True)}


def _trial(
    work: Work, prepared: Any, release: Callable[[], None], length: int, *, whole: bool = False
) -> dict[str, Any]:
    began = time.perf_counter()
    torch.cuda.reset_peak_memory_stats()
    fits = _fits(work, prepared, length, whole=whole)
    peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    prepared.model.zero_grad(set_to_none=True)
    release()
    return {
        "length": length,
        "fits": fits,
        **{f"peak_{name}_bytes": peak for name, peak in peaks.items()},
        "seconds": round(time.perf_counter() - began, 2),
    }


def _fits(work: Work, prepared: Any, length: int, *, whole: bool) -> bool:
    case = replace(work.case, length=length, steps=1, warm=0)
    trainer = prepared.trainer(work_of(case, work.engine, work.scratch), [_Silent()])
    try:
        if whole:
            trainer.train()
            return True
        with left_at_the_highest_point(prepared.model):
            trainer.train()
    except HighestPointPassed:
        torch.cuda.synchronize()
        return True
    except torch.OutOfMemoryError:
        return False
    raise AssertionError("no adapter had a gradient")


@contextmanager
def left_at_the_highest_point(model: Any) -> Iterator[None]:
    """Raise `HighestPointPassed` from the first gradient of an adapter two layers below the last one."""
    numbers = {
        name: int(found[1]) for name, _ in model.named_parameters() if (found := re.search(r"layers\.(\d+)\.", name))
    }
    place = max(0, max(numbers.values()) - _LAYERS_BACK)
    adapters = [one for name, one in model.named_parameters() if one.requires_grad and numbers.get(name) == place]
    handles = [adapter.register_hook(_leave) for adapter in adapters]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leave(gradient: Any) -> None:
    raise HighestPointPassed


class _Silent(TrainerCallback):
    def __init__(self) -> None:
        self.watched_norm = lambda norm, scaled: norm
