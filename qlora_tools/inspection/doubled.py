"""Turns that were written out in a template already, so that the model's own template is put around another."""

import re

from ..data.examples import PlainText
from .rows import CheckedRow

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
_HINTS = ("INST]", "## ", "<|user|>", "<|assistant|>", "<|im_start|>", "<|begin_of_text|>", "<bos>", "<start_of_turn>")
_OPENING = r"(?:<\|(?:user|assistant|im_start|begin_of_text)\|>|<bos>|<start_of_turn>)"
# Where a template writes them: at the start of a line, at the end of the turn, or without a space behind a text.
_WRITTEN = re.compile(
    rf"^[ \t]*(?:</?s>)?{_OPENING}|{_OPENING}\s*\Z|(?<=[\w.?!>]){_OPENING}|"
    r"<(?:\|im_start\|>|start_of_turn>)(?:user|assistant|system|model)\s",
    re.MULTILINE,
)
_INST = re.compile(r"^[ \t]*(?:<s>)?[ \t]*\[INST\]", re.MULTILINE)
_INSTRUCTION = re.compile(r"^#{2,3} ?Instruction:", re.MULTILINE)
_RESPONSE = re.compile(r"^#{2,3} ?Response:", re.MULTILINE)


def doubled_template(row: CheckedRow) -> re.Match[str] | None:
    """A mark of a template in a turn that is not the assistant's, where a template writes it; talk of one is none."""
    turns = () if isinstance(row.example, PlainText) else row.example.messages
    for text in (turn["content"] for turn in turns if turn["role"] != "assistant"):
        if any(hint in text for hint in _HINTS) and (match := _written(CODE.sub(" ", text))):
            return match
    return None


def _written(text: str) -> re.Match[str] | None:
    if match := _WRITTEN.search(text):
        return match
    if "[/INST]" in text and (match := _INST.search(text)):
        return match
    return _INSTRUCTION.search(text) if _RESPONSE.search(text) else None
