"""The public call: prompts in, answers out. What needs torch is imported when it runs."""

import time
from collections.abc import Sequence
from typing import Unpack

from ..events import Listener, StopAsked, ignore, never
from ..requirements import require_training_libraries
from ..results import GenerateResult
from .adapters_asked import Adapters, BasePrecision, opened
from .request import Prompt, Request
from .sampling import SamplingOptions
from .sides import Side


def generate(
    adapter: Adapters,
    prompts: Sequence[Prompt],
    *,
    side: Side = "both",
    base_precision: BasePrecision = "trained",
    on_event: Listener = ignore,
    stop: StopAsked = never,
    **sampling: Unpack[SamplingOptions],
) -> GenerateResult:
    """Answer each prompt with the adapter, its base, or both.

    `adapter` is the output directory of a training run or an adapter directory; several, as a list or by names, are answered
    side by side on one base. A prompt is a user's message or a list of turns; it is rendered as the adapter was trained.
    The base is loaded as it was `trained` on (4-bit), or in `16bit`. `sampling` takes max_new_tokens (256), temperature
    (0, greedy), top_p, top_k, repetition_penalty, seed and stop_strings; see `Sampling`. A prompt's random numbers depend on
    the seed and its place in the list alone; what the prompts beside it can change is the last bit of a score.
    `on_event` hears of one prompt the answer as it grows, of several how many are done; `stop` is asked at every token.

    Raises `ModelError` (no usable adapter or base), `UsageError` (nothing to answer, a setting out of bounds, adapters of
    different bases), `MachineError`, `AnsweringStopped`.
    """
    require_training_libraries("generating text")
    began = time.monotonic()
    request = Request.of(adapter, prompts, side=side, base_precision=base_precision, **sampling)
    from ..engine.device import release_memory

    def answered() -> GenerateResult:
        sessions = opened(request.adapters, base_precision, on_event)
        return request.answered(sessions, began=began, on_event=on_event, stop=stop)

    result = answered()
    release_memory()  # The sessions are gone: trainers and tests in this process want their memory.
    return result
