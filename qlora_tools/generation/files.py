"""Answering a file of prompts into a file of answers: in pieces of bounded memory, each answer written as it comes."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..adapters.record import read_adapter_record
from ..errors import UsageError
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..paths import as_path
from ..requirements import require_training_libraries
from ..results import BrokenPrompt, GenerateFileResult
from .adapters_asked import Adapters, BasePrecision, named_adapters, opened
from .answer_files import AnswerFile, asked_hash, settings_hash
from .prompt_files import FilePrompt, read_prompts
from .sampling import Sampling, SamplingOptions
from .sides import Side, answer_of, sides_of
from .stopping import answer_text

if TYPE_CHECKING:
    from .batch import Row
    from .session import GenerationSession

# Rows that are tokenised and sorted by length together; where both sides are asked, the base's answers wait that long.
_PIECE = 1024
_BROKEN_TOLD = 20
_EVENT_SECONDS = 0.2


def generate_file(
    adapter: Adapters,
    prompts_file: str | Path,
    output: str | Path,
    *,
    side: Side = "both",
    system: str | None = None,
    base_precision: BasePrecision = "trained",
    on_event: Listener = ignore,
    stop: StopAsked = never,
    **sampling: Unpack[SamplingOptions],
) -> GenerateFileResult:
    """Answer every prompt of a file, and write the answers to the JSON Lines file `output`.

    Each line holds `row` (the number of the prompt in its file, from 1), `prompt`, `base`, `adapter`, `adapters` where
    several are asked, and `asked`. Rows that stand in `output` already are kept and not asked again, so the same call goes
    on after any end; a row's random numbers depend on the seed and its number alone. Rows that cannot be asked are told as
    warnings and in the result, and stop nothing. For the other arguments see `generate`.

    Raises `UsageError` where `output` holds answers to other prompts, settings or adapters, and what `generate` raises.
    """
    require_training_libraries("generating text")
    began = time.monotonic()
    settings, adapters = Sampling(**sampling), named_adapters(adapter)
    asked_with = settings_hash(
        adapters, {**settings.options(), "side": side, "base_precision": base_precision, "names": list(adapters)}
    )
    source, target = as_path(str(prompts_file)), as_path(str(output))
    prompts, broken = _usable(read_prompts(source, system), on_event)
    with AnswerFile(target) as answers:
        missing = _missing(prompts, answers, asked_with, source)
        run = _FileRun(answers, side, settings, asked_with, len(missing), on_event, stop)
        if missing:
            run.answer(missing, opened(adapters, base_precision, on_event))
        answers.finish()
    broken += run.refused
    return GenerateFileResult(
        model=read_adapter_record(next(iter(adapters.values()))).base_name,
        adapter=str(next(iter(adapters.values()))),
        adapters={name: str(directory) for name, directory in adapters.items()} if len(adapters) > 1 else {},
        device=run.device,
        output=str(target),
        answered=run.answered,
        kept=len(prompts) - len(missing),
        broken_rows=len(broken),
        broken=broken[:_BROKEN_TOLD],
        new_tokens=run.new_tokens,
        seconds=time.monotonic() - began,
    )


def _usable(
    rows: Iterable[FilePrompt | BrokenPrompt], on_event: Listener
) -> tuple[list[FilePrompt], list[BrokenPrompt]]:
    prompts, broken = [], []
    for row in rows:
        if isinstance(row, FilePrompt):
            prompts.append(row)
        else:
            broken.append(row)
            _warn(row, len(broken), on_event)
    if not prompts:
        first = f": {broken[0].place} {broken[0].problem}" if broken else ""
        raise UsageError(f"The file holds no prompt{first}.", next_step="Give rows with `prompt` or `messages`.")
    return prompts, broken


def _warn(row: BrokenPrompt, count: int, on_event: Listener) -> None:
    if count <= _BROKEN_TOLD:
        more = "; further ones are counted only" if count == _BROKEN_TOLD else ""
        on_event(RunEvent("warning", f"Row {row.row} is left out ({row.place}: {row.problem}){more}."))


def _missing(prompts: Sequence[FilePrompt], answers: AnswerFile, asked_with: str, source: Path) -> list[FilePrompt]:
    """The prompts without an answer. Raises `UsageError` where an answer that is there is not to what is asked now."""
    hashes = {row.number: asked_hash(asked_with, row.number, row.turns) for row in prompts}
    other = next((number for number, asked in answers.kept.items() if hashes.get(number) != asked), None)
    if other is not None:
        raise UsageError(
            f"Row {other} of {answers.path} was asked with other settings, another adapter, or another prompt than in "
            f"{source}.",
            next_step="Choose another output, or ask as before.",
        )
    return [row for row in prompts if row.number not in answers.kept]


@dataclass
class _FileRun:
    """One pass over the rows that are missing."""

    answers: AnswerFile
    side: Side
    sampling: Sampling
    asked_with: str
    total: int
    on_event: Listener
    stop: StopAsked
    device: str | None = None
    answered: int = 0
    new_tokens: int = 0
    refused: list[BrokenPrompt] = field(default_factory=list)
    _ended: int = 0
    _told: float = 0.0

    def answer(self, prompts: Sequence[FilePrompt], sessions: Mapping[str, "GenerationSession"]) -> None:
        """Answer in pieces; raises `AnsweringStopped` when asked to end, with the answers so far in the file."""
        self.device = next(iter(sessions.values())).hardware.name
        self.on_event(RunEvent("phase", f"Answering {len(prompts):,} prompts"))
        for start in range(0, len(prompts), _PIECE):
            self._piece(prompts[start : start + _PIECE], sessions)

    def _piece(self, prompts: Sequence[FilePrompt], sessions: Mapping[str, "GenerationSession"]) -> None:
        rows = {row.number: row for row in prompts}
        said: dict[int, dict[str | None, str]] = {number: {} for number in rows}
        order = sides_of(list(sessions), self.side)
        for name in order:
            session = next(iter(sessions.values())) if name is None else sessions[name]

            def ended(
                row: "Row", name: str | None = name, tokenizer: Any = session.tokenizer, last: bool = name == order[-1]
            ) -> None:
                if not row.ended:
                    return
                said[row.number][name] = answer_text(tokenizer, row.answer, self.sampling.stop_strings)
                self.new_tokens += len(row.answer)
                self._count(len(order))
                if last:
                    self._write(rows[row.number], said.pop(row.number), list(sessions))

            tokens = self._tokens(session, [row for row in prompts if row.number in said])
            for number in said.keys() - tokens.keys():
                del said[number]
            session.answer_ids(tokens, self.sampling, with_adapter=name is not None, told=ended, stop=self.stop)

    def _tokens(self, session: "GenerationSession", prompts: Sequence[FilePrompt]) -> dict[int, list[int]]:
        """The prompts in tokens; those that the chat template refuses are left out and told."""
        tokens = {}
        for row in prompts:
            try:
                tokens[row.number] = session.prompt_ids(row.turns)
            except UsageError as error:
                self.refused.append(BrokenPrompt(row=row.number, place=f"row {row.number}", problem=error.message))
                _warn(self.refused[-1], len(self.refused), self.on_event)
        return tokens

    def _write(self, row: FilePrompt, said: Mapping[str | None, str], names: Sequence[str]) -> None:
        answer = answer_of(row.turns[-1]["content"], said, names).model_dump(exclude_defaults=True)
        self.answers.write(row.number, answer, asked_hash(self.asked_with, row.number, row.turns))
        self.answered += 1

    def _count(self, sides: int) -> None:
        self._ended += 1
        now, total = time.monotonic(), self.total * sides
        if now - self._told >= _EVENT_SECONDS or self._ended == total:
            self._told = now
            self.on_event(RunEvent("progress", "answers", {"done": self._ended, "total": total}))
