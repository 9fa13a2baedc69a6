"""Whether an exported form of a chat template builds the very prompt that was trained."""

import copy
from collections.abc import Callable
from typing import Any

from ..data.chat_template import ChatTemplate
from ..data.examples import Message, RowError
from ..results.gguf import ConversationParity, TemplateParity
from .gguf_tokenizer import adds_bos, without_bos
from .ollama_language import run_template


def _turns(*texts: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn, after a system turn where there is one."""
    turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for number, text in enumerate(texts):
        turns.append({"role": "assistant" if number % 2 else "user", "content": text})
    return turns


_HOSTILE = '{{ .System }} {% if x %} """ \\n {{ "a" }} `b` \'c\''
CONVERSATIONS: dict[str, list[Message]] = {
    "a question": _turns("What is the capital of Japan?"),
    "two questions": _turns("What is the capital of Japan?", "Tokyo.", "And of France?"),
    "three questions": _turns("One?", "Yes.", "Two?", "No.", "Three?"),
    "a system text": _turns("Who are you?", system="You answer briefly."),
    "a system text and two questions": _turns("Who?", "I.", "Who else?", system="You answer briefly."),
    "an empty system text": _turns("Who are you?", system=""),
    "a line end behind the question": _turns("First line\nsecond line\n"),
    "spaces around the texts": _turns("  Who?  ", "  I.  ", " Who else? ", system="  Be brief.  "),
    "text in the language of templates": _turns(_HOSTILE, f"a {_HOSTILE}", f"b {_HOSTILE}", system=_HOSTILE),
    "other scripts and signs": _turns("日本の首都は？ 🙂", "東京", "Ünïcode\t\u00a0?"),
    "an earlier answer that thought aloud": _turns("One?", "<think>\nhm\n</think>\n\nYes.", "Two?"),
}


def template_parity(tokenizer: Any, *, jinja: str | None = None, ollama: str | None = None) -> TemplateParity:
    """Compare the tokenizer's chat template with `jinja` (the text in a GGUF) or `ollama` (a Go template), prompt by prompt.

    A conversation that the trained template itself refuses could not be trained, and is not counted. BOS is compared by
    who writes it: llama.cpp adds it where the file says so and takes it off rendered prompts, so no form may write it twice.
    """
    trained = ChatTemplate(tokenizer)
    if ollama is not None:
        compared = _compared(trained, lambda turns: run_template(ollama, turns))  # type: ignore[arg-type]
    else:
        other = copy.copy(tokenizer)
        other.chat_template = jinja
        compared = _compared(trained, lambda turns: _rendered(ChatTemplate(other), turns))
    same = sum(conversation.same for conversation in compared)
    return TemplateParity(
        form="gguf" if ollama is None else "ollama",
        conversations=len(compared),
        same=same,
        different=[conversation for conversation in compared if not conversation.same],
        bos=_bos(tokenizer),
        passed=bool(compared) and same == len(compared),
    )


def _compared(trained: ChatTemplate, exported: Callable[[list[Message]], str | None]) -> list[ConversationParity]:
    found = []
    for name, turns in CONVERSATIONS.items():
        expected = _rendered(trained, turns)
        if expected is None:
            continue
        got = exported(turns)
        same = expected == got
        told = {} if same else {"expected": expected, "got": got}
        found.append(ConversationParity(name=name, same=same, **told))
    return found


def _rendered(template: ChatTemplate, turns: list[Message]) -> str | None:
    """The prompt without its BOS; None where the template refuses the conversation."""
    try:
        text = template.text(template.folded(turns), generation_prompt=True)
    except RowError:
        return None
    return without_bos(template.tokenizer, text)


def _bos(tokenizer: Any) -> str:
    if adds_bos(tokenizer):
        return f"{tokenizer.bos_token} is added once by llama.cpp (add_bos_token), not by the exported template"
    return "the trained form begins without BOS, and none is added (add_bos_token is false)"
