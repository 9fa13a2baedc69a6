"""Rows that hold several answers: two that were compared, or options of which one is right."""

import re
from typing import Any

from ...results import MappingProposal
from .columns import Column, Table, filled, has_text, plain_name, text_or_chat
from .mapping_code import as_code_has_it, proposed_code, quoted
from .names import CHAT_NAMES, CHOICE_ANSWERS, CHOICES, PASSAGES, names_of

_OPTION_COLUMNS = (
    ("a", "b", "c", "d"),
    ("opa", "opb", "opc", "opd"),
    ("option_a", "option_b", "option_c", "option_d"),
    ("option_1", "option_2", "option_3", "option_4"),
    ("option1", "option2"),
    ("choice1", "choice2"),
)
_SIDES = re.compile(r"(.*?)[_-]?(a|b|0|1|2)")
_MARKED = (("prompt_completion", "prompt", "completion"), ("question_answer", "question", "answer"))
_MARKS = ("label", "kto_tag")
_MARK_VALUES = ("true", "false", "0", "1", "0.0", "1.0")
_WINNERS = ("winner", "better_response_id", "preference", "preferred", "better", "choice", "label", "labels")


def of_comparisons(table: Table) -> MappingProposal | None:
    """Answers of which only some are good: two beside each other with a winner, or each with its mark."""
    return _compared(table) or _marked(table)


def _marked(table: Table) -> MappingProposal | None:
    mark = table.named(_MARKS, _is_mark)
    if mark is None:
        return None
    for row_format, asked_name, answer_name in _MARKED:
        asked = table.named(names_of(row_format, asked_name)[:1], text_or_chat)
        answer = table.named((answer_name, "response"), text_or_chat)
        if asked is not None and answer is not None:
            columns = {asked_name: asked.path, answer_name: answer.path}
            return _liked(row_format, columns, mark, turns=asked.is_chat or answer.is_chat)
    chat = table.named(CHAT_NAMES, lambda column: column.is_chat and column.is_answered)
    # A number beside a chat may be a class of any kind.
    if chat is None or not _is_true_or_false(mark):
        return None
    return _liked("messages", {"messages": chat.path}, mark, turns=True)


def _liked(row_format: str, columns: dict[str, str], mark: Column, *, turns: bool) -> MappingProposal:
    reason = (
        f"Each answer is marked as good or bad in {quoted(mark.path)}, and bad ones would be learnt too; the code keeps "
        "the good ones."
    )
    return proposed_code(row_format, reason, "liked", COLUMNS=columns, LABEL=mark.path, TURNS=turns)


def _is_mark(column: Column) -> bool:
    """True/false or 0/1, as text too, which is what CSV files have."""
    return filled(column) and all(as_code_has_it(value).strip().lower() in _MARK_VALUES for value in column.values)


def _is_true_or_false(column: Column) -> bool:
    return all(as_code_has_it(value).strip().lower() in ("true", "false") for value in column.values)


def _compared(table: Table) -> MappingProposal | None:
    winner = table.named(_WINNERS, filled)
    sides = _sides(table)
    if winner is None or not sides:
        return None
    better = {as_code_has_it(value): side for value in winner.values if (side := _side_of(value, sides))}
    if len(set(better.values())) < 2:
        return None
    prompt = (
        None
        if table.columns[sides["first"]].is_chat
        else table.named(names_of("question_answer", "question"), has_text)
    )
    if prompt is None and not table.columns[sides["first"]].is_chat:
        return None
    return proposed_code(
        "question_answer" if prompt else "messages",
        "Two answers are compared in each row; the code takes the one that was found better and leaves ties out.",
        "comparison",
        WINNER=winner.path,
        BETTER=better,
        PROMPT=prompt.path if prompt else None,
    )


def _sides(table: Table) -> dict[str, str]:
    """The columns of the two answers, `first` and `second`, and by their endings."""
    stems: dict[str, list[tuple[str, str]]] = {}
    for name, column in table.columns.items():
        match = _SIDES.fullmatch(plain_name(name))
        if match and (column.is_chat or (has_text(column) and not column.is_metadata)):
            stems.setdefault(match.group(1), []).append((match.group(2), name))
    pair = next((found for found in stems.values() if len(found) == 2), None)
    if pair is None:
        return {}
    return {"first": pair[0][1], "second": pair[1][1], **dict(pair)}


def _side_of(value: Any, sides: dict[str, str]) -> str | None:
    text = as_code_has_it(value).strip().lower()
    return sides.get(text) or sides.get(text[-1:] if re.search(r"[_ -].$", text) else "")


def of_choices(table: Table) -> MappingProposal | None:
    """Multiple choice: a question whose answer means nothing without the options."""
    question = table.named((*names_of("question_answer", "question"), "ctx", "premise", "sentence", "stem"), has_text)
    options = table.named(CHOICES, lambda column: column.has_lists or column.kind == "an object")
    paths: str | list[str] | None = options.path if options else _option_columns(table)
    if question is None or paths is None or table.named(("instruction",), has_text):
        return None
    answer = table.named(CHOICE_ANSWERS, filled)
    passage = table.named(PASSAGES, filled)
    if answer is None:
        return None
    return proposed_code(
        "question_answer",
        "These are multiple-choice questions; the code writes the options into the question and the right one out in full.",
        "choices",
        CONTEXT=passage.path if passage else None,
        QUESTION=question.path,
        CHOICES=paths,
        ANSWER=answer.path,
        FIRST=_first_index(answer),
    )


def _option_columns(table: Table) -> list[str] | None:
    for names in _OPTION_COLUMNS:
        found = [table.named((name,), filled) for name in names]
        if all(found):
            return [column.path for column in found if column is not None]
    return None


def _first_index(answer: Column) -> int:
    numbers = [int(text) for value in answer.values if (text := str(value).strip()).isdecimal() and len(text) < 3]
    return 1 if numbers and min(numbers) == 1 and len(set(numbers)) > 1 else 0
