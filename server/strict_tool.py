"""A tool that refuses what it does not know, and whose errors let the caller mend the call in one try."""

import difflib
import inspect
import logging
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools.base import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, Field, ValidationError

from qlora_tools.errors import QloraError, UsageError

from .answers import refused, shortened, shown, with_absent
from .schemas import outline_of, plain_schema

_log = logging.getLogger(__name__)


class _Metadata(FuncMetadata):
    """Reads JSON text where an object or a list is meant, and nowhere else: an error text may be JSON too."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        texts = {name: value for name, value in data.items() if _means_text(self.arg_model, name)}
        return {**super().pre_parse_json({name: data[name] for name in data if name not in texts}), **texts}


def _means_text(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    if field is None:
        return False
    choices = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    return {get_args(one)[0] if get_origin(one) is Annotated else one for one in choices} <= {str, NoneType}


class StrictTool(Tool):
    """As the SDK's, but: unknown arguments are errors, null means "not given", and schemas are short."""

    absent: tuple[str, ...] = Field(default=(), exclude=True)

    @classmethod
    def of(cls, function: Callable[..., Any], *, title: str, annotations: ToolAnnotations) -> "StrictTool":
        """The tool that calls `function` and has its name."""
        tool = cls.from_function(
            function, name=function.__name__, title=title, annotations=annotations, structured_output=True
        )
        assert isinstance(tool, StrictTool)
        tool.description = inspect.cleandoc(tool.description)  # what indents it would cost tokens with each task
        tool.parameters = {**plain_schema(tool.parameters), "additionalProperties": False}
        tool.fn_metadata = _Metadata(**{name: getattr(tool.fn_metadata, name) for name in FuncMetadata.model_fields})
        tool.fn_metadata.output_schema = outline_of(tool.fn_metadata.output_schema or {})
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> CallToolResult:
        """Call the function. Whatever the caller can mend comes back as an error in words, not as an exception."""
        given = {name: value for name, value in arguments.items() if value is not None or name in self._required}
        unknown = [name for name in given if name not in self.parameters["properties"]]
        if unknown:
            return refused(self._unknown(unknown))
        try:
            result: CallToolResult = await super().run(given, context, convert_result)
        except ToolError as failed:
            result = self._failure(failed, given)
        return with_absent(result, self.absent)

    @property
    def _required(self) -> list[str]:
        required: list[str] = self.parameters.get("required", [])
        return required

    def _failure(self, failed: ToolError, given: Mapping[str, Any]) -> CallToolResult:
        cause = failed.__cause__
        if isinstance(cause, QloraError):
            return refused(cause)
        if isinstance(cause, ValidationError):
            return refused(self._invalid(cause, given))
        _log.error("%s failed", self.name, exc_info=cause)
        return refused(
            UsageError(
                f"{self.name} met a bug of qlora-tools ({type(cause).__name__}).",
                next_step="Do not repeat the call unchanged; the server's log (its stderr) has the traceback to report.",
            )
        )

    def _unknown(self, names: list[str]) -> UsageError:
        known = list(self.parameters["properties"])
        words = "; ".join(self._unknown_word(name, known) for name in names[:5])
        return UsageError(f"{self.name} does not take {words}.", next_step=self._signature())

    def _unknown_word(self, name: str, known: list[str]) -> str:
        shown = _brief(name)
        near = difflib.get_close_matches(name[:100], known, n=1)
        if near:
            return f"{shown} (did you mean {near[0]}?)"
        holder = next((holder for holder in ("settings", "changes", "config") if holder in known), None)
        field = _config_field(name) if holder else None
        if field is None:
            return shown
        part, _, last = field.partition(".")
        example = f"{{{part!r}: {{{last!r}: ...}}}}" if holder == "config" else f"{{{field!r}: ...}}"
        return f"{shown} (a field of the run config: put it into {holder}, as {example})"

    def _invalid(self, error: ValidationError, given: Mapping[str, Any]) -> UsageError:
        problems = "; ".join(dict.fromkeys(_problem(dict(detail)) for detail in error.errors(include_url=False)[:8]))
        return UsageError(f"{self.name}: {problems}.", next_step=self._signature())

    def _signature(self) -> str:
        names = [f"{name}*" if name in self._required else name for name in self.parameters["properties"]]
        return f"Arguments of {self.name}: {', '.join(names) or 'none'}" + (" (* required)." if self._required else ".")


def _config_field(name: str) -> str | None:
    from qlora_tools.config.overrides import field_path

    try:
        return field_path(name)
    except UsageError:
        return None


def _problem(detail: Mapping[str, Any]) -> str:
    """One wrong argument: which, what is allowed, and what was given."""
    place = ".".join(str(part) for part in detail["loc"]) or "the arguments"
    if detail["type"] == "missing":
        return f"{place} is required"
    said = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} {said[:1].lower()}{said[1:]}; given was {_brief(detail.get('input'))}"


def _brief(value: Any) -> str:
    """A value as it was given, cut short: after secrets were hidden, since a part of one is not recognised."""
    return shortened(shown(repr(value)[:10_000]), 80)
