"""Every path of a RunConfig, resolved and checked; what is no path (Hub ids, catalogue names) stays as it is."""

from collections.abc import Callable
from pathlib import Path

from ..config import RunConfig
from ..config.data_schema import RowsConfig
from ..data.reading.sources import DataSource, is_on_hub
from ..errors import ConfigError, ConfigProblem, UsageError
from ..models.reference import ModelReference
from .folders import check_saved_dataset
from .refusal import PathRefusedError, shown
from .resolving import Rule


def with_checked_paths(config: RunConfig, reading: Rule, writing: Rule) -> RunConfig:
    """The config with each path as `reading` and `writing` resolve it; raises `ConfigError` with all refusals."""
    paths = _Checked()
    model, data = config.model, config.data
    name = paths.add("model.name", model.name, lambda text: checked_model(text, model.source, reading))
    first = paths.add("data.path", data.path, lambda text: _checked_rows(text, data.source, reading))
    more = tuple(_checked_source(paths, place, part, reading) for place, part in enumerate(data.more_sources))
    held = data.evaluation_path
    if held is not None:
        held = paths.add("data.evaluation_path", held, lambda text: _checked_rows(text, data.source, reading))
    output = paths.add("output.directory", config.output.directory, lambda text: str(writing.resolve(text)))
    if paths.problems:
        raise ConfigError(paths.problems, source="given")
    changes = {"path": first, "more_sources": more, "evaluation_path": held}
    # What was not written stays unwritten, so that the config is dumped as short as it was.
    written = {field: value for field, value in changes.items() if field in data.model_fields_set}
    return config.model_copy(
        update={
            "model": model.model_copy(update={"name": name}),
            "data": data.model_copy(update=written),
            "output": config.output.model_copy(update={"directory": output}),
        }
    )


class _Checked:
    """Collects what is wrong with the paths of one config."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []

    def add(self, field: str, text: str, check: Callable[[str], str]) -> str:
        """The checked text; after a refusal the text itself, with the problem noted."""
        try:
            return check(text)
        except PathRefusedError as refused:
            message = f"{shown(text)} {refused.reason}. {refused.next_step}"
        except UsageError as error:
            message = f"{error.message} {error.next_step}"
        self.problems.append(ConfigProblem(field, message))
        return text


def checked_model(name: str, source: str, reading: Rule) -> str:
    """The name of a model, resolved where it is a local directory.

    Raises `PathRefusedError` where that may not be read, `ModelError` for a name whose form does not fit `source`.
    """
    if ModelReference.parse(name, source=source).source != "local":
        return name
    directory = reading.resolve(name)
    # Transformers would load the base that the adapter names in the place of this model.
    if (directory / "adapter_config.json").exists():
        raise PathRefusedError(
            "holds an adapter (adapter_config.json), which names another model in its place",
            "Give the directory of the base model, or of a merged model.",
        )
    return str(directory)


def _checked_rows(path: str, source: str, reading: Rule) -> str:
    if is_on_hub(DataSource(path, source=source)):  # type: ignore[arg-type]
        return path
    place: Path = reading.resolve(path)
    check_saved_dataset(place)
    return str(place)


def _checked_source(paths: _Checked, place: int, part: RowsConfig, reading: Rule) -> RowsConfig:
    field = f"data.more_sources.{place}.path"
    path = paths.add(field, part.path, lambda text: _checked_rows(text, part.source, reading))
    return part.model_copy(update={"path": path})
