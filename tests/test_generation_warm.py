"""The warm worker: loads once, ends when it should, and takes nothing with it that anybody misses."""

import io
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.errors import MachineError, ModelError, UsageError
from qlora_tools.events import RunEvent, ignore
from qlora_tools.generation import AnsweringStopped
from qlora_tools.jobs.layout import Ticket, Workspace, new_id
from qlora_tools.worker import giving_way, keeper
from qlora_tools.worker.giving_way import GivingWay
from qlora_tools.worker.keeper import Keeper
from qlora_tools.worker.keeping import Keeping
from qlora_tools.worker.warm import WarmLimits, WarmWorker

from .job_workspace import until

Models = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of warm workers is that of the user: other tests and programs have theirs."""
    monkeypatch.setenv("QLORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def adapters(tiny_model: Models, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three untrained adapters on one base in 16 bits, made by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = []
    for number in range(3):
        torch.manual_seed(number)
        directory = tmp_path_factory.mktemp("adapters") / f"a{number}"
        base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
        settings = LoraConfig(
            target_modules=["v_proj", "down_proj"], lora_alpha=64, task_type="CAUSAL_LM", init_lora_weights=False
        )
        get_peft_model(base, settings).save_pretrained(directory)
        made.append(directory)
    return made


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WarmWorker]:
    made = WarmWorker(tmp_path)
    yield made
    made.close()


def asked(adapter: Path, **more: Any) -> dict[str, Any]:
    return {"adapter": str(adapter), "prompts": ["say one"], "side": "adapter", "max_new_tokens": 4, **more}


def put_ticket(workspace: Path) -> Path:
    space = Workspace.at(workspace)
    space.active.mkdir(parents=True, exist_ok=True)
    path = space.active / Ticket(1, new_id(), 1).name
    path.touch()
    return path


def pid_of(worker: WarmWorker) -> int:
    assert worker._child is not None
    return worker._child._process.pid


@pytest.mark.process
def test_one_process_loads_once_changes_adapters_stops_when_asked_and_is_missed_when_it_is_killed(
    adapters: list[Path], worker: WarmWorker
) -> None:
    first: list[RunEvent] = []
    second: list[RunEvent] = []
    one = worker.ask("generate", asked(adapters[0]), on_event=first.append)
    pid = pid_of(worker)
    again = worker.ask("generate", asked(adapters[0]), on_event=second.append)
    assert one["answers"] == again["answers"]
    assert any("Loading the base" in event.message for event in first)
    assert not any("Loading" in event.message for event in second)
    assert any(event.values.get("partial") for event in second)
    third: list[RunEvent] = []
    other = worker.ask("generate", asked(adapters[1]), on_event=third.append)
    assert [event.message for event in third if "Loading" in event.message] == ["Loading the adapter"]
    assert other["answers"] != one["answers"]
    with pytest.raises(AnsweringStopped):
        long = asked(adapters[0], prompts=["say one"] * 30, temperature=5.0, max_new_tokens=9000)
        worker.ask("generate", long, stop=lambda: True)
    assert worker.ask("generate", asked(adapters[0]))["answers"] == one["answers"]
    assert pid_of(worker) == pid
    with pytest.raises(MachineError, match="ended with code -9"):
        worker.ask("generate", asked(adapters[0]), on_event=lambda event: os.kill(pid, signal.SIGKILL))


@pytest.mark.process
def test_mistakes_are_told_in_words_and_a_killed_process_is_replaced(worker: WarmWorker, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no adapter directory"):
        worker.ask("generate", asked(tmp_path / "nothing"))
    pid = pid_of(worker)
    with pytest.raises(UsageError, match="top_p is 3"):
        worker.ask("generate", asked(tmp_path, top_p=3))
    assert pid_of(worker) == pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not worker.alive)
    with pytest.raises(ModelError):
        worker.ask("generate", asked(tmp_path / "nothing"))
    assert pid_of(worker) != pid


@pytest.mark.process
def test_a_caller_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom qlora_tools.worker.warm import WarmWorker, WarmLimits\n"
        f"worker = WarmWorker(Path({str(tmp_path)!r}), WarmLimits(idle_seconds=300))\n"
        "try:\n    worker.ask('generate', {'adapter': 'nothing', 'prompts': ['x']})\n"
        "except Exception:\n    print(worker._child._process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    until(lambda: not Path(f"/proc/{int(said.stdout)}").exists())


@pytest.mark.process
@pytest.mark.parametrize("reason", ["idle", pytest.param("job", marks=pytest.mark.slow)])
def test_a_process_ends_without_work_and_when_a_job_comes(reason: str, tmp_path: Path) -> None:
    worker = WarmWorker(tmp_path, WarmLimits(idle_seconds=0.1 if reason == "idle" else 600))
    with pytest.raises(ModelError):
        worker.ask("generate", asked(tmp_path / "nothing"))
    if reason == "job":
        put_ticket(tmp_path)
    until(lambda: not worker.alive)


def keeping(lines: list[dict[str, Any]], way: GivingWay) -> list[dict[str, Any]]:
    """What a warm process on a GPU would say to these lines, one after the other."""
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    said = io.StringIO()
    for line in lines:
        inbox.put(line)
    Keeping({"idle_seconds": 0.3}, inbox, said, way).run()
    return [json.loads(line) for line in said.getvalue().splitlines()]


def test_on_a_gpu_a_job_comes_first(adapters: list[Path], tmp_path: Path) -> None:
    ticket = put_ticket(tmp_path)
    lines = [{"id": 1, "arguments": asked(adapters[0])}]
    refused = keeping(lines, GivingWay(Workspace.at(tmp_path), on_gpu=True))[-1]["error"]
    assert refused["error"] == "MachineError"
    assert ticket.name.split("-", 1)[1].partition(".")[0] in refused["message"]
    assert "Ask again when that has ended" in refused["next_step"]


def test_on_a_gpu_what_is_under_way_when_a_job_comes_is_given_up_after_its_grace(
    adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving_way, "_LOOK_SECONDS", 0.0)
    way = GivingWay(Workspace.at(tmp_path), on_gpu=True, grace_seconds=0.0)
    sessions = Keeper.sessions

    def comes(one: Keeper, *arguments: Any) -> Any:
        found = sessions(one, *arguments)
        put_ticket(tmp_path)
        return found

    monkeypatch.setattr(Keeper, "sessions", comes)
    told = keeping([{"id": 1, "arguments": asked(adapters[0])}], way)[-1]["error"]
    assert "0 of 1 prompts were answered" in told["message"]


def test_on_a_cpu_what_is_under_way_is_answered_to_its_end(adapters: list[Path], tmp_path: Path) -> None:
    put_ticket(tmp_path)
    said = keeping([{"id": 1, "arguments": asked(adapters[0])}], GivingWay(Workspace.at(tmp_path), on_gpu=False))
    assert said[-1]["result"]["answers"][0]["adapter"] is not None


def test_of_two_workers_on_a_gpu_the_newer_one_takes_over(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom qlora_tools.jobs.layout import Workspace\n"
        "from qlora_tools.worker.giving_way import GivingWay\n"
        f"way = GivingWay(Workspace.at(Path({str(tmp_path / 'other')!r})), on_gpu=True)\n"
        "way.claim()\nprint('claimed', flush=True)\n"
        "while not way.wanted():\n    time.sleep(0.02)\nprint(way.reason)\n"
    )
    older = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert older.stdout is not None
    assert older.stdout.readline() == "claimed\n"
    GivingWay(Workspace.at(tmp_path), on_gpu=True).claim()
    assert "another warm worker" in older.stdout.read()
    assert older.wait(timeout=30) == 0


def test_adapters_used_longest_ago_go_first_and_what_does_not_fit_is_refused(
    adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_ADAPTERS", 2)
    kept = Keeper(None)
    for number in (0, 1, 0, 2):
        kept.sessions({"x": adapters[number]}, "trained", ignore)
    assert [one.directory for one in kept._sessions] == [adapters[0], adapters[2]]
    model = next(iter(kept._sessions.values())).model
    assert len(model.peft_config) == 2
    with pytest.raises(MachineError, match=r"needs about .* are allowed"):
        Keeper(1000).sessions({"x": adapters[0]}, "trained", ignore)


def test_an_adapter_that_was_trained_again_is_loaded_again(adapters: list[Path], tmp_path: Path) -> None:
    import shutil

    directory = tmp_path / "again"
    shutil.copytree(adapters[0], directory)
    kept = Keeper(None)
    (before,) = kept.sessions({"x": directory}, "trained", ignore).values()
    shutil.copy(adapters[1] / "adapter_model.safetensors", directory / "adapter_model.safetensors")
    (after,) = kept.sessions({"x": directory}, "trained", ignore).values()
    turns = [({"role": "user", "content": "say one"},)]
    (other,) = kept.sessions({"x": adapters[1]}, "trained", ignore).values()
    assert after.answer(turns, with_adapter=True, max_new_tokens=6) == other.answer(
        turns, with_adapter=True, max_new_tokens=6
    )
    assert before.adapter_name not in after.model.peft_config
