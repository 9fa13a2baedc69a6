"""Dialogues written into one text with marks such as `### Human:` or `[INST]`, split into turns.

A text is read in the style whose mark comes first in it: what an answer quotes in another style stays text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from ..examples import Message, RowError
from .turns import ROLES, role_of


@dataclass(frozen=True)
class _Style:
    """A mark that opens a turn; its group says who speaks. A text without its `hints` has none, which is cheaper to see."""

    name: str
    hints: tuple[str, ...]
    mark: re.Pattern[str]
    role: Callable[[str], str | None]
    merges: bool = False
    """Whether neighbouring marks of one role are one turn (an instruction and its input)."""


def _speaker(mark: str) -> str | None:
    role = role_of(mark)
    return role if role in ROLES or role is None else "assistant"


def _instruct_role(mark: str) -> str | None:
    return "assistant" if mark == "[/INST]" else "user"


def _heading_role(mark: str) -> str | None:
    return {"response": "assistant", "output": "assistant", "answer": "assistant", "system": "system"}.get(
        mark.lower(), "user"
    )


_ENDS = (
    *("<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>"),
    *("<end_of_turn>", "<eos>", "<s>", "<bos>", "<|begin_of_text|>"),
)
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>")
_SYSTEM_BLOCK = re.compile(r"^\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)
_SYSTEM_MARK = re.compile(r"^\s*SYSTEM:\s*")

_STYLES = (
    _Style("chatml", ("<|im_start|>",), re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n?"), _speaker),
    _Style(
        "llama-3",
        ("<|start_header_id|>",),
        re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        _speaker,
    ),
    _Style("gemma", ("<start_of_turn>",), re.compile(r"<start_of_turn>(\w+)\n?"), _speaker),
    _Style("[INST]", ("[INST]",), re.compile(r"(\[/?INST\])"), _instruct_role),
    _Style("zephyr", ("<|user|>", "<|assistant|>"), re.compile(r"<\|(system|user|assistant)\|>\n?"), _speaker),
    _Style("[|Human|]", ("[|Human|]", "[|AI|]"), re.compile(r"\[\|(Human|AI|System)\|\]"), _speaker),
    _Style("<human>:", (">:",), re.compile(r"<(human|assistant|bot|user)>:", re.IGNORECASE), _speaker),
    _Style(
        "### Human:", ("###",), re.compile(r"###[ \t]*(human|user|assistant|gpt|bot|system):", re.IGNORECASE), _speaker
    ),
    _Style(
        "### Instruction:",
        ("###",),
        re.compile(
            r"(?:^|\n)[ \t]*###[ \t]*(system|instruction|input|context|question|response|output|answer)s?:",
            re.IGNORECASE,
        ),
        _heading_role,
        merges=True,
    ),
    _Style(
        "USER:", ("USER:",), re.compile(r"(?:^|(?<=\s)|(?<=>))(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):"), _speaker
    ),
    # Apart, so that an answer that quotes "User:" or "AI:" is not cut there.
    _Style("Human:", ("Human:", "Assistant:"), re.compile(r"(?:^|\n)[ \t]*(Human|Assistant|System):"), _speaker),
    _Style("User:", ("User:", "Assistant:"), re.compile(r"(?:^|\n)[ \t]*(User|Assistant|System):"), _speaker),
    _Style("AI:", ("AI:",), re.compile(r"(?:^|\n)[ \t]*(Human|User|AI|System):"), _speaker),
    _Style("Bot:", ("Bot:",), re.compile(r"(?:^|\n)[ \t]*(Human|User|Bot|System):"), _speaker),
)
# Marks that are plain words are believed at the start only: in prose such a line is a quotation.
_WORDS_ONLY = ("Human:", "User:", "AI:", "Bot:")


def _style_of(text: str) -> _Style | None:
    possible = [(number, style) for number, style in enumerate(_STYLES) if all(hint in text for hint in style.hints)]
    starts = [(found.start(), number) for number, style in possible if (found := style.mark.search(text))]
    if not starts:
        return None
    start, number = min(starts)
    style = _STYLES[number]
    return None if style.name in _WORDS_ONLY and text[:start].strip() else style


def is_transcript(text: str) -> bool:
    """Whether a text is a marked dialogue with a question and an answer after it."""
    style = _style_of(text)
    if style is None:
        return False
    roles = [style.role(mark) for mark in style.mark.findall(text)]
    return "user" in roles and "assistant" in roles[roles.index("user") :]


def read_transcript(text: str, column: str, *, open_end: bool = False) -> list[Message]:
    """The turns of a marked dialogue; text before the first mark is its system turn.

    With `open_end` a last mark of the assistant with nothing behind it is dropped: the prompt for an answer that stands
    elsewhere. So is a last mark of the user, which waits for the next question.
    Raises `RowError` where there is no known mark, an unknown speaker or an empty turn.
    """
    style = _style_of(text)
    if style is None:
        raise RowError(f"{column} has no mark of a dialogue such as '### Human:', 'USER:' or '[INST]'")
    pieces = _pieces(text, style)
    if open_end and pieces[-1] == ("assistant", ""):
        pieces = pieces[:-1]
    if len(pieces) > 1 and pieces[-1] == ("user", ""):
        pieces = pieces[:-1]
    if style.merges:
        pieces = _merged(pieces)
    return _checked(pieces, column)


def _pieces(text: str, style: _Style) -> list[tuple[str, str]]:
    marks = list(style.mark.finditer(text))
    before = _bare(text[: marks[0].start()])
    pieces = [("system", before)] if before else []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role = style.role(mark.group(1))
        if role is None:
            raise RowError(f"the dialogue has a turn of {mark.group(1)!r}, which is no known role")
        pieces += _system_apart(role, _bare(text[mark.end() : end]))
    return pieces


def _system_apart(role: str, content: str) -> list[tuple[str, str]]:
    """Llama 2 writes its system turn into the first question."""
    block = _SYSTEM_BLOCK.match(content) if role == "user" else None
    if block is None:
        return [(role, content)]
    return [("system", block.group(1).strip()), (role, content[block.end() :])]


def _bare(piece: str) -> str:
    """A piece without the tokens that end or start a sequence, which the template writes itself."""
    bare = piece.strip()
    while bare.endswith(_ENDS):
        bare = bare.removesuffix(next(token for token in _ENDS if bare.endswith(token))).rstrip()
    while bare.startswith(_STARTS):
        bare = bare.removeprefix(next(token for token in _STARTS if bare.startswith(token))).lstrip()
    return bare


def _merged(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one role as one turn, a blank line between; an input that is empty adds nothing."""
    return [
        (role, "\n\n".join(content for _, content in group if content))
        for role, group in groupby(pieces, key=lambda piece: piece[0])
    ]


def _checked(pieces: list[tuple[str, str]], column: str) -> list[Message]:
    spoken = [(role, content) for role, content in pieces if role != "system" or content]
    for number, (role, content) in enumerate(spoken, start=1):
        if not content:
            raise RowError(f"{column}: turn {number} ({role}) is empty")
    if not any(role == "user" for role, _ in spoken):
        raise RowError(f"{column} holds no question of a user")
    return [Message(role=role, content=content) for role, content in spoken]


def without_system_mark(text: str) -> str:
    """A system text without the `SYSTEM:` that some files write in front of it."""
    return _SYSTEM_MARK.sub("", text)
