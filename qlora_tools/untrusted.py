"""Text of unknown origin, made safe to show: what steers a terminal or hides from the eye is taken out."""

import re
import unicodedata

# Whole sequences first: without its ESC the rest of one would stay behind as letters.
_TERMINAL_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: colours, cursor, clearing
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]{0,2000}(?:\x07|\x1b\\|\x9c)"  # OSC and the like: titles, links
    r"|\x1b[ -/]{1,8}[0-~]"  # character sets
)
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_KEPT = "\n\t\u200c\u200d"  # Joiners shape Persian, Indic scripts and emoji, and steer nothing.
_TAKEN_OUT = ("Cc", "Cf", "Cs", "Co", "Cn")
# What needs no closer look: ASCII, Latin, punctuation, arrows; all of it assigned and visible.
_PLAIN = re.compile("[\n\t -~\xa0-\xac\xae-\u024f\u2010-\u2027\u2190-\u21ff]*")


def visible_text(text: str) -> str:
    """`text` without terminal sequences, control, bidi, zero-width, tag and private characters; ends of lines are `\\n`.

    Tabs and newlines stay. What is left is text, not markup: escape it for HTML.
    """
    if _PLAIN.fullmatch(text):
        return text
    lines = _LINE_END.sub("\n", _TERMINAL_SEQUENCE.sub("", text))
    return "".join(character for character in lines if character in _KEPT or _is_visible(character))


def _is_visible(character: str) -> bool:
    if unicodedata.category(character) in _TAKEN_OUT:
        return False
    # Variation selectors from 17 on choose rare ideographs, and carry hidden text.
    return not 0xE0100 <= ord(character) <= 0xE01EF
