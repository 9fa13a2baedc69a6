"""The tools as an agent meets them: their schemas, their answers, and errors that can be mended in one try."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from .finished_jobs import write_finished_jobs
from .job_workspace import Jobs, jobs  # noqa: F401 - the fixture
from .server_talk import called, talk, text_of, tools_of

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOTS = Path(__file__).parent / "snapshots" / "tools"
MODEL = "smollm2-135m-instruct"
# JSON has about 3.4 characters a token in the tokenizer of SmolLM2, and more in those of larger models.
CHARACTERS_PER_TOKEN = 3.4
READS = ["inspect_dataset", "check_environment", "estimate_memory", "create_config", "get_job", "list_jobs"]
READS += ["diagnose_failure", "generate_text"]
CHANGES = ["render_script", "start_training", "evaluate_adapter", "merge_adapter", "export_model", "control_job"]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {tool["name"]: tool for tool in tools_of(tmp_path_factory.mktemp("workspace"))}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    rows = [{"question": f"{number} plus one?", "answer": str(number + 1)} for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_tools_are_these_and_no_others(tools: dict[str, Any]) -> None:
    assert list(tools) == READS + CHANGES


def test_a_read_only_server_has_no_tool_that_changes_anything(tmp_path: Path) -> None:
    assert [tool["name"] for tool in tools_of(tmp_path, read_only=True)] == READS
    refused = talk(tmp_path, lambda client: client.call_tool("start_training", {}), read_only=True)
    assert refused.is_error
    assert "There is no tool 'start_training'; there are: inspect_dataset" in text_of(refused)


def test_each_tool_is_the_committed_one(tools: dict[str, Any]) -> None:
    SNAPSHOTS.mkdir(exist_ok=True)
    for name, tool in tools.items():
        path = SNAPSHOTS / f"{name}.json"
        if os.environ.get("QLORA_UPDATE_SNAPSHOTS") == "1":
            path.write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        assert json.loads(path.read_text(encoding="utf-8")) == tool, (
            f"{name} changed. If that is meant, run and commit: "
            "QLORA_UPDATE_SNAPSHOTS=1 python -m pytest tests/test_server_tools.py"
        )
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(tools)


def test_every_tool_is_typed_both_ways_bounded_and_annotated(tools: dict[str, Any]) -> None:
    for name, tool in tools.items():
        assert re.fullmatch("[a-z]+_[a-z]+", name)
        assert set(tool["annotations"]) == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
        assert tool["annotations"]["readOnlyHint"] is (name in READS)
        assert tool["title"]
        assert 40 <= len(tool["description"]) <= 700
        assert tool["inputSchema"]["additionalProperties"] is False
        assert {"type", "properties"} <= set(tool["outputSchema"])
        assert "next_call" in tool["outputSchema"]["required"]
        for side in ("inputSchema", "outputSchema"):
            assert not {"anyOf", "oneOf", "allOf", "$ref"} & set(tool[side])
            assert '"$ref"' not in json.dumps(tool[side])


def test_every_argument_is_described_and_bounded(tools: dict[str, Any]) -> None:
    bounds = {"string": ("maxLength", "enum"), "number": ("maximum",), "integer": ("maximum",), "array": ("maxItems",)}
    for name, tool in tools.items():
        for argument, schema in tool["inputSchema"]["properties"].items():
            place = f"{name}.{argument}"
            assert any(bound in schema for bound in bounds.get(schema["type"], ("type",))), place
            told = "description" in schema or "default" in schema or "enum" in schema
            assert told, place


def test_the_list_of_tools_costs_an_agent_at_most_five_thousand_tokens(tools: dict[str, Any]) -> None:
    assert len(json.dumps(list(tools.values()), separators=(",", ":"))) / CHARACTERS_PER_TOKEN <= 5_000


def test_every_tool_is_named_where_people_and_agents_look(tools: dict[str, Any]) -> None:
    for place in ("README.md", "SKILL.md", "qlora_tools/guide/topics/qlora.md"):
        text = (ROOT / place).read_text(encoding="utf-8")
        assert [name for name in tools if name not in text] == [], place


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("estimate_memory", {"modell": MODEL}, ["'modell' (did you mean model?)", "Arguments of estimate_memory: "]),
        ("estimate_memory", {"model": MODEL, "rank": 8}, ["put it into settings, as {'lora.rank'"]),
        ("start_training", {"learning_rate": 1e-4}, ["put it into config, as {'training': {'learning_rate': ...}}"]),
        ("control_job", {"job_id": "last"}, ["action is required", "action*"]),
        ("control_job", {"job_id": "last", "action": "pause"}, ["action should be 'stop', 'cancel' or 'resume'", "'pause'"]),
        ("control_job", {"job_id": "a", "action": "stop", "from_start": True}, ["from_start has no meaning for"]),
        ("get_job", {"wait_seconds": 31}, ["wait_seconds should be less than or equal to 30", "31"]),
        ("get_job", {}, ["There is no job 'last'", "start_training"]),
        ("generate_text", {"adapter": "out", "prompts": []}, ["prompts", "at least 1 item"]),
        ("generate_text", {"adapter": "job-x", "prompts": ["a"]}, ["There is no job 'job-x'"]),
        ("estimate_memory", {"model": "llama-3.1-8b-instrukt"}, ["nearest: llama-3.1-8b-instruct"]),
        ("estimate_memory", {"model": MODEL, "gpu": "4080x"}, ["No GPU called '4080x'", "Nearest: "]),
        ("estimate_memory", {"model": MODEL, "settings": {"lora.rnk": 1}}, ["did you mean lora.rank"]),
        ("estimate_memory", {}, ["needs a model", "view='largest_models'"]),
        ("create_config", {"model": MODEL}, ["needs model and data"]),
        ("render_script", {}, ["Neither config nor script_path"]),
        ("create_config", {"config": {"model": {"name": MODEL}}}, ["data: ", "output: "]),
        ("create_config", {"config": "model: {name: x"}, ["config", "given was"]),
        ("start_training", {}, ["Exactly one of config and config_path"]),
        ("start_training", {"config_path": "none.yaml"}, ["none.yaml"]),
        ("start_training", {"config_path": "../out.yaml"}, ["config_path"]),
        ("diagnose_failure", {"log_text": "a", "job_id": "b"}, ["log_path were given (job_id, log_text); exactly one"]),
        ("create_config", {"config": {f"k{n}": 1 for n in range(4_000)}}, ["config is too large for a config"]),
        ("create_config", {"config": "{" * 5_000}, ["config is too large for a config"]),
        ("start_training", {"config": f"{{model: {{name: {MODEL}}}, data: {{path: row.jsonl}}, output: {{directory: o}}}}"},
         ["There is no dataset", "rows.jsonl"]),
        ("estimate_memory", {"model": MODEL, "gpu": "none such"}, ["memory_limit_gib=24"]),
        ("inspect_dataset", {"data": "/etc/passwd"}, ["data", "/etc/passwd"]),
        ("list_jobs", {"states": ["done"]}, ["states.0 should be", "'done'"]),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told_what_is_wrong_and_what_is_allowed(
    workspace: Path, tool: str, arguments: dict[str, Any], words: list[str]
) -> None:
    result = called(workspace, tool, **arguments)
    assert result.is_error
    text = text_of(result)
    assert text.startswith("Error: ")
    assert "\nNext: " in text
    for word in words:
        assert word in text
    assert "pydantic" not in text
    assert "Traceback" not in text
    assert "Error executing" not in text


def test_null_for_an_optional_argument_means_not_given(workspace: Path) -> None:
    result = called(workspace, "estimate_memory", model=MODEL, gpu="t4", memory_limit_gib=None, settings=None)
    assert not result.is_error


def test_a_setting_written_as_json_text_is_read(workspace: Path) -> None:
    result = called(workspace, "estimate_memory", model=MODEL, gpu="t4", settings='{"rank": 64}')
    assert not result.is_error


def test_an_estimate_is_in_words_and_in_numbers_that_agree(workspace: Path) -> None:
    result = called(workspace, "estimate_memory", model="llama-3.1-8b-instruct", gpu="4090")
    numbers = result.structured_content
    assert numbers["fits"] is True
    assert f"{numbers['needed_gib']} of {numbers['free_gib']} GiB on RTX 4090" in text_of(result)
    assert abs(sum(numbers["parts_gib"].values()) - numbers["expected_gib"]) < 0.1
    assert numbers["next_call"].startswith("create_config(")


def test_what_does_not_fit_is_said_and_led_on(workspace: Path) -> None:
    result = called(workspace, "estimate_memory", model="llama-3.1-70b-instruct", gpu="t4")
    assert result.structured_content["fits"] is False
    assert "largest_models" in result.structured_content["next_call"]
    assert not result.is_error


def test_the_largest_models_of_a_gpu_are_listed_with_licence_and_longest_row(workspace: Path) -> None:
    result = called(workspace, "estimate_memory", view="largest_models", gpu="t4")
    models = result.structured_content["models"]
    assert len(models) > 3
    assert all(model["needed_gib"] <= result.structured_content["free_gib"] for model in models)
    assert models[0]["licence"]
    assert models[0]["longest_row_tokens"] >= 512


def test_a_config_is_completed_and_explained_from_yaml_and_from_data(workspace: Path) -> None:
    text = f"model: {{name: {MODEL}}}\ndata: {{path: rows.jsonl}}\noutput: {{directory: out}}\nlora: {{rank: 8}}\n"
    result = called(workspace, "create_config", config=text)
    assert result.structured_content["config"]["lora"] == {"rank": 8}
    assert result.structured_content["config"]["output"]["directory"] == str(workspace / "out")
    explained = {value["field"]: value for value in result.structured_content["values"]}
    assert explained["lora.rank"]["value"] == 8
    assert "capacity" in explained["lora.rank"]["effect"]


def test_a_plan_comes_with_its_config_and_a_reason_for_each_value(workspace: Path) -> None:
    result = called(workspace, "create_config", model="qwen3-8b", data="rows.jsonl", gpu="4090", settings={"rank": 8})
    plan = result.structured_content
    assert plan["fits"] is True
    assert plan["config"]["lora"]["rank"] == 8
    assert plan["config"]["data"]["path"] == str(workspace / "rows.jsonl")
    assert all(value["reason"] and value["effect"] for value in plan["values"])
    assert json.dumps(plan["config"]["lora"]) in text_of(result)
    checked = called(workspace, "create_config", config=plan["config"])
    assert checked.structured_content["config"]["lora"]["rank"] == 8


def test_rows_are_inspected_in_a_worker_with_a_histogram_and_progress(workspace: Path) -> None:
    told: list[str | None] = []

    async def watch(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    arguments = {"data": "rows.jsonl", "model": MODEL}
    result = talk(workspace, lambda client: client.call_tool("inspect_dataset", arguments, progress_callback=watch))
    found = result.structured_content
    assert found["verdict"].startswith("ready")
    assert found["format"] == "question_answer"
    assert any(part.type == "image" and part.mime_type == "image/png" for part in result.content)
    assert "[[1<|im_end|>]]" in found["masks"][0]
    assert told[0] == "Starting"
    assert len(set(told)) > 1


def test_an_agent_trains_follows_asks_and_reads_on_from_the_handle_alone(
    workspace: Path, tiny_model: Callable[[str], Path], chat_rows: Path
) -> None:
    (workspace / "model").symlink_to(tiny_model("llama"))
    (workspace / "chats.jsonl").write_bytes(chat_rows.read_bytes())
    training = {"max_steps": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_length_tokens": 64}
    config = {
        "model": {"name": str(tiny_model("llama"))},
        "data": {"path": "chats.jsonl"},
        "training": {**training, "smoke_generation": False, "evaluation_samples": 0},
        "output": {"directory": "out"},
    }

    async def work(client: Client) -> dict[str, Any]:
        planned = await client.call_tool("start_training", {"config": config, "dry_run": True})
        begun = await client.call_tool("start_training", {"config": config, "idempotency_key": "once"})
        again = await client.call_tool("start_training", {"config": config, "idempotency_key": "once"})
        job = begun.structured_content["id"]
        status = await ended(client, job)
        shown = await client.call_tool("get_job", {"job_id": job, "curve": True, "log_lines": 5})
        asked = {"adapter": job, "prompts": ["say number 3"], "max_new_tokens": 4}
        answers = [await client.call_tool("generate_text", asked) for _ in range(2)]
        parts = {
            part: (await client.read_resource(f"qlora://jobs/{job}/{part}")).contents[0].text
            for part in ("config", "log", "metrics", "report")
        }
        return {"planned": planned, "begun": begun, "again": again, "status": status, "shown": shown,
                "answers": answers, "parts": parts}  # fmt: skip

    found = talk(workspace, work, allow_read=(tiny_model("llama").resolve(),))
    assert found["planned"].structured_content["id"] == ""
    assert found["again"].structured_content["id"] == found["begun"].structured_content["id"]
    status = found["status"].structured_content
    assert (status["state"], status["step"], status["result"]["steps"]) == ("succeeded", 2, 2)
    assert "losses" not in status["result"]
    assert status["next_call"].startswith("generate_text(adapter='job-")
    kinds = [part.type for part in found["shown"].content]
    assert kinds == ["text", "image", "resource_link", "resource_link", "resource_link"]
    first, second = found["answers"]
    assert not first.is_error, text_of(first)
    assert first.structured_content["answers"] == second.structured_content["answers"]
    assert set(first.structured_content["answers"][0]) == {"prompt", "base", "adapter"}
    assert second.structured_content["seconds"] < first.structured_content["seconds"]
    assert len(found["parts"]["metrics"].splitlines()) >= 2
    assert "max_steps: 2" in found["parts"]["config"]
    assert found["parts"]["report"].startswith("<!doctype html>")


@pytest.mark.slow
def test_an_agent_evaluates_merges_and_exports_what_it_has_trained(
    workspace: Path, tiny_model: Callable[[str], Path], chat_rows: Path
) -> None:
    (workspace / "chats.jsonl").write_bytes(chat_rows.read_bytes())
    training = {"max_steps": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_length_tokens": 64}
    config = {
        "model": {"name": str(tiny_model("llama"))},
        "data": {"path": "chats.jsonl"},
        "training": {**training, "smoke_generation": False, "evaluation_samples": 0},
        "output": {"directory": "out"},
    }

    async def work(client: Client) -> dict[str, Any]:
        job = (await client.call_tool("start_training", {"config": config})).structured_content["id"]
        await ended(client, job)
        return await shipped(client, job)

    assert_shipped(workspace, talk(workspace, work, allow_read=(tiny_model("llama").resolve(),)))


async def ended(client: Client, job: str) -> Any:
    """What get_job says of a job that has ended."""
    status = await client.call_tool("get_job", {"job_id": job})
    with anyio.fail_after(240):
        while not status.structured_content["finished"]:
            status = await client.call_tool("get_job", {"job_id": job, "wait_seconds": 30})
    return status


async def shipped(client: Client, job: str) -> dict[str, Any]:
    """Evaluation, merge and export of a training, as one conversation: how each was started, and how it ended."""
    calls = {
        "evaluate_adapter": {"adapter": job, "data": "chats.jsonl", "max_rows": 4, "metrics": ["exact_match"]},
        "merge_adapter": {"adapter": "last", "output": "merged", "dtype": "float32"},
        "export_model": {"source": job, "to": "adapter", "output": "package", "base_name": "owner/base"},
    }
    planned = [await client.call_tool(tool, {**asked, "dry_run": True}) for tool, asked in calls.items()]
    begun = [await client.call_tool(tool, asked) for tool, asked in calls.items()]
    made = [result.structured_content["id"] for result in begun]
    found = [await ended(client, one) for one in made]
    page = (await client.read_resource(f"qlora://jobs/{made[0]}/report")).contents[0].text
    config = (await client.read_resource(f"qlora://jobs/{made[1]}/config")).contents[0].text
    return {"planned": planned, "found": found, "page": page, "config": config}


def assert_shipped(workspace: Path, told: dict[str, Any]) -> None:
    assert [result.structured_content["id"] for result in told["planned"]] == ["", "", ""]
    evaluation, merge, export = (result.structured_content for result in told["found"])
    for result in told["found"]:
        assert result.structured_content["state"] == "succeeded", text_of(result)
        assert len(text_of(result)) <= 1_900
    assert evaluation["kind"] == "evaluate"
    assert evaluation["result"]["verdict"]["decision"] in ("ship", "do not ship", "cannot tell")
    assert evaluation["result"]["rows"]["used"] == 4
    words = text_of(told["found"][0])
    assert f"Result: {evaluation['result']['verdict']['decision']}: " in words
    assert "exact_match: base " in words
    assert "row_losses" not in evaluation["result"]
    assert told["page"].lower().startswith("<!doctype html>")
    assert merge["result"]["parity"]["passed"] is True
    assert "parity passed: top-1 agreement" in text_of(told["found"][1])
    assert merge["next_call"].startswith("export_model(source='job-")
    assert (workspace / "merged" / "config.json").is_file()
    assert json.loads(told["config"])["arguments"]["output"] == str(workspace / "merged")
    assert (workspace / "package" / "README.md").is_file()
    assert export["output_directory"] == str(workspace / "package")


def test_a_wait_lasts_as_long_as_the_job_and_cancelling_it_leaves_the_job_alone(jobs: Jobs) -> None:  # noqa: F811
    started = jobs.start("good", steps=100_000)

    async def cancelled(client: Client) -> Any:
        with anyio.move_on_after(1.0) as scope:
            await client.call_tool("get_job", {"job_id": started.id, "wait_seconds": 30})
        assert scope.cancelled_caught
        status = await client.call_tool("get_job", {"job_id": started.id})
        await client.call_tool("control_job", {"job_id": started.id, "action": "cancel", "now": True})
        ended = await client.call_tool("get_job", {"job_id": started.id, "wait_seconds": 30})
        return status.structured_content["state"], ended.structured_content

    state, ended = talk(jobs.directory, cancelled)
    assert state in ("created", "queued", "starting", "running")
    assert (ended["state"], ended["finished"]) == ("cancelled", True)
    assert ended["next_call"].startswith("start_training")


def test_jobs_are_listed_the_newest_first_and_by_state(tmp_path: Path) -> None:
    from qlora_tools.jobs.layout import Workspace

    written = write_finished_jobs(Workspace.at(tmp_path), 12)
    found = called(tmp_path, "list_jobs", limit=3).structured_content
    assert [job["id"] for job in found["jobs"]] == written[:-4:-1]
    assert found["total"] == 12
    failed = called(tmp_path, "list_jobs", states=["failed"]).structured_content
    assert [job["state"] for job in failed["jobs"]] == ["failed"] * failed["total"]


def test_a_failure_is_diagnosed_with_the_change_that_mends_it(workspace: Path) -> None:
    log = "ValueError: Attempting to unscale FP16 gradients."
    result = called(workspace, "diagnose_failure", log_text=log)
    assert result.structured_content["recognised"] is True
    assert result.structured_content["causes"][0]["evidence"] == log
    unknown = called(workspace, "diagnose_failure", log_text="all is well")
    assert unknown.structured_content["recognised"] is False


def test_no_answer_in_words_is_longer_than_five_hundred_tokens(workspace: Path) -> None:
    for tool, arguments in (
        ("estimate_memory", {"view": "largest_models", "gpu": "h100"}),
        ("create_config", {"model": "llama-3.1-70b-instruct", "data": "rows.jsonl", "gpu": "t4"}),
        ("diagnose_failure", {"log_text": "CUDA out of memory. " * 500}),
    ):
        assert len(text_of(called(workspace, tool, **arguments))) <= 1_900


def test_guides_and_the_schema_are_resources_and_wrong_ones_are_named(workspace: Path) -> None:
    from qlora_tools.guide import topics

    async def read(client: Client) -> tuple[set[str], str, str]:
        listed = {str(resource.uri) for resource in (await client.list_resources()).resources}
        schema = (await client.read_resource("qlora://config/schema")).contents[0].text
        try:
            await client.read_resource("qlora://guide/lorra")
        except MCPError as error:
            return listed, schema, str(error)
        return listed, schema, ""

    listed, schema, wrong = talk(workspace, read)
    assert listed == {f"qlora://guide/{topic}" for topic in topics()} | {"qlora://config/schema"}
    assert json.loads(schema)["title"] == "RunConfig"
    assert "There is no guide topic 'lorra'" in wrong


def test_prompts_name_only_tools_that_exist(workspace: Path, tools: dict[str, Any]) -> None:
    async def texts(client: Client) -> list[str]:
        found = []
        for prompt in (await client.list_prompts()).prompts:
            arguments = {argument.name: "x" for argument in prompt.arguments or ()}
            found.append((await client.get_prompt(prompt.name, arguments)).messages[0].content.text)
        return found

    prompts = talk(workspace, texts)
    assert len(prompts) == 4
    for text in prompts:
        named = set(
            re.findall(
                r"\b(?:check|inspect|estimate|create|start|get|list|control|diagnose|generate|evaluate|merge|export)_[a-z]+",
                text,
            )
        )
        assert named
        assert named <= set(tools)


def test_a_text_that_looks_like_json_stays_a_text(workspace: Path) -> None:
    result = called(workspace, "diagnose_failure", log_text='{"error": "CUDA out of memory. Tried to allocate 2 GiB"}')
    assert result.structured_content["recognised"] is True


def test_a_read_only_server_says_so_where_it_names_a_tool_that_it_leaves_out(workspace: Path) -> None:
    asked = {"config": {"model": {"name": MODEL}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}}
    result = talk(workspace, lambda client: client.call_tool("create_config", asked), read_only=True)
    assert "read-only and has no start_training" in text_of(result)


def test_a_long_answer_is_cut_before_its_next_call() -> None:
    from qlora_tools.server.answers import MOST_CHARACTERS, Structured, answered

    class Nothing(Structured):
        """Nothing."""

    text = text_of(answered("word " * 1_000 + "\nNext: do this.", Nothing()))
    assert len(text) <= MOST_CHARACTERS
    assert text.endswith("…\nNext: do this.")


def test_a_job_that_has_not_failed_is_not_diagnosed(tmp_path: Path) -> None:
    from qlora_tools.jobs.layout import Workspace

    job = write_finished_jobs(Workspace.at(tmp_path), 1)[0]
    config = {"model": {"name": MODEL}, "data": {"path": "rows.jsonl"}, "output": {"directory": "out"}}
    Workspace.at(tmp_path).job(job).config_file.write_text(json.dumps(config))
    found = called(tmp_path, "diagnose_failure", job_id=job).structured_content
    assert found["recognised"] is False
    assert "it has not failed" in found["next_call"]


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ["log.txt", "status.json", "config.json", "attempt-001/exit.json"])
def test_a_job_store_with_links_and_pipes_leads_nowhere_and_hangs_nobody(tmp_path: Path, kind: str, name: str) -> None:
    from qlora_tools.jobs.layout import Workspace

    secret = tmp_path / "outside.txt"
    secret.write_text(json.dumps({"message": "the canary"}))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    job = write_finished_jobs(Workspace.at(workspace), 1)[0]
    path = Workspace.at(workspace).job(job).path / name
    path.unlink()
    path.symlink_to(secret) if kind == "link" else os.mkfifo(path)

    async def look(client: Client) -> str:
        seen = [await client.call_tool("get_job", {"job_id": job, "log_lines": 20})]
        seen.append(await client.call_tool("list_jobs", {}))
        seen.append(await client.call_tool("diagnose_failure", {"job_id": job}))
        texts = [repr(result) for result in seen]
        for part in ("log", "config"):
            try:
                texts.append(repr(await client.read_resource(f"qlora://jobs/{job}/{part}")))
            except MCPError as error:
                texts.append(str(error))
        return " ".join(texts)

    async def in_time(client: Client) -> str:
        with anyio.fail_after(20):
            return await look(client)

    assert "canary" not in talk(workspace, in_time)


def test_a_job_store_that_is_a_link_is_refused(tmp_path: Path) -> None:
    from qlora_tools.access import Access
    from qlora_tools.errors import UsageError

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".qlora").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        Access(tmp_path)
