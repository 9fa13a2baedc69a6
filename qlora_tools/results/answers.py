"""What generating and merging return."""

from .base import Result


class Answer(Result):
    """Answers to one prompt; None where that side was not asked for."""

    prompt: str
    base: str | None
    adapter: str | None


class GenerateResult(Result):
    """Answers in the order of the prompts."""

    model: str
    adapter: str | None
    device: str
    answers: list[Answer]
    seconds: float


class ParityResult(Result):
    """How far the merged model answers as base plus adapter did, on the same prompts.

    `top1_agreement` and `mean_kl` (nats a token) are taken over the tokens of the reference answers.
    """

    prompts: int
    tokens: int
    same_answers: int
    top1_agreement: float
    mean_kl: float
    passed: bool


class MergeResult(Result):
    """A merged model on disk. `base` says what the adapter was merged into."""

    directory: str
    base: str
    dtype: str
    size_bytes: int
    parity: ParityResult | None
    seconds: float
