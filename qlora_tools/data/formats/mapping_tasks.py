"""Rows of other tasks, which look like text or like a question but would lose their point if they were read so."""

import re

from ...results import MappingProposal
from .columns import Column, Table, filled, has_text
from .mapping_code import proposed, proposed_code, quoted
from .names import SUMMARIES, SUMMARISED, names_of
from .turns import ROLES, role_of, speakers, turn_keys

_MOST_SPEAKERS = 20
_DOUBTFUL = ("user", "human", "target", "targets", "bot", "assistant", "gpt")
_OUTPUTS = names_of("alpaca", "output")
_LANGUAGE = re.compile(r"[a-z]{2,3}([_-][a-z0-9]{2,4})*", re.IGNORECASE)


def of_other_tasks(table: Table) -> MappingProposal | None:
    """Message trees, translations, summaries, answers that are lists or numbers: not what their text columns suggest."""
    for recognise in (_tree, _translation, _summary, _solutions, _unfit_pair, _nested_answer, _speakers):
        if found := recognise(table):
            return found
    return None


def _tree(table: Table) -> MappingProposal | None:
    parent = table.named(("parent_id", "parent", "parent_message_id"), lambda column: True)
    identifier = table.named(("message_id", "id", "uuid"), filled)
    role, text = (
        table.named(("role", "from", "author"), has_text),
        table.named(("text", "content", "message"), has_text),
    )
    if parent is None or identifier is None or role is None or text is None:
        return None
    roles = {name: known for name in sorted(set(role.texts))[:_MOST_SPEAKERS] if (known := role_of(name))}
    return proposed_code(
        "messages",
        "Each row is one message of a tree; the code joins every branch to a conversation.",
        "tree",
        ID=identifier.path,
        PARENT=parent.path,
        ROLE=role.path,
        TEXT=text.path,
        ROLES=roles,
    )


def _translation(table: Table) -> MappingProposal | None:
    column = table.columns.get("translation")
    if column is None:
        return None
    languages = [inner.path for inner in table.nested if inner.path.startswith("translation.") and has_text(inner)]
    languages = [path for path in languages if _LANGUAGE.fullmatch(path.split(".")[-1])]
    if len(languages) < 2:
        return None
    first, second = languages[:2]
    return proposed(
        "question_answer",
        {"question": first, "answer": second},
        f"These are translations; {quoted(first)} would be the question and {quoted(second)} the answer, without a word that "
        "asks for a translation.",
    )


def _summary(table: Table) -> MappingProposal | None:
    summary = table.named(SUMMARIES, has_text)
    document = table.named(SUMMARISED, has_text)
    if (
        summary is None
        or document is None
        or summary.path == document.path
        or document.mean_length < summary.mean_length
    ):
        return None
    return proposed(
        "question_answer",
        {"question": document.path, "answer": summary.path},
        f"These are texts with their summaries; {quoted(document.path)} would be the question and {quoted(summary.path)} the "
        "answer, without a word that asks for a summary.",
    )


def _solutions(table: Table) -> MappingProposal | None:
    """Problems of programming with a list of programs that solve each, also as JSON text."""
    asked = table.named(_plainly("question_answer", "question"), has_text)
    solutions = table.named(("solutions",), lambda column: column.has_lists or column.is_writing)
    if asked is None or solutions is None:
        return None
    if solutions.has_lists:
        columns = {"question": asked.path, "answer": f"{solutions.path}.0"}
        return _several_answers("question_answer", columns)
    reason = f"{quoted(solutions.path)} looks like the answer to {quoted(asked.path)}."
    return proposed("question_answer", {"question": asked.path, "answer": solutions.path}, reason)


def _unfit_pair(table: Table) -> MappingProposal | None:
    """Columns of the right names whose values are no text: answers in a list, a number, a context in an object."""
    for row_format, names in (("alpaca", ("instruction", "output")), ("question_answer", ("question", "answer"))):
        asked, answer = (table.named(_plainly(row_format, name), filled) for name in names)
        if asked is None or answer is None or asked.path == answer.path or not asked.is_text:
            continue
        columns = {names[0]: asked.path, names[1]: answer.path}
        inner = _text_inside(table, answer)
        context = (
            table.named(names_of("question_answer", "context"), filled) if row_format == "question_answer" else None
        )
        if inner is not None and (context is None or context.is_text):
            beside = {"context": context.path} if context else {}
            return _several_answers(row_format, {**beside, **columns, names[1]: inner})
        if context is not None:
            columns = {"context": context.path, **columns}
        return proposed_code(
            row_format, _UNFIT.format(", ".join(quoted(path) for path in columns.values())), "texts", COLUMNS=columns
        )
    return None


def _plainly(row_format: str, name: str) -> list[str]:
    """The names that say so without a doubt: a `user` may be an account and a `target` a class."""
    return [alias for alias in names_of(row_format, name) if alias not in _DOUBTFUL]


_UNFIT = "Not all of the columns {} hold text (numbers, lists or objects); the code writes them as text."


def _several_answers(row_format: str, columns: dict[str, str]) -> MappingProposal:
    path = list(columns.values())[-1]
    return proposed(row_format, columns, f"Each row has a list of answers; the first, {quoted(path)}, would be learnt.")


def _text_inside(table: Table, column: Column) -> str | None:
    """The first text in a column of lists or objects, such as `answers.text.0`."""
    inside = [inner for inner in table.nested if inner.path.startswith(f"{column.path}.") and has_text(inner)]
    of_text = [inner for inner in inside if {"text", "value"} & set(inner.path.split("."))]
    return next((inner.path for inner in (*of_text, *inside) if not inner.is_metadata or inner in of_text), None) or (
        inside[0].path if inside and column.has_lists else None
    )


def _nested_answer(table: Table) -> MappingProposal | None:
    """An instruction whose output, perhaps with an input, lies in a list or an object beside it."""
    asked = table.named(names_of("alpaca", "instruction"), has_text)
    answer = next((column for column in table.nested if has_text(column) and _last(column) in _OUTPUTS), None)
    if asked is None or answer is None:
        return None
    given = f"{answer.path.rpartition('.')[0]}.input"
    beside = {"input": given} if any(column.path == given for column in table.nested) else {}
    columns = {"instruction": asked.path, **beside, "output": answer.path}
    return proposed("alpaca", columns, f"The output lies inside another column; {quoted(answer.path)} would be learnt.")


def _last(column: Column) -> str:
    return column.path.rpartition(".")[2]


def _speakers(table: Table) -> MappingProposal | None:
    column = next((column for column in table.columns.values() if column.chat == "speakers"), None)
    if column is None:
        return None
    value = next(value for value in column.values if speakers([value]))
    role_key, text_key = turn_keys(value)
    names = [name for name, _ in speakers(list(column.values)).most_common(_MOST_SPEAKERS)]
    roles = {name: known for name in names if (known := role_of(name)) in ROLES}
    return proposed_code(
        "messages",
        "The speakers are no known roles; the code takes who speaks first for the user and others for the assistant. "
        "Set ROLES in it where that is wrong.",
        "speakers",
        COLUMN=column.path,
        SPEAKER=role_key,
        TEXT=text_key,
        ROLES=roles,
    )
