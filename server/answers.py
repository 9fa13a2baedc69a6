"""What goes back to an agent: few words, the same as data, pictures, links; safe to show, and without secrets."""

import re
from collections.abc import Sequence
from typing import Any

from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel, ConfigDict

from qlora_tools.errors import QloraError
from qlora_tools.hiding import hidden_secrets
from qlora_tools.untrusted import visible_text

# About 500 tokens.
MOST_CHARACTERS = 1_900
_LONGEST_ERROR = 4_000
_LONGEST_VALUE = 20_000
# What messages name as commands, for callers who have tools.
_AS_TOOLS = {
    "qlora data inspect": "inspect_dataset",
    "qlora plan": "create_config",
    "qlora config": "create_config(config=...), qlora://config/schema",
    "qlora estimate": "estimate_memory",
    "qlora train": "start_training",
    "qlora jobs": "list_jobs",
    "qlora status": "get_job",
    "qlora logs": "get_job(log_lines=...)",
    "qlora stop": 'control_job(action="stop")',
    "qlora resume": 'control_job(action="resume")',
    "qlora doctor": "check_environment, diagnose_failure",
    "qlora generate": "generate_text",
    "qlora evaluate": "evaluate_adapter",
    "qlora merge": "merge_adapter",
    "qlora export": "export_model",
    "qlora script": "render_script",
    "qlora guide": "qlora://guide/{topic}",
}
# Options of commands that tools have as arguments.
_OPTION = re.compile(r"--(gpu|model|data|goal|output|base-name|memory-limit-gib)(?: ([\w./\"-]+\b\"?))?")
_COMMAND = re.compile("|".join(sorted(map(re.escape, _AS_TOOLS), key=len, reverse=True)))


class Structured(BaseModel):
    """The structured side of an answer: closed, and without values that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def answered(
    text: str, structured: Structured, *, pictures: Sequence[str | None] = (), links: Sequence[ResourceLink] = ()
) -> CallToolResult:
    """An answer: `text` for reading, `structured` for use, PNGs in base64, and links to resources."""
    content: list[ContentBlock] = [TextContent(type="text", text=_within_bounds(shown(text)))]
    content += [ImageContent(type="image", data=picture, mime_type="image/png") for picture in pictures if picture]
    content += links
    return CallToolResult(content=content, structured_content=_data_of(structured))


def _within_bounds(text: str) -> str:
    """`text`, cut before its last part where that names the next call."""
    head, mark, last = text.partition("\nNext: ")
    room = MOST_CHARACTERS - len(mark) - len(last)
    if len(text) <= MOST_CHARACTERS or room < MOST_CHARACTERS // 4:
        return shortened(text, MOST_CHARACTERS)
    return shortened(head, room) + mark + last


def refused(error: QloraError) -> CallToolResult:
    """An error that tells what failed, with the value and what is allowed, and what to do next."""
    step = _OPTION.sub(_as_argument, error.next_step)
    tools = dict.fromkeys(_AS_TOOLS[name] for name in _COMMAND.findall(step))
    hint = f" (as tools: {'; '.join(tools)})" if tools else ""
    text = shown(f"Error: {error.message}\nNext: {step}{hint}")
    return CallToolResult(
        content=[TextContent(type="text", text=shortened(text, _LONGEST_ERROR))],
        is_error=True,
    )


def _as_argument(option: re.Match[str]) -> str:
    name, value = option[1].replace("-", "_"), option[2]
    return name if value is None else f"{name}={value}"


def shown(text: str) -> str:
    """`text` without what steers a terminal or hides from the eye, and without secrets."""
    return hidden_secrets(visible_text(text))


def shortened(text: str, longest: int) -> str:
    """`text`, cut at `longest` characters with a mark."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def with_absent(result: CallToolResult, absent: Sequence[str]) -> CallToolResult:
    """`result`, with a word where it names a tool that this server leaves out."""
    first = result.content[0]
    named = [name for name in absent if isinstance(first, TextContent) and name in first.text]
    if not named:
        return result
    assert isinstance(first, TextContent)
    note = f"This server is read-only and has no {' or '.join(named)}: a person can do it on the command line."
    content = [TextContent(type="text", text=f"{first.text}\n{note}"), *result.content[1:]]
    return result.model_copy(update={"content": content})


def link_to(uri: str, name: str, mime_type: str, description: str) -> ResourceLink:
    """A link to a resource of this server."""
    return ResourceLink(type="resource_link", uri=uri, name=name, mime_type=mime_type, description=description)


def _data_of(structured: Structured) -> dict[str, Any]:
    data: dict[str, Any] = structured.model_dump(mode="json", exclude_defaults=True)
    text = structured.model_dump_json(exclude_defaults=True)
    # Looked at as a whole first, which is ten times cheaper; what JSON escapes could hide something.
    if len(text) <= _LONGEST_VALUE and "\\" not in text and shown(text) == text:
        return data
    cleaned: dict[str, Any] = _shown_data(data)
    return cleaned


def _shown_data(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(shown(value), _LONGEST_VALUE)
    if isinstance(value, dict):
        return {shown(key): _shown_data(item) for key, item in value.items()}
    return [_shown_data(item) for item in value] if isinstance(value, list) else value
