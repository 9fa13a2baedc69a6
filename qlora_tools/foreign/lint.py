"""What is stale or wrong in somebody's QLoRA script, by its syntax alone."""

import re
from collections.abc import Iterator
from typing import Literal, cast

from ..hiding import hidden_secrets
from ..results import LintFinding, LintResult
from ..untrusted import visible_text
from .calls import Call, ScriptSource, read_script
from .lint_installed import installed_versions
from .lint_rules import RULES, Rule
from .lint_subject import Found, Subject
from .source import shown_name

_MOST_OF_A_RULE = 20
_MOST_FINDINGS = 100
_GIVEN_CHARACTERS = 160
_ORDER = ("error", "warning", "note")
_Kind = Literal["qlora", "lora", "training", "other"]


def lint_script(text: str, *, name: str = "script") -> LintResult:
    """What is stale or wrong in a training script (Python or a notebook), each with its effect and its mending.

    A rule speaks only of what the syntax tree shows; values that only a run would tell are passed over. `name` is for
    messages; one that ends in `.ipynb` must hold a notebook. Nothing is imported or run. Raises `UsageError` for what is no
    Python, too large or nested too deeply.
    """
    source = read_script(text, name=name)
    subject = Subject(source)
    found = [finding for rule in RULES for finding in _findings(rule, source, subject)]
    found += [_no_training(source)] if subject.kind == "other" else []
    found.sort(key=lambda item: (_ORDER.index(item.severity), item.line, item.rule))
    count = {severity: sum(item.severity == severity for item in found) for severity in _ORDER}
    return LintResult(
        name=shown_name(name),
        kind=cast(_Kind, subject.kind),
        errors=count["error"],
        warnings=count["warning"],
        notes=count["note"],
        findings=found[:_MOST_FINDINGS],
        left_out=max(0, len(found) - _MOST_FINDINGS),
        checked_against=dict(installed_versions()),
        not_checked=list(_not_checked(subject)),
        next_step=_next_step(count, subject.kind),
    )


def _findings(rule: Rule, source: ScriptSource, subject: Subject) -> Iterator[LintFinding]:
    seen = set()
    for found in rule.find(subject):
        if (found.line, found.what) not in seen:
            seen.add((found.line, found.what))
            yield _shown(rule, found, source)
        if len(seen) >= _MOST_OF_A_RULE:
            return


def _shown(rule: Rule, found: Found, source: ScriptSource) -> LintFinding:
    given = found.given.strip()
    # A replacement that is cut would be wrong, and so would one with a secret taken out of it.
    whole = len(given) <= _GIVEN_CHARACTERS and given == _safe(given)
    replacement = found.replacement if whole and found.replacement == _safe(found.replacement or "") else None
    return LintFinding(
        rule=rule.name,
        severity=cast(Literal["error", "warning", "note"], found.severity or rule.severity),
        line=found.line,
        end_line=found.end_line,
        where=_where(found.line, source),
        what=_safe(found.what),
        why=_safe(found.why),
        fix=_safe(found.fix),
        given=_safe(given) or None,
        replacement=replacement,
    )


def _safe(text: str) -> str:
    shown = hidden_secrets(visible_text(text))
    return shown if len(shown) <= 4 * _GIVEN_CHARACTERS else shown[: 4 * _GIVEN_CHARACTERS] + " ..."


def _where(line: int, source: ScriptSource) -> str:
    before = [start for start in source.cells if start <= line]
    return f"code cell {len(before)}, line {line - before[-1] + 1}" if before else f"line {line}"


def _no_training(source: ScriptSource) -> LintFinding:
    return LintFinding(
        rule="no-training",
        severity="note",
        line=1,
        end_line=1,
        where=_where(1, source),
        what="this file trains nothing that the rules know",
        why="It makes no trainer, no training arguments and no adapter of Transformers, PEFT or TRL.",
        fix="give the file that holds the training; settings in YAML go to `qlora config import`",
    )


def _not_checked(subject: Subject) -> Iterator[str]:
    source = subject.source
    if subject.is_unsloths:
        yield "Unsloth replaces parts of TRL and Transformers: what its own functions take and default to is not checked."
    if source.unread:
        yield f"Code cells {', '.join(map(str, source.unread[:10]))} are no Python and were passed over."
    pins = sorted(set(_PINNED.findall(source.text)))
    if pins:
        yield f"The script pins {', '.join(pins[:6])}: what is said of removed arguments and names is about today's."
    spread = sorted(call.line for call in _relevant(subject) if not call.complete)
    if spread:
        shown = ", ".join(map(str, spread[:10]))
        yield f"Calls at lines {shown} take arguments from `**` or `*` that only a run tells."
    if {"HfArgumentParser", "TrlParser", "parse_args_into_dataclasses"} & {call.last_name for call in source.calls}:
        yield "What comes from the command line or a config file is taken at its defaults."


_PINNED = re.compile(r"\b((?:transformers|trl|peft|bitsandbytes)==[\w.]{1,20})")


def _relevant(subject: Subject) -> list[Call]:
    trainers = [*subject.trl_trainers, *subject.plain_trainers]
    return [*subject.training_arguments, *subject.adapters, *subject.quantisations, *subject.loads, *trainers]


def _next_step(count: dict[str, int], kind: str) -> str:
    if kind == "other":
        return "Give the script that holds the training."
    if count["error"]:
        return "Mend the errors first: it does not run, or does not learn. `qlora config import` reads it as a config."
    if count["warning"]:
        return "Mend the warnings, or decide that they are meant; `qlora config import` reads the script as a config."
    return "Nothing has to be mended; `qlora estimate` tells whether it fits the GPU."
