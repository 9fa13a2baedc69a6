"""What the check of a dataset returns."""

from typing import Literal

from pydantic import Field

from .base import Result


class Finding(Result):
    """One thing that a check of a dataset found, in `count` rows. `rows` numbers up to ten of them, from 1.

    `share` is of the rows that the check looked at, None where a share means nothing. `example` is taken from the first
    of them, shortened, without control characters, and with personal data masked.
    """

    check: str
    severity: Literal["error", "warning", "note"]
    message: str
    count: int
    share: float | None = None
    rows: list[int] = Field(default_factory=list)
    example: str | None = None
    next_step: str | None = None


class RowMapping(Result):
    """Which format the rows are read as, and from which columns: our name -> the file's, dotted where nested."""

    format: str
    columns: dict[str, str]
    found_by: Literal["names", "content", "config"]
    unused_columns: list[str] = Field(default_factory=list)


class MappingProposal(Result):
    """How rows of no known format could be read: settings for the config, and Python code that converts the file."""

    format: str
    columns: dict[str, str]
    reason: str
    code: str


class LimitShare(Result):
    """What a length limit would cost: rows longer than it, and the tokens behind it."""

    max_length_tokens: int
    rows_over: int
    share_over: float
    tokens_lost_share: float


class LengthSummary(Result):
    """Tokens a row. `percentiles` by name (`p50`); `histogram` has the upper end of each bar and its rows."""

    how: Literal["tokenizer", "characters"]
    note: str
    rows: int
    mean: float
    percentiles: dict[str, int]
    longest: int
    limits: list[LimitShare]
    histogram: list[tuple[int, int]]
    max_length_tokens: int
    suggested_max_length_tokens: int


class MaskPiece(Result):
    """Neighbouring tokens of one kind. `special` marks tokens that stand for themselves, such as the end of a turn."""

    text: str
    learnt: bool
    special: bool


class MaskedRow(Result):
    """One row as the trainer's collator hands it to the model."""

    row: int
    tokens: int
    learnt_tokens: int
    cut: bool
    pieces: list[MaskPiece]


class PackingSummary(Result):
    """Rows in bins of `bin_tokens`: how full they are, beside how full padded micro-batches are."""

    bin_tokens: int
    bins: int
    rows_per_bin: float
    fill: float
    padded_fill: float


class DatasetReport(Result):
    """What `inspect_dataset` found. `verdict` follows from the severest finding.

    `rows` were read, of which `unusable_rows` do not fit the format; the checks that cost time looked at `rows_checked`
    of them, spread evenly. `tokens_per_epoch` and `learnt_tokens_per_epoch` are projected to all rows.
    `prompt_form` says how rows become text, `not_checked` what was left out and why.
    """

    path: str
    model: str | None
    verdict: Literal["ready", "ready with warnings", "not ready"]
    summary: str
    mapping: RowMapping | None
    proposal: MappingProposal | None
    rows: int
    rows_checked: int
    unusable_rows: int
    findings: list[Finding]
    lengths: LengthSummary | None
    masks: list[MaskedRow]
    loss_on: str
    prompt_form: str | None
    stop_tokens: list[str]
    packing: PackingSummary | None
    tokens_per_epoch: int | None
    learnt_tokens_per_epoch: int | None
    sources: dict[str, int]
    languages: dict[str, float]
    not_checked: list[str]
    seconds: float
    next_step: str
