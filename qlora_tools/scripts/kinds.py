"""The kinds of scripts: how each is made of a config, and what to do with it then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..config.schema import RunConfig
from ..data.rows import TokenRow
from ..errors import UsageError
from .clusters import (
    DockerRequest,
    LaunchRequest,
    SkypilotRequest,
    SlurmRequest,
    accelerate_inputs,
    docker_inputs,
    fsdp_inputs,
    skypilot_inputs,
    slurm_inputs,
)
from .evaluating import evaluate_inputs
from .inference import inference_inputs
from .inputs import ScriptInputs
from .merging import merge_inputs
from .notebook import notebook_of
from .rendering import Rendered, render
from .rows_check import require_same_rows
from .script_rows import NotPlainError, RowsAtHand, ScriptRows, plain_rows, prepared_rows
from .training import training_inputs

Request = TypeVar("Request")
_TYPES = {str: "a text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Asked:
    """What a script is made of. `stem` is the name of its file without the ending, `settings` are those of its kind."""

    config: RunConfig
    adapter: Path
    stem: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """A script: `text` is what goes into its file, `python` the Python in it, if any. `rows` lie in files beside it."""

    rendered: Rendered
    text: str
    notes: tuple[str, ...] = ()
    python: str | None = None
    rows: Mapping[str, tuple[TokenRow, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptKind:
    """One kind: in a few words what it is, its usual file, what to do with that, and how it is made.

    `request` is the class of its settings, None where it has none; `about_adapter` whether it is about a trained adapter.
    """

    summary: str
    file: str
    next_step: str
    make: Callable[[Asked], Made]
    request: type | None = None
    about_adapter: bool = False


@dataclass(frozen=True)
class MergeRequest:
    """Where the merged model goes; None: beside the adapter."""

    merged: str | None = None


@dataclass(frozen=True)
class EvaluateRequest:
    """The held-out rows, None: the config's own; and where the figures go, None: beside the adapter."""

    data: str | None = None
    report: str | None = None


def find_kind(name: str) -> ScriptKind:
    """The kind called `name`. Raises `UsageError` naming all of them."""
    if name not in KINDS:
        raise UsageError(f"{name!r} is not a kind of script.", next_step=f"Choose one of {', '.join(KINDS)}.")
    return KINDS[name]


def check_settings(kind: str, settings: Mapping[str, Any]) -> None:
    """Raise `UsageError` for settings that `kind` does not have, and for values of another type."""
    request = find_kind(kind).request
    allowed = (
        {} if request is None else {item.name: item.default for item in fields(request) if item.name != "rows_files"}
    )
    for name, value in settings.items():
        if name not in allowed:
            known = f"those are {', '.join(allowed)}" if allowed else "it has none"
            raise UsageError(f"{name!r} is no setting of a {kind} script; {known}.", next_step="Leave it out.")
        wanted = str if allowed[name] is None else type(allowed[name])
        if not isinstance(value, wanted) or isinstance(value, bool) is not (wanted is bool):
            raise UsageError(f"{name} is {value!r}; {_TYPES[wanted]} is allowed.", next_step=f"Give another {name}.")


def _request(cls: type[Request], asked: Asked, **made: Any) -> Request:
    return cls(**{**asked.settings, **made})


def _training(asked: Asked, *, notebook: bool = False) -> tuple[Rendered, ScriptRows]:
    """The training script, with plain reading where that gives the rows of training, else with rows in tokens."""
    config = asked.config
    here = RowsAtHand.find(config)
    try:
        rows = plain_rows(config, here)
        rendered = _rendered_training(config, rows, notebook=notebook)
        if isinstance(here, RowsAtHand):
            require_same_rows(rendered.text, config, here)
        return rendered, rows
    except NotPlainError as found:
        rows = prepared_rows(config, here, stem=asked.stem, reason=str(found))
        return _rendered_training(config, rows, notebook=notebook), rows


def _rendered_training(config: RunConfig, rows: ScriptRows, *, notebook: bool) -> Rendered:
    inputs = training_inputs(config, rows, notebook=notebook)
    return render("train", inputs.choices, inputs.values)


def _train(asked: Asked) -> Made:
    rendered, rows = _training(asked)
    return Made(rendered, rendered.text, rows.notes, rendered.text, rows.files)


def _notebook(asked: Asked) -> Made:
    rendered, rows = _training(asked, notebook=True)
    note = "Lines of a notebook are explained as those of the training script: --kind train."
    return Made(Rendered("", ()), notebook_of(rendered.text), (*rows.notes, note), rendered.text, rows.files)


def _inference(asked: Asked) -> Made:
    return _python("inference", inference_inputs(asked.config, asked.adapter))


def _merge(asked: Asked) -> Made:
    request = _request(MergeRequest, asked)
    merged = None if request.merged is None else Path(request.merged)
    return _python("merge", merge_inputs(asked.config, asked.adapter, output=merged))


def _evaluate(asked: Asked) -> Made:
    request = _request(EvaluateRequest, asked)
    data, report = (None if path is None else Path(path) for path in (request.data, request.report))
    return _python("evaluate", evaluate_inputs(asked.config, asked.adapter, data=data, output=report))


def _python(kind: str, inputs: ScriptInputs) -> Made:
    rendered = render(kind, inputs.choices, inputs.values)
    return Made(rendered, rendered.text, inputs.notes, rendered.text)


def _accelerate(asked: Asked) -> Made:
    return _file("accelerate", accelerate_inputs(asked.config, _request(LaunchRequest, asked)))


def _fsdp(asked: Asked) -> Made:
    return _file("fsdp", fsdp_inputs(asked.config, _request(LaunchRequest, asked)))


def _slurm(asked: Asked) -> Made:
    return _file("slurm", slurm_inputs(asked.config, _request(SlurmRequest, asked)))


def _skypilot(asked: Asked) -> Made:
    _, rows = _beside(asked, SkypilotRequest.script)
    return _file(
        "skypilot", skypilot_inputs(asked.config, _request(SkypilotRequest, asked, rows_files=tuple(rows.files)))
    )


def _dockerfile(asked: Asked) -> Made:
    rendered, rows = _beside(asked, DockerRequest.script)
    request = _request(DockerRequest, asked, rows_files=tuple(rows.files))
    return _file("dockerfile", docker_inputs(rendered.text, request))


def _beside(asked: Asked, usual: str) -> tuple[Rendered, ScriptRows]:
    """The training script that a file belongs to, under the name that the file has for it."""
    script = str(asked.settings.get("script", usual))
    return _training(Asked(asked.config, asked.adapter, Path(script).stem, {}))


def _file(kind: str, inputs: ScriptInputs) -> Made:
    rendered = render(kind, inputs.choices, inputs.values)
    return Made(rendered, rendered.text, inputs.notes)


_DRY = "python {path} --dry-run does all but the steps; python {path} trains, and with --resume goes on."
KINDS: Mapping[str, ScriptKind] = {
    "train": ScriptKind("the training of the config", "train.py", _DRY, _train),
    "inference": ScriptKind(
        "answers with the adapter", "inference.py", 'python {path} "a question"', _inference, about_adapter=True
    ),
    "merge": ScriptKind(
        "one model of base and adapter", "merge.py", "python {path}", _merge, MergeRequest, about_adapter=True
    ),
    "evaluate": ScriptKind(
        "base against adapter on held-out rows",
        "evaluate.py",
        "python {path}",
        _evaluate,
        EvaluateRequest,
        about_adapter=True,
    ),
    "notebook": ScriptKind("the training in cells", "train.ipynb", "Open {path} in Jupyter.", _notebook),
    "accelerate": ScriptKind(
        "a process for each of several GPUs (DDP)",
        "accelerate.yaml",
        "accelerate launch --config_file {path} train.py",
        _accelerate,
        LaunchRequest,
    ),
    "fsdp": ScriptKind(
        "the model shared out among several GPUs",
        "fsdp.yaml",
        "accelerate launch --config_file {path} train.py",
        _fsdp,
        LaunchRequest,
    ),
    "slurm": ScriptKind(
        "a job of a Slurm cluster", "train.sbatch", "sbatch {path}, beside train.py.", _slurm, SlurmRequest
    ),
    "skypilot": ScriptKind(
        "a machine in a cloud", "skypilot.yaml", "sky launch {path}, beside train.py.", _skypilot, SkypilotRequest
    ),
    "dockerfile": ScriptKind(
        "an image of the training",
        "Dockerfile",
        "docker build -f {path} . beside train.py.",
        _dockerfile,
        DockerRequest,
    ),
}
