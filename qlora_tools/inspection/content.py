"""The content checks in the order in which their findings read well."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..results import Finding
from . import (
    answers,
    duplicates,
    encoding,
    exposure,
    identify,
    language,
    leftovers,
    near,
    phones,
    repetition,
    secrets,
    unbalanced,
    unfilled,
    wording,
)
from .rows import CheckedRow


class ContentCheck(NamedTuple):
    """A check of rows: its name for people, the function, and the libraries without which it is left out."""

    name: str
    run: Callable[[Sequence[CheckedRow]], list[Finding]]
    requires: tuple[str, ...] = ()


# Exact duplicates are found while rows are read (`RowDigests`), and overlap needs two sets (`check_overlap`).
CONTENT_CHECKS: tuple[ContentCheck, ...] = (
    ContentCheck("near duplicates", duplicates.check_near_duplicates, near.REQUIRED_LIBRARIES),
    ContentCheck("conflicting answers", duplicates.check_conflicting_answers),
    ContentCheck("answers that repeat their prompt", answers.check_echoes),
    ContentCheck("placeholders", leftovers.check_placeholders),
    ContentCheck("places that were not filled in", unfilled.check_unfilled),
    ContentCheck("one-word answers", answers.check_short_answers),
    ContentCheck("answers that stop midway", answers.check_cut_answers),
    ContentCheck("marks of templates", leftovers.check_template_marks),
    ContentCheck("artefacts of pages", unfilled.check_artefacts),
    ContentCheck("repetition", repetition.check_repetition),
    ContentCheck("marks that do not match", unbalanced.check_unbalanced_marks),
    ContentCheck("refusals", wording.check_refusals),
    ContentCheck("boilerplate", wording.check_boilerplate),
    ContentCheck("languages", language.check_languages, identify.REQUIRED_LIBRARIES),
    ContentCheck("encoding", encoding.check_encoding),
    ContentCheck("wrongly decoded text", encoding.check_mojibake, encoding.REQUIRED_LIBRARIES),
    ContentCheck("secrets", exposure.check_secrets, secrets.REQUIRED_LIBRARIES),
    ContentCheck("personal data", exposure.check_personal_data),
    ContentCheck("telephone numbers", exposure.check_phone_numbers, phones.REQUIRED_LIBRARIES),
)
