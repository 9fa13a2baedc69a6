"""inspect_dataset."""

from typing import Annotated, Any

from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

from ..answers import Structured, answered
from ..arguments import Model, PathText, Settings
from ..work import Document
from .toolset import Toolset

_STILL = "It is still being inspected. Make the same call again to get the report."
_MOST_FINDINGS = 8
_MOST_MASKS = 3
_MASK_CHARACTERS = 160


class DataFinding(Structured):
    """One thing found in the rows."""

    check: str
    severity: str
    message: str
    count: int
    rows: list[int]
    example: str | None = None
    next_step: str | None = None


class DataAnswer(Structured):
    """What was found; `masks` are the first rows, learnt text in [[ ]]. `verdict` is absent while it is being inspected."""

    verdict: str | None = None
    summary: str
    rows: int | None = None
    format: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    unused_columns: list[str] = Field(default_factory=list)
    proposal: dict[str, Any] | None = None
    findings: list[DataFinding] = Field(default_factory=list)
    masks: list[str] = Field(default_factory=list)
    length_percentiles: dict[str, int] = Field(default_factory=dict)
    suggested_max_length_tokens: int | None = None
    tokens_per_epoch: int | None = None
    stop_tokens: list[str] = Field(default_factory=list)
    not_checked: list[str] = Field(default_factory=list)
    next_call: str


class DataTools(Toolset):
    """The rows that are to be learnt."""

    async def inspect_dataset(
        self,
        context: Context[Any, Any],
        data: Annotated[PathText, Field(description="File, directory or Hub id of the rows.")],
        model: Model | None = None,
        settings: Settings | None = None,
        rows: Annotated[int, Field(ge=1, le=1_000_000, description="Rows that costly checks look at.")] = 20_000,
    ) -> Annotated[CallToolResult, DataAnswer]:
        """Are these rows ready to train on, and which of their tokens would be learnt? Always before create_config.

        With model, tokens and masks are checked too. settings such as {"format": "question_answer", "columns": {"question":
        "ask", "answer": "reply"}}.
        """
        checked = await self._aside(self._checked, model, data, settings or {})
        asked = {name: checked[name] for name in ("data", "model", "settings")}
        found = await self._worked("inspect", {**asked, "rows": rows}, context)
        if found is None:
            told = self._so_far("inspect", {**asked, "rows": rows})
            return answered(f"{told}\nNext: {_STILL}", DataAnswer(summary=told, next_call=_STILL))
        report = found["report"]
        return answered(_words(report), _answer(report), pictures=[found["picture"]])


def _answer(report: Document) -> DataAnswer:
    mapping, lengths = report["mapping"] or {}, report["lengths"] or {}
    return DataAnswer(
        verdict=report["verdict"],
        summary=report["summary"],
        rows=report["rows"],
        format=mapping.get("format"),
        columns=mapping.get("columns", {}),
        unused_columns=mapping.get("unused_columns", []),
        proposal=_proposal(report["proposal"]),
        findings=[
            DataFinding(**{name: item[name] for name in DataFinding.model_fields}) for item in report["findings"]
        ],
        masks=[_masked(row) for row in report["masks"][:_MOST_MASKS]],
        length_percentiles=lengths.get("percentiles", {}),
        suggested_max_length_tokens=lengths.get("suggested_max_length_tokens"),
        tokens_per_epoch=report["tokens_per_epoch"],
        stop_tokens=report["stop_tokens"],
        not_checked=report["not_checked"],
        next_call=_next_call(report),
    )


def _proposal(proposal: Document | None) -> Document | None:
    """Its settings; the script that converts the file only where no settings do."""
    if proposal is None or not proposal["columns"]:
        return proposal
    return {name: value for name, value in proposal.items() if name != "code"}


def _words(report: Document) -> str:
    lines = [f"{report['verdict']}: {report['summary']}"]
    mapping = report["mapping"]
    if mapping is not None:
        columns = ", ".join(f"{ours} <- {theirs}" for ours, theirs in mapping["columns"].items())
        unused = f"; unused: {', '.join(mapping['unused_columns'])}" if mapping["unused_columns"] else ""
        lines.append(f"Format {mapping['format']}: {columns}{unused}")
    for item in report["findings"][:_MOST_FINDINGS]:
        rows = f" (rows {', '.join(map(str, item['rows'][:5]))})" if item["rows"] else ""
        step = f" -> {item['next_step']}" if item["severity"] == "error" and item["next_step"] else ""
        lines.append(f"{item['severity']} {item['check']}: {item['message']}{rows}{step}")
    if report["lengths"] is not None:
        told = ", ".join(f"{name} {tokens}" for name, tokens in report["lengths"]["percentiles"].items())
        lines.append(
            f"Tokens a row: {told}; max_length_tokens {report['lengths']['suggested_max_length_tokens']} suggested"
        )
    lines += [f"Learnt in [[ ]]: {_masked(row)}" for row in report["masks"][:1]]
    return "\n".join([*lines, f"Next: {_next_call(report)}"])


def _masked(row: Document) -> str:
    pieces = [f"[[{piece['text']}]]" if piece["learnt"] else piece["text"] for piece in row["pieces"]]
    text = "".join(pieces).replace("]][[", "")
    half = _MASK_CHARACTERS
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"


def _next_call(report: Document) -> str:
    if report["verdict"] == "not ready":
        return str(report["next_step"])
    if report["model"] and not report["masks"]:
        return (
            "Tokens and masks were not checked, since the model's tokenizer is not on this machine: fetch the model (on the "
            "command line: hf download MODEL) and inspect again, or tell the person and go on with create_config."
        )
    if not report["model"]:
        return "inspect_dataset again with the model that will be trained: it shows tokens and what would be learnt."
    return "Look at the learnt parts, then create_config(model=..., data=...)."
