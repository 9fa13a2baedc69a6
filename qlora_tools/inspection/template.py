"""What the prompt form does to a dataset: templates that are absent, that leave things out, or that do not match."""

import re
from collections.abc import Sequence
from typing import Any

from ..data.disguise import WORD
from ..data.examples import Conversation, Message, PlainText, RowError
from ..data.rendering import Renderer
from ..results import Finding
from .findings import finding
from .rows import CheckedRow

_PROMPTS_COMPARED = 200
_THOUGHT_COMPARED = 40
_MARK = re.compile(r"<[|\w][^<>\s]*>")
_DATE = re.compile(r"strftime_now|date_string")
_FORMS = {
    "chat_template": "the model's own chat template",
    "instruction": "Alpaca-style headings, since the model has no chat template; stored with the adapter",
    "verbatim": "as written",
}


def prompt_form(renderer: Renderer, *, own_template: bool) -> str:
    """How rows become text, in words."""
    if renderer.style == "verbatim":
        return _FORMS["verbatim"]
    return _FORMS["chat_template" if own_template else "instruction"]


def template_findings(rows: Sequence[CheckedRow], renderer: Renderer, *, own_template: bool) -> list[Finding]:
    """What stands out about the prompt form on these rows."""
    if renderer.style == "verbatim":
        return _plain_text_on_a_chat_model(rows, renderer)
    found = [] if own_template else [_no_template(renderer.tokenizer)]
    return [
        *found,
        *_folded_system(rows, renderer),
        *_left_out(rows, renderer),
        *_thoughts_removed(rows, renderer),
        *_generation_prompt(rows, renderer),
        *_unknown_marks(renderer),
        *_dated(renderer.tokenizer),
    ]


def _no_template(tokenizer: Any) -> Finding:
    return finding(
        "no_chat_template",
        "note",
        "The model has no chat template (a base model): rows become '### Instruction: ... ### Response: ...', "
        f"each answer ends with {tokenizer.eos_token}, and the form is stored with the adapter",
        [],
        0,
        next_step="For a chat model, start from the instruction-tuned variant, whose template is used as it is.",
    )


def _folded_system(rows: Sequence[CheckedRow], renderer: Renderer) -> list[Finding]:
    if renderer.template.abilities.system:
        return []
    found = [row.number for row in _chats(rows) if row.example.messages[0]["role"] == "system"]  # type: ignore[union-attr]
    if not found:
        return []
    return [
        finding(
            "system_turn_folded",
            "note",
            "The chat template has no system turn: the text is put in front of the first user turn, here and when asked",
            found,
            len(rows),
        )
    ]


def _left_out(rows: Sequence[CheckedRow], renderer: Renderer) -> list[Finding]:
    abilities = renderer.template.abilities
    chats = _chats(rows)
    thoughts = [row.number for row in chats if any("reasoning_content" in turn for turn in row.example.messages)]  # type: ignore[union-attr]
    tools = [row.number for row in chats if row.example.tools]  # type: ignore[union-attr]
    found = []
    if thoughts and not abilities.reasoning:
        found.append(
            finding(
                "reasoning_left_out",
                "warning",
                "The chat template leaves out the thoughts of the assistant (reasoning_content), so they are not learnt",
                thoughts,
                len(rows),
                next_step="Write them into the content, for instance <think>...</think> before the answer, or choose a "
                "model whose template has a place for them.",
            )
        )
    if tools and not abilities.tools:
        found.append(
            finding(
                "tools_left_out",
                "warning",
                "The chat template leaves out the tools that rows offer, so the model would not know what it may call",
                tools,
                len(rows),
                next_step="Describe the tools in the system turn, or choose a model whose template has a place for them.",
            )
        )
    return found


def _thoughts_removed(rows: Sequence[CheckedRow], renderer: Renderer) -> list[Finding]:
    """Answers that bring their thoughts in the text, and lose them in the template: whole turns only are missed elsewhere."""
    thinking = [row for row in _chats(rows) if "</think>" in row.answer][:_PROMPTS_COMPARED]
    removed = [row.number for row in thinking if not _keeps_thought(row, renderer)]
    if not removed:
        return []
    return [
        finding(
            "thoughts_removed",
            "warning",
            "The chat template removes <think>...</think> from answers, so the thoughts are not learnt",
            removed,
            len(thinking),
            next_step="Choose a model whose template keeps the thoughts of the last answer, or train the answers alone.",
        )
    ]


def _keeps_thought(row: CheckedRow, renderer: Renderer) -> bool:
    assert isinstance(row.example, Conversation)
    thought = row.answer.split("</think>")[0].split("<think>")[-1].strip()[:_THOUGHT_COMPARED]
    try:
        return thought in renderer.training_text(row.example, "all").text
    except RowError:
        return True  # said elsewhere


def _generation_prompt(rows: Sequence[CheckedRow], renderer: Renderer) -> list[Finding]:
    if not renderer.template.abilities.generation_prompt:
        return [
            finding(
                "no_generation_prompt",
                "error",
                "The chat template writes a header before answers but no generation prompt: asked for an answer, the model "
                "would have to write the header itself",
                [],
                0,
                next_step="Add {% if add_generation_prompt %}...{% endif %} with that header to the model's chat template.",
            )
        ]
    compared = [row for row in _chats(rows) if _last_is_answer(row)][:_PROMPTS_COMPARED]
    differing = [row.number for row in compared if not _asked_as_trained(row, renderer)]
    if not differing:
        return []
    return [
        finding(
            "prompt_differs",
            "warning",
            "The prompt that the template writes for generation is not how the trained text begins: usually it opens a "
            "thinking block that the trained answers do not have",
            differing,
            len(compared),
            next_step="Train thoughts that the template keeps, or choose a model whose prompt opens no thinking block.",
        )
    ]


def _asked_as_trained(row: CheckedRow, renderer: Renderer) -> bool:
    example = row.example
    assert isinstance(example, Conversation)
    try:
        asked = renderer.prompt(example.messages[:-1], example.tools)
        return renderer.training_text(example, "all").text.startswith(asked)
    except RowError:
        return True  # said elsewhere


def _unknown_marks(renderer: Renderer) -> list[Finding]:
    """Marks that close an answer and are no tokens of their own: a template of another model."""
    turns = (
        Message(role="user", content="hi"),
        Message(role="assistant", content=WORD),
        Message(role="user", content="a"),
    )
    try:
        text = renderer.template.text(turns)
    except RowError:
        return []
    closing = text.partition(WORD)[2]
    unknown = [mark for mark in _MARK.findall(closing)[:1] if len(_ids(mark, renderer.tokenizer)) > 1]
    if not unknown:
        return []
    return [
        finding(
            "unknown_marks",
            "warning",
            f"The chat template ends answers with {unknown[0]}, which is no token of this tokenizer: they do not belong "
            "together",
            [],
            0,
            next_step="Use the model with its own tokenizer and chat template.",
        )
    ]


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _dated(tokenizer: Any) -> list[Finding]:
    if not _DATE.search(str(tokenizer.chat_template)):
        return []
    return [
        finding(
            "dated_template",
            "note",
            "The chat template may write today's date: the same row has other tokens on another day",
            [],
            0,
        )
    ]


def _plain_text_on_a_chat_model(rows: Sequence[CheckedRow], renderer: Renderer) -> list[Finding]:
    if not renderer.tokenizer.chat_template or not any(isinstance(row.example, PlainText) for row in rows):
        return []
    return [
        finding(
            "plain_text",
            "note",
            "Rows are plain text: all of it is learnt, without the model's chat template, and answers to questions are not",
            [],
            0,
            next_step="To teach answers, give rows as messages, prompt/completion or question/answer.",
        )
    ]


def _chats(rows: Sequence[CheckedRow]) -> list[CheckedRow]:
    return [row for row in rows if isinstance(row.example, Conversation)]


def _last_is_answer(row: CheckedRow) -> bool:
    example = row.example
    return (
        isinstance(example, Conversation) and len(example.messages) > 1 and example.messages[-1]["role"] == "assistant"
    )
