"""A trained chat template in Ollama's language: found by rendering marked conversations, never by the name of a form.

What a chat template writes between two turns depends, in every form known here, on the roles of both. So the text before,
between and behind marked turns is read off its renderings, and written as a Go template that puts the same text there.
Whether that is all that the chat template does is then shown by comparing conversations (`templates_parity`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.chat_template import ChatTemplate
from ..data.examples import Message, RowError
from ..errors import ModelError
from .gguf_tokenizer import without_bos
from .ollama_language import go_string

START, END = "", "end"
_MARKS = ("zqkvjxa", "zqkvjxb", "zqkvjxc", "zqkvjxd")
# Conversations that show all neighbours a chat can have; the system turn only ever stands first.
_SHOWN = (("user",), ("user", "assistant", "user"), ("system", "user"))

_PLAIN = {(START, "user"), ("user", "assistant"), ("assistant", "user"), ("user", END)}
_CONTENT = "{{- $turn.Content -}}{{- $before = $turn.Role -}}"

Between = dict[tuple[str, str], str]


@dataclass(frozen=True)
class TrainedForm:
    """The text between two roles; `late_system` where the system text stands in the last user turn, before this joint."""

    between: Between
    late_system: str | None = None


def marked_text(template: ChatTemplate, roles: Sequence[str]) -> tuple[str, list[Message]]:
    """A conversation of marks in the trained form, asking for an answer; BOS, which llama.cpp adds, is taken off."""
    turns: list[Message] = [
        {"role": role, "content": mark}  # type: ignore[typeddict-item]
        for role, mark in zip(roles, _MARKS, strict=False)
    ]
    text = template.text(template.folded(turns), generation_prompt=True)
    return without_bos(template.tokenizer, text), turns


def trained_forms(tokenizer: Any) -> Iterator[TrainedForm]:
    """Readings of the chat template, the usual one first; nothing where marks cannot be found in their order.

    Raises `ModelError` where the template refuses a question and its answer.
    """
    template = ChatTemplate(tokenizer)
    try:
        between: Between = {}
        for roles in _SHOWN:
            between |= _read_off(*marked_text(template, roles))
        late = _late_joint(*marked_text(template, ("system", "user", "assistant", "user")))
    except RowError as error:
        raise _unsaid(f"it refuses a plain conversation ({error})") from None
    if not between.keys() >= _PLAIN:
        raise _unsaid("its turns do not stand in the order of the conversation")
    yield TrainedForm(between)
    if late is not None:
        yield TrainedForm(between, late_system=late)


def _read_off(text: str, turns: Sequence[Message]) -> Between:
    """What stands between the marks; nothing where one is missing, doubled or out of order."""
    found: Between = {}
    before, place = START, 0
    for turn in turns:
        at = text.find(turn["content"], place)
        if at < 0 or text.count(turn["content"]) != 1:
            return {}
        found[before, turn["role"]] = text[place:at]
        before, place = turn["role"], at + len(turn["content"])
    return found | {(before, END): text[place:]}


def _late_joint(text: str, turns: Sequence[Message]) -> str | None:
    """What joins system text and last question, where they stand together."""
    system, first, _, last = (text.find(turn["content"]) for turn in turns)
    return text[system + len(turns[0]["content"]) : last] if 0 <= first < system < last else None


def _unsaid(why: str) -> ModelError:
    return ModelError(
        f"The trained chat template cannot be said in Ollama's language: {why}.",
        next_step="Serve the GGUF file with llama.cpp's own server, which runs the trained template (--jinja).",
    )


def go_template(form: TrainedForm) -> str:
    """The form as a Go template. All text stands in Go strings, so that no text of a tokenizer is read as code.

    Every action trims the lines around it; what is written comes from the strings and the turns alone.
    """
    lines = ['{{- $before := "" -}}', *([] if form.late_system is None else ['{{- $late := "" -}}'])]
    lines.append("{{- range $i, $turn := .Messages -}}")
    told = form.late_system is not None or (START, "system") in form.between
    for number, role in enumerate(("system", "user", "assistant") if told else ("user", "assistant")):
        lines.append(f'{{{{- {"else if" if number else "if"} eq $turn.Role "{role}" -}}}}')
        lines += _turn(form, role)
    lines += ["{{- end -}}", "{{- end -}}"]
    lines.append(f'{{{{- if ne $before "assistant" -}}}}{_written(form.between["user", END])}{{{{- end -}}}}')
    return "\n".join(lines) + "\n"


def _turn(form: TrainedForm, role: str) -> list[str]:
    """What a turn of this role writes."""
    if form.late_system is None:
        return [*_prefix(form.between, role), _CONTENT]
    if role == "system":
        return ['{{- $late = "yes" -}}']
    last = '(eq (len (slice $.Messages $i)) 1) (eq $late "yes")'
    late = f"{{{{- if and {last} -}}}}{{{{- $.System -}}}}{_written(form.late_system)}{{{{- end -}}}}"
    shown = {pair: text for pair, text in form.between.items() if "system" not in pair}
    return [*_prefix(shown, role), *([late] if role == "user" else []), _CONTENT]


def _prefix(between: Mapping[tuple[str, str], str], role: str) -> list[str]:
    """What stands before a turn of this role, by the role before it; the usual one where that was not shown."""
    shown = {before: text for (before, after), text in between.items() if after == role}
    usual = {"user": "assistant", "assistant": "user", "system": START}[role]
    lines = []
    for number, before in enumerate(name for name in shown if shown[name] != shown[usual]):
        lines.append(f'{{{{- {"else if" if number else "if"} eq $before "{before}" -}}}}{_written(shown[before])}')
    return [*lines, "{{- else -}}", _written(shown[usual]), "{{- end -}}"] if lines else [_written(shown[usual])]


def _written(text: str) -> str:
    return f"{{{{- {go_string(text)} -}}}}" if text else ""
