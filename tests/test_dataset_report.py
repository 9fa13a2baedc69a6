"""A dataset report as text, page and picture, and `qlora data inspect`: what is shown, what never is, exit codes."""

import json
import re
import struct
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from qlora_tools.cli.console import watching
from qlora_tools.cli.main import run
from qlora_tools.errors import MachineError
from qlora_tools.events import RunEvent
from qlora_tools.report.dataset_page import dataset_page, write_dataset_page
from qlora_tools.report.dataset_table import length_bars, mask_text, print_dataset_report
from qlora_tools.report.dataset_words import (
    LONGEST_TEXT,
    finding_rows,
    mask_runs,
    ordered_findings,
    percent,
    visible_report,
)
from qlora_tools.report.length_histogram import histogram_svg, label_levels, write_histogram
from qlora_tools.results import (
    DatasetReport,
    Finding,
    LengthSummary,
    LimitShare,
    MappingProposal,
    MaskedRow,
    MaskPiece,
    PackingSummary,
    RowMapping,
)
from qlora_tools.untrusted import visible_text

from .conftest import write_rows

Output = pytest.CaptureFixture[str]
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def piece(text: str, *, learnt: bool = False, special: bool = False) -> MaskPiece:
    return MaskPiece(text=text, learnt=learnt, special=special)


def chat_mask(row: int = 1, answer: str = "Paris, on the Seine.\nIt has two million people.") -> MaskedRow:
    pieces = [
        piece("<|im_start|>", special=True),
        piece("user\nWhat is the capital of France?"),
        piece("<|im_end|>", special=True),
        piece("\n"),
        piece("<|im_start|>", special=True),
        piece("assistant\n"),
        piece(answer, learnt=True),
        piece("<|im_end|>", learnt=True, special=True),
        piece("\n"),
    ]
    return MaskedRow(row=row, tokens=38, learnt_tokens=14, cut=False, pieces=pieces)


def limits(rows: int, over: dict[int, tuple[int, float]]) -> list[LimitShare]:
    return [
        LimitShare(max_length_tokens=limit, rows_over=count, share_over=count / rows, tokens_lost_share=lost)
        for limit, (count, lost) in over.items()
    ]


def chat_lengths() -> LengthSummary:
    ends = [16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192]
    counts = [12, 40, 133, 310, 702, 1311, 1920, 2012, 1544, 970, 530, 262, 131, 66, 31, 14, 8, 3, 1]
    over = {512: (516, 0.081), 1024: (123, 0.021), 2048: (26, 0.0063), 4096: (4, 0.0004), 8192: (0, 0.0)}
    return LengthSummary(
        how="tokenizer",
        note="Counted with the tokenizer of qwen3-0.6b, chat template included.",
        rows=10_000,
        mean=213.4,
        percentiles={"p5": 41, "p25": 98, "p50": 152, "p75": 244, "p90": 401, "p95": 548, "p99": 1_130},
        longest=6_021,
        limits=limits(10_000, over),
        histogram=list(zip(ends, counts, strict=True)),
        max_length_tokens=2_048,
        suggested_max_length_tokens=1_024,
    )


def ready_report(**changes: Any) -> DatasetReport:
    values: dict[str, Any] = {
        "path": "data/support-chats.jsonl",
        "model": "qwen3-0.6b",
        "verdict": "ready",
        "summary": "10,000 rows of messages, rendered with the model's chat template; nothing stands in the way.",
        "mapping": RowMapping(
            format="sharegpt",
            columns={"messages": "conversations", "role": "conversations.from", "content": "conversations.value"},
            found_by="content",
            unused_columns=["id", "created_at"],
        ),
        "proposal": None,
        "rows": 10_000,
        "rows_checked": 10_000,
        "unusable_rows": 0,
        "findings": [],
        "lengths": chat_lengths(),
        "masks": [chat_mask(1), chat_mask(4711), chat_mask(9999)],
        "loss_on": "completions",
        "prompt_form": "the model's own chat template",
        "stop_tokens": ["<|im_end|>"],
        "packing": PackingSummary(bin_tokens=8_192, bins=262, rows_per_bin=38.2, fill=0.994, padded_fill=0.413),
        "tokens_per_epoch": 2_134_000,
        "learnt_tokens_per_epoch": 890_120,
        "sources": {"zendesk": 7_200, "email": 2_800},
        "languages": {"en": 0.942, "de": 0.051, "fr": 0.0003},
        "not_checked": [],
        "seconds": 12.34,
        "next_step": "qlora plan --model qwen3-0.6b --data data/support-chats.jsonl -o run.yaml",
    }
    return DatasetReport(**{**values, **changes})


def ten_findings() -> list[Finding]:
    return [
        Finding(
            check="encoding_damage",
            severity="warning",
            message="Text was decoded with the wrong encoding and holds broken characters.",
            count=37,
            share=0.0037,
            rows=[12, 90, 411, 932, 1204, 1999, 2040, 3555, 4012, 4711],
            example="CafÃ© crÃ¨me, s'il vous plaÃ®t",
            next_step="Repair the file, for example with ftfy, before it is learnt.",
        ),
        Finding(
            check="duplicates",
            severity="warning",
            message="Rows are the same as an earlier row, word by word.",
            count=812,
            share=0.0812,
            rows=[3, 17, 18, 44, 51, 62, 70, 71, 90, 112],
            example="How do I reset my password?",
            next_step="Drop repeats: they are learnt by heart.",
        ),
        Finding(check="near_duplicates", severity="note", message="Rows are nearly the same.", count=120, share=0.012),
        Finding(
            check="one_word_answers",
            severity="note",
            message="Answers of one word teach short answers.",
            count=230,
            share=0.023,
            rows=[5, 8],
            example="Yes.",
        ),
        Finding(
            check="long_rows",
            severity="warning",
            message="Rows are longer than training.max_length_tokens and lose their end, the stop token too.",
            count=26,
            share=0.0026,
            rows=[700, 1444],
            next_step="Set training.max_length_tokens=4096, or data.long_rows=drop.",
        ),
        Finding(
            check="secrets",
            severity="warning",
            message="Rows hold what looks like keys or passwords.",
            count=2,
            share=0.0002,
            rows=[2210, 8181],
            example="aws_secret_access_key = AKIA****************",
            next_step="Run `qlora data inspect data/support-chats.jsonl --redact clean.jsonl`.",
        ),
        Finding(
            check="personal_data",
            severity="warning",
            message="Rows hold e-mail addresses or telephone numbers.",
            count=3_310,
            share=0.331,
            rows=[1, 2, 4, 6, 7, 9, 11, 12, 15, 16],
            example="reach me at j***@***.com or +49 *** ****** 17",
            next_step="Run with --redact to write a copy without them.",
        ),
        Finding(check="refusals", severity="note", message="Answers refuse to help.", count=9, share=0.0009, rows=[31]),
        Finding(
            check="languages", severity="note", message="A twentieth of the answers is in another language.", count=0
        ),
        Finding(
            check="overlap",
            severity="warning",
            message="Rows for evaluation are among the training rows: the evaluation loss will look too good.",
            count=1,
            share=0.002,
            rows=[77],
            example="Where is my invoice?",
            next_step="Take them out of one of the two.",
        ),
    ]


def warned_report(**changes: Any) -> DatasetReport:
    warned = {
        "verdict": "ready with warnings",
        "summary": "9,988 of 10,000 rows can be used; six things are worth a look before a night is spent on them.",
        "findings": ten_findings(),
        "unusable_rows": 12,
        "rows_checked": 5_000,
        "not_checked": ["Licences of the texts: nothing here can tell them."],
    }
    return ready_report(**{**warned, **changes})


def unready_report(**changes: Any) -> DatasetReport:
    unready = {
        "path": "export/tickets.csv",
        "model": None,
        "verdict": "not ready",
        "summary": "The rows are of no known format; a mapping is proposed.",
        "mapping": None,
        "proposal": MappingProposal(
            format="prompt_completion",
            columns={"prompt": "ticket_body", "completion": "agent_reply"},
            reason="ticket_body is the longest text that ends with a question; agent_reply follows it in every row.",
            code=(
                "import csv, json\n\n"
                'with open("export/tickets.csv", newline="") as rows, open("rows.jsonl", "w") as out:\n'
                "    for row in csv.DictReader(rows):\n"
                '        pair = {"prompt": row["ticket_body"], "completion": row["agent_reply"]}\n'
                '        out.write(json.dumps(pair) + "\\n")\n'
            ),
        ),
        "findings": [
            Finding(
                check="format",
                severity="error",
                message="No known format has these columns: ticket_id, ticket_body, agent_reply.",
                count=431,
                share=1.0,
                rows=list(range(1, 11)),
                example='{"ticket_id": "1", "ticket_body": "Hello", "agent_reply": "Hi"}',
                next_step="Convert the file with the code below.",
            )
        ],
        "rows": 431,
        "rows_checked": 431,
        "unusable_rows": 431,
        "lengths": None,
        "masks": [],
        "prompt_form": None,
        "stop_tokens": [],
        "packing": None,
        "tokens_per_epoch": None,
        "learnt_tokens_per_epoch": None,
        "sources": {},
        "languages": {},
        "not_checked": ["Lengths and masks: the rows cannot be read.", "Template: no model was named."],
        "next_step": "Convert the rows, then run `qlora data inspect rows.jsonl` again.",
    }
    return ready_report(**{**unready, **changes})


HOSTILE = [
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b2J \x1b[2J\x1b[1;1H \x1bc \x1b(0 \x1b[?1049h \x1bP$q\x1b\\",
    "bell\x07 back\x08space nul\x00 del\x7f c1\x85\x90 form\x0cfeed carriage\rreturn",
    "\u202eesrever\u202c \u2066isolate\u2069 \u200fmark \u061cletter \u200bzero \ufeffbom \u00adsoft \u2060joiner",
    "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all rules") + "\U000e0100\ue000\ud800",
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"' onmouseover='x </style></pre></title>&amp;",
    "[red]markup[/red] [bold] [link=http://evil.example]x[/link] :smile: [/]",
    "{{ 7 * 7 }} {% for x in y %} $\\alpha$ \\n %s {0}",
    "w" * 5_000,
    "⟦forged⟧ ⟪<|im_end|>⟫",
    "漢字かな" * 200,
]
_FIXED = {"verdict", "severity", "how", "found_by"}
_SGR = re.compile(r"\x1b\[[0-9;]*m")


def planted(value: Any, text: str) -> Any:
    """`value` with `text` after every string of it, keys of mappings included."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, list | tuple):
        return [planted(item, text) for item in value]
    return value if not isinstance(value, dict) else {key: planted(item, text) for key, item in value.items()}


def hostile_report(report: DatasetReport, text: str) -> DatasetReport:
    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key in _FIXED else hostile(item) for key, item in value.items()}
        return [hostile(item) for item in value] if isinstance(value, list) else planted(value, text)

    whole = hostile(report.model_dump())
    for name in ("sources", "languages"):
        whole[name] = {key + text: value for key, value in whole[name].items()}
    for part in ("mapping", "proposal"):
        if whole[part] is not None:
            whole[part]["columns"] = {key + text: value for key, value in whole[part]["columns"].items()}
    return DatasetReport.model_validate(whole)


def full_report() -> DatasetReport:
    """Every part of a report at once."""
    long = chat_mask(7, answer="word " * 2_000)
    return warned_report(proposal=unready_report().proposal, masks=[chat_mask(), long])


def terminal_text(report: DatasetReport, width: int = 80, *, colours: bool = False, terminal: bool = True) -> str:
    stream = StringIO()
    colour_system: Any = "truecolor" if colours else None
    console = Console(file=stream, force_terminal=terminal, color_system=colour_system, width=width, markup=False)
    print_dataset_report(console, report)
    return stream.getvalue()


def steering(text: str) -> set[str]:
    """The characters of `text` that steer a terminal or hide."""
    return {character for character in text if character not in "\n\t" and visible_text(character) != character}


def tags_of(page: str) -> list[tuple[str, tuple[str, ...]]]:
    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, tuple(name for name, _ in attrs)))

    Tags().feed(page)
    return found


def text_of(page: str) -> str:
    texts: list[str] = []

    class Texts(HTMLParser):
        def handle_data(self, data: str) -> None:
            texts.append(data)

    Texts().feed(page)
    return "".join(texts)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://a.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred \x9d0;t\x9cafter", "red after"),
        ("\x1b]0;never ended, and the text goes on", "]0;never ended, and the text goes on"),
        ("\x1b(0line\x1bc", "linec"),
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("\u202eabc\u202c\u2066d\u2069\u200f", "abcd"),
        ("x\U000e0041\U000e0020\U000e0100y", "xy"),
        ("nul\x00 bell\x07 \ud800 \ue000", "nul bell  "),
        ("tab\tnewline\n", "tab\tnewline\n"),
        ("می\u200cخواهم 👩\u200d💻 é 漢字 نص", "می\u200cخواهم 👩\u200d💻 é 漢字 نص"),
        ("[red] <b> &amp;", "[red] <b> &amp;"),
    ],
)
def test_only_what_is_seen_and_means_something_is_left_of_a_text(text: str, shown: str) -> None:
    assert visible_text(text) == shown
    assert visible_text(shown) == shown


def test_a_text_full_of_unfinished_sequences_is_cleaned_in_no_time() -> None:
    assert visible_text("\x1b[" * 100_000) == "[" * 100_000
    assert visible_text("\x1b]" * 100_000) == "]" * 100_000


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_dataset_steers_the_terminal(text: str) -> None:
    report = hostile_report(full_report(), text)
    for shown in (terminal_text(report), terminal_text(report, terminal=False)):
        assert steering(shown) == set()
    own = set(_SGR.findall(terminal_text(full_report(), colours=True)))
    coloured = terminal_text(report, colours=True)
    assert set(_SGR.findall(coloured)) <= own
    assert steering(_SGR.sub("", coloured)) == set()


def test_markup_of_the_terminal_is_shown_as_it_was_written() -> None:
    shown = terminal_text(hostile_report(full_report(), "[red]x[/red] :smile:"), terminal=False)
    assert shown.count("[red]x[/red] :smile:") > 50


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_dataset_becomes_markup_of_the_page(text: str) -> None:
    page = dataset_page(hostile_report(full_report(), text))
    assert set(tags_of(page)) <= set(tags_of(dataset_page(full_report())))
    assert steering(page) == set()
    assert not {"script", "img", "iframe", "a", "link"} & {tag for tag, _ in tags_of(page)}


def test_the_page_shows_hostile_text_as_text() -> None:
    text = "<script>alert(1)</script> {{ 7 * 7 }}"
    assert text_of(dataset_page(hostile_report(full_report(), text))).count(text) > 50


def test_the_page_loads_nothing_and_forbids_what_it_does_not_need() -> None:
    page = dataset_page(full_report())
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)|@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[\w./]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_of_the_page_have_the_contrast_that_wcag_asks_for_by_day_and_night() -> None:
    style = dataset_page(ready_report()).partition("<style>")[2].partition("</style>")[0]
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 2
    for colours in themes:
        for name in ("ink", "soft", "good", "warn", "bad", "note", "limit", "suggested"):
            for ground in ("page", "tint"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        assert contrast(colours["learnt"], colours["learnt-ground"]) >= 4.5
        assert contrast(colours["bar"], colours["page"]) >= 3


@pytest.mark.parametrize("report", [ready_report(), warned_report(), unready_report()], ids=lambda item: item.verdict)
def test_every_view_tells_verdict_summary_findings_and_next_step(report: DatasetReport) -> None:
    plain = terminal_text(report, terminal=False)
    page = text_of(dataset_page(report))
    assert plain.startswith(f"{report.verdict.upper()}  {report.path}\n{report.summary}\n")
    for view in (plain, page.replace("\n", " ")):
        for finding in report.findings:
            for said in (finding.message, finding_rows(finding), finding.example, finding.next_step):
                assert (said or "").replace("`", "") in view.replace("`", "")
        for said in (*report.not_checked, report.next_step):
            assert said.replace("`", "") in view.replace("`", "")


def test_findings_come_severest_first_and_of_one_severity_those_of_the_most_rows() -> None:
    note, error = ten_findings()[2], unready_report().findings[0]
    report = warned_report(findings=[note, *ten_findings(), error])
    ordered = ordered_findings(report)
    assert [item.check for item in ordered[:3]] == ["format", "personal_data", "duplicates"]
    shown = terminal_text(report, terminal=False)
    assert shown.index("✗ error: ") < shown.index("! warning: ") < shown.index("i note: ")


def test_a_finding_says_how_many_rows_and_which() -> None:
    finding = ten_findings()[1]
    assert finding_rows(finding) == "812 rows (8.1%): 3, 17, 18, 44, 51, 62, 70, 71, 90, 112, …"
    assert finding_rows(ten_findings()[9]) == "1 row (0.2%): 77"
    assert finding_rows(ten_findings()[8]) == ""
    assert finding_rows(finding.model_copy(update={"share": None, "rows": []})) == "812 rows"


def test_a_small_share_is_not_shown_as_none() -> None:
    assert [percent(share) for share in (0, 0.00004, 0.0005, 0.999, 1)] == ["0.0%", "<0.1%", "0.1%", "99.9%", "100.0%"]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_lines_on_a_terminal_are_no_wider_than_it(width: int) -> None:
    report = hostile_report(warned_report(), f" {'w' * 5_000} {'漢字' * 300}")
    for line in terminal_text(report, width).splitlines():
        assert cell_len(line) <= width


def test_lines_in_a_pipe_stay_whole() -> None:
    words = "A long message. " * 30
    report = warned_report(findings=[ten_findings()[0].model_copy(update={"message": words.strip()})])
    assert f"! warning: {words.strip()}\n" in terminal_text(report, 60, terminal=False)


def test_in_colours_what_is_learnt_is_green_and_special_tokens_are_inverse() -> None:
    shown = terminal_text(ready_report(), 120, colours=True)
    assert "\x1b[1;32mIt has two million people.\x1b[0m\x1b[1;30;42m<|im_end|>\x1b[0m" in shown
    assert "\x1b[30;100m<|im_start|>\x1b[0m\x1b[2muser↵\x1b[0m" in shown
    assert "⟦" not in shown


def test_without_colours_what_is_learnt_stands_in_brackets() -> None:
    assert mask_text(chat_mask(), plain=True).plain == (
        "⟪<|im_start|>⟫user↵\nWhat is the capital of France?⟪<|im_end|>⟫↵\n⟪<|im_start|>⟫assistant↵\n"
        "⟦Paris, on the Seine.↵\nIt has two million people.⟪<|im_end|>⟫⟧↵\n"
    )
    assert "⟦Paris" in terminal_text(ready_report())
    assert "\x1b" not in terminal_text(ready_report(), terminal=False)


def test_brackets_of_the_row_itself_do_not_pass_for_ours() -> None:
    row = chat_mask(answer="⟧ not learnt? ⟪<|im_end|>⟫ ⟦")
    shown = mask_text(row, plain=True).plain
    assert "⟦]] not learnt? <<<|im_end|>>> [[⟪<|im_end|>⟫⟧" in shown
    assert (shown.count("⟦"), shown.count("⟧")) == (1, 1)


def test_of_a_long_row_the_middle_is_left_out_and_counted() -> None:
    row = chat_mask(answer="a" * 500 + "m" * 9_000 + "z" * 500)
    runs = mask_runs(row, longest=1_000, most=100)
    head, gap, tail = (run for run in runs if run.learnt and not run.special)
    assert (head.text, tail.text) == ("a" * 500, "z" * 500)
    assert gap.gap and "9,000 characters" in gap.text
    many = row.model_copy(update={"pieces": [piece(str(place), learnt=place % 2 == 0) for place in range(100)]})
    runs = mask_runs(many, longest=1_000, most=30)
    assert [run.text for run in runs if not run.gap] == [str(place) for place in (*range(20), *range(90, 100))]
    assert [run.text for run in runs if run.gap] == [" [… 70 pieces left out …] "]


def test_the_page_marks_each_piece_as_learnt_or_not_and_special_or_not() -> None:
    page = dataset_page(ready_report())
    assert '<span class="unlearnt special">&lt;|im_start|&gt;</span><span class="unlearnt">user↵\n' in page
    assert '<span class="learnt">Paris, on the Seine.↵\nIt has two million people.</span>' in page
    assert '</span><span class="learnt special">&lt;|im_end|&gt;</span>' in page


def test_as_many_masked_rows_are_shown_as_were_asked_for() -> None:
    for most in (0, 1, 3):
        stream = StringIO()
        print_dataset_report(Console(file=stream, width=80, markup=False), ready_report(), most_rows=most)
        assert stream.getvalue().count(" tokens, 14 learnt") == most


def test_names_that_differ_in_what_cannot_be_seen_stay_apart() -> None:
    shown = visible_report(ready_report(sources={"web": 1, "web\u200b": 2}))
    assert sorted(shown.sources.values()) == [1, 2]


def test_texts_are_cut_but_for_masks_and_code() -> None:
    shown = visible_report(hostile_report(full_report(), "w" * 5_000))
    assert len(shown.summary) == LONGEST_TEXT + 1
    assert len(shown.masks[0].pieces[0].text) > 5_000
    assert shown.proposal is not None and len(shown.proposal.code) > 5_000
    whole = visible_report(full_report(), longest=None)
    assert whole == full_report()


def test_the_bars_of_a_terminal_hold_every_row_and_mark_both_limits() -> None:
    lengths = chat_lengths()
    for width in (60, 80, 100):
        lines = [line.plain for line in length_bars(lengths, width, plain=True)]
        assert max(map(len, lines)) <= width
        told = [re.fullmatch(r"\s*≤ [\d,]+ #* ([\d,]+)( ← .*)?", line) for line in lines]
        assert sum(int(match[1].replace(",", "")) for match in told if match) == sum(
            rows for _, rows in lengths.histogram
        )
        assert [match[2] for match in told if match and match[2]] == [" ← suggested 1,024", " ← counted 2,048"]


def test_many_bars_are_joined_until_they_fit_on_a_screen() -> None:
    many = chat_lengths().model_copy(update={"histogram": [(end, 1) for end in range(1, 101)]})
    lines = length_bars(many, 80, plain=True)
    assert len(lines) <= 20
    assert sum(int(line.plain.rsplit(" ", 1)[1]) for line in lines) == 100


LENGTHS = {
    "usual": {},
    "limit far beyond": {"max_length_tokens": 32_768},
    "one length": {"histogram": [(77, 431)], "percentiles": {"p50": 77, "p90": 77, "p99": 77}, "longest": 77},
    "all at once": {
        "percentiles": {"p50": 398, "p90": 401, "p99": 410},
        "max_length_tokens": 400,
        "suggested_max_length_tokens": 402,
    },
    "limit before all": {"max_length_tokens": 8, "suggested_max_length_tokens": 8_192},
    "empty rows": {"histogram": [(1, 5), (2, 0)], "percentiles": {"p50": 0, "p90": 1, "p99": 1}, "longest": 1},
}


@pytest.mark.parametrize("changes", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("size", [(10, 5), (8, 3.8), (4.4, 3.4)])
def test_labels_of_the_histogram_meet_no_other_label_and_no_line(
    changes: dict[str, Any], size: tuple[float, float]
) -> None:
    from qlora_tools.report.length_histogram import _draw
    from qlora_tools.report.pictures import new_figure

    figure = new_figure(*size)
    axes = figure.subplots()
    _draw(axes, chat_lengths().model_copy(update=changes))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes
    for place, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= axes.bbox.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    for line in axes.lines:
        (x, low), (_, high) = line.get_transform().transform(line.get_xydata())
        assert not any(box.x0 < x < box.x1 and low < box.y1 and high > box.y0 for box in boxes)


def test_a_label_stands_above_those_that_it_would_run_into() -> None:
    assert label_levels([0.1, 0.5, 0.9], [0.2, 0.2, 0.2]) == [0, 0, 0]
    assert label_levels([0.1, 0.2, 0.25, 0.9], [0.2, 0.2, 0.2, 0.2]) == [2, 1, 0, 0]
    assert label_levels([0.5], [0.2]) == [0]


def test_the_histogram_is_a_png_with_letters_that_its_font_lacks_and_formulas_left_alone(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "lengths.png"
    assert write_histogram(path, ready_report(path="data/$x_1$ 漢字 \\alpha.jsonl"))
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1500, 750)
    assert [str(item.message) for item in recwarn] == []


def test_without_lengths_no_picture_is_written(tmp_path: Path) -> None:
    path = tmp_path / "lengths.png"
    assert not write_histogram(path, unready_report())
    assert not path.exists()


def test_the_picture_of_the_page_has_words_as_text_and_colours_of_the_page() -> None:
    svg = histogram_svg(chat_lengths())
    for said in ("limit 2,048", "suggested 1,024", "p50 152", "p99 1,130"):
        assert f">{said}</text>" in svg
    assert "var(--limit)" in svg and "var(--bar)" in svg
    # What is left are matplotlib's own defaults of elements that are not drawn, none of them a line or a letter.
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) == set()


def test_without_matplotlib_the_page_has_tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = dataset_page(ready_report())
    assert "<svg" not in page
    assert "A histogram needs matplotlib" in page
    assert ">1,130</td>" in page


def test_the_page_is_the_same_each_time() -> None:
    assert dataset_page(full_report()) == dataset_page(full_report())


def test_a_page_that_cannot_be_written_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the page was not written"):
        write_dataset_page(tmp_path / "gone" / "a.html", ready_report())


def test_progress_is_shown_in_bytes_where_bytes_are_counted(capsys: Output) -> None:
    from rich.progress import Progress

    from qlora_tools.cli.console import _AmountColumn

    progress = Progress()
    for total, completed, fields in ((5 * 2**30, 2**30, {"bytes": True}), (4_000, 120, {}), (None, 5_000, {})):
        progress.add_task("rows", total=total, completed=completed, **fields)
    shown = [_AmountColumn().render(task).plain for task in progress.tasks]
    assert shown == ["1.0/5.0 GiB", "120/4,000", "5,000"]
    with watching() as listener:
        listener(RunEvent("phase", "Reading \x1b[31m[rows]"))
        listener(RunEvent("progress", "[rows]", {"done": 1, "total": 2**30, "bytes": 1}))
        listener(RunEvent("progress", "[rows]", {"done": 2}))
        print("from a library")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Reading [rows]" in captured.err and "\x1b[31m" not in captured.err


def document(capsys: Output) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def good_rows(tmp_path: Path) -> Path:
    """Sixty different rows with nothing wrong."""
    towns = "Paris Rome Oslo Lima Cairo Delhi Quito Tunis Accra Minsk Sofia Seoul Dakar Kyiv Bern".split()  # noqa: SIM905
    asked = ("Which river runs through", "What is eaten in", "How many people live in", "What is worth seeing in")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{question} {town}?"},
                {"role": "assistant", "content": f"In {town} that is told to guests in {place + 3} different ways."},
            ]
        }
        for place, (question, town) in enumerate((question, town) for town in towns for question in asked)
    ]
    return write_rows(tmp_path / "good.jsonl", rows)


def nameless(tmp_path: Path) -> Path:
    rows: Rows = [{"alpha": place, "beta": place * 2} for place in range(20)]
    return write_rows(tmp_path / "numbers.jsonl", rows)


def test_rows_that_are_ready_end_with_code_0(good_rows: Path, capsys: Output) -> None:
    assert run(["data", "inspect", str(good_rows)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("READY")
    assert "Next: " in shown.out


def test_rows_that_are_not_ready_end_with_code_3(tmp_path: Path, capsys: Output) -> None:
    assert run(["data", "inspect", str(nameless(tmp_path))]) == 3
    assert capsys.readouterr().out.startswith("NOT READY")


def test_the_json_document_is_the_report_with_the_files_that_were_written(good_rows: Path, capsys: Output) -> None:
    assert run(["data", "inspect", str(good_rows), "--json"]) == 0
    found = document(capsys)
    assert found.pop("written") == []
    report = DatasetReport.model_validate(found)
    assert (report.rows, report.model, report.masks) == (60, None, [])
    assert report.lengths is not None and report.lengths.how == "characters"
    assert report.not_checked


def test_with_a_model_the_masks_are_shown(good_rows: Path, tiny_model: Callable[[str], Path], capsys: Output) -> None:
    arguments = ["data", "inspect", str(good_rows), "max_length_tokens=512", "--model", str(tiny_model("llama"))]
    assert run([*arguments, "--show", "2"]) in (0, 3)
    shown = capsys.readouterr().out
    assert "What is learnt" in shown
    assert len(re.findall(r"^Row \d+: ", shown, re.M)) == 2
    assert "⟦" in shown.partition("Row ")[2]


def test_a_run_config_is_inspected_with_its_own_settings(
    good_rows: Path, tiny_model: Callable[[str], Path], tmp_path: Path, capsys: Output
) -> None:
    config = tmp_path / "run.yaml"
    parts = {
        "model": {"name": str(tiny_model("llama"))},
        "data": {"path": str(good_rows), "loss_on": "assistant"},
        "training": {"max_length_tokens": 384},
        "output": {"directory": str(tmp_path / "out")},
    }
    config.write_text(json.dumps(parts), encoding="utf-8")
    assert run(["data", "inspect", "--config", str(config), "--json"]) in (0, 3)
    found = document(capsys)
    assert (found["loss_on"], found["lengths"]["max_length_tokens"]) == ("assistant", 384)
    assert not (tmp_path / "out").exists()


def test_page_picture_and_redacted_copy_are_written_and_named(good_rows: Path, tmp_path: Path, capsys: Output) -> None:
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "ann@mailbox.org"}]}
    with good_rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    page, picture, copy = (tmp_path / name for name in ("a.html", "a.png", "clean.jsonl"))
    options = ["--html", str(page), "--picture", str(picture), "--redact", str(copy), "--json"]
    assert run(["data", "inspect", str(good_rows), *options]) == 0
    found = document(capsys)
    assert found["written"] == [str(page), str(picture), str(copy)]
    assert sum(found["redacted"].values()) == 1
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "ann@mailbox.org" not in copy.read_text(encoding="utf-8")
    assert len(copy.read_text(encoding="utf-8").splitlines()) == 61


def test_without_lengths_the_command_says_that_no_picture_was_drawn(tmp_path: Path, capsys: Output) -> None:
    rows = nameless(tmp_path)
    assert run(["data", "inspect", str(rows), "--picture", str(tmp_path / "a.png"), "--json"]) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["written"] == []
    assert "No picture was drawn" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "PATH comes first"),
        (["rank=3"], "PATH comes first"),
        (["rows.jsonl", "other.jsonl"], "name=value"),
        (["rows.jsonl", "rnak=3"], "lora.rank"),
        (["rows.jsonl", "--config", "run.yaml"], "cannot be given beside it"),
        (["--config", "run.yaml", "--model", "gpt2"], "cannot be given beside it"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["rows.jsonl", "--rows", "0"], "--rows"),
        (["rows.jsonl", "--show", "-1"], "--show"),
        (["missing.jsonl"], "missing.jsonl"),
    ],
)
def test_a_mistake_is_told_in_words(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["data", "inspect", *arguments, "--json"]) == 2
    error = document(capsys)
    assert said in error["message"]
    assert error["next_step"]


def test_data_that_cannot_be_read_is_code_2(tmp_path: Path, capsys: Output) -> None:
    broken = {"a.jsonl": b"", "b.parquet": b"not parquet", "c.pkl": b"\x80\x04.", "d.jsonl.gz": b"\x1f\x8b\x08\x00"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        assert run(["data", "inspect", str(tmp_path / name), "--json"]) == 2, name
        assert document(capsys)["next_step"]


def test_files_are_refused_before_the_work_begins(tmp_path: Path, capsys: Output) -> None:
    for name in ("mine.html", "mine.png", "mine.jsonl"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    cases = {
        ("--html", "mine.html"): "is not a page of this command; it was left as it is",
        ("--html", "page.pdf"): "does not end in .html",
        ("--html", "none/a.html"): "There is no directory",
        ("--picture", "mine.png"): "is not a PNG; it was left as it is",
        ("--picture", "a.svg"): "does not end in .png",
        ("--redact", "mine.jsonl"): "exists; it is not replaced",
        ("--redact", "clean.csv"): "does not end in .jsonl",
        ("--redact", "none/clean.jsonl"): "There is no directory",
    }
    for (option, name), said in cases.items():
        # The data is not there either: what is said first was checked first.
        assert run(["data", "inspect", str(tmp_path / "none.jsonl"), option, str(tmp_path / name), "--json"]) == 2
        assert said in document(capsys)["message"]
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == dict.fromkeys(
        ("mine.html", "mine.png", "mine.jsonl"), "mine"
    )


def test_a_page_of_this_command_may_be_written_again(tmp_path: Path) -> None:
    from qlora_tools.report.dataset_page import check_dataset_page

    page = tmp_path / "report.html"
    write_dataset_page(page, ready_report())
    check_dataset_page(page)
    write_dataset_page(page, unready_report())
    assert "export/tickets.csv" in page.read_text(encoding="utf-8")


def test_letters_that_the_terminal_cannot_show_are_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import TextIOWrapper

    from qlora_tools.cli.console import print_json, stdout

    with (tmp_path / "out.txt").open("wb") as raw:
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii"))
        print_json({"text": "漢字"})
        print_dataset_report(stdout(), hostile_report(full_report(), " 漢字"))
        sys.stdout.flush()
        monkeypatch.undo()
    text = (tmp_path / "out.txt").read_text(encoding="ascii")
    assert "\\u6f22\\u5b57" in text
    assert "READY WITH WARNINGS" in text
