"""The public call: prompts in, answers out. What needs torch is imported when it runs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..adapters.record import adapter_directory
from ..data.examples import Message
from ..errors import UsageError
from ..events import Listener, RunEvent, ignore
from ..paths import as_path
from ..requirements import require_training_libraries
from ..results import Answer, GenerateResult

Side = Literal["base", "adapter", "both"]


def generate(
    adapter: str | Path,
    prompts: Sequence[str | Sequence[Message]],
    *,
    side: Side = "both",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    on_event: Listener = ignore,
) -> GenerateResult:
    """Answer each prompt with the adapter, its base, or both.

    `adapter` is the output directory of a training run or an adapter directory. A prompt is a user's message or a list of
    turns; it is rendered as the adapter was trained. `temperature` 0 is greedy.

    Raises `ModelError` (no usable adapter or base), `UsageError` (nothing to answer), `MachineError`.
    """
    require_training_libraries("generating text")
    if not prompts:
        raise UsageError("There is no prompt to answer.", next_step="Give at least one prompt.")
    from ..engine.device import release_memory
    from .session import GenerationSession

    began = time.monotonic()
    directory = adapter_directory(as_path(str(adapter)))
    conversations = [_turns(prompt) for prompt in prompts]

    def answer_sides() -> tuple[str, str, dict[str, list[str]]]:
        on_event(RunEvent("phase", "Loading the base and the adapter"))
        session = GenerationSession.open(directory)
        answers = {}
        for name in ("base", "adapter") if side == "both" else (side,):
            on_event(RunEvent("phase", f"Answering with the {name}"))
            answers[name] = session.answer(
                conversations,
                with_adapter=name == "adapter",
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                on_event=on_event,
            )
        return session.record.base_name, session.hardware.name, answers

    model, device, answers = answer_sides()
    release_memory()
    nothing: list[str | None] = [None] * len(prompts)
    base, adapted = answers.get("base", nothing), answers.get("adapter", nothing)
    shown = [turns[-1]["content"] for turns in conversations]
    return GenerateResult(
        model=model,
        adapter=str(directory),
        device=device,
        answers=[Answer(prompt=p, base=b, adapter=a) for p, b, a in zip(shown, base, adapted, strict=True)],
        seconds=time.monotonic() - began,
    )


def _turns(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return tuple(prompt)
