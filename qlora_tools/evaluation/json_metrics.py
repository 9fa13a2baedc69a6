"""Measures of answers that are JSON: whether they parse, equal their reference, and which fields they have right."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..results import FieldScore
from .text_metrics import Table, f1_of, mean_of

Texts = Sequence[str]
_MOST_FIELDS = 40


class _NotJson:
    """What stands for an answer that is no JSON; equal to nothing that is."""


NOT_JSON = _NotJson()


def parsed(text: str) -> Any:
    """The JSON value of `text`, or `NOT_JSON`; NaN and Infinity are none, and neither is JSON within other text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each value that is no container, with the dotted name of its field; items of a list share the name `field[]`.

    The text of a value keeps its type, so 1 is not true and "1" is not 1. Empty containers are values.
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for item in value:
            yield from leaves(item, f"{name}[]")
    else:
        yield name, _as_text(value)


def _as_text(value: Any) -> str:
    """Equal for values that JSON calls equal: 1 and 1.0 are one number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    return bool(first == second)


def json_valid_table(answers: Texts, references: Texts) -> Table:
    """1 where the whole answer is one JSON value."""
    return mean_of([parsed(answer) is not NOT_JSON for answer in answers])


def json_equal_table(answers: Texts, references: Texts) -> Table:
    """1 where the answer is the reference's JSON value: every field, no other; order of keys and layout aside."""
    pairs = zip(map(parsed, answers), map(parsed, references), strict=True)
    return mean_of([given is not NOT_JSON and _same(given, wanted) for given, wanted in pairs])


def json_fields_table(answers: Texts, references: Texts) -> Table:
    """F1 of fields with their values over all rows; an answer that is no JSON has none of them."""
    return f1_of([_counts(_fields(a), _fields(r)) for a, r in zip(answers, references, strict=True)])


def _fields(text: str) -> Counter[tuple[str, str]]:
    value = parsed(text)
    return Counter() if value is NOT_JSON else Counter(leaves(value))


def _counts(given: Counter[Any], wanted: Counter[Any]) -> tuple[int, int, int]:
    """Found, superfluous and missing ones."""
    return (given & wanted).total(), (given - wanted).total(), (wanted - given).total()


def field_scores(base: Texts, adapter: Texts, references: Texts) -> list[FieldScore]:
    """Precision, recall and F1 of each field that a reference has, the most frequent first; at most 40 fields."""
    wanted = [_fields(reference) for reference in references]
    frequent = Counter(name for row in wanted for name, _ in row.elements())
    sides = [[_fields(answer) for answer in answers] for answers in (base, adapter)]
    scores = []
    for name, count in frequent.most_common(_MOST_FIELDS):
        base_f1, adapter_f1 = (_field_f1(side, wanted, name) for side in sides)
        scores.append(FieldScore(field=name, values=count, base=base_f1, adapter=adapter_f1))
    return scores


def _field_f1(
    given: Sequence[Counter[tuple[str, str]]], wanted: Sequence[Counter[tuple[str, str]]], name: str
) -> tuple[float, float, float]:
    found = superfluous = missing = 0
    for answer, reference in zip(given, wanted, strict=True):
        counts = _counts(_only(answer, name), _only(reference, name))
        found, superfluous, missing = found + counts[0], superfluous + counts[1], missing + counts[2]
    precision = found / (found + superfluous) if found else 0.0
    recall = found / (found + missing) if found else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if found else 0.0


def _only(fields: Counter[tuple[str, str]], name: str) -> Counter[tuple[str, str]]:
    return Counter({field: count for field, count in fields.items() if field[0] == name})
