"""What was noticed about a run: one thing seen, with numbers, and what to change."""

from dataclasses import dataclass
from typing import Literal

NoticeKind = Literal[
    "divergence",
    "dtype_mismatch",
    "gradient_explosion",
    "loss_not_a_number",
    "loss_zero",
    "not_learning",
    "offload",
    "overfitting",
    "plateau",
    "slow_data",
    "slow_steps",
]


@dataclass(frozen=True)
class Notice:
    """One thing noticed at `step`. `message` says what was seen, with numbers; `next_step` what to change."""

    kind: NoticeKind
    step: int
    message: str
    next_step: str
