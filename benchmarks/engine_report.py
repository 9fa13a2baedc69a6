"""The tables of docs/performance.md from the result files of `engine_speed.py`.

    python benchmarks/engine_report.py

Each table stands between `<!-- NAME.json -->` and `<!-- end of NAME.json -->`, and is written again as a whole.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine_cases import FLOORS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
FILES = ("engine_speed_h100.json", "engine_speed_cpu.json")
GIB = 2**30
Engines = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Write the tables of all result files that exist into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in FILES:
        if (RESULTS / name).exists():
            report = json.loads((RESULTS / name).read_text(encoding="utf-8"))
            text = with_tables(text, name, tables(report))
    PAGE.write_text(text, encoding="utf-8")


def with_tables(page: str, name: str, lines: list[str]) -> str:
    """The page with `lines` between the marks of the file `name`; raises `ValueError` where it has no such marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"{PAGE.name} has no marks for {name}")
    head, rest = page.split(begin, 1)
    return "\n".join([head + begin, *lines, end + rest.split(end, 1)[1]])


def tables(report: Mapping[str, Any]) -> list[str]:
    """All that a result file tells, as Markdown."""
    cases = report["cases"]
    parts = (
        speed_table(cases),
        ratio_lines(cases),
        longest_table(cases),
        time_table(cases),
        agreement_lines(cases),
        failure_lines(cases),
    )
    return [about(report), *(line for part in parts if part for line in ("", *part))]


def about(report: Mapping[str, Any]) -> str:
    """Machine, date and versions in a line."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    return f"{machine['device']}, {report['date']}, Python {machine['python']}, {versions}."


def speed_table(cases: Mapping[str, Any]) -> list[str]:
    """Speed, spread and peaks of every engine, case by case, the fastest first."""
    lines = [
        "| work | engine | tokens/s | step, s: median (fastest to slowest) | processor s | allocated, reserved GiB "
        "| fast over it | of the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for name, case in cases.items() for row in _speed_rows(name, case)]
    return [*lines, *rows] if rows else []


def _speed_rows(name: str, case: Mapping[str, Any]) -> Iterator[str]:
    measured = {engine: one for engine, one in case["engines"].items() if "tokens_per_second" in one}
    fast = measured.get("fast", {}).get("tokens_per_second")
    words = case_words(case["case"])
    for engine, one in sorted(measured.items(), key=lambda pair: -pair[1]["tokens_per_second"]):
        speed = one["tokens_per_second"]
        spread = f"{one['fastest_step_seconds']:.3g} to {one['slowest_step_seconds']:.3g}"
        cells = [
            words,
            engine_words(engine, one),
            f"{speed:,.0f}",
            f"{one['median_step_seconds']:.3g} ({spread})",
            f"{one['median_processor_seconds']:.3g}",
            _peaks(one),
            "" if fast is None or engine == "fast" else f"{fast / speed:.2f}",
            # The floor decodes 4-bit weights, which a 16-bit base does not.
            "" if engine == "lora16" else ", ".join(f"{speed / floor:.0%}" for floor in FLOORS.get(name, ())),
        ]
        yield f"| {' | '.join(cells)} |"
        words = ""


def _peaks(one: Mapping[str, Any]) -> str:
    peaks = [one.get(f"peak_{kind}_bytes") for kind in ("allocated", "reserved")]
    return ", ".join(f"{peak / GIB:.2f}" for peak in peaks if peak is not None)


def case_words(case: Mapping[str, Any]) -> str:
    """A case in a few words."""
    size = f"{case['rows']} x {case['length']:,}"
    lengths = {"chat": f"chat-like rows packed to {case['length']:,}", "demo": f"{case['rows']} rows of 46 to 66"}
    words = [case["model"], lengths.get(case["lengths"], size)]
    words += [f"r={case['rank']}"] if case["rank"] != 16 else []
    words += [f"limit {case['limit_gib']:g} GiB"] if case.get("limit_gib") else []
    return ", ".join([*words, *(["all kept"] if case["kept"] else [])])


def engine_words(engine: str, one: Mapping[str, Any]) -> str:
    """The engine, and what trained in the end where the fast one was asked for and did not."""
    used = str(one.get("engine_used", engine))
    return f"{engine} ({used})" if engine in ("fast", "lora16") and used.startswith("stock") else engine


def ratio_lines(cases: Mapping[str, Any]) -> list[str]:
    """How many times stock's time the fast engine's is; on a shared machine the processor's time is disturbed least."""
    return [
        f"{case_words(case['case'])}: stock takes {found['median_step_seconds']:.2f} times as long as fast by the median "
        f"step, {found['fastest_step_seconds']:.2f} by the fastest, and "
        f"{found['median_processor_seconds']:.2f} times the processor's time."
        for case in cases.values()
        if (found := case.get("fast_over_stock"))
    ]


def longest_table(cases: Mapping[str, Any]) -> list[str]:
    """The longest rows that fitted."""
    rows = [
        f"| {case_words({**case['case'], 'length': 0})} | {engine} | {one['longest_tokens']:,} | {_whole(one)} |"
        for case in cases.values()
        for engine, one in case["engines"].items()
        if one.get("longest_tokens")
    ]
    rows = [row.replace(", 1 x 0", "") for row in rows]
    return ["| work | engine | longest row, tokens | whole step |", "|---|---|---|---|", *rows] if rows else []


def _whole(one: Mapping[str, Any]) -> str:
    step = one.get("whole_step")
    if step is None:
        return "left after its highest point"
    outcome = "trained" if step["fits"] else "out of memory"
    return f"{outcome} in {step['seconds']:.0f} s, {step['peak_reserved_bytes'] / GIB:.2f} GiB reserved"


def time_table(cases: Mapping[str, Any]) -> list[str]:
    """Where the time of one step goes, in milliseconds."""
    profiled = [
        (case_words(case["case"]), engine, one["kernel_milliseconds"])
        for case in cases.values()
        for engine, one in case["engines"].items()
        if one.get("kernel_milliseconds")
    ]
    kinds = sorted({kind for *_, found in profiled for kind in found})
    rows = [
        f"| {words} | {engine} | {' | '.join(f'{found[kind]:.1f}' if kind in found else '' for kind in kinds)} |"
        for words, engine, found in profiled
    ]
    return [f"| work | engine | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|", *rows] if rows else []


def agreement_lines(cases: Mapping[str, Any]) -> list[str]:
    """Whether the engines compute the same: loss and gradient norm of the first step."""
    found = [
        (case["agreement"]["reference"], engine, one)
        for case in cases.values()
        if case.get("agreement")
        for engine, one in case["agreement"]["engines"].items()
    ]
    if not found:
        return []
    loss = max(abs(one["first_loss"]) for *_, one in found)
    norm = max(abs(one["first_gradient_norm"] - 1) for *_, one in found)
    off = sorted({engine for _, engine, one in found if not one["within"]})
    beyond = f"; beyond the tolerance: {', '.join(off)}" if off else ""
    return [
        f"On equal rows the first step's losses of all engines differ by at most {loss:.1e}, and their gradient norms by "
        f"{norm:.1%} (adapters begin with different random numbers){beyond}."
    ]


def failure_lines(cases: Mapping[str, Any]) -> list[str]:
    """What was not measured, and why."""
    failed = [
        f"- {case_words(case['case'])}, {engine}: {one['error']} ({_plain(one.get('last_line', ''))})"
        for case in cases.values()
        for engine, one in case["engines"].items()
        if "error" in one
    ]
    return ["Not measured:", "", *failed] if failed else []


def _plain(text: str) -> str:
    return re.sub(r"[|<>`\n]", " ", text)[:160]


if __name__ == "__main__":
    main()
