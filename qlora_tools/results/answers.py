"""What generating returns."""

from pydantic import Field

from .base import Result


class Answer(Result):
    """Answers to one prompt; None where that side was not asked for.

    Where several adapters were asked, `adapters` holds their answers by name, and `adapter` is that of the first.
    """

    prompt: str
    base: str | None
    adapter: str | None
    adapters: dict[str, str] = Field(default_factory=dict)


class GenerateResult(Result):
    """Answers in the order of the prompts. `adapters` tells names and directories where several adapters were asked."""

    model: str
    adapter: str | None
    device: str
    answers: list[Answer]
    seconds: float
    adapters: dict[str, str] = Field(default_factory=dict)


class BrokenPrompt(Result):
    """A row of a file that could not be asked: its number among all rows, where it stands, and why."""

    row: int
    place: str
    problem: str


class GenerateFileResult(Result):
    """Answers in a file. `answered` counts the rows of this call, `kept` those that were there before.

    `broken_rows` counts rows that could not be asked; `broken` tells the first of them. `device` is None where all answers
    were there and no model was loaded.
    """

    model: str
    adapter: str
    adapters: dict[str, str]
    device: str | None
    output: str
    answered: int
    kept: int
    broken_rows: int
    broken: list[BrokenPrompt]
    new_tokens: int
    seconds: float
