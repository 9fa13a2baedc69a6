"""Python code that converts a file of another form to JSON Lines of a known format.

What comes from the data (names of columns, labels) enters the code only as constants, written by `literal`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from ...results import MappingProposal
from .values import shown

Recipe = Literal["texts", "turns", "labels", "choices", "tree", "speakers", "comparison", "liked"]

_READ = """\
import csv, gzip, json, os, sys


def rows(path):
    name = path.lower().removesuffix(".gz")
    opener = gzip.open if path.lower().endswith(".gz") else open
    if name.endswith((".csv", ".tsv")):
        csv.field_size_limit(2**31 - 1)
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file, delimiter="\\t" if name.endswith(".tsv") else ",")
    elif name.endswith((".jsonl", ".ndjson")):
        with opener(path, "rt", encoding="utf-8-sig") as file:
            yield from (json.loads(line) for line in file if line.strip())
    elif name.endswith(".json"):
        with opener(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
        try:
            found = json.loads(text)
        except ValueError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        yield from found if isinstance(found, list) else [found]
    else:
        from datasets import Dataset, load_dataset, load_from_disk

        if name.endswith(".parquet"):
            yield from Dataset.from_parquet(path)
        elif name.endswith(".arrow"):
            yield from Dataset.from_file(path)
        else:
            yield from load_from_disk(path) if os.path.isdir(path) else load_dataset(path, split="train")


def decoded(value):
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


def at(row, path):
    if path in row:
        return row[path]
    for step in path.split("."):
        row = decoded(row)
        if isinstance(row, dict):
            row = row.get(step)
        elif isinstance(row, list) and step.isdecimal() and int(step) < len(row):
            row = row[int(step)]
        else:
            return None
    return row


def text(value):
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (list, tuple)):
        return "\\n".join(filter(None, map(text, value)))
    if isinstance(value, dict):
        return "\\n".join(filter(None, map(text, value.values())))
    return json.dumps(value, default=str)
"""

_RECIPES: dict[Recipe, str] = {
    "texts": """\
def examples(rows):
    for number, row in rows:
        yield number, {name: text(at(row, path)) for name, path in COLUMNS.items()}
""",
    "turns": """\
def examples(rows):
    for number, row in rows:
        yield number, {name: decoded(at(row, path)) for name, path in COLUMNS.items()}
""",
    "labels": """\
def examples(rows):
    for number, row in rows:
        question = "\\n\\n".join(filter(None, (text(at(row, path)) for path in TEXTS)))
        label = text(at(row, LABEL))
        yield number, {"question": question, "answer": LABELS.get(label, label)}
""",
    "choices": """\
def options(row):
    if isinstance(CHOICES, list):
        return [text(at(row, path)) for path in CHOICES], []
    found = decoded(at(row, CHOICES))
    if isinstance(found, dict) and isinstance(found.get("text"), list):
        return list(map(text, found["text"])), list(map(text, found.get("label") or []))
    if isinstance(found, dict):
        return list(map(text, found.values())), list(map(str, found))
    return list(map(text, found or [])), []


def examples(rows):
    for number, row in rows:
        texts, letters = options(row)
        letters = letters or [chr(ord("A") + place) for place in range(len(texts))]
        given = text(at(row, ANSWER)).strip()
        place = letters.index(given) if given in letters else texts.index(given) if given in texts else None
        if place is None and given.isdecimal() and 0 <= int(given) - FIRST < len(texts):
            place = int(given) - FIRST
        asked = [text(at(row, QUESTION)), *(f"{letter}. {option}" for letter, option in zip(letters, texts))]
        context = text(at(row, CONTEXT)) if CONTEXT else ""
        yield number, {
            "question": (context + "\\n\\n" if context else "") + "\\n".join(asked),
            "answer": "" if place is None else f"{letters[place]}. {texts[place]}",
        }
""",
    "tree": """\
def examples(rows):
    nodes = {at(row, ID): (number, row) for number, row in rows}
    answered = {at(row, PARENT) for number, row in nodes.values()}
    seen = set()
    for leaf in nodes:
        if leaf in answered:
            continue
        path, node = [], leaf
        while node in nodes and node not in path:
            path.insert(0, node)
            node = at(nodes[node][1], PARENT)
        messages = [
            {"role": ROLES.get(at(nodes[node][1], ROLE)), "content": text(at(nodes[node][1], TEXT))} for node in path
        ]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        key = tuple(path[: len(messages)])
        if messages and key not in seen:
            seen.add(key)
            yield nodes[leaf][0], {"messages": messages}
""",
    "speakers": """\
def examples(rows):
    for number, row in rows:
        turns = decoded(at(row, COLUMN)) or []
        first = turns[0].get(SPEAKER) if turns else None
        yield number, {
            "messages": [
                {
                    "role": ROLES.get(turn.get(SPEAKER)) or ("user" if turn.get(SPEAKER) == first else "assistant"),
                    "content": text(turn.get(TEXT)),
                }
                for turn in turns
            ]
        }
""",
    "comparison": """\
def examples(rows):
    for number, row in rows:
        better = BETTER.get(text(at(row, WINNER)))
        answer = decoded(at(row, better)) if better else None
        if PROMPT is None:
            yield number, {"messages": answer or []}
        else:
            yield number, {"question": text(at(row, PROMPT)), "answer": text(answer)}
""",
    "liked": """\
def examples(rows):
    read = decoded if TURNS else text
    for number, row in rows:
        if text(at(row, LABEL)).strip().lower() in ("true", "1", "1.0"):
            yield number, {name: read(at(row, path)) for name, path in COLUMNS.items()}
        else:
            print(f"row {number} is left out: it is marked as a bad answer", file=sys.stderr)
""",
}

_WRITE = """\
def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python convert.py SOURCE TARGET.jsonl")
    source, target = sys.argv[1:]
    written = left_out = 0
    with open(target, "w", encoding="utf-8") as file:
        for number, example in examples(enumerate(rows(source), start=1)):
            empty = [name for name, value in example.items() if not value and name not in OPTIONAL]
            if empty:
                left_out += 1
                print(f"row {number} is left out: it has no {', '.join(empty)}", file=sys.stderr)
                continue
            file.write(json.dumps(example) + "\\n")
            written += 1
    print(f"{written} rows written, {left_out} left out")


if __name__ == "__main__":
    main()
"""


def proposed(row_format: str, columns: dict[str, str], reason: str, *, recipe: Recipe = "texts") -> MappingProposal:
    """A mapping of columns that suffices, with the code that does the same."""
    code = conversion_code(recipe, {"COLUMNS": columns})
    return MappingProposal(format=row_format, columns=columns, reason=reason, code=code)


def proposed_code(row_format: str, reason: str, recipe: Recipe, **constants: Any) -> MappingProposal:
    """Code for what no mapping of columns can say."""
    return MappingProposal(format=row_format, columns={}, reason=reason, code=conversion_code(recipe, constants))


def quoted(path: str) -> str:
    """The name of a column in a sentence."""
    return f"'{shown(path)}'"


def as_code_has_it(value: Any) -> str:
    """A number or true/false as the code's `text` writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def conversion_code(recipe: Recipe, constants: Mapping[str, Any]) -> str:
    """A whole program: it reads the file named first and writes JSON Lines to the one named second."""
    settings = "".join(
        f"{name} = {literal(value)}\n" for name, value in {**constants, "OPTIONAL": ["context", "input"]}.items()
    )
    return f"{_READ}\n\n{settings}\n\n{_RECIPES[recipe]}\n\n{_WRITE}"


def literal(value: Any) -> str:
    """A value as Python writes it, of plain types and in ASCII only, so that no text can end its own quotes."""
    if value is None or type(value) in (bool, int):
        return repr(value)
    if type(value) is str:
        return ascii(value)
    if type(value) in (list, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"no literal is written for {type(value).__name__}")
