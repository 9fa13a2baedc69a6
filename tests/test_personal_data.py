"""Personal data and secrets: found by form and check sum, masked in examples, replaced in a cleaned copy."""

import json
import time

import pytest

from qlora_tools.data.examples import Conversation, Message, PlainText
from qlora_tools.errors import MissingLibraryError
from qlora_tools.inspection import redact
from qlora_tools.inspection.exposure import check_personal_data, check_phone_numbers, check_secrets
from qlora_tools.inspection.redact import masked_text, redact_text, redact_value
from qlora_tools.inspection.rows import CheckedRow

RANDOM_36 = "a8Kd02LmQp93ZtYx71WbVr5NcE4GhJ6sUf0T"
KEY_BODY = (
    "MIIEpAIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9OiZ1BjP5CE/Wm/\nRK+Lh9x5eJPo5CAZ3/ANBE0sTK0ZsDGMak2m1g73VHqIxFTz0Ta1d+N\n"
)
WEB_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0ODEyMzQ1Njc4OTAiLCJuYW1lIjoiSmFuZSBNIn0."
    "dQw4w9WgXcQ2sT8vLmKpR7yXzN1bHjF5aEoUiCqGk0"
)
LETTERS = "aKdZLmQpTzYxRbWVcNEGhJsUfOwBeDgFkHiMoPqS"
HEX_32 = "9f86d081884c7d659a2feaa0c55ad015"

FOUND = [
    ("Write to jane.miller@gmail.com today.", "Write to [EMAIL] today."),
    ("<Jane.Miller+news@mail.corp.co.uk>", "<[EMAIL]>"),
    ("mailto:info@kunsthaus-nord.de", "mailto:[EMAIL]"),
    ("Card 4111 1111 1111 1111, 12/27", "Card [CARD], 12/27"),
    ("Card number:5555555555554444", "Card number:[CARD]"),
    ("Amex 3782-822463-10005 works", "Amex [CARD] works"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [IBAN]."),
    ("to FR1420041010050500013M02606!", "to [IBAN]!"),
    ("from 93.184.216.34:8080 and", "from [IP]:8080 and"),
    ("[2a02:8071:2b80:1c00:5d2f:11ff:fe3a:99d2]", "[[IP]]"),
    ("His SSN is 536-22-8726.", "His SSN is [SSN]."),
    ("Social Security number: 219-09-9999", "Social Security number: [SSN]"),
    ("Call (415) 867-5309 or", "Call [PHONE] or"),
    ("Ring 212-736-5000, please", "Ring [PHONE], please"),
    ("+44 20 7183 8750 is it", "[PHONE] is it"),
    ("+49 (0)30 22732152", "[PHONE]"),
    ("+33 1 42 68 53 00.", "[PHONE]."),
    ("Telefon: 030 22732152", "Telefon: [PHONE]"),
    ("appelez le 01 42 68 53 00 demain", "appelez le [PHONE] demain"),
    (f"GITHUB_TOKEN=ghp_{RANDOM_36}", "GITHUB_TOKEN=[SECRET]"),
    (f"use hf_{RANDOM_36[:34]} for it", "use [SECRET] for it"),
    (f"sk-ant-api03-{RANDOM_36}-{RANDOM_36}", "[SECRET]"),
    (f"key: sk-proj-{RANDOM_36}_x{RANDOM_36}.", "key: [SECRET]."),
    (f'"sk-{RANDOM_36}QwErTy123456"', '"[SECRET]"'),
    (f"AIza{RANDOM_36[:35]}", "[SECRET]"),
    ("id AKIAQ7LMN3P5R2T8VWXZ", "id [SECRET]"),
    ('aws_secret_access_key = "wJbT7UxnFEMIaK7MDENGhbPxRfiCYzzTOPK9e2Lq"', 'aws_secret_access_key = "[SECRET]"'),
    (f"xoxb-{'123456789012-' * 2}{RANDOM_36[:24]}", "[SECRET]"),
    (f"sk_{'live'}_{RANDOM_36[:24]}", "[SECRET]"),
    (f"glpat-{RANDOM_36[:20]} ok", "[SECRET] ok"),
    (f"SG.{RANDOM_36[:22]}.{RANDOM_36}{RANDOM_36[:7]}", "[SECRET]"),
    (f"Bearer {WEB_TOKEN}", "Bearer [SECRET]"),
    (f"use hf_{LETTERS[:34]} for it", "use [SECRET] for it"),
    (f"ghp_{LETTERS[:36]}", "[SECRET]"),
    ("aws_secret_access_key = wJbT7UxnFEMIaK7MDENGhbPxRfiCYzzTOPK9e2Lq", "aws_secret_access_key = [SECRET]"),
    (f"shpat_{HEX_32}", "[SECRET]"),
    (f"xai-{RANDOM_36 * 2}", "[SECRET]"),
    (f"nvapi-{RANDOM_36}-{RANDOM_36[:20]}", "[SECRET]"),
    (f"WANDB_API_KEY={HEX_32}1a2b3c4d", "WANDB_API_KEY=[SECRET]"),
    (f"hvs.CAESI{RANDOM_36}", "[SECRET]"),
    (f"lin_api_{RANDOM_36}Ab1c", "[SECRET]"),
    (f"ntn_{RANDOM_36}Ab1cDe2fGh", "[SECRET]"),
    (f"dp.pt.{RANDOM_36}Ab1cDe2", "[SECRET]"),
    (f"AGE-SECRET-KEY-1{(RANDOM_36 * 2).upper()[:58]}", "[SECRET]"),
    (f"key-{HEX_32} sends", "[SECRET] sends"),
    (f'-H "Authorization: Bearer {RANDOM_36}"', '-H "Authorization: Bearer [SECRET]"'),
    ("export MYSHOP_DB_PASSWORD=q7Rw3vXn5TlkZ2mb", "export MYSHOP_DB_PASSWORD=[SECRET]"),
    ('CLIENT_SECRET="q7Rw3vXn5TlkZ2mb+8"', 'CLIENT_SECRET="[SECRET]"'),
    ("postgres://anna:Xk92-vLq@db.firma-nord.de/x", "postgres://anna:[SECRET]@db.firma-nord.de/x"),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}-----END RSA PRIVATE KEY-----\nend", "[SECRET]\nend"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "clean"), FOUND)
def test_what_is_private_is_replaced_and_the_rest_stays(text: str, clean: str) -> None:
    assert redact_text(text)[0] == clean
    assert redact_text(clean)[0] == clean


LEFT = [
    "Write to support@example.com, ann@mail.example.org, you@yourdomain.com or noreply@github.com.",
    "W@x.to(device), X@self.weight, logo@2x.png, react@18.2.0 and git@github.com:a/b.git",
    "Call 555-0142, (212) 555-0147 or +1 415 555 0199; in films +44 20 7946 0958.",
    "1234567890, 123-456-7890, 000-000-0000, +1 234 567 8901 2345 6789",
    "Order #415-867-5309, ISBN 978-3-16-148410-0, ref 212-736-5000",
    "300-120-1000 = 5, 2024-03-15, 12:30:45, 1999-2003, 3.14159265358979, 48/2=<<48/2=24>>24",
    "id 4539578763621486 in the log, 4539578763621487, 0.4111111111111111, 4111111111111111234",
    "The sums 4111 1111 1111 1112 and 1234 5678 9012 3456 are no cards.",
    "DE88 3704 0044 0532 0130 00 has a wrong check sum, GB00 WEST 1234 5698 7654 32 too",
    "version 10.14.6.2, v93.184.216.34, section 3.2.1.4, Chrome/91.0.4472.124, 1.2.3.4, 1.3.6.1.4.1.311",
    "127.0.0.1, 10.1.2.3, 192.168.0.7, 172.16.5.4, 203.0.113.9, 255.255.255.0, 8.8.8.8, 2001:db8::1, fe80::1, ::1",
    "00:1A:2B:3C:4D:5E, std::map::end, 12:34:56, a::b",
    "536-22-8726 is a part number",
    "SSN 000-12-3456, SSN 666-12-3456",
    "AKIAIOSFODNN7EXAMPLE, wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY, sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx, hf_your_token_here, sk-ant-..., AIzaSyXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
    "postgres://user:password@db.firma-nord.de/x, redis://:secret@cache:6379, https://a:b@host.example.com, amqp://x:$PW@mq.y.de",
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    "A file begins with BEGIN PRIVATE KEY and ends with END PRIVATE KEY.",
    "eyJhbGciOiJIUzI1NiJ9 is the header, eyJ.eyJ is nothing",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, 550e8400-e29b-41d4-a716-446655440000",
    "API_KEY=your-key, TOKEN=xxxxxxxxxxxxxxxxxxxx, DB_PASSWORD=changeme, SECRET=<client-secret-1A2b>",
    "API_KEY=${MY_API_KEY_1}",
    "API_KEY=os.environ['K1'], SECRET_KEY = get_secret_value2(), PASSWORD=my-secret-password-12345",
    "MAX_TOKEN=4096409640964096",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_1234, Authorization: Bearer <token>, the bearer of Authorization is unknown",
    "hf_thisisalongwordoflowercaseletters, key-value pairs, key-9f86, xai-community, nvapi-docs, hvs.Layout",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "Er kam um 10.30 Uhr, Az. 12 O 345/67, 1.000.000,00 Euro, Tel Aviv 1948-1967",
    "She has 20 7 183 and 8750 coins; 100 200 3000 400 more; call it 0.75 1.25 1.50",
]  # fmt: skip


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_private_stays(text: str) -> None:
    assert redact_text(text) == (text, {})


def test_nested_values_are_redacted_and_keys_and_numbers_stay() -> None:
    value = {
        "jane.miller@gmail.com": [1, None, True, 4111111111111111, "no"],
        "messages": [
            {"role": "user", "content": "I am jane.miller@gmail.com or +44 20 7183 8750; jane.miller@gmail.com"}
        ],
    }
    clean, counts = redact_value(value)
    assert clean == {
        "jane.miller@gmail.com": [1, None, True, 4111111111111111, "no"],
        "messages": [{"role": "user", "content": "I am [EMAIL] or [PHONE]; [EMAIL]"}],
    }
    assert counts == {"EMAIL": 2, "PHONE": 1}


def test_json_within_a_text_is_json_after_redaction() -> None:
    inner = json.dumps({"to": "jane.miller@gmail.com", "token": f"ghp_{RANDOM_36}", "key": KEY_BODY})
    clean, counts = redact_value({"arguments": inner})
    assert json.loads(clean["arguments"])["to"] == "[EMAIL]"
    assert counts == {"EMAIL": 1, "SECRET": 1}


def test_no_tail_of_a_longer_secret_stays() -> None:
    assert redact_text(f"key sk_{'live'}_{RANDOM_36 * 3} end")[0] == "key [SECRET] end"
    assert redact_text("x " * 3990 + f"ghp_{RANDOM_36} end")[0].endswith("x [SECRET] end")


def test_redaction_says_which_library_is_missing_instead_of_leaving_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact.phones, "REQUIRED_LIBRARIES", ("no_such_library_of_ours",))
    with pytest.raises(MissingLibraryError, match="no_such_library_of_ours"):
        redact_value({"text": "anything"})
    # Examples of findings still show no number.
    assert "22732152" not in masked_text("Telefon: 030 22732152 oder jane.miller@gmail.com")


def test_masked_text_shows_only_ends() -> None:
    text = "jane.miller@gmail.com, 4539 5787 6362 1486, GB29 NWBK 6016 1331 9268 19, SSN 536-22-8726, 93.184.216.34"
    assert (
        masked_text(text) == "j***@g***.com, **** **** **** 1486, **** **** **** **** **** 19, SSN ***-**-**26, 93***"
    )
    assert masked_text(f"ghp_{RANDOM_36}") == "ghp_***"


def checked(*texts: str) -> list[CheckedRow]:
    return [CheckedRow(number, PlainText(text)) for number, text in enumerate(texts, start=1)]


def test_each_kind_is_one_finding_with_its_rows_and_a_masked_example() -> None:
    rows = checked(
        "nothing", "jane.miller@gmail.com and tom.hill@gmail.com", "Card 4111 1111 1111 1111", "jane.miller@gmail.com"
    )
    emails, cards = check_personal_data(rows)
    assert (emails.check, emails.severity, emails.count, emails.rows) == ("personal_email", "warning", 2, [2, 4])
    assert "3 in 2 rows" in emails.message
    assert emails.example == "j***@g***.com and t***@g***.com"
    assert (cards.check, cards.rows) == ("personal_card", [3])
    assert check_phone_numbers(rows) == []


def test_a_number_that_is_a_card_is_no_telephone() -> None:
    (found,) = check_phone_numbers(checked("Card 4111 1111 1111 1111", "Call +44 20 7183 8750"))
    assert (found.rows, found.example) == ([2], "Call +** ** **** **50")


def test_secrets_are_an_error_and_found_in_calls_and_thoughts_too() -> None:
    call = {"type": "function", "function": {"name": "login", "arguments": {"token": f"ghp_{RANDOM_36}"}}}
    asked = Message(role="user", content="Log in.")
    rows = [
        CheckedRow(5, Conversation((asked, Message(role="assistant", content="", tool_calls=[call])))),
        CheckedRow(6, Conversation((asked, Message(role="assistant", content="Done.")))),
        CheckedRow(
            9, Conversation((asked, Message(role="assistant", content="k", reasoning_content=f"hf_{RANDOM_36[:34]}")))
        ),
    ]
    (found,) = check_secrets(rows)
    assert (found.check, found.severity, found.rows) == ("secrets", "error", [5, 9])
    assert "GitHub token (1 row)" in found.message
    assert "Hugging Face token (1 row)" in found.message
    assert found.example is not None
    assert RANDOM_36[:8] not in found.example


@pytest.mark.parametrize(
    "part",
    [
        "eyJ",
        "://a",
        "sk-",
        "a@b.",
        "1.",
        "1 ",
        "-----BEGIN PRIVATE KEY-----",
        "AKIA",
        "aws key ",
        "//x:_authToken=",
        "A_TOKEN=",
        "KEY",
        "<",
    ],
)
def test_hostile_texts_take_time_in_proportion_to_their_length(part: str) -> None:
    def seconds(length: int) -> float:
        text = (part * length)[:length]
        began = time.process_time()
        redact_text(text)
        return time.process_time() - began

    seconds(2_000)
    assert seconds(400_000) < 10
