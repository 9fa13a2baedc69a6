"""What a run will need, found in a moment and without a network."""

from pathlib import Path

from ..config import RunConfig
from ..config.files import nearest_file
from ..config.library_arguments import resolve_compute_dtype
from ..data.reading.sources import DataSource, is_on_hub
from ..errors import DataError, ModelError
from ..memory import Workload, estimate_training
from ..models.catalogue import CATALOGUE
from ..models.hardware import Hardware
from ..models.local_files import check_model_directory, read_model_config
from ..models.reference import ModelReference
from ..models.shape import ModelShape
from ..paths import as_path

# The dtype of new cards takes the memory of older ones' too.
_GPU = Hardware("cuda", "a GPU", 0, 0, computes_bfloat16=True)
_CPU = Hardware("cpu", "the CPU", 0, 0, computes_bfloat16=False)


def needed_here(config: RunConfig, device_kind: str) -> tuple[int | None, str]:
    """Memory in bytes that should be free for the run, None where that is not known, and how it was found.

    Raises `ConfigError` for modules that the model does not have, and `ModelError` for a name that means nothing.
    """
    shape, how = _shape(config)
    if shape is None:
        return None, how
    hardware = _GPU if device_kind == "cuda" else _CPU
    dtype = resolve_compute_dtype(config.quantization.compute_dtype, hardware)
    workload = Workload() if config.training.micro_batch_size == 1 else None
    estimate = estimate_training(config, shape, compute_dtype=dtype, hardware=hardware, workload=workload)
    return estimate.needed_bytes, "estimated, with rows that fill training.max_length_tokens"


def _shape(config: RunConfig) -> tuple[ModelShape | None, str]:
    reference = ModelReference.parse(config.model.name, source=config.model.source)
    if reference.source == "hub":
        entry = next((model for model in CATALOGUE.values() if model.hub_id.lower() == reference.name.lower()), None)
    elif reference.source == "catalogue":
        entry = CATALOGUE.get(reference.name)
    else:
        return _local_shape(as_path(reference.name))
    if entry is None:
        return None, "not known: the catalogue does not have the model"
    return ModelShape.from_config(entry.config), ""


def _local_shape(directory: Path) -> tuple[ModelShape | None, str]:
    try:
        shape = ModelShape.from_config(read_model_config(directory))
    except ModelError as error:
        return None, f"not known: {error.message}"
    if not shape.traits.known:
        return None, f"not known: {shape.model_type} is not a family whose code was read"
    return shape, ""


def check_local_model(config: RunConfig) -> None:
    """Raise `ModelError` for a local model that is missing, incomplete or unsafe: better now than after a wait."""
    reference = ModelReference.parse(config.model.name, source=config.model.source)
    if reference.source == "local":
        check_model_directory(as_path(reference.name))


def check_local_data(config: RunConfig) -> None:
    """Raise `DataError` for rows that are not there: better now than after a wait. What is in them is checked by the run."""
    data = config.data
    sources = [(data.path, data.source), *((part.path, part.source) for part in data.more_sources)]
    sources += [(data.evaluation_path, data.source)] if data.evaluation_path is not None else []
    for path, source in sources:
        if not is_on_hub(DataSource(path, source=source)) and not as_path(path).exists():
            raise DataError(f"There is no dataset {path}.", next_step=nearest_file(as_path(path)))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with every local path made absolute: the run must mean the same wherever it is started."""
    model, data = config.model, config.data
    local = ModelReference.parse(model.name, source=model.source).source == "local"
    more = tuple(part.model_copy(update={"path": _data_path(part.path, part.source)}) for part in data.more_sources)
    changes: dict[str, object] = {"path": _data_path(data.path, data.source)}
    if data.evaluation_path is not None:
        changes["evaluation_path"] = _data_path(data.evaluation_path, data.source)
    if more:
        changes["more_sources"] = more
    return config.model_copy(
        update={
            "model": model.model_copy(update={"name": str(as_path(model.name))}) if local else model,
            "data": data.model_copy(update=changes),
            "output": config.output.model_copy(update={"directory": str(as_path(config.output.directory))}),
        }
    )


def _data_path(path: str, source: str) -> str:
    here = DataSource(path, source=source)  # type: ignore[arg-type]
    return path if is_on_hub(here) else str(as_path(path))
