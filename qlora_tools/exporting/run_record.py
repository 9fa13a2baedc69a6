"""What a run left about itself, made portable: no path of this machine, no row of the data, no secret.

It travels with what is exported as `training_record.json`, so that a card can be written again from a merged model.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..config import load_config
from ..config.schema import RunConfig
from ..data.reading.sources import DataSource, is_on_hub
from ..errors import QloraError
from ..hiding import hidden_secrets
from ..run_output import CONFIG_FILE, DATA_REPORT_FILE, RESULT_FILE
from ..untrusted import visible_text
from .directory import sha256_of
from .measures import Measure, read_measures
from .source import read_document

RECORD_FILE = "training_record.json"
# Above it a hash takes longer than the rest of an export.
_MOST_HASHED = 4 * 2**30
_MOST_CHARACTERS = 200
_DROPPED = {
    "dropped_long": "too long",
    "dropped_nothing_to_learn": "without anything to learn",
    "dropped_unusable": "unusable",
    "cut": "cut at the longest length (kept)",
}


class NamedSource(BaseModel):
    """Where rows came from. `sha256` is that of a file beside the run that stands unchanged since."""

    model_config = ConfigDict(frozen=True)

    name: str
    on_hub: bool
    sha256: str | None


class RunRecord(BaseModel):
    """Data, recipe and course of a training run, as far as they are known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sources: list[NamedSource] = []
    rows: dict[str, int] = {}
    dropped: dict[str, int] = {}
    findings: list[str] = []
    languages: dict[str, int] = {}
    recipe: dict[str, str] = {}
    device: str | None = None
    compute_dtype: str | None = None
    steps: int | None = None
    train_seconds: float | None = None
    peak_allocated_bytes: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    evaluation_losses: dict[int, float] = {}
    max_length_tokens: int | None = None
    versions: dict[str, str] = {}
    verdict: str | None = None
    verdict_summary: str | None = None
    measures: list[Measure] = []


def read_run_record(directory: Path) -> RunRecord:
    """The record in the output directory of a run, or in what was exported from it; an empty one where nothing is told."""
    portable = read_document(directory / RECORD_FILE)
    try:
        return RunRecord.model_validate(portable or _gathered(directory))
    except ValidationError:  # Written by another version, or by hand: a card can do without.
        return RunRecord()


def _gathered(run: Path) -> dict[str, Any]:
    config = _config(run / CONFIG_FILE)
    result, report = read_document(run / RESULT_FILE), read_document(run / DATA_REPORT_FILE)
    losses = [value for value in result.get("losses") or () if isinstance(value, float)]
    told = {
        name: result.get(name) for name in ("device", "compute_dtype", "steps", "train_seconds", "peak_allocated_bytes")
    }
    return {
        **told,
        **_rows(result),
        **read_measures(run),
        "sources": list(_sources(config, run)),
        "findings": list(_findings(report)),
        "languages": report.get("languages") or {},
        "recipe": _recipe(config) if config else {},
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "evaluation_losses": result.get("evaluation_losses") or {},
        "max_length_tokens": config.training.max_length_tokens if config else None,
        "versions": result.get("versions") or {},
    }


def _config(path: Path) -> RunConfig | None:
    try:
        return load_config(path)
    except QloraError:
        return None


def _rows(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    training, held_out = result.get("training_rows") or {}, result.get("evaluation_rows") or {}
    rows = {name: training[name] for name in ("read", "used", "tokens", "learnt_tokens") if name in training}
    if held_out.get("used"):
        rows["held_out"] = held_out["used"]
    return {"rows": rows, "dropped": {words: training[name] for name, words in _DROPPED.items() if training.get(name)}}


def _sources(config: RunConfig | None, run: Path) -> Iterator[dict[str, Any]]:
    """Hub ids as they are, files by their last name: the rest of a path tells of a machine and its people."""
    if config is None:
        return
    for rows in (config.data, *config.data.more_sources):
        on_hub = is_on_hub(DataSource(rows.path, rows.source))
        name = rows.path if on_hub else Path(rows.path).name
        sha256 = None if on_hub else _unchanged_hash(Path(rows.path).expanduser(), run)
        yield {"name": clean(name), "on_hub": on_hub, "sha256": sha256}


def _unchanged_hash(path: Path, run: Path) -> str | None:
    """Of a file beside the run or below: a config that came from elsewhere must not have others read and told of."""
    try:
        status, since = path.stat(), (run / RESULT_FILE).stat().st_mtime
        beside = path.resolve().is_relative_to(run.resolve().parent)
        if not beside or not path.is_file() or status.st_size > _MOST_HASHED or status.st_mtime > since:
            return None
        return sha256_of(path)
    except OSError:
        return None


def _findings(report: Mapping[str, Any]) -> Iterator[str]:
    """What the check of the data warned of, by name and number; never an example."""
    for found in report.get("findings") or ():
        if isinstance(found, dict) and found.get("severity") in ("warning", "error"):
            yield clean(f"{found.get('check', '')}: {found.get('count', '')} rows")


def _recipe(config: RunConfig) -> dict[str, str]:
    lora, training, quantization = config.lora, config.training, config.quantization
    method = "LoRA on a 16-bit base" if quantization.kind == "none" else f"QLoRA, base in {quantization.kind}"
    doubled = (
        " with double quantisation" if quantization.kind in ("nf4", "fp4") and quantization.double_quantization else ""
    )
    kinds = [name for name, used in (("rsLoRA", lora.use_rslora), ("DoRA", lora.use_dora)) if used]
    modules = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    amount = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    batch = training.micro_batch_size * training.gradient_accumulation_steps
    recipe = {
        "method": method + doubled + "".join(f", {kind}" for kind in kinds),
        "rank, alpha, dropout": f"{lora.rank}, {lora.alpha:g}, {lora.dropout:g}",
        "modules": modules,
        "modules trained whole": ", ".join(lora.modules_to_save),
        "learning rate": f"{training.learning_rate:g}, {training.schedule}, {100 * training.warmup_fraction:g} % warm-up",
        "optimiser": f"{training.optimizer}, weight decay {training.weight_decay:g}",
        "rows a step": f"{batch} ({training.micro_batch_size} x {training.gradient_accumulation_steps})",
        "planned": amount,
        "longest row": f"{training.max_length_tokens:,} tokens",
        "learnt": config.data.loss_on,
        "seed": str(training.seed),
    }
    return {name: clean(value) for name, value in recipe.items() if value}


def clean(text: object) -> str:
    """One line of shown text: visible letters, no secrets, at most 200 letters."""
    return clean_line(str(text))[:_MOST_CHARACTERS]


def clean_line(text: str) -> str:
    """The same of any length."""
    return hidden_secrets(" ".join(visible_text(text).split()))
