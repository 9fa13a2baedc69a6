"""Personal data and secrets taken out of texts: all of them by placeholders, or masked for an example."""

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..errors import MissingLibraryError
from . import phones, secrets
from .personal import find_personal_data
from .phones import find_phones
from .secrets import find_secrets
from .spans import PHONE, Span, masked, replaced, without_overlaps

_LONG_NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){7,}")


@cache
def missing_libraries(required: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these libraries are not installed; imports none of them."""
    return tuple(name for name in required if importlib.util.find_spec(name) is None)


def require_redaction() -> None:
    """Raise `MissingLibraryError` where not every kind of personal data and secret can be found."""
    if missing := missing_libraries((*phones.REQUIRED_LIBRARIES, *secrets.REQUIRED_LIBRARIES)):
        raise MissingLibraryError(
            f"Redaction needs {', '.join(missing)}; without it telephone numbers or secrets would stay.",
            next_step="Run: pip install 'qlora-tools[train]'",
        )


def private_spans(text: str) -> list[Span]:
    """Everything private that the installed libraries find, in order and without overlaps."""
    return without_overlaps(_all_spans(text))


def _all_spans(text: str) -> Iterator[Span]:
    yield from find_personal_data(text)
    if not missing_libraries(phones.REQUIRED_LIBRARIES):
        yield from find_phones(text)
    if not missing_libraries(secrets.REQUIRED_LIBRARIES):
        yield from find_secrets(text)


def masked_text(text: str) -> str:
    """The text with private parts masked (`j***@e***.com`), to be shown as an example."""
    spans = private_spans(text)
    if missing_libraries(phones.REQUIRED_LIBRARIES):
        # Nothing can tell which long numbers are telephones, so all are masked.
        numbers = (Span(PHONE, *match.span()) for match in _LONG_NUMBER.finditer(text))
        spans = without_overlaps([*spans, *numbers])
    return replaced(text, spans, lambda span: masked(span.kind, text[span.start : span.end]))


def redact_text(text: str) -> tuple[str, Counter[str]]:
    """The text with placeholders such as `[EMAIL]`, and how many of each; raises `MissingLibraryError`."""
    require_redaction()
    spans = private_spans(text)
    if not spans:
        return text, Counter()
    return replaced(text, spans, lambda span: f"[{span.kind}]"), Counter(span.kind for span in spans)


def redact_value(value: Any) -> tuple[Any, Counter[str]]:
    """A JSON value with every text in it redacted, at any depth; keys and numbers stay as they are.

    Returns the copy and how many of each kind were replaced. Raises `MissingLibraryError` where a library is missing that
    finds part of them.
    """
    counts: Counter[str] = Counter()
    return _redacted(value, counts), counts


def _redacted(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        text, found = redact_text(value)
        counts.update(found)
        return text
    if isinstance(value, dict):
        return {key: _redacted(item, counts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, counts) for item in value]
    return value
