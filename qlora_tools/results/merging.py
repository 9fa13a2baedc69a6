"""What merging returns."""

from .base import Result


class ParityResult(Result):
    """How far the merged model answers as base plus adapter did, on the same prompts.

    `top1_agreement` and `mean_kl` (nats a token) are taken over the tokens of the reference's greedy answers; `same_answers`
    counts prompts whose answers are equal to the last token. `near_ties` are tokens whose lead over the second is less than
    rounding can turn (0.02 nats): `clear_agreement` leaves them out. `passed` asks for 99 % of the clear ones and a mean KL
    of at most 1e-3. `method` says how both were computed.
    """

    prompts: int
    tokens: int
    same_answers: int
    top1_agreement: float
    near_ties: int
    clear_agreement: float
    mean_kl: float
    passed: bool
    method: str


class BaseDifference(Result):
    """How the base that was merged into differs from the other one it could have been, and what that means.

    `weights_relative` is ||dequantised - original|| / ||original|| over all quantised weights; `answers` compares the merged
    model with the adapter on the base that it was trained against.
    """

    weights_relative: float | None
    answers: ParityResult | None
    note: str


class MergeResult(Result):
    """A merged model on disk. `base` says what was merged into, `adapters` which ones with what weight.

    `untied` tells that head and embedding were one tensor in the base and are two now, since one of them was adapted.
    """

    directory: str
    base: str
    base_model: str
    base_revision: str | None
    quantization: str
    adapters: dict[str, float]
    dtype: str
    size_bytes: int
    shards: int
    untied: bool
    parity: ParityResult | None
    base_difference: BaseDifference | None
    seconds: float
