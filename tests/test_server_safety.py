"""What agents, files and jobs may try on the server: paths that leave, text that is more than text, secrets, pickles."""

import json
import os
import pickle
import queue
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent
from qlora_tools.server.app import build_server
from qlora_tools.server.options import ServerOptions
from qlora_tools.server.work import WorkerError, WorkRoom

from qlora_tools import hiding
from qlora_tools.access import Access
from qlora_tools.cli.main import qlora
from qlora_tools.errors import QloraError
from qlora_tools.jobs import launch
from qlora_tools.jobs.layout import Workspace
from qlora_tools.worker.tasks import TASKS

from .finished_jobs import write_finished_jobs
from .hostile_text import HOSTILE_NAMES, OTHER_TOKEN, OUTSIDE_PATHS, SPECIAL_FILES, TOKEN, hidden_characters
from .job_workspace import MODEL

SECRET = "the canary sings at noon"
MOST_TEXT = 4_200
MOST_STRUCTURED = 200_000

# Arguments of tools that are text and no path. A new text argument is either marked `format: path` or named here.
PLAIN_TEXT = {
    "estimate_memory.gpu",
    "create_config.gpu",
    "get_job.job_id",
    "diagnose_failure.job_id",
    "diagnose_failure.log_text",
    "generate_text.prompts.*",
    "generate_text.system",
    "start_training.name",
    "start_training.idempotency_key",
    "evaluate_adapter.metrics.*",
    "evaluate_adapter.idempotency_key",
    "merge_adapter.idempotency_key",
    "export_model.base_name",
    "export_model.idempotency_key",
    "control_job.job_id",
}
# Arguments that hold fields of a run config, or settings of a kind of script.
OF_CONFIG = {
    "inspect_dataset.settings",
    "estimate_memory.settings",
    "create_config.settings",
    "create_config.config",
    "create_config.compare_with",
    "diagnose_failure.config",
    "render_script.config",
    "render_script.settings",
    "start_training.config",
    "control_job.changes",
}
# A call of each tool that is good but for what a test puts into it.
GOOD: dict[str, dict[str, Any]] = {
    "check_environment": {},
    "inspect_dataset": {"data": "rows.jsonl"},
    "estimate_memory": {"model": "qwen3-8b", "gpu": "t4"},
    "create_config": {"model": "qwen3-8b", "data": "rows.jsonl", "gpu": "t4"},
    "get_job": {},
    "list_jobs": {},
    "diagnose_failure": {},
    "generate_text": {"adapter": "run", "prompts": ["hello"]},
    "render_script": {
        "kind": "accelerate",
        "config": {"model": {"name": "qwen3-8b"}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}},
    },
    "start_training": {"dry_run": True},
    "evaluate_adapter": {"adapter": "run", "dry_run": True},
    "merge_adapter": {"adapter": "run", "output": "merged", "dry_run": True},
    "export_model": {"source": "run", "to": "gguf", "output": "exported", "dry_run": True},
    "control_job": {"action": "resume", "job_id": "stopped"},
}


class RoomHere(WorkRoom):
    """Does the work of the worker processes in this process, where what is opened can be watched."""

    async def done(self, task: str, arguments: Mapping[str, Any], told: Any, **_: Any) -> dict[str, Any]:
        def work() -> Any:
            return TASKS[task](json.loads(json.dumps(arguments)), lambda event: None)

        try:
            result: dict[str, Any] = await anyio.to_thread.run_sync(work)
        except QloraError as error:
            raise WorkerError(error.message, next_step=error.next_step) from None
        return result


@dataclass
class Place:
    """A workspace full of traps, what lies beside it, and a server on it."""

    root: Path
    opened: list[str] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def outside(self) -> tuple[Path, ...]:
        return tuple(self.root / name for name in ("outside", "workspace-beside", "home"))

    def path(self, text: str) -> str:
        text = text.replace("CANARY", str(self.root / "outside" / "canary.jsonl"))
        return text.replace("FOLDER", str(self.root / "outside")).replace("WORKSPACE", str(self.workspace))

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Everything outside: names, times of change, content."""
        return {
            str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for folder in self.outside
            for path in (folder, *folder.rglob("*"))
        }

    def call(self, *calls: tuple[str, dict[str, Any]]) -> list[CallToolResult]:
        """The results of calls over one connection."""

        async def talk() -> list[CallToolResult]:
            server = build_server(ServerOptions(Access(self.workspace)), RoomHere())
            async with Client(server) as client:
                return [await client.call_tool(name, arguments) for name, arguments in calls]

        return anyio.run(talk)

    def schemas(self) -> dict[str, dict[str, Any]]:
        async def talk() -> dict[str, dict[str, Any]]:
            async with Client(build_server(ServerOptions(Access(self.workspace)), RoomHere())) as client:
                return {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}

        return anyio.run(talk)


_watched: list[Place] = []


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.symlink"):
        for value in arguments[:2]:
            if isinstance(value, str | bytes | os.PathLike):
                _watched[0].opened.append(os.path.realpath(os.fsdecode(value)))


sys.addaudithook(_on_audit)


@contextmanager
def watched(place: Place, *, but: Sequence[Path] = ()) -> Iterator[None]:
    """Nothing outside the workspace of `place` is opened, listed or changed here."""
    before = place.snapshot()
    place.opened.clear()
    _watched.append(place)
    try:
        yield
    finally:
        _watched.clear()
    touched = [path for path in map(Path, place.opened) if any(path.is_relative_to(folder) for folder in place.outside)]
    assert [path for path in touched if path not in but] == []
    assert place.snapshot() == before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("safety").resolve())
    patch = pytest.MonkeyPatch()
    _fill(made)
    # Where the font cache is, which takes ten seconds to build.
    patch.setenv("MPLCONFIGDIR", str(Path("~/.cache/matplotlib").expanduser()))
    patch.setenv("HOME", str(made.root / "home"))
    patch.setenv("QLORA_WORKSPACE", str(made.workspace))
    patch.setenv("HF_TOKEN", TOKEN)
    patch.setenv("SOME_API_KEY", OTHER_TOKEN)
    # Should a runner be started against all that is promised here, it does nothing.
    patch.setattr(launch, "RUNNER_MODULE", "tests.no_such_runner")
    patch.chdir(made.workspace)
    hiding._values.cache_clear()
    yield made
    patch.undo()
    hiding._values.cache_clear()


def _fill(made: Place) -> None:
    for name in (
        "outside",
        "workspace-beside",
        "home",
        "workspace/data",
        "workspace/model",
        "workspace/folder-with-link",
    ):
        (made.root / name).mkdir(parents=True)
    space, canary = made.workspace, made.root / "outside" / "canary.jsonl"
    rows = [{"prompt": f"What is number {number}?", "completion": f"It is {number}."} for number in range(20)]
    (space / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    canary.write_text("".join(json.dumps({**row, "completion": SECRET}) + "\n" for row in rows))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (made.root / "outside" / name).write_text(json.dumps({**MODEL, "note": SECRET}))
        (space / "model" / name).write_text(json.dumps(MODEL))
    for name in ("rows.jsonl",):
        (made.root / "workspace-beside" / name).write_text(canary.read_text())
        (made.root / "home" / name).write_text(canary.read_text())
    (space / "link-to-file.jsonl").symlink_to(canary)
    (space / "link-to-folder").symlink_to("../outside")
    (space / "chain-of-links").symlink_to("link-to-folder")
    (space / "folder-with-link" / "inner.jsonl").symlink_to("../../outside/canary.jsonl")
    (space / "loop").symlink_to("loop")
    for name in SPECIAL_FILES:
        os.mkfifo(space / name)
    _plant_job(made, "stopped", {"model": "./model", "data": "rows.jsonl", "output": str(space / "stopped-output")})
    _plant_job(
        made,
        "planted",
        {"model": "./model", "data": str(canary), "output": str(made.root / "outside" / "new-output")},
    )


def _plant_job(made: Place, name: str, paths: Mapping[str, str], **texts: str) -> str:
    """A stopped job in the store, with paths and texts as somebody wrote them who wished harm."""
    space = Workspace.at(made.workspace)
    job = space.job(write_finished_jobs(space, 1)[0])
    plan = json.loads(job.plan_file.read_text())
    job.plan_file.write_text(
        json.dumps({**plan, "name": name, "output_directory": paths["output"], "model": texts.get("model", "m")})
    )
    config = {
        "model": {"name": paths["model"]},
        "data": {"path": paths["data"]},
        "output": {"directory": paths["output"]},
    }
    job.config_file.write_text(json.dumps(config))
    end = {"state": "stopped", "exit_code": 130, "message": texts.get("message", "Stopped."), "next_step": "Go on."}
    end["ended"] = "2026-01-01T01:00:00.000+00:00"  # type: ignore[assignment]
    job.attempt(1).exit_file.write_text(json.dumps({**end, "next_step": texts.get("next_step", "Go on.")}))
    job.log_file.write_text(texts.get("log", "a line\n"), errors="surrogatepass")
    return job.id


def text_of(result: CallToolResult) -> str:
    """All text of a result as one: content blocks, links, and the structured side."""
    blocks = [block.model_dump(mode="json") for block in result.content if block.type != "image"]
    return json.dumps([blocks, result.structured_content], ensure_ascii=False)


def require_clean(result: CallToolResult, given: object = None) -> None:
    """A result, or an error in words: nothing hidden in it, no secret, of bounded length, and no bug."""
    for text in strings_of([block.model_dump(mode="json") for block in result.content if block.type != "image"]):
        assert not hidden_characters(text), ascii(text)
    for text in strings_of(result.structured_content):
        assert not hidden_characters(text), ascii(text)
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    assert texts, given
    assert all(len(text) <= MOST_TEXT for text in texts), (given, [len(text) for text in texts])
    whole = text_of(result)
    assert len(whole) <= MOST_STRUCTURED, (given, len(whole))
    assert "\ud800" not in whole.encode("utf-8", errors="strict").decode()
    assert SECRET not in whole
    assert pieces_of_secrets(whole) == set(), given
    if result.is_error:
        for sign in ("Traceback", "Error executing tool", "met a bug", "errors.pydantic.dev", 'File "'):
            assert sign not in whole, (given, whole[:2000])


def pieces_of_secrets(text: str, size: int = 16) -> set[str]:
    """Parts of the planted tokens: more than half of one is as good as the whole."""
    windows = {token[start : start + size] for token in (TOKEN, OTHER_TOKEN) for start in range(len(token) - size + 1)}
    return {window for window in windows if window in text}


def strings_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_of(key)
            yield from strings_of(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings_of(item)


def arguments_in(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every place of a schema where a value stands, with its schema: `tool.argument`, `.*` for items."""
    for name, part in schema.get("properties", {}).items():
        yield f"{prefix}.{name}", part
        yield from arguments_in(part, f"{prefix}.{name}")
    if "items" in schema:
        yield f"{prefix}.*", schema["items"]
        yield from arguments_in(schema["items"], f"{prefix}.*")


def all_arguments(place: Place) -> dict[str, dict[str, Any]]:
    return {name: part for tool, schema in place.schemas().items() for name, part in arguments_in(schema, tool)}


def path_arguments(place: Place) -> list[str]:
    return [name for name, part in all_arguments(place).items() if part.get("format") == "path"]


def with_value(tool: str, place: Sequence[str], value: object) -> dict[str, Any]:
    """A good call of `tool` with `value` at a place in its arguments."""
    arguments = json.loads(json.dumps(GOOD[tool]))
    whole: Any = value
    for part in reversed(place[1:]):
        whole = [whole] if part == "*" else {"role": "user", part: whole}
    arguments[place[0]] = whole
    return arguments  # type: ignore[no-any-return]


def call_with(name: str, value: object) -> tuple[str, dict[str, Any]]:
    tool, *place = name.split(".")
    return tool, with_value(tool, place, value)


def config(**changed: Any) -> dict[str, Any]:
    """A good config with values at dotted places."""
    parts: dict[str, Any] = {
        "model": {"name": "./model"},
        "data": {"path": "rows.jsonl"},
        "output": {"directory": "out"},
        "training": {"max_steps": 3},
    }
    for place, value in changed.items():
        part, _, name = place.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts


_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def _as_directory(text: str) -> str:
    """Without the dot some paths are by their form the names of models on the Hub, and nothing on the disk."""
    return f"./{text}" if _HUB_ID.fullmatch(text) else text


CONFIG_PATHS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("model.name", _as_directory),
    ("data.path", lambda text: text),
    ("data.evaluation_path", lambda text: text),
    ("data.more_sources", lambda text: [{"path": "rows.jsonl"}, {"path": text}]),
    ("output.directory", lambda text: text),
)


# Arguments


def test_every_tool_has_a_good_call_here(place: Place) -> None:
    assert set(GOOD) == set(place.schemas())


def test_every_text_argument_is_marked_as_a_path_or_known_to_be_none(place: Place) -> None:
    """A new argument that is a path must carry `format: path`, by which the corpus below finds it."""
    found, objects = set(), set()
    for name, part in all_arguments(place).items():
        kinds = {choice.get("type") for choice in part.get("anyOf", (part,))}
        if "string" in kinds and part.get("format") != "path" and "enum" not in part:
            found.add(name)
        if "object" in kinds and "properties" not in part:
            objects.add(name)
    assert found == PLAIN_TEXT
    assert objects == OF_CONFIG


def test_every_text_and_list_is_bounded_in_the_schema(place: Place) -> None:
    unbounded = [
        name
        for name, part in all_arguments(place).items()
        if (part.get("type") == "string" and "enum" not in part and "maxLength" not in part)
        or (part.get("type") == "array" and "maxItems" not in part)
        or (part.get("type") in ("integer", "number") and not {"minimum", "maximum"} <= part.keys())
    ]
    assert unbounded == []


# Paths


def test_no_path_argument_leads_outside(place: Place) -> None:
    names = path_arguments(place)
    assert len(names) >= 8
    for name in names:
        texts = [place.path(text) for text in (*OUTSIDE_PATHS, *SPECIAL_FILES)]
        if name.endswith(".model"):
            texts = [_as_directory(text) for text in texts]
        calls = [call_with(name, text) for text in texts]
        with watched(place):
            results = place.call(*calls)
        for call, result in zip(calls, results, strict=True):
            require_clean(result, ascii(call)[:300])
            asked = call[1][name.partition(".")[2]]
            assert result.is_error or (name.endswith(".model") and _HUB_ID.fullmatch(asked)), (
                ascii(call)[:300],
                result,
            )


def calls_with_path(where: str, value: object) -> list[tuple[str, dict[str, Any]]]:
    """Calls of every tool that takes a config or fields of one, with a value in it."""
    changes = {"action": "resume", "job_id": "stopped", "from_start": True, "changes": {where: value}}
    settings = {"settings": {where: value}}
    return [
        ("start_training", {"config": config(**{where: value}), "dry_run": True}),
        ("create_config", {"config": config(**{where: value})}),
        ("create_config", {"config": config(), "compare_with": config(**{where: value})}),
        ("render_script", {"config": config(**{where: value}), "kind": "accelerate"}),
        ("create_config", {**GOOD["create_config"], **settings}),
        ("inspect_dataset", {**GOOD["inspect_dataset"], **settings}),
        ("estimate_memory", {**GOOD["estimate_memory"], **settings}),
        ("control_job", changes),
    ]


def require_refused(place: Place, calls: Sequence[tuple[str, dict[str, Any]]]) -> None:
    with watched(place):
        results = place.call(*calls)
    for (tool, arguments), result in zip(calls, results, strict=True):
        require_clean(result, (tool, ascii(arguments)[:300]))
        assert result.is_error, (tool, ascii(arguments)[:400], text_of(result)[:500])


@pytest.mark.parametrize(("where", "as_value"), CONFIG_PATHS, ids=[name for name, _ in CONFIG_PATHS])
def test_no_path_of_a_config_leads_outside(where: str, as_value: Callable[[str], Any], place: Place) -> None:
    values = [as_value(place.path(text)) for text in (*OUTSIDE_PATHS, *SPECIAL_FILES)]
    require_refused(place, [call for value in values for call in calls_with_path(where, value)[:1]])
    # The other tools go through the same guard: a part of the corpus shows that they do.
    require_refused(place, [call for value in values[::8] for call in calls_with_path(where, value)])


@pytest.mark.slow
@pytest.mark.parametrize(("where", "as_value"), CONFIG_PATHS, ids=[name for name, _ in CONFIG_PATHS])
def test_no_path_of_a_config_leads_outside_by_any_tool(
    where: str, as_value: Callable[[str], Any], place: Place
) -> None:
    values = [as_value(place.path(text)) for text in (*OUTSIDE_PATHS, *SPECIAL_FILES)]
    require_refused(place, [call for value in values for call in calls_with_path(where, value)])


def test_a_config_file_in_the_workspace_may_name_paths_inside_alone(place: Place) -> None:
    (place.workspace / "run.json").write_text(json.dumps(config(**{"data.path": "../outside/canary.jsonl"})))
    with watched(place):
        (refused,) = place.call(("start_training", {"config_path": "run.json", "dry_run": True}))
    assert refused.is_error
    assert "data.path: '../outside/canary.jsonl' lies outside" in text_of(refused)
    (place.workspace / "run.json").write_text(json.dumps(config()))
    (passed,) = place.call(("start_training", {"config_path": "run.json", "dry_run": True}))
    assert not passed.is_error, text_of(passed)


def test_paths_that_came_through_settings_are_the_resolved_ones(place: Place) -> None:
    """Else they would count from wherever a worker happens to stand."""
    settings = {"evaluation_path": "data/../rows.jsonl"}
    (planned,) = place.call(("create_config", {**GOOD["create_config"], "settings": settings}))
    assert planned.structured_content is not None, planned
    assert planned.structured_content["config"]["data"]["evaluation_path"] == str(place.workspace / "rows.jsonl")


def test_a_job_with_paths_outside_is_not_resumed_and_its_output_is_not_read(place: Place) -> None:
    """Whoever wrote the `.qlora` of a cloned folder has no say over what lies beside it."""
    output = place.root / "outside" / "new-output"
    output.mkdir(exist_ok=True)
    (output / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, "note": SECRET}) + "\n")
    (output / "result.json").write_text(json.dumps({"note": SECRET}))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("control_job", {"action": "resume", "job_id": "planted"}),
        ("control_job", {"action": "resume", "job_id": "planted", "from_start": True}),
        ("generate_text", {"adapter": "planted", "prompts": ["hello"]}),
        ("get_job", {"job_id": "planted", "curve": True, "log_lines": 100}),
    ]
    # Which checkpoints a job has is told by the names in their folder.
    with watched(place, but=(output / "checkpoints",)):
        results = place.call(*calls)
        read = resources(place, [f"qlora://jobs/planted/{part}" for part in ("metrics", "report", "log", "config")])
    for result in results:
        require_clean(result)
    assert [result.is_error for result in results[:3]] == [True, True, True], [text_of(result) for result in results]
    assert SECRET not in json.dumps(read)


# Hostile text


def resources(place: Place, uris: Sequence[str]) -> list[str]:
    """The texts of resources; of one that cannot be read, the error."""

    async def talk() -> list[str]:
        found = []
        async with Client(build_server(ServerOptions(Access(place.workspace)), RoomHere())) as client:
            for uri in uris:
                try:
                    answer = await client.read_resource(uri)
                    found.append("".join(getattr(part, "text", "") for part in answer.contents))
                except MCPError as error:
                    found.append(error.error.message)
        return found

    return anyio.run(talk)


def test_hostile_text_in_any_text_argument_is_only_text(place: Place) -> None:
    calls = [
        call_with(name, text.replace("CANARY_COMMAND", str(place.root / "touched")))
        for name in sorted({*PLAIN_TEXT, *path_arguments(place)})
        # What a model answers is not asked here: loading one takes seconds.
        if not name.startswith("generate_text.") or name == "generate_text.adapter"
        for text in HOSTILE_NAMES
    ]
    with watched(place):
        results = place.call(*calls)
    for call, result in zip(calls, results, strict=True):
        require_clean(result, ascii(call)[:200])
    assert not (place.root / "touched").exists()


def test_hostile_names_and_values_in_configs_are_told_and_not_obeyed(place: Place) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    for hostile in HOSTILE_NAMES:
        text = hostile.replace("CANARY_COMMAND", str(place.root / "touched"))
        # The client refuses to send a name that is no UTF-8; the wire is tried below.
        key = text.encode(errors="replace").decode()
        for name in sorted(OF_CONFIG):
            tool, argument = name.split(".")
            calls += [
                (tool, {**GOOD[tool], argument: {key: 1}}),
                (tool, {**GOOD[tool], argument: {"data": {key: text}}}),
                (tool, {**GOOD[tool], argument: {"training": {"schedule": text}}}),
                (tool, {**GOOD[tool], argument: {"schedule": text, "columns": {key: text}}}),
                (tool, {**GOOD[tool], argument: text}),
            ]
        calls += [("create_config", {key: text}), ("get_job", {"job_id": "last", key: None})]
        calls += [("create_config", {"config": config(**{"data.columns": {"text": text}})})]
    with watched(place):
        results = place.call(*calls)
    for call, result in zip(calls, results, strict=True):
        require_clean(result, ascii(call)[:200])
    assert not (place.root / "touched").exists()


def test_hostile_rows_are_shown_as_plain_text_and_masked(place: Place) -> None:
    rows = [
        {"prompt": f"{text[:3000]} {number}", "completion": f"{text[:3000]} {TOKEN} {OTHER_TOKEN}"}
        for number, text in enumerate(HOSTILE_NAMES)
    ]
    (place.workspace / "data" / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [{text[:200]: "a", f"{text[:100]} b": "c"} for text in HOSTILE_NAMES]
    (place.workspace / "data" / "columns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in columns))
    with watched(place):
        results = place.call(
            ("inspect_dataset", {"data": "data/hostile.jsonl"}),
            ("inspect_dataset", {"data": "data/columns.jsonl"}),
            ("create_config", {"model": "qwen3-8b", "data": "data/hostile.jsonl", "gpu": "t4"}),
        )
    for result in results:
        require_clean(result)


def _plant_hostile_job(made: Place, text: str, output: Path) -> str:
    output.mkdir()
    metrics = [{"step": step, "loss": 1.0, "warnings": [text], "phase": text, text: text} for step in range(1, 4)]
    (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (output / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": text, "answer": text}) + "\n")
    (output / "config.yaml").write_text(json.dumps(config()))
    (output / "result.json").write_text(json.dumps({"steps": 3, "base_model": text, "device": text}))
    said = {"message": f"{text} {TOKEN}", "next_step": text, "log": f"{text}\n{TOKEN}\n{text}\n", "model": text}
    return _plant_job(made, text, {"model": "./model", "data": "rows.jsonl", "output": str(output)}, **said)


def test_a_hostile_job_is_told_in_plain_text_everywhere(place: Place, tmp_path: Path) -> None:
    made = Place(tmp_path.resolve())
    _fill(made)
    # The first holds a piece of each; pictures and pages take a second.
    together = " ".join(text[:150] for text in HOSTILE_NAMES if "\ud800" not in text)
    texts = [together, *(text[:500] for text in HOSTILE_NAMES)]
    jobs = [_plant_hostile_job(made, text, made.workspace / f"output-{place}") for place, text in enumerate(texts)]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_jobs", {"limit": 100}),
        ("get_job", {"job_id": jobs[0], "curve": True}),
    ]
    for job in jobs:
        calls += [("get_job", {"job_id": job, "log_lines": 200}), ("diagnose_failure", {"job_id": job})]
    for call, result in zip(calls, made.call(*calls), strict=True):
        require_clean(result, call)
    uris = [f"qlora://jobs/{job}/{part}" for job in jobs for part in ("config", "log", "metrics")]
    uris.append(f"qlora://jobs/{jobs[0]}/report")
    read = resources(made, uris)
    for uri, text in zip(uris, read, strict=True):
        assert not hidden_characters(text), (uri, hidden_characters(text))
        assert pieces_of_secrets(text) == set(), uri
    require_tame_page(read[-1])
    page = made.workspace / "report.html"
    told = CliRunner().invoke(qlora, ["report", jobs[0], "--workspace", str(made.workspace), "-o", str(page)])
    assert told.exit_code == 0, told.output
    require_tame_page(page.read_text(encoding="utf-8"))
    assert not hidden_characters(told.output)


def require_tame_page(page: str) -> None:
    """A page of HTML in which no value became markup, and nothing hides."""
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "&lt;script&gt;" in page
    for sign in ("<script>alert", "<img src=x", "<svg/onload", 'href="javascript'):
        assert sign not in page, sign
    assert not hidden_characters(page)


def test_prompts_repeat_what_they_were_given_as_plain_text(place: Place) -> None:
    async def talk() -> list[str]:
        texts = []
        async with Client(build_server(ServerOptions(Access(place.workspace)), RoomHere())) as client:
            for prompt in (await client.list_prompts()).prompts:
                for hostile in HOSTILE_NAMES:
                    given = {argument.name: f"{hostile[:300]} {TOKEN}" for argument in prompt.arguments or ()}
                    try:
                        answer = await client.get_prompt(prompt.name, given)
                    except MCPError as error:
                        texts.append(error.error.message)
                        continue
                    texts += [message.content.text for message in answer.messages]  # type: ignore[union-attr]
        return texts

    for text in anyio.run(talk):
        assert not hidden_characters(text), ascii(text)
        assert pieces_of_secrets(text) == set()


# Secrets


def test_planted_tokens_are_in_no_answer(place: Place) -> None:
    (place.workspace / "data" / "run.log").write_text(f"RuntimeError: login with {TOKEN} failed ({OTHER_TOKEN})\n" * 3)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("create_config", {"config": config(**{"output.directory": f"runs/{TOKEN}"})}),
        ("start_training", {"config": config(**{"output.directory": f"runs/{TOKEN}"}), "dry_run": True, "name": TOKEN}),
        ("create_config", {"config": config(**{"model.token": TOKEN})}),
        ("create_config", {"config": f"model: {{name: ./model}}\n{TOKEN}: {{{OTHER_TOKEN}"}),
        ("create_config", {**GOOD["create_config"], "settings": {"token": TOKEN, OTHER_TOKEN: 1}}),
        ("inspect_dataset", {"data": f"data/{TOKEN}.jsonl"}),
        ("inspect_dataset", {"data": f"/{TOKEN}/rows.jsonl"}),
        ("diagnose_failure", {"log_path": "data/run.log"}),
        ("diagnose_failure", {"log_text": f"ValueError: {OTHER_TOKEN} is no {TOKEN}"}),
        ("diagnose_failure", {"job_id": TOKEN}),
        ("get_job", {"job_id": TOKEN}),
        ("generate_text", {"adapter": f"./{TOKEN}", "prompts": [TOKEN]}),
        ("control_job", {"action": TOKEN, "job_id": "x"}),
        ("control_job", {"action": "resume", "job_id": "stopped", TOKEN: 1}),
        (TOKEN, {}),
    ]
    # Cut off in the middle by whatever shortens what is wrong.
    for before in range(40, 90, 7):
        calls.append(("create_config", {**GOOD["create_config"], "rows_per_step": f"{'x ' * (before // 2)}{TOKEN}"}))
        calls.append(("create_config", {**GOOD["create_config"], "x" * before + TOKEN: 1}))
    for call, result in zip(calls, place.call(*calls), strict=True):
        require_clean(result, call)


# Pickles


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_pickles_are_refused_unopened(place: Place) -> None:
    touched = place.root / "touched-by-a-pickle"
    content = pickle.dumps(Trap(touched))
    model, adapter = place.workspace / "pickled-model", place.workspace / "pickled-adapter"
    for folder, name in ((model, "pytorch_model.bin"), (adapter, "adapter_model.bin"), (adapter, "optimizer.pt")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (model / "config.json").write_text(json.dumps(MODEL))
    (model / "tokenizer.json").write_text("{}")
    base = str(place.workspace / "model")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in (
        "rows.pkl",
        "rows.pickle",
        "rows.pt",
        "rows.bin",
        "rows.npy",
        "rows.joblib",
        "rows",
        "trap.jsonl",
        "t.parquet",
    ):
        (place.workspace / "data" / name).write_bytes(content)
        calls.append(("inspect_dataset", {"data": f"data/{name}"}))
    calls += [
        ("start_training", {"config": config(**{"model.name": "./pickled-model"}), "dry_run": True}),
        ("generate_text", {"adapter": "pickled-adapter", "prompts": ["hello"]}),
        ("diagnose_failure", {"log_path": "data/rows.pkl"}),
        ("start_training", {"config_path": "data/rows.pkl", "dry_run": True}),
    ]
    results = place.call(*calls)
    for call, result in zip(calls, results, strict=True):
        require_clean(result, call)
        assert result.is_error or call[0] == "diagnose_failure", call
    assert not touched.exists()
    assert "pickle" in text_of(results[9])
    assert "pickle" in text_of(results[10])


# Whatever arguments


FUZZED: dict[str, dict[str, Any]] = {
    **GOOD,
    "start_training": {"config": config(), "dry_run": True},
    "control_job": {"action": "stop", "job_id": "no-such-job"},
    "diagnose_failure": {"log_text": "CUDA out of memory"},
}


def wrong_values(part: Mapping[str, Any], dice: random.Random) -> list[object]:
    """Values that the schema of an argument forbids; null stands for an argument that is not given."""
    kind = part.get("type")
    others: dict[str, object] = {
        "string": "text",
        "integer": 7,
        "number": 0.5,
        "boolean": True,
        "array": [1],
        "object": {"a": 1},
    }
    close = {"integer": {"integer", "number", "boolean"}, "number": {"integer", "number", "boolean"}}.get(
        str(kind), {kind}
    )
    wrong = [value for name, value in others.items() if name not in close]
    if kind == "object":
        # A config may come as text.
        wrong = [value for value in wrong if not isinstance(value, str)]
    if "enum" in part:
        wrong += ["", "no-such-choice", "x" * 10_000]
    wrong += [part["minimum"] - 1, -(10**30)] if "minimum" in part else []
    wrong += [part["maximum"] + 1, 10**30, 1e308] if "maximum" in part else []
    wrong += ["x" * (part["maxLength"] + 1)] if "maxLength" in part and "enum" not in part else []
    wrong += [[None] * (part["maxItems"] + 1)] if "maxItems" in part else []
    nested: object = dice.choice(([], {}))
    for _ in range(dice.choice((3, 60))):
        nested = [nested] if dice.random() < 0.5 else {"a": nested}
    return [*wrong, *([[[nested]]] if kind not in ("array", "object") else [])]


def fuzzed_calls(place: Place, dice: random.Random, rounds: int) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Calls with one wrong argument, which the answer must name, and calls with several."""
    for tool, schema in place.schemas().items():
        known = schema.get("properties", {})
        yield tool, {**FUZZED[tool], "no_such_argument": 1}, "no_such_argument"
        for name in schema.get("required", ()):
            yield tool, {key: value for key, value in FUZZED[tool].items() if key != name}, name
            yield tool, {**FUZZED[tool], name: None}, name
        for name, part in known.items():
            for value in wrong_values(part, dice):
                yield tool, {**FUZZED[tool], name: value}, name
        for _ in range(rounds if known else 0):
            chosen = dice.sample(sorted(known), dice.randint(1, min(4, len(known))))
            values = {name: dice.choice([None, *wrong_values(known[name], dice)]) for name in chosen}
            yield tool, {**FUZZED[tool], **values}, None


def fuzz(place: Place, seed: int, rounds: int) -> None:
    # A good call of this one takes seconds; its only wrong ones are those with arguments.
    cases = [
        case for case in fuzzed_calls(place, random.Random(seed), rounds) if case[0] != "check_environment" or case[1]
    ]
    with watched(place):
        results = place.call(*((tool, arguments) for tool, arguments, _ in cases))
    for (tool, arguments, name), result in zip(cases, results, strict=True):
        require_clean(result, (tool, ascii(arguments)[:400]))
        if name is not None:
            assert result.is_error, (tool, ascii(arguments)[:400])
            assert name in text_of(result), (tool, ascii(arguments)[:400], text_of(result)[:600])


def test_wrong_arguments_are_named_in_the_answer(place: Place) -> None:
    fuzz(place, seed=1, rounds=10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_wrong_arguments_are_named_in_the_answer(seed: int, place: Place) -> None:
    fuzz(place, seed=seed, rounds=200)


# The wire


class Wire:
    """A real server process on pipes, spoken to in bytes."""

    def __init__(self, workspace: Path) -> None:
        command = [sys.executable, "-m", "qlora_tools", "mcp", "--workspace", str(workspace)]
        root = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=root,
            env=dict(os.environ),
        )
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.said: list[bytes] = []
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin, stdout, stderr = self.process.stdin, self.process.stdout, self.process.stderr
        threading.Thread(target=lambda: [self.lines.put(line) for line in stdout], daemon=True).start()
        threading.Thread(target=lambda: self.said.extend(stderr), daemon=True).start()
        self.number = 0
        client = {"name": "test", "version": "1"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
        self.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode())

    def send(self, line: bytes) -> None:
        self.stdin.write(line + b"\n")
        self.stdin.flush()

    def ask(self, method: str, params: object) -> dict[str, Any]:
        """The answer to a good request; whatever else comes before it must be JSON-RPC too."""
        self.number += 1
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}).encode())
        return self.until(self.number)

    def until(self, number: object, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            answer = json.loads(line)
            assert answer["jsonrpc"] == "2.0"
            assert b"Traceback" not in line
            if answer.get("id") == number:
                return answer  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wire(place: Place) -> Iterator[Wire]:
    made = Wire(place.workspace)
    yield made
    made.stdin.close()
    assert made.process.wait(timeout=30) == 0


def request(number: object, **fields: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **fields}).encode()


MALFORMED: tuple[bytes, ...] = (
    b"",
    b"   ",
    b"no json at all",
    b"{",
    b"}{",
    b"[]",
    b"[[[]]]",
    b"null",
    b"42",
    b'"text"',
    b"{}",
    b'{"jsonrpc": "2.0"}',
    b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": null, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 900001, "method": 5}',
    b'{"jsonrpc": "2.0", "id": 900002, "method": "no/such/method"}',
    b'{"jsonrpc": "2.0", "id": 900003, "method": "tools/call"}',
    b'{"jsonrpc": "2.0", "id": 900004, "method": "tools/call", "params": []}',
    b'{"jsonrpc": "2.0", "id": 900005, "method": "tools/call", "params": {"name": 5}}',
    b'{"jsonrpc": "2.0", "id": 900006, "method": "tools/call", "params": {"name": "get_job", "arguments": []}}',
    b'{"jsonrpc": "2.0", "id": 900007, "method": "resources/read", "params": {"uri": "qlora://jobs/../../x/log"}}',
    b'{"jsonrpc": "2.0", "id": 900008, "method": "resources/read", "params": {"uri": "file:///etc/passwd"}}',
    b'{"jsonrpc": "2.0", "id": 900009, "method": "prompts/get", "params": {"name": "no_such_prompt"}}',
    b'{"jsonrpc": "2.0", "id": 900010, "method": "ping", "params": {"a": 1e999}}',
    b'{"jsonrpc": "2.0", "id": 900011, "method": "ping", "params": {"a": NaN}}',
    b'{"jsonrpc": "2.0", "id": 900012, "method": "ping", "params": {"a": ' + b"9" * 6000 + b"}}",
    b'{"jsonrpc": "2.0", "id": 900013, "method": "ping", "params": {"a": "\\ud800"}}',
    b'{"jsonrpc": "2.0", "id": 900014, "method": "tools/call", "params": {"name": "get_job", "arguments": {"\\ud800": 1}}}',
    b'{"jsonrpc": "2.0", "id": 900015, "method": "tools/call", "params": {"name": "\\ud800\\u0000", "arguments": {}}}',
    b'{"jsonrpc": "2.0", "id": 900016, "id": 900016, "method": "ping", "method": "ping"}',
    b'\xff\xfe{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 900017, "method": "pi\xc3\x28ng"}',
    b'{"jsonrpc": "2.0", "id": 900018, "method": "ping"\x00}',
    b"\x00" * 1000,
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"jsonrpc": "2.0", "id": 900019, "method": "ping", "params": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    b"x" * 10_000_000,
    b'{"jsonrpc": "2.0", "id": 900020, "method": "' + b"x" * 1_000_000 + b'"}',
)


@pytest.mark.process
def test_malformed_lines_do_not_end_the_server_nor_bring_up_a_bug(place: Place, wire: Wire) -> None:
    for line in MALFORMED:
        wire.send(line)
        assert wire.ask("ping", {})["result"] == {}, line[:100]
    said = b"".join(wire.said)
    assert TOKEN.encode() not in said


@pytest.mark.process
@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (b'{"name": "get_job", "arguments": {"job_id": "\\ud83d"}}', "hex escape"),
        (b'{"name": "get_job", "arguments": {"job_id": ' + b"[" * 300 + b"]" * 300 + b"}}", "recursion limit"),
    ],
)
def test_a_request_that_the_library_cannot_read_is_answered_under_its_id(
    params: bytes, reason: str, wire: Wire
) -> None:
    """Models write half of an emoji; unanswered, the call would hang until the client gives up."""
    wire.send(b'{"jsonrpc": "2.0", "id": "half", "method": "tools/call", "params": ' + params + b"}")
    error = wire.until("half")["error"]
    assert error["code"] == -32700
    assert reason in error["message"]
    wire.send(b"no json at all")
    assert "cannot be read" in wire.until(None)["error"]["message"]


@pytest.mark.process
def test_arguments_of_ten_megabytes_and_deep_ones_are_refused_in_words(place: Place, wire: Wire) -> None:
    deep: Any = []
    for _ in range(90):
        deep = {"a": [deep]}
    huge = "x" * 10_000_000
    cases: list[tuple[str, dict[str, Any]]] = [
        ("create_config", {"config": huge}),
        ("create_config", {"config": "[" * 20_000}),
        ("create_config", {"config": "a: &a [x, x]\n" + "\n".join(f"b{n}: &b{n} [*a, *a]" for n in range(500))}),
        ("create_config", {**GOOD["create_config"], "settings": {"rank": deep}}),
        ("create_config", {**GOOD["create_config"], "settings": {"x" * 20_000: 1}}),
        ("create_config", {huge: 1}),
        ("diagnose_failure", {"log_text": huge}),
        ("list_jobs", {"states": ["x"] * 100_000}),
    ]
    for tool, arguments in cases:
        answer = wire.ask("tools/call", {"name": tool, "arguments": arguments})
        result = answer["result"]
        assert result["isError"] is True, (tool, ascii(arguments)[:200])
        (text,) = [block["text"] for block in result["content"]]
        assert len(text) <= MOST_TEXT
        assert "Traceback" not in text
        assert "met a bug" not in text, (tool, ascii(arguments)[:200], text)
    assert wire.ask("ping", {})["result"] == {}


@pytest.mark.process
def test_the_command_answers_with_plain_text_and_without_its_secrets(place: Place, wire: Wire) -> None:
    """What a tool says in memory it says on the wire too, in the surroundings that the command makes."""
    for hostile in HOSTILE_NAMES:
        if "\ud800" in hostile:
            continue
        arguments = {"job_id": f"{hostile[:150]} {TOKEN}"}
        answer = wire.ask("tools/call", {"name": "get_job", "arguments": arguments})
        text = json.dumps(answer, ensure_ascii=False)
        assert pieces_of_secrets(text) == set()
        assert not any(hidden_characters(one) for one in strings_of(answer))
    assert pieces_of_secrets(b"".join(wire.said).decode(errors="replace")) == set()
