"""One reader a format: from a row and the columns it is read from to the normal form."""

from collections.abc import Callable, Mapping
from typing import Any

from ..examples import Conversation, Example, Message, PlainText, RowError
from .tool_calls import holds_calls, read_calls, read_tools
from .transcripts import is_transcript, read_transcript, without_system_mark
from .turns import chat_dialect, read_turns
from .values import Row, decoded, kind, text, text_or_nothing, value_at

Columns = Mapping[str, str]


def _value(row: Row, columns: Columns, name: str) -> Any:
    path = columns.get(name)
    return None if path is None else value_at(row, path)


def _text(row: Row, columns: Columns, name: str) -> str:
    path = columns[name]
    return text(row[path] if path in row else value_at(row, path), path)


def _optional_text(row: Row, columns: Columns, name: str) -> str:
    path = columns.get(name)
    return "" if path is None else text_or_nothing(row[path] if path in row else value_at(row, path), path)


def _chat(value: Any) -> Any:
    """The turns of a value that holds some, as such or as JSON text; None where it is plain text or nothing."""
    if isinstance(value, list):
        return value
    found = decoded(value)
    return found if not isinstance(found, str) and chat_dialect(found) == "roles" else None


def _conversation(row: Row, columns: Columns, turns: list[Message], *, verbatim: bool = False) -> Conversation:
    """The turns with what stands beside them: a system text, where they have none of their own, and tools."""
    if "system" in columns and turns[0]["role"] != "system":
        system = without_system_mark(_optional_text(row, columns, "system")).strip()
        if system:
            turns = [Message(role="system", content=system), *turns]
    tools = read_tools(_value(row, columns, "tools"), columns["tools"]) if "tools" in columns else ()
    return Conversation(tuple(turns), verbatim, tools)


def _user(content: str) -> Message:
    return Message(role="user", content=content)


def _assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def _read_messages(row: Row, columns: Columns) -> Example:
    path = columns["messages"] if "messages" in columns else columns["conversations"]
    return _conversation(row, columns, read_turns(row[path] if path in row else value_at(row, path), path))


def _read_preference(row: Row, columns: Columns) -> Example:
    value, path = _value(row, columns, "chosen"), columns["chosen"]
    chat = _chat([value]) if isinstance(value, Mapping) else _chat(value)
    if chat is not None:
        turns = read_turns(chat, path)
        if turns[0]["role"] != "assistant" or "prompt" not in columns:
            return _conversation(row, columns, turns)
        asked = _asked(row, columns)
        return _conversation(row, columns, [*asked, *turns])
    answer = text(value, path)
    if "prompt" not in columns:
        return _conversation(row, columns, read_transcript(answer, path))
    return _conversation(row, columns, [*_asked(row, columns), _assistant(answer)])


def _asked(row: Row, columns: Columns) -> list[Message]:
    """What an answer in a column of its own answers: a question, turns, or a dialogue that ends where the answer begins."""
    value, path = _value(row, columns, "prompt"), columns["prompt"]
    chat = _chat(value)
    if chat is not None:
        return read_turns(chat, path)
    question = text(value, path)
    opens = question.rstrip().endswith(":") and is_transcript(question)
    return read_transcript(question, path, open_end=True) if opens else [_user(question)]


def _read_prompt_completion(row: Row, columns: Columns) -> Example:
    prompt, completion = _value(row, columns, "prompt"), _value(row, columns, "completion")
    turns, answer = _chat(prompt), _chat(completion)
    if turns is None and answer is None:
        pair = [_user(text(prompt, columns["prompt"])), _assistant(text(completion, columns["completion"]))]
        return _conversation(row, columns, pair, verbatim="system" not in columns)
    asked = [_user(text(prompt, columns["prompt"]))] if turns is None else read_turns(turns, columns["prompt"])
    if answer is None:
        return _conversation(row, columns, [*asked, _assistant(text(completion, columns["completion"]))])
    given = len(turns) if turns else 1
    return _conversation(row, columns, [*asked, *read_turns(answer, columns["completion"], first=given + 1)])


def _read_alpaca(row: Row, columns: Columns) -> Example:
    instruction, given = _text(row, columns, "instruction"), _optional_text(row, columns, "input")
    asked = _user(f"{instruction}\n\n{given}" if given else instruction)
    answer = _assistant(_text(row, columns, "output"))
    return _conversation(row, columns, [*_history(row, columns), asked, answer])


def _history(row: Row, columns: Columns) -> list[Message]:
    earlier = decoded(_value(row, columns, "history"))
    if not earlier:
        return []
    if not isinstance(earlier, list):
        raise RowError(f"{columns['history']} is {kind(earlier)}, not a list of questions and answers")
    return read_turns(earlier, columns["history"])


def _read_question_answer(row: Row, columns: Columns) -> Example:
    question, context = _text(row, columns, "question"), _optional_text(row, columns, "context")
    asked = _user(f"{context}\n\n{question}" if context else question)
    value, path = _value(row, columns, "answer"), columns["answer"]
    if "tools" in columns and holds_calls(value):
        answer = Message(role="assistant", content="", tool_calls=read_calls(value))
    else:
        answer = _assistant(text(value, path))
    return _conversation(row, columns, [asked, answer])


def _read_transcript(row: Row, columns: Columns) -> Example:
    turns = read_transcript(_text(row, columns, "text"), columns["text"])
    return _conversation(row, columns, turns)


def _read_text(row: Row, columns: Columns) -> Example:
    return PlainText(_text(row, columns, "text"))


READERS: dict[str, Callable[[Row, Columns], Example]] = {
    "messages": _read_messages,
    "sharegpt": _read_messages,
    "preference": _read_preference,
    "prompt_completion": _read_prompt_completion,
    "alpaca": _read_alpaca,
    "question_answer": _read_question_answer,
    "transcript": _read_transcript,
    "text": _read_text,
}
