"""Shared fixtures: offline, one cache, tiny models with random weights in the shape of each family."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("QLORA_CACHE", str(Path(__file__).resolve().parent.parent / ".cache"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Runs of tiny models say nothing about this machine.
os.environ["QLORA_MEMORY_HISTORY"] = os.devnull

import pytest

from .families import make_model

# Files are dealt to processes in this order: one that takes a minute must not begin when the others are done.
_LONGEST_FIRST = (
    "test_server_tools",
    "test_process",
    "test_resuming",
    "test_generation",
    "test_engine_runs",
    "test_merging_arithmetic",
    "test_offline_evaluation",
    "test_jobs_processes",
    "test_generation_warm",
    "test_engine_families",
    "test_evaluation",
    "test_instruments",
    "test_instruments_quantisation",
    "test_jobs_of_work",
    "test_conformance",
    "test_server_safety",
    "test_job_terminal",
    "test_memory_recovery",
    "test_cli",
    "test_probe",
    "test_export_gguf",
    "test_imports_are_light",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; the order within a file, and of all others, stays."""
    place = {f"{name}.py": number for number, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session", autouse=True)
def workspace_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Jobs of commands that name no workspace must not land in the checkout."""
    os.environ["QLORA_WORKSPACE"] = str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model("llama")` is the directory of a small random model of that family, made once a session."""
    root = tmp_path_factory.mktemp("models")

    def directory(family: str) -> Path:
        target = root / family
        if not target.exists():
            make_model(family, target)
        return target

    return directory


@pytest.fixture(scope="session")
def chat_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty short question/answer chats of differing length."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {'very ' * (i % 4)}number {i}"},
                {"role": "assistant", "content": f"number {i} it is"},
            ]
        }
        for i in range(20)
    ]
    write_rows(path, rows)
    return path


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Raw run configs for a model and data; further parts as keyword arguments. Each call has its own output."""
    made = []

    def config(directory: Path, rows: Path, /, **parts: dict[str, Any]) -> dict[str, Any]:
        made.append(directory)
        training = {
            "max_steps": 3,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_length_tokens": 64,
            "learning_rate": 1e-3,
            "smoke_generation": False,
            "evaluation_samples": 0,
            **parts.pop("training", {}),
        }
        return {
            "model": {"name": str(directory), **parts.pop("model", {})},
            "data": {"path": str(rows), **parts.pop("data", {})},
            "output": {"directory": str(tmp_path / f"run-{len(made)}"), **parts.pop("output", {})},
            "training": training,
            **parts,
        }

    return config


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
