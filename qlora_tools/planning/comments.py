"""A plan's config as YAML, each value under the reason for it."""

import re
import textwrap
from collections.abc import Iterator

from ..config import dump_config
from .plan import Plan
from .values import ASKED, PlannedValue

_PART = re.compile(r"([a-z_]+):$")
_FIELD = re.compile(r"  ([a-z_]+):(?: |$)")
_WIDTH = 100
_UNSAFE = re.compile(r"[^ -~]+")
_GIB = 2**30


def commented_yaml(plan: Plan) -> str:
    """The text of a run.yaml that `load_config` reads back as `plan.config`.

    A comment stands on a line of its own above its value, and holds the fixed words and numbers of a reason, never what
    a user wrote: model, data and settings that were asked for say no more than that.
    """
    reasons = {value.field: _comment(value) for value in plan.values}
    lines = [*_wrapped(_verdict(plan), ""), *_lines(dump_config(plan.config), reasons)]
    return "".join(f"{line}\n" for line in lines)


def _verdict(plan: Plan) -> str:
    free, needed = plan.hardware.free_memory_bytes / _GIB, plan.needed_bytes / _GIB
    verdict = "fits" if plan.fits else "is NOT sure to fit"
    return (
        f"Written by qlora plan. This run {verdict}: about {plan.estimate.mid_bytes / _GIB:.1f} GiB at its peak, "
        f"{needed:.1f} GiB to be sure, and {free:.1f} GiB are free."
    )


def _lines(text: str, reasons: dict[str, str]) -> Iterator[str]:
    part = ""
    for line in text.splitlines():
        heading, field = _PART.match(line), _FIELD.match(line)
        part = heading[1] if heading else part
        reason = reasons.get(f"{part}.{field[1]}") if field else None
        if reason:
            yield from _wrapped(reason, "  ")
        yield line


def _wrapped(words: str, indent: str) -> list[str]:
    return textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _comment(value: PlannedValue) -> str:
    words = value.reason if value.source in (ASKED, value.reason) else f"{value.reason} ({value.source})"
    return _UNSAFE.sub(" ", words).strip()
