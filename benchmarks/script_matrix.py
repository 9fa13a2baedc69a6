"""Rendered scripts under other versions of the libraries that they name: do they run, and is what they make the same?

    python benchmarks/script_matrix.py [FOLDER]

Versions come from the registry into FOLDER (default: a temporary one) and stand before the installed ones on the path of
processes that lack this package; torch stays the installed one. The sets: what is installed, the newest within the ranges
that the scripts declare, all floors together, and each floor alone, where only the training runs. Written to
`benchmarks/results/script_matrix.json`.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qlora_tools.config import parse_config  # noqa: E402
from qlora_tools.scripts.notebook import script_dependencies  # noqa: E402
from qlora_tools.scripts.render import render_script  # noqa: E402
from tests.families import make_model  # noqa: E402

FLOORS = {
    "transformers": "5.17.0",
    "trl": "1.16.0",
    "peft": "0.21.0",
    "accelerate": "1.12.0",
    "datasets": "4.8.0",
    "bitsandbytes": "0.50.0",
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "train": (),
    "inference": ("say number 1",),
    "evaluate": (),
    "merge": (),
}
RESULT = ROOT / "benchmarks" / "results" / "script_matrix.json"
# Runs a script as its own process does, with other libraries first on the path, and leaves their versions in a file.
RUNNER = """
import importlib.metadata, importlib.util, json, pathlib, runpy, sys
site, overlays, libraries, versions, *sys.argv = sys.argv[1:]
sys.path[0:0] = json.loads(overlays)
sys.path.append(site)
assert importlib.util.find_spec("qlora_tools") is None
found = {name: importlib.metadata.version(name) for name in json.loads(libraries)}
pathlib.Path(versions).write_text(json.dumps(found))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def installed_into(folder: Path, requirements: Iterable[str], *, with_needs: bool = False) -> Path:
    """A folder with these packages, and with what they depend on only where that does not bring another torch."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*pip, *([] if with_needs else ["--no-deps"]), *requirements], check=True)
    return folder


def sets_of_versions(folder: Path, ranges: Iterable[str]) -> dict[str, tuple[list[Path], bool]]:
    """The name of each set -> folders that go before the installed packages, and whether all scripts run."""
    floors = {
        name: installed_into(
            folder / f"{name}-{version}", [f"{name}=={version}"], with_needs=name in ("transformers", "datasets")
        )
        for name, version in FLOORS.items()
    }
    newest = installed_into(folder / "newest", ranges)
    return {
        "installed": ([], True),
        "newest": ([newest], True),
        "floors": (list(floors.values()), True),
        **{f"{name} {FLOORS[name]}": ([path], False) for name, path in floors.items()},
    }


def written_scripts(folder: Path, model: Path) -> dict[str, Path]:
    """A script of every kind in `folder`, with rows of its own; all of what they make goes there too."""
    folder.mkdir()
    for name, numbers in (("rows", range(16)), ("held", range(16, 22))):
        rows = [{"prompt": f"say number {i}", "completion": f"number {i} it is"} for i in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    training = {"max_steps": 4, "micro_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
    config = parse_config(
        {
            "model": {"name": str(model)},
            "data": {"path": str(folder / "rows.jsonl"), "evaluation_path": str(folder / "held.jsonl")},
            "lora": {"dropout": 0.1},
            "quantization": {"compute_dtype": "float32"},
            "training": {**training, "evaluation_every_steps": 2, "max_length_tokens": 64},
            "output": {"directory": str(folder / "out")},
        }
    )
    paths = {kind: folder / f"{kind}.py" for kind in KINDS}
    for kind, path in paths.items():
        render_script(config, kind=kind, output=path)
    return paths


def run(script: Path, arguments: Iterable[str], overlays: Iterable[Path]) -> dict[str, Any]:
    """How a script ends in a process that has `overlays` first, and what it prints."""
    versions = script.with_suffix(".versions.json")
    command = [sys.executable, "-I", "-S", "-c", RUNNER, sysconfig.get_path("purelib")]
    command += [json.dumps([str(path) for path in overlays]), json.dumps(["torch", *FLOORS]), str(versions)]
    began = time.monotonic()
    ended = subprocess.run(
        [*command, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=script.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    # Progress bars follow the error.
    errors = [line for line in ended.stderr.splitlines() if line[:1].isalpha() and "Error" in line]
    said = {} if ended.returncode == 0 else {"error": (errors or [ended.stderr[-200:]])[-1]}
    seconds = round(time.monotonic() - began, 1)
    return {"ok": ended.returncode == 0, "seconds": seconds, "printed": ended.stdout, "versions": versions, **said}


def made_by(kind: str, folder: Path, printed: str) -> Any:
    """What must be the same under all versions."""
    if kind == "train":
        state = json.loads((folder / "out" / "checkpoints" / "trainer_state.json").read_text())
        losses = [[entry["step"], entry.get("loss", entry.get("eval_loss"))] for entry in state["log_history"]]
        return [*losses[:-1], digest(folder / "out" / "adapter" / "adapter_model.safetensors")]
    if kind == "inference":
        return printed
    if kind == "merge":
        return [digest(path) for path in sorted((folder / "out").rglob("model*.safetensors"))]
    figures = json.loads((folder / "out" / "evaluation.json").read_text())
    return {name: value for name, value in figures.items() if not isinstance(value, str)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row_of(
    name: str, overlays: list[Path], *, all_kinds: bool, folder: Path, model: Path, wanted: dict[str, Any]
) -> Any:
    """The scripts under one set of versions. The first set fills `wanted`, which the others are compared with."""
    scripts = written_scripts(folder, model)
    row: dict[str, Any] = {"set": name, "versions": {}, "scripts": {}}
    for kind, arguments in KINDS.items():
        if kind != "train" and not all_kinds:
            continue
        ended = run(scripts[kind], arguments, overlays)
        row["versions"] = json.loads(ended.pop("versions").read_text())
        printed = ended.pop("printed")
        if ended["ok"]:
            made = made_by(kind, folder, printed)
            ended["same"] = wanted.setdefault(kind, made) == made
        row["scripts"][kind] = ended
        print(name, kind, ended, flush=True)
        if not row["scripts"]["train"]["ok"]:
            break
    return row


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="script-matrix-")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    make_model("llama", root / "model")
    dependencies = script_dependencies(written_scripts(root / "ranges", root / "model")["train"].read_text())
    ranges = [named for named in dependencies if named.split(">=")[0] in FLOORS]
    wanted: dict[str, Any] = {}
    rows = [
        row_of(name, overlays, all_kinds=all_kinds, folder=root / f"run-{place}", model=root / "model", wanted=wanted)
        for place, (name, (overlays, all_kinds)) in enumerate(sets_of_versions(root / "libraries", ranges).items())
    ]
    machine = {"system": platform.platform(), "python": platform.python_version(), "processor": platform.machine()}
    found = {"date": date.today().isoformat(), "machine": machine, "ranges": ranges, "rows": rows}
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
