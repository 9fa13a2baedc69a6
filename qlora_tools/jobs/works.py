"""Work that is no training: which function does it, which of its arguments are paths, and whether they make sense."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..adapters import adapter_directory, read_adapter_record
from ..adapters.check import check_adapter
from ..data.reading.sources import DataSource, is_on_hub
from ..errors import UsageError
from ..models.reference import ModelReference
from ..paths import as_path
from .nouns import noun_of

# Handed in by the runner: nothing that a caller may choose.
_OURS = ("on_event", "stop")
_CODE_SUFFIXES = (".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Work:
    """One kind of work. `paths` are arguments that are paths of this machine, in `weighted` also mappings of them to weights.

    Of `datasets`, `models` and `files_of_code` (`FILE.py:NAME`, tasks in .yaml files) some values are paths and others names.
    `check` is called before a job is made, with those of the arguments that it takes; else adapter and base are looked at.
    """

    home: str
    paths: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    weighted: tuple[str, ...] = ()
    files_of_code: tuple[str, ...] = ()
    check: str | None = None

    def function(self) -> Callable[..., Any]:
        """The function that does it; its module imports no torch."""
        return _named(self.home)


WORKS: Mapping[str, Work] = {
    "evaluate": Work(
        "qlora_tools.evaluation:evaluate",
        paths=("adapter", "output"),
        datasets=("data",),
        files_of_code=("metric_file", "lm_eval"),
        check="qlora_tools.evaluation:check_evaluation",
    ),
    "merge": Work(
        "qlora_tools.exporting:merge_with_card",
        paths=("adapter", "output"),
        models=("base_model",),
        weighted=("adapter",),
        check="qlora_tools.merging:check_merge",
    ),
    "export": Work(
        "qlora_tools.exporting:export", paths=("source", "output"), check="qlora_tools.exporting:check_export"
    ),
}


@dataclass(frozen=True)
class CheckedWork:
    """Work as it is stored: plain data with absolute paths."""

    kind: str
    arguments: Mapping[str, Any]

    @property
    def output(self) -> str:
        """Where the results go."""
        return str(self.arguments["output"])

    def check(self) -> None:
        """Raise what the work would raise at once, as far as that can be found without torch."""
        work = WORKS[self.kind]
        if work.check is not None:
            check = _named(work.check)
            taken = inspect.signature(check).parameters
            check(**{name: value for name, value in self.arguments.items() if name in taken})
            return
        for adapter in adapters_of(self.arguments):
            directory = adapter_directory(adapter)
            check_adapter(directory, read_adapter_record(directory).on(self.arguments.get("base_model")))


def adapters_of(arguments: Mapping[str, Any]) -> list[Path]:
    """The adapters of a work's arguments: one, or the keys of a mapping to weights."""
    given = arguments.get("adapter")
    if given is None:
        return []
    return [Path(name) for name in (given if isinstance(given, Mapping) else [given])]


def work_of(kind: str) -> Work:
    """The work of that kind. Raises `UsageError` where there is none, as in a job of a later version."""
    if kind not in WORKS:
        raise UsageError(
            f"{kind!r} is no kind of job that this version knows.", next_step=f"Choose among {', '.join(WORKS)}."
        )
    return WORKS[kind]


def checked_work(kind: str, arguments: Mapping[str, Any]) -> CheckedWork:
    """The work with every path absolute: it must mean the same wherever it is started.

    Raises `UsageError` for arguments that the function does not take, that are missing, or that are no plain data.
    """
    work = work_of(kind)
    given = {name: value for name, value in _plain(kind, arguments).items() if value is not None}
    _require_known(kind, given, inspect.signature(work.function()).parameters)
    _require_paths(work, kind, given)
    absolute = {name: _absolute(work, name, value) for name, value in given.items()}
    if kind == "evaluate" and "output" not in absolute:
        absolute["output"] = _beside_adapter(absolute)
    return CheckedWork(kind, absolute)


def _beside_adapter(arguments: Mapping[str, Any]) -> str:
    from ..evaluation.evaluate import default_output
    from ..evaluation.rows import find_run

    directory = adapter_directory(adapters_of(arguments)[0])
    return str(default_output(directory, find_run(directory), arguments.get("data")))


def _named(home: str) -> Callable[..., Any]:
    module, _, name = home.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _plain(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments), default=_path_text, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The arguments of the {noun_of(kind)} are no plain data: {error}.",
            next_step="Give text, numbers and lists of them.",
        ) from None
    return plain


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _require_known(kind: str, given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> None:
    names = [name for name in known if name not in _OURS]
    wrong = [name for name in given if name not in names]
    required = [name for name in names if known[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in given]
    if wrong or missing:
        what = f"does not take {', '.join(wrong)}" if wrong else f"lacks {', '.join(missing)}"
        raise UsageError(f"The {noun_of(kind)} {what}.", next_step=f"Its arguments are {', '.join(names)}.")


def _require_paths(work: Work, kind: str, given: Mapping[str, Any]) -> None:
    for name in work.paths:
        value = given.get(name, "")
        many = name in work.weighted
        if isinstance(value, str) or (many and isinstance(value, Mapping) and value):
            continue
        allowed = "a path, or paths with a weight each" if many else "one path"
        raise UsageError(f"The {name} of the {noun_of(kind)} is {value!r:.80}.", next_step=f"Give {allowed}.")


def _absolute(work: Work, name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(work, name, item) for item in value]
    if isinstance(value, dict):
        return {_absolute(work, name, key): item for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if name in work.files_of_code:
        file, colon, function = value.partition(":")
        return f"{as_path(file)}{colon}{function}" if Path(file).suffix in _CODE_SUFFIXES else value
    local = name in work.paths
    local = local or (name in work.datasets and not is_on_hub(DataSource(value)))
    local = local or (name in work.models and ModelReference.parse(value).source == "local")
    return str(as_path(value)) if local else value
