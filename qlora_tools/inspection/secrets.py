"""Secrets in a text: keys and tokens whose form tells what they are. Nothing is tried out or sent anywhere."""

import base64
import binascii
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from .assigned import find_assigned
from .spans import SECRET, Span

REQUIRED_LIBRARIES = ("detect_secrets",)

# Their patterns take in more than the secret, which is the first group.
_PASSWORD, _AWS = "password in an address", "AWS key"

# Patterns of the library may take time that grows with the square of a text, so they see pieces of it.
_PIECE, _PIECE_STEP = 4000, 3000

# Detectors of detect-secrets by module and class, and what must stand in a text for a search to be worth while.
_DETECTORS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (_AWS, "aws", "AWSKeyDetector", ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS")),
    ("Azure storage key", "azure_storage_key", "AzureStorageKeyDetector", ("AccountKey=",)),
    (_PASSWORD, "basic_auth", "BasicAuthDetector", ("://",)),
    ("Discord token", "discord", "DiscordBotTokenDetector", (".",)),
    ("GitHub token", "github_token", "GitHubTokenDetector", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("GitLab token", "gitlab_token", "GitLabTokenDetector", ("gl", "GR1348941")),
    ("JSON web token", "jwt", "JwtTokenDetector", ("eyJ",)),
    ("Mailchimp key", "mailchimp", "MailchimpDetector", ("-us",)),
    ("npm token", "npm", "NpmDetector", (":_authToken=",)),
    ("OpenAI key", "openai", "OpenAIDetector", ("T3BlbkFJ",)),
    ("PyPI token", "pypi_token", "PypiTokenDetector", ("pypi-AgE",)),
    ("SendGrid key", "sendgrid", "SendGridDetector", ("SG.",)),
    ("Slack token", "slack", "SlackDetector", ("xox", "hooks.slack.com")),
    ("Square secret", "square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    ("Stripe key", "stripe", "StripeDetector", ("k_live_",)),
    ("Telegram token", "telegram_token", "TelegramBotTokenDetector", (":",)),
    ("Twilio key", "twilio", "TwilioKeyDetector", ("AC", "SK")),
)

# Forms that detect-secrets does not know (yet).
_FORMS: tuple[tuple[str, str, str], ...] = (
    ("Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,200}"),
    ("OpenAI key", "sk-", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,200}|sk-[A-Za-z0-9]{40,64}"),
    ("Hugging Face token", "hf_", r"hf_[A-Za-z0-9]{30,60}"),
    ("Google key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    ("Google secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    ("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("npm token", "npm_", r"npm_[A-Za-z0-9]{36}"),
    ("Slack token", "xapp-", r"xapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{40,80}"),
    ("DigitalOcean token", "dop_v1_", r"dop_v1_[a-f0-9]{64}"),
    ("Databricks token", "dapi", r"dapi[a-f0-9]{32}"),
    ("Groq key", "gsk_", r"gsk_[A-Za-z0-9]{40,60}"),
    ("Replicate token", "r8_", r"r8_[A-Za-z0-9]{37}"),
    ("Shopify token", "shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    ("xAI key", "xai-", r"xai-[A-Za-z0-9]{40,100}"),
    ("NVIDIA key", "nvapi-", r"nvapi-[A-Za-z0-9_-]{40,100}"),
    ("Vault token", "hvs.", r"hvs\.[A-Za-z0-9_-]{24,200}"),
    ("Linear key", "lin_api_", r"lin_api_[A-Za-z0-9]{32,60}"),
    ("Notion token", "ntn_", r"ntn_[A-Za-z0-9]{40,60}"),
    ("Doppler token", "dp.pt.", r"dp\.pt\.[A-Za-z0-9]{40,50}"),
    ("age key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{50,70}"),
    ("Mailgun key", "key-", r"key-[0-9a-f]{32}(?![A-Za-z0-9])"),
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?P<body>.{0,8000}?)(?:-----END [A-Z0-9 ]{0,40}-----|\Z)",
    re.DOTALL,
)
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=]{16}")
_TOKEN_CHARACTER = re.compile(r"[A-Za-z0-9_.+/=-]{0,2000}")
_JOINED_BEFORE = re.compile(r"[A-Za-z0-9+/]\Z")
_ELIDED = re.compile(r"\.{3}|…|\*{3}|[<>{}\[\]_]")
_NOT_REAL = re.compile(
    r"example|placeholder|dummy|fake|sample|redacted|x{4}|\*{3}|\.{3}|your|change.?me|(.)\1{7}|[<>{}\[\]]",
    re.IGNORECASE,
)
_IN_EXAMPLES = """
    pass password passwd pwd pw secret user username token guest root admin test mypassword mysecret mypass postgres mysql
    rabbitmq redis mongo docker proxypass proxypassword dbpass dbpassword db_password p4ssw0rd passw0rd
"""
_USUAL_PASSWORDS = frozenset(_IN_EXAMPLES.split())
_HOST = re.compile(r"@([\w.-]{1,100})")
_OWN_HOST = re.compile(r"127\.|0\.0\.0\.0|10\.|192\.168\.|(?:[\w-]+\.)*(?:example|domain|server|host)\.", re.IGNORECASE)
_LEAST_PASSWORD = 5
_LEAST_VARIED = 8  # different characters in a token
_LETTERS_ALONE = 24  # characters of a token with its prefix from which no digit is needed
_LEAST_OF_A_CASE = 3
_WITH_DIGITS = frozenset({_AWS, "Discord token", "JSON web token", "Mailchimp key", "Telegram token", "Twilio key"})


class _Detector(NamedTuple):
    name: str
    hints: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]


@cache
def _detectors() -> tuple[_Detector, ...]:
    found = []
    for name, module, class_name, hints in _DETECTORS:
        # Only the patterns are used: the detectors' own `verify` would send the secret to its service.
        plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), class_name)
        found.append(_Detector(name, hints, tuple(plugin.denylist)))
    return tuple(found)


@cache
def _forms() -> tuple[_Detector, ...]:
    return tuple(
        _Detector(name, (hint,), (re.compile(rf"(?<![A-Za-z0-9_-])(?:{pattern})"),)) for name, hint, pattern in _FORMS
    )


@cache
def _hints() -> tuple[tuple[str, _Detector], ...]:
    return tuple((hint, detector) for detector in (*_forms(), *_detectors()) for hint in detector.hints)


def find_secrets(text: str) -> Iterator[Span]:
    """Keys and tokens that look real; those of documentation are left out. Needs detect-secrets."""
    if len(text) < 20:
        return
    for detector in dict.fromkeys([detector for hint, detector in _hints() if hint in text]):
        yield from _found_by(detector, text)
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    yield from find_assigned(text)


def _found_by(detector: _Detector, text: str) -> Iterator[Span]:
    check = _CHECKS.get(detector.name, _looks_real if detector.name in _WITH_DIGITS else _looks_issued)
    for start in range(0, max(1, len(text) - _PIECE + _PIECE_STEP), _PIECE_STEP):
        piece = text[start : start + _PIECE]
        for pattern in detector.patterns:
            for match in pattern.finditer(piece):
                first, last = match.span(1 if detector.name in (_PASSWORD, _AWS) and pattern.groups else 0)
                span = _whole_token(text, start + first, start + last)
                if check(text, *span):
                    yield Span(SECRET, *span, detector.name)


def _whole_token(text: str, start: int, end: int) -> tuple[int, int]:
    """The match with the rest of its token, so that no tail of a longer key stays behind."""
    match = _TOKEN_CHARACTER.match(text, end)
    stop = match.end() if match else end
    while stop > end and text[stop - 1] in ".-":
        stop -= 1
    return start, stop


def _looks_real(text: str, start: int, end: int) -> bool:
    value = text[start:end]
    return _is_apart(text, start) and any(map(str.isdigit, value)) and _is_varied(value)


def _is_apart(text: str, start: int) -> bool:
    return not _JOINED_BEFORE.search(text[max(0, start - 1) : start])


def _is_varied(value: str) -> bool:
    return len(set(value)) >= _LEAST_VARIED and not _NOT_REAL.search(value)


def _looks_issued(text: str, start: int, end: int) -> bool:
    """Of tokens with a maker's prefix: letters alone are enough where there are many, in both cases."""
    if _looks_real(text, start, end):
        return True
    value = text[start:end]
    fewest = min(sum(map(str.isupper, value)), sum(map(str.islower, value)))
    long = len(value) >= _LETTERS_ALONE and fewest >= _LEAST_OF_A_CASE
    return long and _is_apart(text, start) and _is_varied(value)


def _real_password(text: str, start: int, end: int) -> bool:
    """Of `://user:password@host`: a password nobody would write in an example, for a host that others can reach."""
    password = text[start:end]
    user = text[text.rfind("://", 0, start) + 3 : start - 1]
    host = _HOST.match(text, end)
    if host is None or "." not in host[1] or _OWN_HOST.match(host[1]):
        return False
    plain = {password.lower(), password.lower().strip("0123456789!")}
    if plain & (_USUAL_PASSWORDS | {user.lower()}) or _NOT_REAL.search(password + host[1]):
        return False
    return len(password) >= _LEAST_PASSWORD and password[0] not in "$%#"


def _is_discord(text: str, start: int, end: int) -> bool:
    """The first part of such a token is the number of its account."""
    first = text[start:end].partition(".")[0]
    try:
        number = base64.b64decode(first + "=" * (-len(first) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return number.isdigit() and _looks_real(text, start, end)


def _is_web_token(text: str, start: int, end: int) -> bool:
    """Header and payload must be JSON objects, which an encoded picture is not."""
    parts = text[start:end].split(".")
    if len(parts) < 3 or not _looks_real(text, start, end):
        return False
    try:
        header = base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4))
    except (binascii.Error, ValueError):
        return False
    return header.startswith(b"{") and b'"alg"' in header


def _private_keys(text: str) -> Iterator[Span]:
    for match in _PRIVATE_KEY.finditer(text):
        body = match["body"]
        if _KEY_BODY.search(body) and not _ELIDED.search(body):
            yield Span(SECRET, match.start(), match.end(), "private key")


_CHECKS: dict[str, Callable[[str, int, int], bool]] = {
    _PASSWORD: _real_password,
    "Discord token": _is_discord,
    "JSON web token": _is_web_token,
}
