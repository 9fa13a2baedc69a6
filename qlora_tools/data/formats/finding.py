"""Which columns a format would be read from. Each format looks for names and content; the most structure comes first."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .columns import Column, Table, has_text, plain_name, text_or_chat
from .names import (
    ANSWERS_OF,
    CHAT_COMPLETIONS,
    CHAT_NAMES,
    CHAT_PROMPTS,
    LABELS,
    ORIGIN_ENDINGS,
    ORIGINS,
    SLOTS,
    SUMMARIES,
    TEXT_NAMES,
)
from .turns import chat_dialect, turn_keys

Accepts = Callable[[Column], bool]
FoundBy = Literal["names", "content"]

# Not "turns": benchmarks have lists of questions there.
_PAIRED_CHATS = ("conversation", "conversations", "dialog", "dialogue", "messages", "chat", "data", "dialogues")
# What is to be done with an input. Beside a question it may be the very answer.
_TASKS = ("definition", "task_definition")
_TASK_INPUTS = ("input", "inputs")


@dataclass(frozen=True)
class Found:
    """A format with the column of each of its names."""

    format: str
    columns: dict[str, str]
    by: FoundBy = "names"


@dataclass(frozen=True)
class Search:
    """Looks for columns of one format: those that the user gave are taken as they are.

    `strict` also demands that the content fits, so that a format is not guessed from a name alone.
    """

    table: Table
    given: Mapping[str, str]
    strict: bool = True

    def pick(self, row_format: str, name: str, accepts: Accepts) -> str | None:
        """The column for one of our names, or None."""
        if name in self.given:
            return self.given[name]
        slot = next(slot for slot in SLOTS[row_format] if slot.name == name)
        found = self.table.named(slot.aliases, accepts)
        if found is None and not self.strict and slot.required:
            found = self.table.named(slot.aliases, _anything)
        return found.path if found else None

    def complete(self, row_format: str, columns: Mapping[str, str | None], by: FoundBy = "names") -> Found | None:
        """The format with its columns and optional ones beside them; None where a required one is missing."""
        if any(columns.get(slot.name) is None for slot in SLOTS[row_format] if slot.required):
            return None
        found = {name: path for name, path in columns.items() if path is not None}
        for name, accepts in _OPTIONAL.items():
            if name not in columns and any(slot.name == name for slot in SLOTS[row_format]):
                path = self.pick(row_format, name, accepts)
                if path is not None and path not in found.values():
                    found[name] = path
        return Found(row_format, found, by)


def _anything(column: Column) -> bool:
    return True


def _text_or_empty(column: Column) -> bool:
    return column.is_empty or column.is_text


def _tools(column: Column) -> bool:
    return column.is_empty or column.has_lists


_OPTIONAL: dict[str, Accepts] = {"system": _text_or_empty, "tools": _tools}


def find_preference(search: Search) -> Found | None:
    """A better and a worse answer, with their question beside them or inside."""
    chosen = search.pick("preference", "chosen", text_or_chat)
    rejected = search.pick("preference", "rejected", text_or_chat)
    if chosen is None or (search.strict and rejected is None):
        return None
    columns = {"prompt": search.given.get("prompt"), "chosen": chosen, "rejected": rejected}
    column = search.table.column(chosen)
    if columns["prompt"] is None and not (column.is_whole_chat or column.is_transcript):
        columns["prompt"] = search.pick("preference", "prompt", text_or_chat)
        if columns["prompt"] is None and search.strict:
            return None
    return search.complete("preference", columns)


def find_chat(search: Search, row_format: str | None = None) -> Found | None:
    """A column of turns: by role and content, by from and value, in pairs, or texts that take turns."""
    for name, wanted in (("messages", "messages"), ("conversations", "sharegpt")):
        if name in search.given and row_format in (None, wanted):
            return search.complete(wanted, {name: search.given[name]})
    column = _chat_column(search, row_format)
    if column is None:
        return None
    chosen = row_format or ("sharegpt" if _speaks_sharegpt(column) else "messages")
    named = plain_name(column.path) in CHAT_NAMES
    return search.complete(chosen, {SLOTS[chosen][0].name: column.path}, "names" if named else "content")


def find_named_chat(search: Search) -> Found | None:
    """A column of answered turns that has one of the usual names."""
    chats = chat_columns(search.table.columns.values())
    named = bool(chats) and plain_name(chats[0].path) in CHAT_NAMES and chats[0].is_answered
    return find_chat(search) if named else None


def find_nested_chat(search: Search) -> Found | None:
    """A column of turns inside an object, where nothing at the top makes a row."""
    chats = chat_columns(search.table.nested)
    if not chats:
        return None
    row_format = "sharegpt" if _speaks_sharegpt(chats[0]) else "messages"
    return search.complete(row_format, {SLOTS[row_format][0].name: chats[0].path}, "content")


def chat_columns(columns: Iterable[Column]) -> list[Column]:
    """Those that hold answered chats by roles, usual names first."""
    chats = [
        column
        for column in columns
        if column.is_chat and (column.is_answered or plain_name(column.path) in ("messages", "conversations"))
    ]
    names = {name: place for place, name in enumerate(CHAT_NAMES)}
    return sorted(chats, key=lambda column: names.get(plain_name(column.path), len(names)))


def _chat_column(search: Search, row_format: str | None) -> Column | None:
    chats = chat_columns(search.table.columns.values())
    if not chats and row_format is not None:
        chats = chat_columns(search.table.nested)
    if chats:
        return chats[0]
    paired = search.table.named(_PAIRED_CHATS, lambda column: column.chat in ("pairs", "strings"))
    if paired is not None or row_format is None or search.strict:
        return paired
    return search.table.named(CHAT_NAMES, _anything)


def _speaks_sharegpt(column: Column) -> bool:
    if not column.is_chat:
        return False
    return turn_keys(next(value for value in column.values if chat_dialect(value) == "roles"))[0] == "from"


def find_prompt_completion(search: Search) -> Found | None:
    """A prompt and what completes it, as text under these very names or as turns that lead up to an answer."""
    prompt = search.pick("prompt_completion", "prompt", text_or_chat)
    completion = search.pick("prompt_completion", "completion", text_or_chat)
    if prompt is None or completion is None:
        chat = search.table.named(CHAT_PROMPTS, lambda column: column.is_chat)
        answer = search.table.named(CHAT_COMPLETIONS, text_or_chat)
        if chat is not None and answer is not None:
            prompt, completion = prompt or chat.path, completion or answer.path
    return search.complete("prompt_completion", {"prompt": prompt, "completion": completion})


def find_alpaca(search: Search) -> Found | None:
    """An instruction, perhaps with an input, and its output."""
    columns = {
        "instruction": search.pick("alpaca", "instruction", has_text),
        "input": search.pick("alpaca", "input", _text_or_empty),
        "output": search.pick("alpaca", "output", has_text),
        "history": search.pick("alpaca", "history", lambda column: column.is_empty or column.chat == "pairs"),
    }
    return search.complete("alpaca", columns)


def find_question_answer(search: Search) -> Found | None:
    """A question and its answer, perhaps with a context to answer from."""
    context = search.pick("question_answer", "context", _text_or_empty)
    if context is None and search.strict and search.pick("question_answer", "context", _anything):
        return None  # Without what it is to be answered from, the question has no point.
    question = search.pick("question_answer", "question", has_text)
    if question is None and context is not None and has_text(search.table.column(context)):
        question, context = context, None
    if context is None and plain_name(question or "") in _TASK_INPUTS:
        task = search.table.named(_TASKS, has_text)
        context = task.path if task else None
    answer = search.given.get("answer") or _answer_of(search, question)
    columns = {"question": question, "context": context, "answer": answer}
    return search.complete("question_answer", columns)


def _answer_of(search: Search, question: str | None) -> str | None:
    fitting = search.table.named(ANSWERS_OF.get(plain_name(question or ""), ()), has_text)
    path = fitting.path if fitting else search.pick("question_answer", "answer", has_text)
    return None if path == question else path


def find_transcript(search: Search) -> Found | None:
    """One text column that holds whole dialogues with marks."""
    if "text" in search.given:
        column = search.table.column(search.given["text"])
        fits = column.is_transcript or not search.strict
        return search.complete("transcript", {"text": column.path}, "content") if fits else None
    path = search.pick("transcript", "text", lambda column: column.is_transcript)
    if path is None:
        path = next((name for name, column in search.table.columns.items() if column.is_transcript), None)
    return search.complete("transcript", {"text": path}, "content")


def find_text(search: Search) -> Found | None:
    """A column of prose where no other column says that it would lose the point."""
    if "text" in search.given:
        return search.complete("text", {"text": search.given["text"]})
    path = search.pick("text", "text", has_text)
    if path is not None:
        lost = search.strict and any(_is_the_point(other, search.table.column(path)) for other in _others(search, path))
        return None if lost else search.complete("text", {"text": path})
    prose = [column for column in search.table.columns.values() if column.is_text and not column.is_metadata]
    labelled = search.strict and any(
        column.is_text and column.has_few_values for column in search.table.columns.values()
    )
    if len(prose) == 1 and not labelled and (prose[0].is_prose or not search.strict):
        return search.complete("text", {"text": prose[0].path}, "content")
    return None


def _others(search: Search, path: str) -> list[Column]:
    return [column for name, column in search.table.columns.items() if name != path and column.values]


def _is_the_point(column: Column, text: Column) -> bool:
    """Whether a column beside the text is what such rows are made for: a label, a question, an answer, a second text."""
    name = plain_name(column.path)
    if name in LABELS:
        return True
    asked = {alias for slot in SLOTS["question_answer"][:2] for alias in slot.aliases}
    if column.has_lists and name in asked:
        return True
    if not column.is_text or column.is_metadata or name in TEXT_NAMES:
        return False
    if name in asked or name in SUMMARIES[:-3] or (column.is_prose and 2 * column.mean_length > text.mean_length):
        return True
    return column.is_writing and name not in ORIGINS and not name.endswith(ORIGIN_ENDINGS)


FINDERS: dict[str, Callable[[Search], Found | None]] = {
    "messages": lambda search: find_chat(search, "messages"),
    "sharegpt": lambda search: find_chat(search, "sharegpt"),
    "preference": find_preference,
    "prompt_completion": find_prompt_completion,
    "alpaca": find_alpaca,
    "question_answer": find_question_answer,
    "transcript": find_transcript,
    "text": find_text,
}
