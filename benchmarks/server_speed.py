"""How fast the MCP server answers over stdio, and what it costs: `server_speed.py [ROUNDS]`, 7 unless told.

The floor is Python with `from mcp.server import MCPServer`, up to its first line of output; the server's first answer is
that to `initialize`, which is sent at once. Both are started in turn, so that the machine's moods fall on both. Calls are
200 of each tool with 32 under way, in a workspace with 50 finished jobs, from a client of raw lines that parses JSON alone.
Memory and calls are taken when the server has come to rest. Writes `benchmarks/results/server_speed.json`.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qlora_tools.jobs.layout import Workspace  # noqa: E402
from tests.finished_jobs import write_finished_jobs  # noqa: E402

RESULT = Path(__file__).parent / "results" / "server_speed.json"
FLOOR = "from mcp.server import MCPServer; print('there', flush=True)"
CALLS, IN_FLIGHT, JOBS = 200, 32, 50
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}


class Session:
    """A server and its client, who writes and reads lines."""

    def __init__(self, workspace: Path) -> None:
        self.began = time.perf_counter()
        command = [sys.executable, "-m", "qlora_tools", "mcp", "--workspace", str(workspace)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, bufsize=0)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._incoming = os.fdopen(os.dup(self.process.stdout.fileno()), "rb")
        self._outgoing = self.process.stdin

    def send(self, method: str, params: dict[str, Any], id_: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self._outgoing.write(json.dumps(message if id_ is None else {**message, "id": id_}).encode() + b"\n")

    def next_answer(self) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = json.loads(self._incoming.readline())
            if "id" in answer:
                if "error" in answer or answer["result"].get("isError"):
                    self.process.kill()
                    raise SystemExit(f"the server answered {answer}")
                return answer

    def greet(self) -> tuple[float, float]:
        """Seconds from the start of the process to the answers to `initialize` and `tools/list`."""
        self.send("initialize", HELLO, 0)
        self.next_answer()
        first = time.perf_counter() - self.began
        self.send("notifications/initialized", {})
        self.send("tools/list", {}, 1)
        self.next_answer()
        return first, time.perf_counter() - self.began

    def come_to_rest(self) -> None:
        """Wait until it computes nothing any more: after its first answer it imports what later calls need."""
        before, now = -1.0, self._cpu_ticks()
        while now != before:
            time.sleep(0.5)
            before, now = now, self._cpu_ticks()

    def _cpu_ticks(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return float(fields[11]) + float(fields[12])

    def resident_mib(self) -> float:
        """What it holds of the machine's memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def end(self) -> float:
        """Seconds from the end of its input to its own."""
        began = time.perf_counter()
        self._outgoing.close()
        assert self.process.wait(10) == 0
        return time.perf_counter() - began

    def milliseconds_of_one(self, tool: str, arguments: dict[str, Any]) -> float:
        """Of a call with nothing else under way."""
        began = time.perf_counter()
        self.send("tools/call", {"name": tool, "arguments": arguments}, CALLS)
        self.next_answer()
        return 1000 * (time.perf_counter() - began)

    def milliseconds_of_calls(self, tool: str, arguments: Callable[[int], dict[str, Any]]) -> list[float]:
        """Of each call from writing to reading its answer, with `IN_FLIGHT` under way all the time."""
        sent: dict[int, float] = {}
        taken: list[float] = []

        def ask(number: int) -> None:
            sent[number] = time.perf_counter()
            self.send("tools/call", {"name": tool, "arguments": arguments(number)}, number)

        for number in range(IN_FLIGHT):
            ask(number)
        for number in range(IN_FLIGHT, CALLS + IN_FLIGHT):
            answer = self.next_answer()
            taken.append(1000 * (time.perf_counter() - sent[answer["id"]]))
            if number < CALLS:
                ask(number)
        return taken


def main() -> None:
    """Measure, print, and write the result."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        figures = measured(Path(directory).resolve(), rounds)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_before": round(load, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("mcp", "pydantic", "anyio")},
        "rounds": rounds,
        **figures,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


def measured(workspace: Path, rounds: int) -> dict[str, Any]:
    ids = write_finished_jobs(Workspace.at(workspace), JOBS)
    seconds: dict[str, list[float]] = {"floor": [], "first_answer": [], "tools_list": [], "end": []}
    memory = []
    for _ in range(rounds):
        seconds["floor"].append(floor_seconds())
        session = Session(workspace)
        first, listed = session.greet()
        seconds["first_answer"].append(first)
        seconds["tools_list"].append(listed)
        session.come_to_rest()
        memory.append(session.resident_mib())
        seconds["end"].append(session.end())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}
    return {
        "seconds_median": {name: round(value, 3) for name, value in median.items()},
        "seconds_least": {name: round(value, 3) for name, value in least.items()},
        "first_answer_above_floor_seconds": {
            "median": round(median["first_answer"] - median["floor"], 3),
            "least": round(least["first_answer"] - least["floor"], 3),
        },
        "idle_resident_mib": round(max(memory), 1),
        "calls": {"count": CALLS, "in_flight": IN_FLIGHT, "finished_jobs": JOBS},
        "milliseconds": calls(workspace, ids),
    }


def floor_seconds() -> float:
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", FLOOR], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - began


def calls(workspace: Path, ids: list[str]) -> dict[str, Any]:
    session = Session(workspace)
    session.greet()
    session.come_to_rest()
    models = ("llama-3.1-8b-instruct", "qwen3-14b", "smollm2-135m-instruct", "mistral-7b-instruct-v0.3")
    asked: dict[str, Callable[[int], dict[str, Any]]] = {
        "get_job": lambda number: {"job_id": ids[number % len(ids)]},
        "list_jobs": lambda number: {},
        "estimate_memory": lambda number: {"model": models[number % len(models)], "gpu": "4090"},
    }
    found = {}
    for tool, arguments in asked.items():
        first = session.milliseconds_of_one(tool, arguments(0))
        taken = sorted(session.milliseconds_of_calls(tool, arguments))
        found[tool] = {
            "first_call": round(first, 1),
            "p50": round(statistics.median(taken), 1),
            "p99": round(taken[int(0.99 * len(taken)) - 1], 1),
            "worst": round(taken[-1], 1),
        }
    found["resident_mib_afterwards"] = round(session.resident_mib(), 1)  # type: ignore[assignment]
    session.end()
    return found


if __name__ == "__main__":
    main()
