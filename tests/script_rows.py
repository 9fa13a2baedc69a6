"""Files of rows of many kinds for tests of scripts: `ROWS[kind](folder)` writes them and returns the `data` of a config."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_WORDS = (
    "say",
    "very",
    "number",
    "it",
    "is",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)


def _text(place: int, words: int) -> str:
    return " ".join(_WORDS[(place * 7 + step * 3) % len(_WORDS)] for step in range(words))


def _written(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path)}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _chat(place: int) -> list[dict[str, str]]:
    return [_turn("user", _text(place, 2 + place % 5)), _turn("assistant", _text(place + 3, 1 + place % 6))]


def _chats(folder: Path) -> dict[str, Any]:
    return _written(folder / "chats.jsonl", ({"messages": _chat(place)} for place in range(20)))


def _turns(folder: Path) -> dict[str, Any]:
    """Several turns, some with a system turn, one that ends with a question, one that says nothing."""
    rows = [{"messages": [*_chat(place), *_chat(place + 5)]} for place in range(12)]
    rows[3]["messages"].insert(0, _turn("system", "be brief"))
    rows[5]["messages"].pop()
    rows.append({"messages": [_turn("user", "hi"), _turn("assistant", " ")]})
    return _written(folder / "turns.jsonl", rows)


def _system(folder: Path) -> dict[str, Any]:
    rows = [{"messages": [_turn("system", "be brief"), *_chat(place)]} for place in range(16)]
    return _written(folder / "system.jsonl", rows)


def _alpaca(folder: Path) -> dict[str, Any]:
    rows = [
        {"instruction": _text(place, 3), "input": _text(place, 2) if place % 2 else "", "output": _text(place + 2, 3)}
        for place in range(16)
    ]
    path = folder / "alpaca.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return {"path": str(path)}


def _sharegpt(folder: Path) -> dict[str, Any]:
    rows = [
        {
            "system": "be brief",
            "conversations": [
                {"from": "human", "value": _text(place, 4)},
                {"from": "gpt", "value": _text(place + 1, 3 + place % 4)},
            ],
        }
        for place in range(16)
    ]
    return _written(folder / "sharegpt.jsonl", rows)


def _questions(folder: Path) -> dict[str, Any]:
    path = folder / "questions.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("frage", "antwort", "hinweis"))
        for place in range(16):
            hint = f'a "{_text(place, 2)}",\nso' if place % 3 else ""
            writer.writerow((_text(place, 3), _text(place + 1, 2 + place % 3), hint))
    columns = {"question": "frage", "answer": "antwort", "context": "hinweis"}
    return {"path": str(path), "format": "question_answer", "columns": columns}


def _pairs(folder: Path) -> dict[str, Any]:
    rows = [{"prompt": _text(place, 4) + " =", "completion": " " + _text(place + 1, 2)} for place in range(16)]
    return _written(folder / "pairs.jsonl", rows)


def _texts(folder: Path) -> dict[str, Any]:
    return _written(folder / "texts.jsonl", ({"text": _text(place, 4 + place % 9)} for place in range(16)))


def _table(folder: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": _text(place, 4), "completion": _text(place + 1, 3)} for place in range(16)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "table.parquet")
    return {"path": str(folder / "table.parquet")}


def _mixed(folder: Path) -> dict[str, Any]:
    more = [{"path": _alpaca(folder)["path"], "weight": 1.5}]
    return {**_chats(folder), "more_sources": more, "weight": 0.5}


def _transcripts(folder: Path) -> dict[str, Any]:
    rows = [{"text": f"Human: {_text(place, 3)}\n\nAssistant: {_text(place + 1, 3)}"} for place in range(16)]
    return {**_written(folder / "transcripts.jsonl", rows), "format": "transcript"}


def _unicode(folder: Path) -> dict[str, Any]:
    """White space at the edges, letters of several tokens, and rows that repeat themselves."""
    answers = ("  é ü\u2028 ", "say say say", "日本語 🙂", "number\n\n", "{{ 7 }} #")
    rows = [{"messages": [_turn("user", f"say {_text(p, 2)} "), _turn("assistant", answers[p % 5])]} for p in range(15)]
    return _written(folder / "unicode.jsonl", rows)


ROWS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chats": _chats,
    "turns": _turns,
    "system": _system,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "questions": _questions,
    "pairs": _pairs,
    "texts": _texts,
    "table": _table,
    "mixed": _mixed,
    "transcripts": _transcripts,
    "unicode": _unicode,
}
