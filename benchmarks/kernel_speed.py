"""Each Triton kernel on a GPU at the shapes of an 8B and a 1B model, against the bytes it has to move.

    python benchmarks/kernel_speed.py OUT.json [operation ...]

First every operation is compared with plain torch on the same fresh inputs, with outputs that hold NaN before; decoding must
agree to the bit, with bitsandbytes too. Then medians are taken over `ROUNDS` replays of a CUDA graph of calls that go round
several sets of inputs, larger together than any cache. `floor_us` is the bytes at the rate of a large copy on this card,
measured first. `launch_us` is what one call costs the host. Plain torch and bitsandbytes are timed by events around as many
calls. The file is written anew after each operation.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.kernel_cases import OPERATIONS, SHAPES, Maker, Operation, RandomMaker, Shape  # noqa: E402

SETS, TURNS, ROUNDS = 3, 4, 25
COPIED_BYTES = 2**30
LIBRARIES = ("torch", "triton", "bitsandbytes")
# Of the difference to plain torch, relative to the norm: a few results round to the other neighbour.
TOLERANCE = 1e-3
Build = Callable[[Shape, Maker], Operation]


def compared(build: Build, shape: Shape, device: torch.device, kernels: ModuleType, twin: ModuleType) -> float:
    """The relative difference to plain torch, on one fresh input."""
    seed = time.time_ns() % 2**31
    ours, plain = (build(shape, RandomMaker(torch.bfloat16, device, seed)) for _ in range(2))
    ours.run(kernels)
    plain.run(twin)
    pairs = list(zip(ours.written, plain.written, strict=True))
    if ours.peer is not None:
        stock = ours.peer()
        pairs.append((ours.written[0][:, : stock.shape[1]], stock))
    # A sum, because a maximum may lose NaN.
    return sum(float((one.float() - other.float()).norm() / other.float().norm()) for one, other in pairs)


def replayed(calls: list[Callable[[], Any]]) -> float:
    """Median microseconds of a call, launched from a graph."""
    warmed(calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(TURNS):
            for call in calls:
                call()
    return timed(graph.replay) / (TURNS * len(calls))


def launched(calls: list[Callable[[], Any]]) -> float:
    """Median microseconds of a call, launched one after the other."""
    warmed(calls)

    def turns() -> None:
        for _ in range(TURNS):
            for call in calls:
                call()

    return timed(turns) / (TURNS * len(calls))


def warmed(calls: list[Callable[[], Any]]) -> None:
    """Compiled and allocated on a stream of its own, as a capture asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    """Median microseconds by events."""
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return statistics.median(times)


def host_cost(call: Callable[[], Any]) -> float:
    """Median microseconds until a call returns to the host."""
    times = []
    for _ in range(4 * ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - begin) / 1000)
    return statistics.median(times)


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a microsecond by a large copy."""
    sets = [[torch.randn(COPIED_BYTES // 4, device=device) for _ in range(2)] for _ in range(SETS)]
    return 2 * COPIED_BYTES / replayed([lambda one=one, other=other: one.copy_(other) for one, other in sets])


def measured(build: Build, shape: Shape, device: torch.device, rate: float) -> dict[str, Any]:
    """One row of the report; fails where the results are wrong."""
    from qlora_tools.engine.fast import gpu, plain

    difference = compared(build, shape, device, gpu, plain)
    allowed = 0.0 if build.__name__.startswith("decode") else TOLERANCE
    if not difference <= allowed:
        raise ArithmeticError(f"{build.__name__} differs from plain torch by {difference}, allowed is {allowed}")
    sets = [build(shape, RandomMaker(torch.bfloat16, device, seed)) for seed in range(SETS)]
    ours = replayed([lambda one=one: one.run(gpu) for one in sets])
    again = replayed([lambda one=one: one.run(gpu) for one in sets])
    floor = sets[0].moved / rate
    row = {
        "us": ours,
        "us_again": again,
        "floor_us": floor,
        "share_of_copy_rate": floor / ours,
        "bytes": sets[0].moved,
        "launch_us": host_cost(lambda: sets[0].run(gpu)),
        "plain_us": launched([lambda one=one: one.run(plain) for one in sets]),
        "difference_to_plain": difference,
    }
    if sets[0].peer is not None:
        row["bitsandbytes_us"] = launched([one.peer for one in sets if one.peer is not None])
    return {name: round(value, 4) for name, value in row.items()}


def main(out: Path, names: list[str]) -> None:
    if unknown := set(names) - OPERATIONS.keys():
        sys.exit(f"unknown operations {sorted(unknown)}; known: {', '.join(OPERATIONS)}")
    if not torch.cuda.is_available():
        sys.exit("kernel_speed.py needs a CUDA GPU; kernel_report.py compiles the kernels without one")
    device = torch.device("cuda")
    rate = copy_rate(device)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"gpu": torch.cuda.get_device_name(device), "python": platform.python_version()},
        "versions": {name: version(name) for name in LIBRARIES},
        "copy_bytes_per_us": round(rate),
        "tokens": next(iter(SHAPES.values())).tokens,
        "models": {},
    }
    for model, shape in SHAPES.items():
        rows = report["models"][model] = {}
        for name in names or OPERATIONS:
            row = rows[name] = measured(OPERATIONS[name], shape, device, rate)
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            print(f"{model} {name:24}", *(f"{key} {value:g}" for key, value in row.items()), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
