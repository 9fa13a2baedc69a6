"""The line that tells a failure, as it may be shown: nothing invisible, no secret."""

import re

from ..inspection.assigned import find_assigned
from ..inspection.redact import missing_libraries
from ..inspection.secrets import REQUIRED_LIBRARIES, find_secrets
from ..inspection.spans import masked, replaced, without_overlaps
from .log_text import shown_line

_MOST_CHARACTERS = 400
# What the light install can tell without the library of secrets.
_TOKEN = re.compile(
    r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|gsk_|nvapi-|xox[abpr]-|glpat-|AKIA|eyJ)[\w.\-]{12,200}"
    r"|(?<=[Bb]earer )[\w.\-]{12,200}|(?<=://)[^\s/:@]{1,60}:[^\s/@]{1,60}(?=@)"
    r"|(?i:(?<=api_key=)|(?<=token=)|(?<=password=))[^\s&,)]{6,200}"
)


def masked_evidence(line: str) -> str:
    """`line` without control characters and with secrets masked, at most 400 characters."""
    plain = shown_line(line, _MOST_CHARACTERS)
    spans = list(find_assigned(plain))
    if not missing_libraries(REQUIRED_LIBRARIES):
        spans += find_secrets(plain)
    hidden = replaced(plain, without_overlaps(spans), lambda span: masked(span.kind, plain[span.start : span.end]))
    return _TOKEN.sub("***", hidden)
