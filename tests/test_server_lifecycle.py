"""How a server on stdio ends: within two seconds of its client, with code 0, and jobs live on. Real processes."""

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qlora_tools import hiding
from qlora_tools.cli import main

from .job_workspace import Jobs, jobs, until  # noqa: F401

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
SECONDS = 2.0
KEY = "a-key-that-nobody-may-see"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


@dataclass
class Wire:
    """A client that writes and reads raw lines."""

    incoming: int
    outgoing: int
    lines: list[bytes] = field(default_factory=list)
    rest: bytes = b""

    def send(self, method: str, params: Any = None, id_: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        os.write(self.outgoing, json.dumps(message if id_ is None else {**message, "id": id_}).encode() + b"\n")

    def call(self, id_: int, tool: str, **arguments: Any) -> None:
        self.send("tools/call", {"name": tool, "arguments": arguments}, id_)

    def hello(self) -> None:
        self.send("initialize", HELLO, 0)
        self.answer(0)
        self.send("notifications/initialized")

    def answer(self, id_: int) -> Any:
        return until(lambda: next((one for one in self.messages() if one.get("id") == id_), None) or self.read(0.05))

    def messages(self) -> list[Any]:
        """All that came; what is no JSON-RPC fails."""
        found = [json.loads(line) for line in self.lines]
        assert all(one["jsonrpc"] == "2.0" for one in found)
        return found

    def read(self, seconds: float) -> None:
        if select.select([self.incoming], [], [], seconds)[0]:
            *whole, self.rest = (self.rest + os.read(self.incoming, 2**20)).split(b"\n")
            self.lines += whole

    def seconds_to_end(self) -> float:
        """How long the server keeps its stdout open from now on."""
        began = time.monotonic()
        while time.monotonic() < began + 10:
            select.select([self.incoming], [], [], 10)
            data = os.read(self.incoming, 2**20)
            if not data:
                break
            *whole, self.rest = (self.rest + data).split(b"\n")
            self.lines += whole
        return time.monotonic() - began


@dataclass
class Trial:
    """A server of `tests/mcp_trial.py`."""

    folder: Path
    wire: Wire
    server: int
    parent: int

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def code(self) -> int:
        return int(until(lambda: (self.folder / "code").exists() and (self.folder / "code").read_text()))

    def make_busy(self) -> None:
        """One call sits in a thread, another waits in the event loop."""
        self.wire.call(1, "sleep", seconds=30)
        self.wire.call(2, "wait", seconds=30)
        until(lambda: (self.folder / "sleeping").exists() and (self.folder / "waiting").exists())


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "TRIAL_KEY": KEY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.mcp_trial"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def start(nursery: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    opened: list[int] = []
    made: list[Trial] = []

    def started(kind: str = "good", *, hello: bool = True) -> Trial:
        for name in ("in", "out"):
            os.mkfifo(tmp_path / name)
        assert nursery.stdin is not None
        nursery.stdin.write(json.dumps({"folder": str(tmp_path), "kind": kind}) + "\n")
        nursery.stdin.flush()
        # In the order in which the server opens them: each waits for the other side.
        outgoing = os.open(tmp_path / "in", os.O_WRONLY)
        incoming = os.open(tmp_path / "out", os.O_RDONLY)
        opened.extend((outgoing, incoming))
        pids = json.loads(until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text()))
        made.append(Trial(tmp_path, Wire(incoming, outgoing), **pids))
        if hello:
            made[-1].wire.hello()
        return made[-1]

    yield started
    for descriptor in opened:
        os.close(descriptor)
    for trial in made:
        # A process closes its files a moment before it is gone.
        until(lambda trial=trial: (trial.folder / "code").exists() or not _is_there(trial.server))


def _is_there(pid: int) -> bool:
    """Whether it still runs; one that nobody buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _end_by(cause: str, trial: Trial) -> None:
    if cause == "EOF":
        # The descriptor stays, so that closing it again at the end hits nothing else.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, trial.wire.outgoing)
        os.close(nowhere)
    elif cause == "death of the parent":
        os.kill(trial.parent, signal.SIGKILL)
    else:
        os.kill(trial.server, signal.Signals[cause])


CAUSES = ("EOF", "SIGTERM", "SIGINT", "death of the parent")


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_server_ends_within_two_seconds(start: Callable[..., Trial], cause: str, busy: bool) -> None:
    trial = start()
    if busy:
        trial.make_busy()
    _end_by(cause, trial)
    assert trial.wire.seconds_to_end() < SECONDS
    assert trial.wire.rest == b""
    # What was not finished is told so or left alone, never answered twice or with anything else.
    assert {one["id"] for one in trial.wire.messages()} <= {0, 1, 2}
    assert all("error" in one for one in trial.wire.messages() if one["id"])
    if cause != "death of the parent":
        assert trial.code() == 0


def test_a_server_that_nobody_greeted_ends_too(start: Callable[..., Trial]) -> None:
    trial = start(hello=False)
    os.write(trial.wire.outgoing, b"no JSON\n")
    trial.wire.send("ping", id_=1)
    trial.wire.answer(1)
    _end_by("SIGHUP", trial)
    assert trial.wire.seconds_to_end() < SECONDS
    assert trial.code() == 0
    assert [one.get("id") for one in trial.wire.messages()] == [None, 1]


def test_what_was_asked_before_the_end_of_input_is_answered(start: Callable[..., Trial]) -> None:
    trial = start(hello=False)
    trial.wire.send("initialize", HELLO, 0)
    trial.wire.send("notifications/initialized")
    for id_ in range(1, 21):
        trial.wire.call(id_, "wait", seconds=0.2)
    _end_by("EOF", trial)
    assert trial.wire.seconds_to_end() < SECONDS
    answered = [one["id"] for one in trial.wire.messages() if "result" in one]
    assert sorted(answered) == list(range(21))


def test_nothing_but_the_protocol_reaches_stdout_and_no_secret_the_log(start: Callable[..., Trial]) -> None:
    trial = start()
    trial.wire.call(1, "chatter")
    # Code that asks for input gets none, rather than the client's next message.
    assert trial.wire.answer(1)["result"]["content"][0]["text"] == "None", trial.log()
    _end_by("SIGTERM", trial)
    trial.wire.seconds_to_end()
    assert [one["id"] for one in trial.wire.messages()] == [0, 1]
    assert trial.wire.rest == b""
    said = ("printed by Python", "without an end of line", "written to descriptor 1", "printed by a child")
    assert [one for one in said if one not in trial.log()] == []
    assert "WARNING trial: the key is [secret]" in trial.log()
    assert KEY not in trial.log()


def test_a_client_that_reads_no_answers_does_not_keep_the_server(start: Callable[..., Trial]) -> None:
    trial = start()
    trial.wire.call(1, "flood")
    until(lambda: select.select([trial.wire.incoming], [], [], 1)[0])
    _end_by("SIGTERM", trial)
    began = time.monotonic()
    assert trial.code() == 0
    assert time.monotonic() - began < SECONDS


def test_a_client_that_hangs_up_is_no_bug(start: Callable[..., Trial]) -> None:
    trial = start()
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, trial.wire.incoming)
    os.close(nowhere)
    trial.wire.send("ping", id_=1)
    assert trial.code() == 0
    assert trial.log() == ""


def test_what_is_to_be_closed_is_closed_and_may_not_hold_the_end_up(start: Callable[..., Trial]) -> None:
    trial = start("closing")
    _end_by("SIGTERM", trial)
    assert trial.wire.seconds_to_end() < SECONDS
    assert trial.code() == 0
    assert (trial.folder / "closed").exists()


def test_a_bug_ends_the_server_with_code_1_and_its_traceback(start: Callable[..., Trial]) -> None:
    trial = start("bug", hello=False)
    assert trial.code() == 1
    assert "ZeroDivisionError: a bug" in trial.log()
    assert trial.wire.seconds_to_end() < SECONDS
    assert trial.wire.lines == []


@pytest.mark.parametrize("cause", ["SIGTERM", "death of the parent"])
def test_jobs_live_on(start: Callable[..., Trial], jobs: Jobs, cause: str) -> None:  # noqa: F811
    trial = start()
    trial.wire.call(1, "train")
    job = trial.wire.answer(1)["result"]["content"][0]["text"]
    jobs.reach(job, "running")
    _end_by(cause, trial)
    assert trial.wire.seconds_to_end() < SECONDS
    assert jobs.get(job).state == "running"
    assert jobs.ended(job).state == "succeeded"


def test_the_command_serves_without_torch_and_ends_with_its_input(tmp_path: Path) -> None:
    environment = {**os.environ, "QLORA_WORKSPACE": str(tmp_path), "QLORA_MCP_TOKEN": KEY}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "qlora_tools", "mcp"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        wire = Wire(process.stdout.fileno(), process.stdin.fileno())
        wire.hello()
        wire.send("tools/list", id_=1)
        assert len(wire.answer(1)["result"]["tools"]) > 1
        status = Path(f"/proc/{process.pid}/status").read_text()
        (resident_kib,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, flags=re.MULTILINE)
        assert int(resident_kib) < 120 * 1024
        for id_ in range(2, 66):
            wire.call(id_, "list_jobs")
        assert not any(wire.answer(id_)["result"].get("isError") for id_ in range(2, 66))
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "pydantic_core" in mapped
        assert re.findall(r"\S*/(?:torch|transformers|bitsandbytes)/\S*", mapped) == []
        assert Path(f"/proc/{process.pid}/cwd").resolve() == tmp_path
        process.stdin.close()
        assert wire.seconds_to_end() < SECONDS
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def _cpu_seconds(command: list[str], said: str = "") -> tuple[float, str]:
    """What a process and what it waited for computed, which other processes of the machine hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_a_first_answer_costs_little_more_than_the_sdk(tmp_path: Path) -> None:
    about = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": HELLO["clientInfo"],
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": about}}) + "\n"
    floor, _ = _cpu_seconds([sys.executable, "-c", "from mcp.server import MCPServer"])
    cost, answer = _cpu_seconds([sys.executable, "-m", "qlora_tools", "mcp", "--workspace", str(tmp_path)], asked)
    assert len(json.loads(answer)["result"]["tools"]) > 1
    assert cost < 1.6 * floor


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `qlora mcp` in this process with arguments that it must not start with, and returns what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QLORA_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "users" / "me"))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(hiding, "_values", hiding._values.__wrapped__)
    (tmp_path / "users" / "me").mkdir(parents=True)

    def said(*arguments: str, code: int = 2) -> str:
        assert main.run(["mcp", *arguments]) == code
        return capsys.readouterr().err

    return said


def test_a_workspace_is_one_project_and_never_the_whole_disk(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").touch()
    for directory in ("/", str(tmp_path), str(tmp_path / "users"), "~"):
        assert "holds your home directory" in refused("--workspace", directory)
        assert "holds your home directory" in refused("--workspace", "users", "--allow-read", directory)
    assert "holds your home directory" in refused()
    assert f"--workspace: {tmp_path}/nowhere is no directory" in refused("--workspace", "nowhere")
    assert f"--workspace: {tmp_path}/file is no directory" in refused("--workspace", "file")


def test_options_of_http_are_not_ignored_without_it(refused: Callable[..., str]) -> None:
    for option in ("--host=0.0.0.0", "--port=80", "--allow-host=a", "--allow-origin=b"):
        assert f"{option.split('=')[0]} is for --http alone" in refused(option)


def test_http_for_other_machines_needs_a_token_and_names(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    arguments = ("--http", "--workspace", "project", "--host", "0.0.0.0")
    assert "missing: QLORA_MCP_TOKEN, --allow-host" in refused(*arguments)
    monkeypatch.setenv("QLORA_MCP_TOKEN", "short")
    assert "has 5 characters" in refused("--http", "--workspace", str(tmp_path / "project"))
