"""A guess which columns hold what is asked and what is answered: by words in their names, then by their texts."""

import re

from .columns import Column, Table, has_text, plain_name

_ASKED = frozenset(
    (
        *("question", "query", "prompt", "instruction", "problem", "input", "inputs", "ask", "asked", "source", "src"),
        *("user", "human", "request", "q", "command", "message_1", "title", "customer", "ticket", "subject"),
        *("frage", "anfrage", "aufgabe", "pregunta", "consulta", "domanda", "pergunta", "vraag", "pytanie", "soru"),
        *("вопрос", "запрос", "问题", "提问", "問題", "質問", "질문", "سؤال", "प्रश्न", "fråga", "otázka", "kérdés"),
    )
)
_ANSWERED = frozenset(
    (
        *("answer", "answers", "response", "completion", "output", "outputs", "reply", "solution", "target", "tgt"),
        *("assistant", "bot", "result", "label", "a", "resolution", "message_2", "explanation", "generation"),
        *("antwort", "lösung", "respuesta", "solución", "réponse", "reponse", "risposta", "resposta", "antwoord"),
        *(
            "odpowiedź",
            "cevap",
            "ответ",
            "回答",
            "答案",
            "回复",
            "答え",
            "답변",
            "답",
            "جواب",
            "إجابة",
            "उत्तर",
            "svar",
            "odpověď",
        ),
    )
)
_HEADINGS = frozenset(("title", "subject"))
_CODE = frozenset(("code", "sql", "program", "script"))
_IDENTIFIERS = frozenset(
    ("id", "ids", "uuid", "guid", "hash", "url", "uri", "link", "date", "time", "timestamp", "path", "file")
)
# Part of a longer name, these say nothing: `user_name`, `option_a`.
_WHOLE_NAMES = frozenset(("q", "a", "code", "user", "human", "bot", "assistant", "label", "result"))
_SPLIT = re.compile(r"[^\w]+|_|\d+")
_QUESTION_MARKS = ("?", "？", "؟", "՞", ";")


def guessed_pair(table: Table) -> tuple[str] | tuple[str, str] | None:
    """The columns of question and answer; one column where only one holds text; None where none does."""
    candidates = [column for column in table.columns.values() if _is_candidate(column)]
    if len(candidates) < 2 or not _named(candidates, _ANSWERED):
        inside = [column for column in table.nested if _is_candidate(column)]
        candidates += inside if len(candidates) < 2 else [column for column in inside if _has_word(column, _ANSWERED)]
    if not candidates:
        return None
    if len(candidates) == 1:
        labels = [column for column in table.columns.values() if column.is_text and column.has_few_values]
        return (candidates[0].path, labels[0].path) if len(labels) == 1 else (candidates[0].path,)
    return _pair_of(candidates)


def _pair_of(candidates: list[Column]) -> tuple[str, str] | None:
    asking, answering = _words_for(candidates)
    asked = _named(candidates, asking - _HEADINGS) or _named(candidates, _HEADINGS)
    others = [column for column in candidates if column is not asked]
    answer = _named(others, answering) or _named(others, _CODE)
    rest = [column for column in candidates if column is not answer]
    asked = (_below_heading(asked, rest) if answer else asked) or _asks(rest)
    answer = answer or _answers([column for column in candidates if column is not asked])
    # Two answers and nothing that is asked: no pair.
    both_answer = not _has_word(asked, asking) and _has_word(asked, answering)
    return None if both_answer else (asked.path, answer.path)


def _words_for(candidates: list[Column]) -> tuple[frozenset[str], frozenset[str]]:
    """The words for what is asked and answered: `a` is an answer beside `q` only, and comes first beside `b`."""
    names = {plain_name(column.path) for column in candidates}
    if "q" in names:
        return _ASKED, _ANSWERED
    if {"a", "b"} <= names and not _named(candidates, _ASKED):
        return _ASKED | {"a"}, (_ANSWERED - {"a"}) | {"b"}
    return _ASKED, _ANSWERED - {"a"}


def _below_heading(asked: Column | None, rest: list[Column]) -> Column | None:
    """What stands under a heading (the body of a mail below its subject) in place of it, where it is longer prose."""
    if asked is None or _has_word(asked, _ASKED - _HEADINGS) or not _has_word(asked, _HEADINGS):
        return asked
    longer = [column for column in rest if column.is_prose and column.mean_length > asked.mean_length]
    return max(longer, key=lambda column: column.mean_length, default=asked)


def _is_candidate(column: Column) -> bool:
    if not has_text(column) or _has_word(column, _IDENTIFIERS) or column.is_identifier:
        return False
    return not column.is_metadata or _has_word(column, _ANSWERED | _ASKED)


def _has_word(column: Column, words: frozenset[str]) -> bool:
    plain = plain_name(column.path)
    parts = set(_SPLIT.split(plain)) - _WHOLE_NAMES
    return bool({plain, *parts} & words) or any(not word.isascii() and word in plain for word in words)


def _named(candidates: list[Column], words: frozenset[str]) -> Column | None:
    return next((column for column in candidates if _has_word(column, words)), None)


def _asks(candidates: list[Column]) -> Column:
    """The column with most question marks; of equals the shorter if it is much shorter, else the earlier."""
    return max(candidates, key=lambda column: (round(_question_share(column), 1), -round(column.mean_length / 50)))


def _answers(candidates: list[Column]) -> Column:
    """The longest column; of equals the last."""
    return max(reversed(candidates), key=lambda column: round(column.mean_length / 20))


def _question_share(column: Column) -> float:
    return sum(text.rstrip().endswith(_QUESTION_MARKS) for text in column.texts) / max(len(column.texts), 1)
