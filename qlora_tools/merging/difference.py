"""How the base that was merged into differs from the other one that could have been."""

from typing import TYPE_CHECKING

from ..results import BaseDifference, ParityResult

if TYPE_CHECKING:
    from .merge import MergeTask


def base_difference(
    task: "MergeTask", weights_relative: float | None, answers: ParityResult | None
) -> BaseDifference | None:
    """How far the weights are apart, and the answers; None where both bases are the same."""
    if weights_relative is None and answers is None:
        return None
    if task.base_kind == "original":
        note = (
            f"The adapter learnt on {task.record.quantization.kind} weights and stands on the original ones now: it corrects "
            "errors of quantisation that are no longer there. `answers` compares the merged model with the adapter on the "
            "base that it was trained against; if they agree less than you can afford, merge with base `trained`."
        )
    else:
        note = (
            f"The base is what {task.quantization.kind} left of the original weights (`weights_relative` is the relative "
            "Frobenius distance), since the adapter learnt to work with these. Base `original` starts from better weights, "
            "but from others than the adapter saw: evaluate both before choosing it."
        )
    return BaseDifference(weights_relative=weights_relative, answers=answers, note=note)
