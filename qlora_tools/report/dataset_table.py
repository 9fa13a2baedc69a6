"""A dataset report for a terminal: the verdict, what was found, lengths, and what is learnt of some rows."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import DatasetReport, Finding, LengthSummary, MappingProposal, MaskedRow
from .dataset_words import (
    Run,
    amounts,
    facts,
    finding_counts,
    finding_rows,
    limit_mark,
    mask_runs,
    mask_title,
    ordered_findings,
    percent,
    percentile_words,
    visible_report,
)

_VERDICT_STYLES = {
    "ready": "bold black on green",
    "ready with warnings": "bold black on yellow",
    "not ready": "bold white on red",
}
_SIGNS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("i", "bold cyan")}
# By (learnt, special).
_MASK_STYLES = {
    (True, False): "bold green",
    (True, True): "bold black on green",
    (False, False): "dim",
    (False, True): "black on bright_black",
}
_LEARNT, _SPECIAL = ("⟦", "⟧"), ("⟪", "⟫")
# A row's own brackets must not pass for ours.
_OWN_BRACKETS = str.maketrans({"⟦": "[[", "⟧": "]]", "⟪": "<<", "⟫": ">>"})
_LONGEST_PIECE, _MOST_PIECES = 600, 30
_WIDEST, _MOST_BARS = 100, 20
_INDENT = 4


def print_dataset_report(console: Console, report: DatasetReport, *, most_rows: int = 3) -> None:
    """Show `report` with up to `most_rows` masked rows: in colours where the console has them, bracketed elsewhere."""
    shown = visible_report(report)
    plain = not console.is_terminal or console.no_color or console.color_system is None
    verdict = Text(f" {shown.verdict.upper()} ", _VERDICT_STYLES[shown.verdict])
    _say(console, Text(shown.verdict.upper()) if plain else verdict, Text(f"  {shown.path}", "bold"))
    _say(console, Text(shown.summary))
    _heading(console, "How it is read")
    _names_and_values(console, facts(shown))
    if shown.proposal is not None:
        _print_proposal(console, shown.proposal)
    _heading(console, f"Findings: {finding_counts(shown)}")
    for finding in ordered_findings(shown):
        _print_finding(console, finding)
    if shown.lengths is not None:
        _print_lengths(console, shown.lengths, plain=plain)
    _print_masks(console, shown.masks[:most_rows], plain=plain)
    _print_rest(console, shown)


def _say(console: Console, *parts: Text, indent: int = 0, hanging: int = 0) -> None:
    """Wrapped below its indent on a terminal, further lines `hanging` more; in a file or a pipe lines stay whole."""
    text = Text.assemble(*parts)
    room = max(20, console.width - indent - hanging)
    for paragraph in text.split():
        lines = paragraph.wrap(console, room) if console.is_terminal else [paragraph]
        for index, line in enumerate(lines):
            console.print(Text(" " * (indent + (hanging if index else 0))) + line, soft_wrap=True)


def _heading(console: Console, words: str) -> None:
    console.print()
    _say(console, Text(words, "bold"))


def _names_and_values(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    told = list(pairs)
    widest = max((len(name) for name, _ in told), default=0)
    if not console.is_terminal or console.width < 3 * widest:
        for name, value in told:
            _say(console, Text(f"{name}: ", "dim"), Text(value), indent=_INDENT // 2)
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in told:
        table.add_row(Text(f"  {name}", "dim"), Text(value))
    console.print(table)


def _print_proposal(console: Console, proposal: MappingProposal) -> None:
    _heading(console, f"Proposal: read the rows as {proposal.format}")
    _say(console, Text(proposal.reason))
    _names_and_values(console, proposal.columns.items())
    _say(console, Text("Code that converts the file:"))
    for line in proposal.code.splitlines():
        # Code is copied: its lines stay whole.
        console.print(Text(f"{' ' * _INDENT}{line}", "cyan"), soft_wrap=True)


def _print_finding(console: Console, finding: Finding) -> None:
    sign, style = _SIGNS[finding.severity]
    _say(console, Text(f"{sign} {finding.severity}: ", style), Text(finding.message), hanging=2)
    rows = finding_rows(finding)
    if rows:
        _say(console, Text(rows, "dim"), indent=_INDENT)
    if finding.example is not None:
        _say(console, Text("e.g. ", "dim"), Text(finding.example.replace("\n", "↵ "), "italic"), indent=_INDENT)
    if finding.next_step is not None:
        _say(console, Text("→ ", "cyan"), Text(finding.next_step), indent=_INDENT)


def _print_lengths(console: Console, lengths: LengthSummary, *, plain: bool) -> None:
    how = "tokens a row" if lengths.how == "tokenizer" else "tokens a row, estimated from characters"
    _heading(console, f"Lengths: {how}, {lengths.rows:,} rows")
    _say(console, Text(lengths.note, "dim"))
    _say(console, Text(" · ".join(f"{name} {value}" for name, value in percentile_words(lengths))))
    for line in length_bars(lengths, min(console.width, _WIDEST), plain=plain):
        console.print(line, no_wrap=True, crop=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("limit", "rows over", "share", "tokens lost"):
        table.add_column(name, justify="right")
    table.add_column("")
    for limit in lengths.limits:
        shares = percent(limit.share_over), percent(limit.tokens_lost_share)
        mark = limit_mark(lengths, limit.max_length_tokens)
        cells = (f"{limit.max_length_tokens:,}", f"{limit.rows_over:,}", *shares, f"← {mark}" if mark else "")
        table.add_row(*map(Text, cells), style="bold" if mark else "")
    console.print(table)
    set_to, better = lengths.max_length_tokens, lengths.suggested_max_length_tokens
    counted = "" if better == set_to else f" Counted here with {set_to:,}."
    _say(console, Text(f"Suggested: training.max_length_tokens: {better}.{counted}"))


def length_bars(lengths: LengthSummary, width: int, *, plain: bool) -> list[Text]:
    """The histogram as one line a bar, at most `width` characters each; the bar that holds a limit says so."""
    bars = _merged(lengths.histogram)
    most = max((rows for _, rows in bars), default=0) or 1
    names = [f"≤ {end:,}" for end, _ in bars]
    counts = [f"{rows:,}" for _, rows in bars]
    left, right = max(map(len, names), default=0), max(map(len, counts), default=0)
    marks = _bar_marks(lengths, [end for end, _ in bars])
    room = max(4, width - left - right - 2 - max(map(len, marks), default=0))
    lines = []
    for (_, rows), name, count, mark in zip(bars, names, counts, marks, strict=True):
        cells = max(1, round(rows / most * room)) if rows else 0
        bar = Text(("#" if plain else "█") * cells, "" if plain else "cyan")
        lines.append(Text.assemble(f"{name:>{left}} ", bar, f" {count}", (mark, "bold")))
    return lines


def _merged(bars: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours together until they are few enough for a screen."""
    merged = list(bars)
    while len(merged) > _MOST_BARS:
        pairs = [merged[start : start + 2] for start in range(0, len(merged), 2)]
        merged = [(pair[-1][0], sum(rows for _, rows in pair)) for pair in pairs]
    return merged


def _bar_marks(lengths: LengthSummary, ends: list[int]) -> list[str]:
    marks = [""] * len(ends)
    for name, value in (("counted", lengths.max_length_tokens), ("suggested", lengths.suggested_max_length_tokens)):
        place = next((index for index, end in enumerate(ends) if value <= end), None)
        if place is not None:
            marks[place] += f"{', ' if marks[place] else ' ← '}{name} {value:,}"
    return marks


def _print_masks(console: Console, rows: Sequence[MaskedRow], *, plain: bool) -> None:
    if not rows:
        return
    _heading(console, "What is learnt")
    _say(console, _mask_legend(plain=plain))
    for row in rows:
        _say(console, Text(mask_title(row), "bold"))
        _say(console, mask_text(row, plain=plain), indent=_INDENT // 2)


def _mask_legend(*, plain: bool) -> Text:
    if plain:
        return Text("⟦learnt⟧ not learnt ⟪special token⟫, ↵ newline")
    kinds = (
        ("learnt", True, False),
        ("learnt special token", True, True),
        ("not learnt", False, False),
        ("special token not learnt", False, True),
    )
    shown = [Text(name, _MASK_STYLES[learnt, special]) for name, learnt, special in kinds]
    return Text(" · ").join([*shown, Text("↵ newline")])


def mask_text(row: MaskedRow, *, plain: bool) -> Text:
    """The row with what is learnt in green and special tokens inverse; `plain` has ⟦learnt⟧ and ⟪special⟫ instead."""
    runs = mask_runs(row, longest=_LONGEST_PIECE, most=_MOST_PIECES)
    if not plain:
        return Text.assemble(
            *((run.text, "italic dim" if run.gap else _MASK_STYLES[run.learnt, run.special]) for run in runs)
        )
    parts = []
    for learnt, neighbours in groupby(runs, key=lambda run: run.learnt):
        text = "".join(map(_bracketed, neighbours))
        parts.append(f"{_LEARNT[0]}{text}{_LEARNT[1]}" if learnt else text)
    return Text("".join(parts))


def _bracketed(run: Run) -> str:
    text = run.text.translate(_OWN_BRACKETS)
    return f"{_SPECIAL[0]}{text}{_SPECIAL[1]}" if run.special else text


def _print_rest(console: Console, report: DatasetReport) -> None:
    told = list(amounts(report))
    if told:
        _heading(console, "An epoch")
        _names_and_values(console, told)
    if report.not_checked:
        _heading(console, "Not checked")
        for reason in report.not_checked:
            _say(console, Text(f"- {reason}"), indent=_INDENT // 2, hanging=2)
    console.print()
    _say(console, Text("Next: ", "bold"), Text(report.next_step))
