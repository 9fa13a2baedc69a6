"""render_script."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

from qlora_tools.errors import UsageError

from ..answers import Structured, answered
from ..arguments import PathText, PlannedConfig
from ..config_answers import text_of
from ..work import Document
from .toolset import Toolset

if TYPE_CHECKING:
    from qlora_tools.results import LintResult

_STILL = "It is still being rendered. Make the same call again to get it."
_SHOWN_CHARACTERS = 1_200
_MOST_FINDINGS = 12
_WORDS_A_FINDING = 130
_ABOUT_ADAPTER = ("inference", "merge", "evaluate")
Kind = Literal[
    "train", "inference", "merge", "evaluate", "notebook", "accelerate", "fsdp", "slurm", "skypilot", "dockerfile"
]


class ExplainedLines(Structured):
    """What lines of the script are there for; why is told of the line that was asked for."""

    first: int
    last: int
    field: str
    value: str | None = None
    memory: str | None = None
    reason: str | None = None
    source: str | None = None
    effect: str | None = None


class ScriptFinding(Structured):
    """One thing in a script that is stale or wrong."""

    rule: str
    severity: str
    line: int
    what: str
    why: str
    fix: str
    replacement: str | None = None


class ScriptAnswer(Structured):
    """A script, where it was written, and what its lines are there for; or findings in somebody's script."""

    kind: str | None = None
    path: str | None = None
    files: list[str] = Field(default_factory=list)
    text: str | None = None
    lines: list[ExplainedLines] = Field(default_factory=list)
    changed: list[dict[str, Any]] = Field(default_factory=list)
    findings: list[ScriptFinding] = Field(default_factory=list)
    checked: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    next_call: str


class ScriptTools(Toolset):
    """Scripts that run by themselves."""

    async def render_script(
        self,
        context: Context[Any, Any],
        config: PlannedConfig | None = None,
        kind: Kind = "train",
        output_path: Annotated[PathText, Field(description="File to write.")] | None = None,
        overwrite: bool = False,
        settings: Annotated[dict[str, Any], Field(max_length=16, description='Of the kind: {"gpus": 4}.')]
        | None = None,
        line: Annotated[int, Field(ge=1, le=100_000, description="Why does this line stand there?")] | None = None,
        script_path: Annotated[PathText, Field(description="A script: lint it; with config, explain it.")]
        | None = None,
    ) -> Annotated[CallToolResult, ScriptAnswer]:
        """A config as a plain Transformers/PEFT/TRL script that runs without this package, explained.

        Or script_path alone: what is stale or wrong in a training script? Writes to output_path only.
        """
        path = None
        if script_path is not None:
            path = await self._aside(self.options.access.to_read, script_path, "script_path")
        if config is None:
            if path is None:
                raise UsageError("Neither config nor script_path is given.", next_step="Give one of them.")
            return await self._aside(_linted, path)
        if path is not None and output_path is not None:
            raise UsageError(
                "script_path is explained and output_path written.", next_step="Give one of them with config."
            )
        wanted: Document = {"config": await self._aside(self._parsed, config, kind), "kind": kind}
        if line is not None or path is not None:
            found = await self._worked(
                "explain", {**wanted, "script": str(path) if path else None, "line": line}, context
            )
            return answered(_STILL, ScriptAnswer(next_call=_STILL)) if found is None else _explained(found)
        output = None if output_path is None else str(self.options.access.to_write(output_path, "output_path"))
        wanted |= {"output": output, "overwrite": overwrite, "settings": settings or {}}
        found = await self._worked("script", wanted, context)
        return answered(_STILL, ScriptAnswer(next_call=_STILL)) if found is None else _rendered(found)

    def _parsed(self, config: Document, kind: str) -> Document:
        """The config with every path checked, and its adapter where the script is about that."""
        from qlora_tools.config import parse_config

        access = self.options.access
        parsed = access.checked_config(parse_config(config, source="given"))
        if kind in _ABOUT_ADAPTER:
            access.to_read(f"{parsed.output.directory}/adapter", "output.directory")
        whole: Document = parsed.model_dump(mode="json", exclude_unset=True)
        return whole


def _rendered(found: Document) -> CallToolResult:
    count = len(found["text"].splitlines())
    short = found["path"] is None and len(found["text"]) <= _SHOWN_CHARACTERS
    call = found["next_step"] if found["path"] or short else "render_script with output_path to write it."
    where = f"written to {', '.join([found['path'], *found['files']])}" if found["path"] else "not written"
    versions = ", ".join(f"{name} {version}" for name, version in found["checked"].items())
    told = [
        f"{found['kind']}: {count} lines, {where}.",
        *([f"Every name in it exists in {versions}."] if versions else []),
        *found["unchecked"],
        *found["notes"],
        *([found["text"]] if short else []),
        f"Next: {call} render_script(config=..., line=N) says why line N stands there.",
    ]
    answer = ScriptAnswer(
        kind=found["kind"],
        path=found["path"],
        files=found["files"],
        text=found["text"] if short else None,
        lines=[_compact(item) for item in found["lines"]],
        checked=found["checked"],
        notes=[*found["unchecked"], *found["notes"]],
        next_call=call,
    )
    return answered("\n".join(told), answer)


def _explained(found: Document) -> CallToolResult:
    whole = found["line"] is None
    lines = [_compact(item) if whole else ExplainedLines(**_whole(item)) for item in found["lines"]]
    told = [] if whole else [f"{found['line']}: {found['text']}"]
    if whole:
        told.append(f"{found['script']}: {len(found['changed'])} places are not as the config renders them.")
    for item in [] if whole else found["lines"]:
        value = "" if item["value"] is None else f" = {item['value']}"
        memory = f" Memory: {item['memory']}." if item["memory"] else ""
        told.append(
            f"{item['title']}{value} (lines {item['first']}-{item['last']}): {item['reason']} ({item['source']}) "
            f"Otherwise: {item['effect']}{memory}"
        )
    for item in found["changed"][:_MOST_FINDINGS]:
        rendered = " / ".join(item["rendered"][:3]) or "nothing"
        told.append(f"Lines {item['first']}-{item['last']} are not as rendered; the config renders: {rendered}")
    answer = ScriptAnswer(
        kind=found["kind"],
        path=found["script"],
        text=found["text"],
        lines=lines,
        changed=found["changed"],
        notes=found["notes"],
        next_call=found["next_step"],
    )
    return answered("\n".join([*told, *found["notes"], f"Next: {found['next_step']}"]), answer)


def _whole(item: Document) -> Document:
    return {name: item[name] for name in ExplainedLines.model_fields}


def _compact(item: Document) -> ExplainedLines:
    return ExplainedLines(**{name: item[name] for name in ("first", "last", "field", "value", "memory")})


def _linted(path: Path) -> CallToolResult:
    from qlora_tools.foreign import lint_script

    result = lint_script(text_of(path, "script_path"), name=path.name)
    findings = [ScriptFinding(**item.model_dump(include=set(ScriptFinding.model_fields))) for item in result.findings]
    answer = ScriptAnswer(
        path=str(path),
        findings=findings,
        checked=result.checked_against,
        notes=list(result.not_checked),
        next_call=result.next_step,
    )
    return answered(_finding_words(result), answer)


def _finding_words(result: "LintResult") -> str:
    head = f"{result.name}: {result.errors} errors, {result.warnings} warnings, {result.notes} notes."
    told = [
        f"{item.severity} {item.where}: {item.what} -> {item.fix}"[:_WORDS_A_FINDING]
        for item in result.findings[:_MOST_FINDINGS]
    ]
    more = len(result.findings) - len(told) + result.left_out
    rest = [f"and {more} more in the structured answer"] if more else []
    return "\n".join([head, *told, *rest, f"Next: {result.next_step}"])
