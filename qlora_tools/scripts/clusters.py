"""What the files around a training script are rendered with: several GPUs, Slurm, SkyPilot, a container."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..config.schema import RunConfig
from ..data.dataset import evaluation_source, training_sources
from ..data.reading.sources import is_on_hub
from ..errors import ConfigError, ConfigProblem, UsageError
from ..models.gpus import Gpu, find_gpu
from .inputs import ScriptInputs, base_name, without_tilde
from .literals import Value
from .notebook import script_dependencies
from .rendering import Choice
from .skypilot_names import skypilot_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_BUCKET = re.compile(r"(s3|gs|r2|cos|oci|nebius|https)://[A-Za-z0-9][A-Za-z0-9._/-]*")
_FIRST_OF_CUDA_13 = (7, 5)


@dataclass(frozen=True)
class LaunchRequest:
    """One machine with several GPUs."""

    gpus: int = 2


@dataclass(frozen=True)
class SlurmRequest:
    """One node of a Slurm cluster. `gpu_type` is the cluster's own word, as in `--gpus-per-node=a100:2`; `grace_seconds` is
    how long before the end of its time the training is told to save."""

    name: str = "qlora"
    gpus: int = 1
    gpu_type: str | None = None
    cpus_per_gpu: int = 8
    memory_gib: int = 64
    hours: int = 24
    grace_seconds: int = 300
    partition: str | None = None
    account: str | None = None
    script: str = "train.py"
    launch_config: str = "accelerate.yaml"


@dataclass(frozen=True)
class SkypilotRequest:
    """One machine in a cloud. `gpu` is a name of the GPU catalogue; `bucket` is where checkpoints and results go (s3://,
    gs:// ...), which spot machines need; `rows_files` are the files in tokens beside a script that has them."""

    gpu: str | None = None
    gpus: int = 1
    name: str = "qlora"
    disk_gib: int = 256
    spot: bool = False
    bucket: str | None = None
    script: str = "train.py"
    launch_config: str = "accelerate.yaml"
    rows_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class DockerRequest:
    """An image of the training script; `gpu`, a name of the GPU catalogue, chooses the build of CUDA. `rows_files` are the
    files in tokens beside a script that has them."""

    gpu: str | None = None
    script: str = "train.py"
    rows_files: tuple[str, ...] = ()


def accelerate_inputs(config: RunConfig, request: LaunchRequest) -> ScriptInputs:
    """Inputs of `accelerate.yaml.j2`: a process for each GPU, each with the whole model (DDP).

    Raises `UsageError` for less than two GPUs.
    """
    _require_several(request.gpus)
    choices: dict[str, Choice] = {"compute_dtype": config.quantization.compute_dtype}
    return ScriptInputs(choices, {"gpus": request.gpus}, _same_steps(config, request.gpus))


def fsdp_inputs(config: RunConfig, request: LaunchRequest) -> ScriptInputs:
    """Inputs of `fsdp.yaml.j2`: the model shared out among the GPUs (FSDP2).

    Raises `ConfigError` with every field of the config that FSDP cannot work with, and `UsageError` for less than two GPUs.
    """
    _require_several(request.gpus)
    problems = list(_against_sharding(config))
    if problems:
        raise ConfigError(problems, source="for FSDP")
    return ScriptInputs({}, {"gpus": request.gpus}, _same_steps(config, request.gpus))


def slurm_inputs(config: RunConfig, request: SlurmRequest) -> ScriptInputs:
    """Inputs of `slurm.sh.j2`. Raises `UsageError` for names that are none and numbers out of range."""
    for what in ("name", "gpu_type", "partition", "account"):
        _require_name(what, getattr(request, what))
    for what, least, most in (
        *(("gpus", 1, 8), ("cpus_per_gpu", 1, 128), ("memory_gib", 1, 16_384)),
        *(("hours", 1, 8_760), ("grace_seconds", 10, 3_600)),
    ):
        _require_range(what, getattr(request, what), least, most)
    values: dict[str, Value] = {name: value for name, value in vars(request).items() if name != "cpus_per_gpu"}
    values |= {"cpus": request.gpus * request.cpus_per_gpu, "output": without_tilde(config.output.directory)}
    named = ("gpu_type", "partition", "account")
    choices: dict[str, Choice] = {f"has_{what}": getattr(request, what) is not None for what in named}
    notes = (*_launcher(request.launch_config, request.gpus), *_same_steps(config, request.gpus))
    return ScriptInputs({**choices, "many": request.gpus > 1}, values, notes)


def skypilot_inputs(config: RunConfig, request: SkypilotRequest) -> ScriptInputs:
    """Inputs of `skypilot.yaml.j2`. Raises `UsageError` for a GPU that is not named or not known, for spot machines without a
    bucket, and for names and numbers that are none."""
    gpu = _skypilot_gpu(request.gpu)
    _require_name("name", request.name)
    _require_range("gpus", request.gpus, 1, 8)
    _require_range("disk_gib", request.disk_gib, 50, 65_536)
    _require_bucket(request)
    files, notes = _files_to_send(config, request)
    values: dict[str, Value] = {
        "name": request.name,
        "accelerators": f"{skypilot_name(gpu)}:{request.gpus}",
        "disk_gib": request.disk_gib,
        "script": Path(request.script).name,
        "launch_config": Path(request.launch_config).name,
        "output": without_tilde(config.output.directory),
        "output_target": _there(config.output.directory),
        "bucket": request.bucket,
        "file_mounts": files,
    }
    choices: dict[str, Choice] = {
        "many": request.gpus > 1,
        "spot": request.spot,
        "has_bucket": request.bucket is not None,
        "old_gpu": _is_old(gpu),
    }
    notes += (*_launcher(request.launch_config, request.gpus), *_same_steps(config, request.gpus))
    return ScriptInputs(choices, values, notes)


def docker_inputs(script_text: str, request: DockerRequest) -> ScriptInputs:
    """Inputs of `Dockerfile.j2` for a script, of which the head says what to install. Raises `UsageError` for a name of a
    script that is none, and for a GPU that is not known."""
    _require_name("script", request.script)
    cuda = "12.6" if request.gpu is not None and _is_old(_known(request.gpu)) else "13.0"
    dependencies: list[Value] = [*script_dependencies(script_text)]
    notes = tuple(
        f"The rows stay outside the image: mount {name} as /job/{name} when it runs." for name in request.rows_files
    )
    return ScriptInputs({"cuda": cuda}, {"dependencies": dependencies, "script": request.script}, notes)


def _against_sharding(config: RunConfig) -> Iterable[ConfigProblem]:
    quantization, optimizer = config.quantization, config.training.optimizer
    if quantization.kind not in ("nf4", "fp4"):
        yield ConfigProblem(
            "quantization.kind",
            f"is {quantization.kind}; the training script shares out 4-bit bases only: use nf4 or fp4",
        )
    if quantization.compute_dtype != "bfloat16":
        yield ConfigProblem(
            "quantization.compute_dtype",
            f"is {quantization.compute_dtype}; FSDP needs one dtype for base and adapter: use bfloat16 (Ampere or newer)",
        )
    if quantization.storage_dtype != "bfloat16":
        yield ConfigProblem(
            "quantization.storage_dtype",
            f"is {quantization.storage_dtype}; FSDP shards floating-point weights of the compute dtype only, and would keep "
            "the whole base on each GPU: use bfloat16",
        )
    if optimizer not in ("adamw_torch", "sgd"):
        yield ConfigProblem(
            "training.optimizer",
            f"is {optimizer}, which does not work on shards (DTensor); use adamw_torch: its state is shared out too",
        )


def _require_several(gpus: int) -> None:
    _require_range("gpus", gpus, 1, 64)
    if gpus == 1:
        raise UsageError(
            "One GPU needs no launcher; gpus is 1, and 2 to 64 are allowed.",
            next_step="Run the script itself, or give the number of GPUs.",
        )


def _require_range(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise UsageError(f"{what} is {number}; {least} to {most} is allowed.", next_step=f"Give another {what}.")


def _require_name(what: str, name: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} is {name!r}; letters, digits, '.', '_' and '-' are allowed, 63 at most, a letter or digit first.",
            next_step=f"Choose another {what}.",
        )


def _require_bucket(request: SkypilotRequest) -> None:
    if request.bucket is not None and not _BUCKET.fullmatch(request.bucket):
        raise UsageError(
            f"bucket is {request.bucket!r}; an address is s3://, gs://, r2://, cos://, oci://, nebius:// or https://, and a "
            "name.",
            next_step="Give the address of a bucket that you can write to.",
        )
    if request.spot and request.bucket is None:
        raise UsageError(
            "A spot machine is taken away with its disk, and no bucket is given for the checkpoints.",
            next_step="Give a bucket, such as s3://my-bucket/run, or a machine that is not spot.",
        )


def _known(name: str) -> Gpu:
    gpu = find_gpu(name)
    gpu.hardware()  # says why a GPU is not supported
    return gpu


def _skypilot_gpu(name: str | None) -> Gpu:
    if name is None:
        raise UsageError(
            "A machine in a cloud is chosen by its GPU, and none is named.",
            next_step="Name one, such as L4, A10G, A100 80GB or H100; `qlora estimate` says which suffices.",
        )
    return _known(name)


def _is_old(gpu: Gpu) -> bool:
    return gpu.compute_capability is not None and gpu.compute_capability < _FIRST_OF_CUDA_13


def _files_to_send(config: RunConfig, request: SkypilotRequest) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Where each local file that the training needs lies on the machine in the cloud, and what to know about them."""
    folder = Path(request.script).parent
    own = [request.script, *(str(folder / name) for name in request.rows_files)]
    own += [request.launch_config] if request.gpus > 1 else []
    files: dict[str, Value] = {f"~/run/{Path(path).name}": path for path in own}
    if not request.rows_files:
        held_out = evaluation_source(config.data)
        sources = [*training_sources(config.data), *([held_out] if held_out else [])]
        local = [without_tilde(rows.source.path) for rows in sources if not is_on_hub(rows.source)]
        files |= {_there(path): path for path in local}
    name, _ = base_name(config.model)
    if not name.startswith("/"):
        return files, ()
    note = "The base is a local directory: SkyPilot sends all of it up, gigabytes at each launch. A Hub id is faster."
    return {**files, name: name}, (note,)


def _there(path: str) -> str:
    """Where a path of the script lies on the machine in the cloud: relative ones below the directory that it runs in."""
    given = without_tilde(path)
    return given if given.startswith("/") else f"~/run/{given}"


def _launcher(launch_config: str, gpus: int) -> tuple[str, ...]:
    """The file that several GPUs need besides."""
    kind = "fsdp" if "fsdp" in launch_config else "accelerate"
    return (f"It belongs beside {launch_config}: render that as kind {kind}, with gpus {gpus}.",) if gpus > 1 else ()


def _same_steps(config: RunConfig, gpus: int) -> tuple[str, ...]:
    """What the script will refuse: GPUs share the micro-batches of a step, so that the steps are those of one."""
    accumulated = config.training.gradient_accumulation_steps
    if accumulated % gpus == 0:
        return ()
    return (
        f"{gpus} GPUs cannot share the {accumulated} micro-batches of a step evenly: set "
        "training.gradient_accumulation_steps to a multiple.",
    )
