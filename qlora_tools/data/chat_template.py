"""A tokenizer's chat template: rendered in the sandbox of Transformers, and what it can render, found out by trying.

Templates leave out what they do not know without a word: system turns, tools, calls. What would be left out is known
here before any row is rendered, so that it can be said instead.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from .call_ids import with_nine_character_ids
from .disguise import WORD, common_length
from .examples import Message, RowError

# Alpaca's headings; the whole conversation is kept, and every answer ends with EOS, so that the model learns to stop.
_INSTRUCTION_FORM = (
    "{%- for message in messages -%}"
    "{%- if not loop.first %}{{ '\\n\\n' }}{% endif -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] }}"
    "{%- elif message['role'] == 'user' -%}{{ '### Instruction:\\n' + message['content'] }}"
    "{%- elif message['role'] == 'tool' -%}{{ '### Input:\\n' + message['content'] }}"
    "{%- else -%}{{ '### Response:\\n' ~ message['content'] ~ eos_token }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\\n\\n### Response:\\n' }}{%- endif -%}"
)
_MARK_END = re.compile(r"[\n>\]:](?=(\s*))")
_BOS = "{{- bos_token -}}"
# What a template may raise besides its own errors when a value is not of the kind that it was written for.
_TEMPLATE_ERRORS = (
    *(TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError),
)
_ANY_ID = "call_00000001"
_RESULT = "yqxvjm"


def install_instruction_form(tokenizer: Any) -> None:
    """Give a tokenizer without a chat template the Alpaca-style one; it is saved with the tokenizer from then on."""
    tokenizer.chat_template = (_BOS if writes_bos(tokenizer) else "") + _INSTRUCTION_FORM


def writes_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts BOS in front of a text."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


@dataclass(frozen=True)
class Abilities:
    """What a template writes: system turns of their own, tools, calls, results, thoughts, a generation prompt.

    `text_arguments`: it wants the arguments of calls as JSON text; `nine_character_ids`: it refuses other ids of calls.
    """

    system: bool
    tools: bool
    calls: bool
    text_arguments: bool
    nine_character_ids: bool
    results: bool
    reasoning: bool
    generation_prompt: bool


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of one tokenizer."""

    tokenizer: Any

    def text(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), generation_prompt: bool = False
    ) -> str:
        """The conversation as text; raises `RowError` where the template refuses it."""
        turns: Sequence[Mapping[str, Any]] = messages
        if any("tool_calls" in turn for turn in turns) and self.abilities.nine_character_ids:
            turns = with_nine_character_ids(turns)
        return self._render([self._turn(turn) for turn in turns], tools, generation_prompt)

    def folded(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The turns, a leading system turn put before the first user's text where the template has no place for it."""
        if len(messages) < 2 or messages[0]["role"] != "system" or self.abilities.system:
            return tuple(messages)
        system, user, *others = messages
        if user["role"] != "user":
            return tuple(messages)
        joined = user.copy()
        joined["content"] = f"{system['content']}\n\n{user['content']}"
        return (joined, *others)

    def _turn(self, message: Mapping[str, Any]) -> dict[str, Any]:
        turn = dict(message)
        if "tool_calls" in turn and self.abilities.text_arguments:
            turn["tool_calls"] = [_with_text_arguments(call) for call in turn["tool_calls"]]
        return turn

    def _render(self, turns: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [_with_every_name(turn) for turn in turns],
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                )
            )
        except _TEMPLATE_ERRORS as error:
            reason = str(error).strip().splitlines()
            raise RowError(
                f"the model's chat template refuses it: {reason[0] if reason else type(error).__name__}"
            ) from None

    @cached_property
    def abilities(self) -> Abilities:
        """Found out by rendering small conversations that hold a word which nothing else would write."""
        user, asked = {"role": "user", "content": "hi"}, {"role": "user", "content": "again"}
        objects, texts = _calling({"city": WORD}), _calling(f'{{"city": "{WORD}"}}')
        # Written out of place, an object has the single quotes of Python.
        well_written = self._writes_call(user, objects) and "'city'" not in self._tried([user, objects])
        text_arguments = not well_written and self._writes_call(user, texts)
        call = texts if text_arguments else objects
        results = with_nine_character_ids([user, call, _result(_RESULT)])
        thought = {"role": "assistant", "content": "yes", "reasoning_content": WORD}
        return Abilities(
            system=WORD in self._tried([{"role": "system", "content": WORD}, user]),
            tools=WORD in self._tried([user], tools=[_tool(WORD)]),
            calls=self._writes_call(user, call),
            text_arguments=text_arguments,
            nine_character_ids=self._writes_call(user, call) and WORD not in self._tried([user, call]),
            results=_RESULT in self._tried([*results, {"role": "assistant", "content": "a"}, asked]),
            reasoning=WORD in self._tried([user, thought]),
            generation_prompt=self._has_generation_prompt(),
        )

    def _writes_call(self, user: dict[str, Any], call: dict[str, Any]) -> bool:
        return WORD in self._tried(with_nine_character_ids([user, call]))

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """What the generation prompt adds, and its beginnings that end with a whole mark; the longest first."""
        asked, without, _ = self._small_chat
        header = asked[common_length(asked, without) :]
        ends = {place for mark in _MARK_END.finditer(header) for place in (mark.end(), mark.end(1))}
        return tuple(header[:end] for end in sorted({len(header), *ends} - {0}, reverse=True))

    @cached_property
    def answers_follow_prompt(self) -> bool:
        """Whether an answer that only has content stands right behind the prompt, a space aside."""
        asked, _, answered = self._small_chat
        return answered.startswith(asked) and answered[len(asked) :].lstrip().startswith(WORD)

    @cached_property
    def _small_chat(self) -> tuple[str, str, str]:
        """A question with generation prompt, without it, and with an answer; nothing where the template refuses it."""
        user, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": WORD}
        try:
            return (
                self._render([user], (), True),
                self._render([user], (), False),
                self._render([user, answer], (), False),
            )
        except RowError:
            return "", "", ""  # what it refuses is said with the rows

    def _has_generation_prompt(self) -> bool:
        """False where a header that the template writes before answers is missing from the generation prompt."""
        asked, without, answered = self._small_chat
        header = answered[: answered.find(WORD)] if WORD in answered else ""
        return not header[common_length(asked, answered) :].strip() or asked != without

    def _tried(self, turns: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        try:
            return self._render(turns, tools, False)
        except RowError:
            return ""


def _with_every_name(turn: dict[str, Any]) -> dict[str, Any]:
    """Templates call thoughts `reasoning_content` or `thinking`; Transformers before 5.23 hands over what it is given."""
    return {**turn, "thinking": turn["reasoning_content"]} if "reasoning_content" in turn else turn


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": function}


def _tool(name: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "a"}},
        "required": ["city"],
    }
    return {"type": "function", "function": {"name": name, "description": "a", "parameters": parameters}}


def _calling(arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "id": _ANY_ID, "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "name": "weather", "tool_call_id": _ANY_ID}
