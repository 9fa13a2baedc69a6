"""Courses of runs that look like real ones, for tests of what is noticed in them."""

import random
from collections.abc import Callable
from math import cos, exp, pi
from typing import Any

Record = dict[str, Any]


def course(
    steps: int,
    level: Callable[[float], float],
    *,
    noise: float = 0.1,
    seed: int = 0,
    evaluation: Callable[[float], float] | None = None,
    evaluations: int = 10,
) -> list[Record]:
    """Losses around `level` (of the share of the steps that is done), cosine rate after warm-up, gradients that scatter."""
    dice = random.Random(seed)
    every = max(1, steps // evaluations)
    records: list[Record] = []
    for step in range(1, steps + 1):
        share = step / steps
        rate = 2e-4 * min(share / 0.03, (1 + cos(pi * share)) / 2)
        loss = max(1e-4, level(share) * exp(dice.gauss(0, noise)))
        norm = 0.4 * exp(dice.gauss(0, 0.4)) * (8 if dice.random() < 0.01 else 1)
        seconds = 0.5 * exp(dice.gauss(0, 0.1)) * (6 if dice.random() < 0.02 else 1)
        told = {"loss": loss, "learning_rate": rate, "gradient_norm": norm, "step_seconds": seconds}
        records.append({"step": step, **told, "data_seconds": 0.01 * seconds, "tokens_per_second": 4000 / seconds})
        if evaluation is not None and step % every == 0:
            records.append({"step": step, "evaluation_loss": evaluation(share) * exp(dice.gauss(0, 0.005))})
    return records


def falling(start: float, end: float, speed: float = 8.0) -> Callable[[float], float]:
    """A usual fine-tuning curve: a fast fall, then a slow one."""
    return lambda share: end + (start - end) * (0.8 * exp(-speed * 4 * share) + 0.2 * exp(-speed / 4 * share))
