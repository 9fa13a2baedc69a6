"""Checks for what must not be learnt: secrets and personal data."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..results import Finding
from .findings import Hits, rows_said
from .personal import find_personal_data
from .phones import find_phones
from .redact import masked_text
from .rows import CheckedRow
from .secrets import find_secrets
from .spans import CARD, EMAIL, IBAN, IP, PHONE, SSN, Span, masked, without_overlaps

_SHOWN_BESIDE = 50
_STEP = "Write a copy without them: `qlora data inspect PATH --redact clean.jsonl`."
_PERSONAL = {
    EMAIL: ("personal_email", "e-mail addresses"),
    CARD: ("personal_card", "payment card numbers"),
    IBAN: ("personal_iban", "bank account numbers (IBAN)"),
    IP: ("personal_ip", "public IP addresses"),
    SSN: ("personal_ssn", "US social security numbers"),
    PHONE: ("personal_phone", "telephone numbers"),
}


def check_secrets(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Keys, tokens and passwords: an error at any, since a model that learnt one gives it away. Needs detect-secrets."""
    hits, kinds = Hits(), Counter[str]()
    for row in rows:
        spans = without_overlaps(find_secrets(row.every_text))
        kinds.update({span.name for span in spans})
        for span in spans:
            hits.add(row.number, _in_its_place(row.every_text, span) if hits.example is None else "")
    named = ", ".join(f"{name} ({rows_said(count)})" for name, count in kinds.most_common())
    step = f"Withdraw these keys where they are real. {_STEP}"
    return hits.finding("secrets", "error", f"Rows hold secrets: {named}", len(rows), next_step=step)


def check_personal_data(rows: Sequence[CheckedRow]) -> list[Finding]:
    """E-mail addresses, cards, bank accounts, IP addresses and social security numbers; a warning at any."""
    return _personal_findings(rows, ((row, find_personal_data(row.every_text)) for row in rows))


def check_phone_numbers(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Telephone numbers; a warning at any. Needs phonenumbers."""
    return _personal_findings(rows, ((row, _phones_alone(row.every_text)) for row in rows))


def _phones_alone(text: str) -> Iterator[Span]:
    """Telephone numbers that are no part of something else, such as a card's number."""
    if found := list(find_phones(text)):
        spans = without_overlaps([*find_personal_data(text), *found])
        yield from (span for span in spans if span.kind == PHONE)


def _personal_findings(rows: Sequence[CheckedRow], found: Iterable[tuple[CheckedRow, Iterable[Span]]]) -> list[Finding]:
    hits: Mapping[str, Hits] = {kind: Hits() for kind in _PERSONAL}
    counts = Counter[str]()
    for row, spans in found:
        for span in without_overlaps(spans):
            counts[span.kind] += 1
            first = hits[span.kind].example is None
            hits[span.kind].add(row.number, _in_its_place(row.every_text, span) if first else "")
    findings: list[Finding] = []
    for kind, (check, name) in _PERSONAL.items():
        message = f"Rows hold {name}: {counts[kind]:,} in {rows_said(len(hits[kind].rows))}"
        findings += hits[kind].finding(check, "warning", message, len(rows), next_step=_STEP)
    return findings


def _in_its_place(text: str, span: Span) -> str:
    """The masked value with a little of the text beside it, in which everything private is masked too."""
    before, after = masked_text(text[: span.start])[-_SHOWN_BESIDE:], masked_text(text[span.end :])[:_SHOWN_BESIDE]
    return f"{before}{masked(span.kind, text[span.start : span.end])}{after}"
