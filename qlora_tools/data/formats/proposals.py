"""How rows of no known format could be read: a guess by names and content, as a mapping and as code.

Rows that are recognisably of another task have modules of their own, `mapping_tasks` and `mapping_choices`.
"""

from collections.abc import Sequence
from typing import Any

from ...results import MappingProposal
from .columns import Column, Table, has_text
from .mapping_code import as_code_has_it, proposed, proposed_code, quoted
from .mapping_guess import guessed_pair
from .names import LABELLED, LABELS, names_of

_MOST_LABELS = 50


def of_columns(table: Table) -> MappingProposal | None:
    """A guess for columns of unknown names: labels, texts in turn, then prompt-like and answer-like columns."""
    return _labels(table) or _texts_in_turn(table) or _guess(table)


def _labels(table: Table) -> MappingProposal | None:
    label = table.named(LABELS, lambda column: bool(column.values) and (column.is_scalar or column.is_text))
    texts = _labelled(table, label)
    if label is None or not texts:
        return None
    if len(texts) == 1 and not label.is_scalar:
        reason = (
            f"These are texts with labels; {quoted(label.path)} would be learnt as the answer to {quoted(texts[0])}."
        )
        return proposed("question_answer", {"question": texts[0], "answer": label.path}, reason)
    names = sorted({as_code_has_it(value) for value in label.values})[:_MOST_LABELS]
    return proposed_code(
        "question_answer",
        "These are texts with the number of a class; give each class its name under LABELS in the code.",
        "labels",
        TEXTS=texts,
        LABEL=label.path,
        LABELS={name: name for name in names},
    )


def _labelled(table: Table, label: Column | None) -> list[str]:
    pairs = (
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("question", "sentence"),
    )
    for names in pairs:
        found = [table.named((name,), has_text) for name in names]
        if all(found):
            return [column.path for column in found if column is not None]
    text = table.named(LABELLED, has_text)
    return [text.path] if text is not None and text is not label else []


def _texts_in_turn(table: Table) -> MappingProposal | None:
    for column in (*table.columns.values(), *table.nested):
        if column.chat == "pairs" or (column.chat == "strings" and _are_sentences(column.values)):
            reason = f"{quoted(column.path)} holds lists that may be turns of user and assistant."
            columns = {"messages": column.path}
            return proposed("messages", columns, reason, recipe="turns")
    return None


def _are_sentences(values: Sequence[Any]) -> bool:
    texts = [text for value in values if isinstance(value, list) for text in value if isinstance(text, str)]
    return bool(texts) and sum(map(len, texts)) >= 20 * len(texts)


def _guess(table: Table) -> MappingProposal | None:
    pair = guessed_pair(table)
    if pair is None:
        return None
    if len(pair) == 1:
        return proposed("text", {"text": pair[0]}, f"{quoted(pair[0])} is the only column of text.")
    question, answer = pair
    context = table.named(names_of("question_answer", "context"), has_text)
    beside = {"context": context.path} if context is not None and context.path not in pair else {}
    return proposed(
        "question_answer",
        {**beside, "question": question, "answer": answer},
        f"By names and content, {quoted(question)} looks like what is asked and {quoted(answer)} like the answer.",
    )
