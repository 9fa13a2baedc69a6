"""What happens at evaluations: the best one is remembered, patience ends, and a few prompts are answered."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ..events import Listener, RunEvent
from .device import release_memory
from .random_state import RandomState
from .training_state import BestEvaluation

_SAMPLE_TOKENS = 48
_LONGEST_PROMPT = 1024


class BestWatch(TrainerCallback):
    """Compares each evaluation with the best so far, and counts those without a better loss."""

    def __init__(self, best: BestEvaluation, patience: int | None) -> None:
        self._best = best
        self._patience = patience

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Compare the evaluation with the best so far."""
        loss, best = (metrics or {}).get("eval_loss", math.inf), self._best
        if math.isfinite(loss) and (best.loss is None or loss < best.loss):
            best.loss, best.without_gain, best.step = loss, 0, state.global_step
            return
        best.without_gain += 1
        if self._patience is not None and best.without_gain >= self._patience:
            best.stopped_early = True


@dataclass(frozen=True)
class SamplePrompt:
    """A held-out prompt in tokens and as text, and the answer that stands in the data."""

    input_ids: list[int]
    prompt: str
    reference: str


class SampleWriter(TrainerCallback):
    """Answers a few held-out prompts greedily at each evaluation, and appends them to `samples.jsonl`."""

    def __init__(
        self,
        path: Path,
        tokenizer: Any,
        prompts: Sequence[SamplePrompt],
        stop_token_ids: Sequence[int],
        listener: Listener,
    ) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._stops = sorted({*stop_token_ids, tokenizer.eos_token_id} - {None})
        self._listener = listener

    def on_evaluate(self, args: Any, state: Any, control: Any, **kept: Any) -> None:
        """Answer and write; memory that is short ends the sampling, not the run."""
        random = RandomState.take()
        lines = []
        for sample in self._prompts:
            answer = self._answer(kept["model"], sample)
            if answer is None:
                self._prompts = ()
                self._listener(RunEvent("note", "No more samples at evaluations: the GPU has no memory for them."))
                break
            shown = {"prompt": sample.prompt, "reference": sample.reference, "answer": answer}
            lines.append(json.dumps({"step": state.global_step, **shown}, ensure_ascii=False) + "\n")
            self._listener(RunEvent("sample", answer, {"step": state.global_step}))
        random.put()
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _answer(self, model: Any, sample: SamplePrompt) -> str | None:
        ids = torch.tensor([sample.input_ids[-_LONGEST_PROMPT:]], device=model.device)
        try:
            with torch.no_grad():
                answer = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=_SAMPLE_TOKENS,
                    do_sample=False,
                    use_cache=True,
                    eos_token_id=self._stops or None,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
        except torch.cuda.OutOfMemoryError:
            answer = None
        if answer is None:
            release_memory()
            return None
        return str(self._tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))


def sample_prompts(rows: Sequence[Any], count: int, tokenizer: Any) -> list[SamplePrompt]:
    """The first `count` held-out rows, cut before the first token that is learnt."""
    samples = []
    for row in rows[:count]:
        learnt = next((place for place, label in enumerate(row.labels) if label >= 0), 0)
        # A plain text is learnt from its start: its first words are the prompt.
        start = learnt if learnt > 1 else min(16, len(row.input_ids) - 1)
        prompt, answer = row.input_ids[:start], row.input_ids[start:]
        shown = tokenizer.decode(prompt), tokenizer.decode(answer, skip_special_tokens=True)
        samples.append(SamplePrompt(prompt, *shown))
    return [sample for sample in samples if sample.input_ids]
