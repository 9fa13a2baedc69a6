"""Three equal paths: a rendered script trains to the losses of `train`, in an environment that lacks this package.

Bit by bit: the loss of every step, every evaluation's, the tensors that are saved and the settings beside them.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from qlora_tools import parse_config, train
from qlora_tools.config.choices import Optimizer, Schedule
from qlora_tools.results import TrainResult
from qlora_tools.scripts.render import render_script

from .families import FAMILIES, make_model
from .script_rows import ROWS
from .script_runs import RunScript, ScriptRun, evaluation_losses_of, losses_of, run_script  # noqa: F401 - the fixture

pytestmark = pytest.mark.process
Both = Callable[..., tuple[TrainResult, Path]]


@dataclass(frozen=True)
class Case:
    """One config on one family and one kind of rows."""

    name: str
    family: str = "llama"
    rows: str = "chats"
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_slow: bool = False


def _of(name: str, family: str = "llama", rows: str = "chats", **parts: dict[str, Any]) -> Case:
    return Case(name, family, rows, parts)


def _slow(name: str, family: str = "llama", rows: str = "chats", **parts: dict[str, Any]) -> Case:
    return Case(name, family, rows, parts, is_slow=True)


_FLOAT32, _BFLOAT16 = {"compute_dtype": "float32"}, {"compute_dtype": "bfloat16"}
_EVALUATES = {"evaluation_every_steps": 2, "max_steps": 5, "evaluation_samples": 1}
# Each holds several things at once; what differs in a library's constant alone is among the slow ones below.
CASES = (
    _of(
        "named targets, dropout, fp4, bf16, linear, evaluation by file with samples, keep best, early stopping",
        "qwen2",
        lora={"target_modules": ["q_proj", "down_proj"], "dropout": 0.1},
        quantization={"kind": "fp4", "double_quantization": False, **_BFLOAT16},
        training={**_EVALUATES, "schedule": "linear", "early_stopping_patience": 1, "learning_rate": 0.05},
        data={"evaluation_path": "held"},
    ),
    _of(
        "attention, rsLoRA, int8, adamw_torch, bins, no checkpointing, all tokens, held-out share, last kept",
        "mistral",
        lora={"target_modules": "attention", "use_rslora": True},
        quantization={"kind": "int8", **_BFLOAT16},
        training={
            **_EVALUATES,
            "optimizer": "adamw_torch",
            "packing": "bins",
            "gradient_checkpointing": False,
            "keep_best": False,
            "evaluation_samples": 0,
        },
        data={"evaluation_fraction": 0.3, "loss_on": "all"},
    ),
    _of(
        "DoRA, 8-bit lion, padding free, fp32, every answer of several turns with a system turn",
        "qwen2",
        "turns",
        lora={"use_dora": True},
        quantization=_FLOAT32,
        training={"optimizer": "lion_8bit", "packing": "padding_free", "schedule": "constant_with_warmup"},
        data={"loss_on": "assistant"},
    ),
    _slow(
        "LoftQ, adafactor, long rows dropped, system turns folded, epochs, evaluation at the end",
        "gemma2",
        "system",
        lora={"initialization": "loftq", "rank": 4},
        training={"optimizer": "adafactor", "max_length_tokens": 40, "max_steps": None, "epochs": 0.7},
        data={"long_rows": "drop", "evaluation_fraction": 0.2},
    ),
    _of(
        "PiSSA, no quantisation, sgd, alpaca, several rows of the log",
        "llama",
        "alpaca",
        lora={"initialization": "pissa"},
        quantization={"kind": "none", **_FLOAT32},
        training={"optimizer": "sgd", "log_every_steps": 2, "max_steps": 4, "schedule": "polynomial"},
    ),
    _slow(
        "modules to save, 16-bit base in bf16, weight decay, sharegpt cut",
        "phi3",
        "sharegpt",
        lora={"modules_to_save": ["embed_tokens", "lm_head"]},
        quantization={"kind": "none", **_BFLOAT16},
        training={"weight_decay": 0.1, "max_gradient_norm": 0.1, "max_length_tokens": 24, "optimizer": "adamw_8bit"},
    ),
    _of("pairs without a chat template, storage for FSDP", "bare", "pairs", quantization={"storage_dtype": "float32"}),
    _slow(
        "texts, smoke generation, inverse_sqrt",
        "bare",
        "texts",
        training={"smoke_generation": True, "schedule": "inverse_sqrt"},
    ),
    _slow(
        "questions with context in CSV, gemma3, eager",
        "gemma3",
        "questions",
        model={"attention_implementation": "eager"},
    ),
    _of("a base that gets our chat template", "bare", "chats", data={"loss_on": "assistant"}),
    _slow(
        "a thinking template: rows in tokens",
        "qwen3",
        "turns",
        training={"packing": "bins"},
        data={"loss_on": "assistant"},
    ),
    _of("two sources by weight: rows in tokens", "llama", "mixed", data={"evaluation_fraction": 0.2}),
    *(_slow(f"optimizer {name}", lora={"dropout": 0.05}, training={"optimizer": name}) for name in get_args(Optimizer)),
    *(_slow(f"schedule {name}", training={"schedule": name, "max_steps": 6}) for name in get_args(Schedule)),
    *(
        _slow(f"family {family}, {layout}", family, training={"packing": layout})
        for family in FAMILIES
        for layout in ("off", "padding_free", "bins")
    ),
    *(
        _slow(f"rows {rows} on {family}", family, rows, training={"max_length_tokens": 128})
        for rows in ROWS
        for family in (*FAMILIES, "bare")
    ),
    *(_slow(f"rows {rows}, all", "llama", rows, data={"loss_on": "all"}) for rows in ROWS),
    *(
        _slow(f"{kind} in {dtype}", quantization={"kind": kind, "compute_dtype": dtype}, lora={"dropout": 0.1})
        for kind in ("nf4", "fp4", "int8", "none")
        for dtype in ("bfloat16", "float16", "float32")
    ),
    *(
        _slow(
            f"evaluation every {every}, patience {patience}, best {best}, checkpoints {saved}",
            lora={"dropout": 0.1},
            training={
                "max_steps": 7,
                "learning_rate": 0.1,
                "evaluation_every_steps": every,
                "early_stopping_patience": patience,
                "keep_best": best,
                "checkpoint_every_steps": saved,
                "evaluation_samples": 2,
            },
            data={"evaluation_fraction": 0.3},
        )
        for every, patience, best, saved in (
            (2, None, True, None),
            (2, 1, True, None),
            (2, 1, False, None),
            (3, 2, True, 1),
            (3, None, False, 2),
            (2, 3, True, 4),
        )
    ),
)


@pytest.fixture
def config_of(
    tmp_path: Path, tiny_model: Callable[[str], Path], config_for: Callable[..., dict[str, Any]]
) -> Callable[[Case], dict[str, Any]]:
    """The raw config of a case, with an output directory of its own each time."""

    def made(case: Case) -> dict[str, Any]:
        parts = {name: dict(part) for name, part in case.parts.items()}
        data = ROWS[case.rows](tmp_path)
        chosen = {**data, "check": "warn", **parts.pop("data", {})}
        if chosen.get("evaluation_path") == "held":
            held = tmp_path / "held.jsonl"
            held.write_text("".join(Path(data["path"]).read_text().splitlines(keepends=True)[:7]))
            chosen["evaluation_path"] = str(held)
        model = _bare_model(tmp_path) if case.family == "bare" else tiny_model(case.family)
        training = {"engine": "stock", **parts.pop("training", {})}
        return config_for(model, Path(chosen.pop("path")), data=chosen, training=training, **parts)

    return made


def _bare_model(folder: Path) -> Path:
    """A base model without a chat template."""
    if not (folder / "bare").exists():
        make_model("llama", folder / "bare", template=False)
    return folder / "bare"


def script_of(raw: dict[str, Any], folder: Path) -> Path:
    """The training script of a config, rendered into `folder`."""
    script = folder / "train.py"
    render_script(parse_config(raw, source="there"), output=str(script), overwrite=True)
    return script


def require_same_adapter(here: Path, there: Path) -> None:
    """Every tensor and every setting, where base and adapter come from apart."""
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (here, there))
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    settings = [json.loads((path / "adapter_config.json").read_text()) for path in (here, there)]
    for one in settings:
        one["target_modules"] = sorted(one["target_modules"])
    assert settings[0] == settings[1]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.is_slow) for case in CASES]
)
def test_the_script_trains_as_the_tool_does(
    case: Case,
    config_of: Callable[[Case], dict[str, Any]],
    tmp_path: Path,
    run_script: RunScript,  # noqa: F811
) -> None:
    raw = config_of(case)
    output = Path(raw["output"]["directory"])
    script = script_of(raw, tmp_path)
    result = train(parse_config(config_of(case), source="here"))
    ended = run_script(script)
    assert ended.code == 0, ended.output
    assert losses_of(output) == result.losses
    assert evaluation_losses_of(output) == result.evaluation_losses
    require_same_adapter(Path(result.adapter_directory), output / "adapter")


_RESUMED = (
    _of(
        "paged 8-bit Adam, dropout, every evaluation",
        lora={"dropout": 0.1},
        training={"evaluation_every_steps": 1, "evaluation_samples": 1},
        data={"evaluation_fraction": 0.3},
    ),
    _slow("bins, DoRA, adamw_torch", lora={"use_dora": True}, training={"optimizer": "adamw_torch", "packing": "bins"}),
    _slow(
        "PiSSA, adafactor",
        lora={"initialization": "pissa"},
        quantization={"kind": "none"},
        training={"optimizer": "adafactor"},
    ),
    _slow("LoftQ, lion", lora={"initialization": "loftq", "dropout": 0.1}, training={"optimizer": "paged_lion_8bit"}),
    _slow("modules to save", lora={"modules_to_save": ["lm_head"]}, training={"optimizer": "adamw_8bit"}),
    *(_slow(f"optimizer {name}", lora={"dropout": 0.1}, training={"optimizer": name}) for name in get_args(Optimizer)),
    *(_slow(f"schedule {name}", training={"schedule": name}) for name in get_args(Schedule)),
    *(
        _slow(
            f"early stopping, best {best}",
            lora={"dropout": 0.1},
            training={
                "keep_best": best,
                "early_stopping_patience": 2,
                "learning_rate": 0.1,
                "evaluation_every_steps": 1,
            },
            data={"evaluation_fraction": 0.3},
        )
        for best in (True, False)
    ),
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.is_slow) for case in _RESUMED]
)
def test_a_resumed_script_has_the_losses_of_an_uninterrupted_one_and_of_the_tool_resumed(
    case: Case,
    config_of: Callable[[Case], dict[str, Any]],
    tmp_path: Path,
    run_script: RunScript,  # noqa: F811
) -> None:
    steps = {"max_steps": 6, "checkpoint_every_steps": 3, "micro_batch_size": 1}
    case = replace(
        case,
        parts={
            **case.parts,
            "training": {**steps, **case.parts.get("training", {})},
            "output": {"keep_checkpoints": 9},
        },
    )
    raw = config_of(case)
    output = Path(raw["output"]["directory"])
    script = script_of(raw, tmp_path)
    assert run_script(script).code == 0
    whole = losses_of(output), evaluation_losses_of(output)
    shutil.copytree(output / "adapter", tmp_path / "whole")
    _forget_after(3, output)
    ended = run_script(script, "--resume")
    assert ended.code == 0, ended.output
    assert (losses_of(output), evaluation_losses_of(output)) == whole
    require_same_adapter(tmp_path / "whole", output / "adapter")
    here = parse_config(config_of(case), source="here")
    uninterrupted = train(here)
    resumed = train(here, resume_from=Path(here.output.directory) / "checkpoints" / "step-3")
    assert resumed.losses == uninterrupted.losses == whole[0]
    assert resumed.evaluation_losses == whole[1]
    require_same_adapter(Path(resumed.adapter_directory), output / "adapter")


def _forget_after(step: int, output: Path) -> None:
    """Leave what a run leaves that ends after a step: its checkpoint, no adapter, and the next checkpoint half written."""
    shutil.rmtree(output / "adapter")
    for checkpoint in (output / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            (checkpoint / "trainer_state.json").unlink()
            (checkpoint / "optimizer.pt").unlink()


def test_what_a_script_cannot_do_it_says_without_a_traceback(
    config_of: Callable[[Case], dict[str, Any]],
    tmp_path: Path,
    run_script: RunScript,  # noqa: F811
) -> None:
    raw = config_of(_of("mixed", rows="mixed"))
    output = Path(raw["output"]["directory"])
    script = script_of(raw, tmp_path)
    assert "There is no checkpoint in" in said(run_script(script, "--resume"))
    assert "Dry run: 3 steps of 4 rows are ready" in said(run_script(script, "--dry-run"), code=0)
    assert [path for path in output.rglob("*") if path.is_file()] == []
    (output / "adapter").mkdir(parents=True)
    assert "holds a run already: give --resume" in said(run_script(script))
    (tmp_path / "train.rows.jsonl").unlink()
    shutil.rmtree(output)
    assert "train.rows.jsonl is missing" in said(run_script(script))


def said(ended: ScriptRun, code: int = 1) -> str:
    """What a script printed that ended as expected."""
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    return ended.output
