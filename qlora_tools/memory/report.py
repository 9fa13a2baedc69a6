"""The public estimate: a model and a GPU by name, settings beside the defaults, and the answer with its parts."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..config.library_arguments import resolve_compute_dtype
from ..config.overrides import config_with, field_path
from ..config.schema import RunConfig
from ..errors import UsageError
from ..models.cpu_here import CPU, cpu_here
from ..models.gpus import find_gpu
from ..models.hardware import Hardware
from ..models.known import KnownModel, find_model
from ..results import HostMemory, MemoryReport
from .estimate import MemoryEstimate, estimate_training
from .fast_limits import why_not_fast
from .history import past_runs
from .tasks import HostEstimate, estimate_full_training, estimate_inference, estimate_merging

Task = Literal["training", "full", "inference", "merging"]
GIB = 2**30


def estimate_memory(
    model: str,
    *,
    gpu: str | None = None,
    memory_limit_gib: float | None = None,
    task: Task = "training",
    settings: Mapping[str, Any] | None = None,
) -> MemoryReport:
    """Peak memory of a task on `model`, and whether it fits `gpu` (a name) or `memory_limit_gib`.

    `settings` are config fields beside the defaults (`{"lora.rank": 64, "training.max_length_tokens": 4096}`). For
    inference, `training.micro_batch_size` counts prompts at once and `training.max_length_tokens` prompt and answer.

    No weights are read, and a catalogue model needs neither torch nor a network. Raises `ModelError`, `UsageError` and
    `ConfigError` for unknown names and values, `MachineError` for a GPU that is not supported.
    """
    if task not in get_args(Task):
        raise UsageError(f"{task!r} is not a task.", next_step=f"Choose one of {', '.join(get_args(Task))}.")
    named = [name for name in settings or {} if field_path(name) == "model.name"]
    if named:
        raise UsageError("A setting may not name the model again.", next_step="Give it once, as the model itself.")
    hardware = hardware_for(gpu, memory_limit_gib)
    config = config_with(settings or {}, model=model)
    known = find_model(model, source=config.model.source)
    dtype = resolve_compute_dtype(config.quantization.compute_dtype, hardware or _NEWEST)
    if task == "merging":
        return _host_report(known, estimate_merging(known.shape))
    estimate = _estimate(task, config, known, dtype, hardware)
    return _report(task, config, known, dtype, hardware, estimate)


# Without a GPU named, figures are those of the newest cards.
_NEWEST = Hardware("cuda", "a GPU with bf16", 0, 0, computes_bfloat16=True, compute_capability=(9, 0))


def hardware_for(gpu: str | None, memory_limit_gib: float | None) -> Hardware | None:
    """The machine to plan for: a GPU by name or `cpu`, less where a limit is given, or any GPU of that much memory."""
    number = isinstance(memory_limit_gib, int | float) and not isinstance(memory_limit_gib, bool)
    if memory_limit_gib is not None and not (number and 0.5 <= memory_limit_gib <= 4096):
        raise UsageError(
            f"A memory limit of {memory_limit_gib!r} GiB makes no sense; 0.5 to 4096 is allowed.",
            next_step="Give the free memory of the GPU in GiB.",
        )
    if gpu is None and memory_limit_gib is None:
        return None
    limit = None if memory_limit_gib is None else round(memory_limit_gib * GIB)
    if gpu is None:
        assert limit is not None
        return Hardware("cuda", f"a GPU of {memory_limit_gib:g} GiB", limit, limit, True, (9, 0))
    card = cpu_here() if gpu.strip().lower() == CPU else find_gpu(gpu).hardware()
    if limit is None or limit >= card.free_memory_bytes:
        return card
    return Hardware(card.kind, card.name, card.memory_bytes, limit, card.computes_bfloat16, card.compute_capability)


def _estimate(
    task: Task, config: RunConfig, known: KnownModel, dtype: str, hardware: Hardware | None
) -> MemoryEstimate:
    if task == "full":
        return estimate_full_training(config, known.shape, hardware=hardware)
    if task == "inference":
        return estimate_inference(
            known.shape,
            config.quantization,
            compute_dtype=dtype,
            rows=config.training.micro_batch_size,
            length=config.training.max_length_tokens,
            hardware=hardware,
        )
    return estimate_training(config, known.shape, compute_dtype=dtype, hardware=hardware)


def _host_report(known: KnownModel, estimate: HostEstimate) -> MemoryReport:
    memory = HostMemory(memory_bytes=estimate.memory_bytes, disk_bytes=estimate.disk_bytes)
    return MemoryReport(
        **_about(known),
        task="merging",
        compute_dtype="float32",
        parts=estimate.parts,
        moment="adding the adapter",
        host=memory,
        next_step="Merging runs on the CPU; it needs so much host memory and disk, and no GPU.",
    )


def _about(known: KnownModel) -> dict[str, Any]:
    return {
        "model": known.name,
        "source": known.source,
        "licence": known.licence,
        "parameters": known.shape.parameters,
    }


def _report(
    task: Task,
    config: RunConfig,
    known: KnownModel,
    dtype: str,
    hardware: Hardware | None,
    estimate: MemoryEstimate,
) -> MemoryReport:
    free = None if hardware is None else hardware.free_memory_bytes
    fits = None if free is None else estimate.fits(free)
    return MemoryReport(
        **_about(known),
        task=task,
        compute_dtype=dtype,
        parts=estimate.parts,
        moment=estimate.moment,
        low_bytes=estimate.low_bytes,
        mid_bytes=estimate.mid_bytes,
        high_bytes=estimate.high_bytes,
        reserved_bytes=estimate.reserved_bytes,
        device_bytes=estimate.device_bytes,
        needed_bytes=estimate.needed_bytes,
        context_bytes=estimate.context_bytes,
        paged_bytes=estimate.paged_bytes,
        gpu=None if hardware is None else hardware.name,
        gpu_bytes=free,
        fits=fits,
        past=past_runs(None if hardware is None else hardware.name) if task == "training" else None,
        notes=[
            *_notes(config, known, hardware),
            *(_engine_notes(config, known, hardware, estimate) if task == "training" else ()),
        ],
        next_step=_next_step(fits, task),
    )


def _notes(config: RunConfig, known: KnownModel, hardware: Hardware | None) -> list[str]:
    shape, notes = known.shape, []
    if not shape.traits.known:
        notes.append(
            f"{shape.model_type} is not a family whose code was read here: its activations are taken to be like Llama's, "
            f"and the band is wider; its weights are {'counted by its own code' if shape.counted else 'guessed too'}. "
            "`qlora estimate --probe` measures it."
        )
    if shape.experts is not None and config.quantization.kind != "none":
        share = shape.expert_parameters / shape.parameters
        notes.append(
            f"bitsandbytes leaves the experts unquantised: {share:.0%} of the parameters stay in 16 bits. With all-linear "
            "targets PEFT adapts them too; target_modules=attention leaves them alone."
        )
    if shape.traits.own_linears and config.quantization.kind != "none":
        notes.append(f"{shape.model_type} has linear layers of its own class, which bitsandbytes leaves in 16 bits.")
    if config.quantization.kind == "int8":
        notes.append("int8 keeps inputs of every linear layer, which checkpointing does not reach; nf4 does not.")
    if shape.traits.eager_only:
        notes.append("This family caps its attention scores, so they are stored: memory grows with length squared.")
    if hardware is not None and hardware.kind == "cuda" and not hardware.computes_bfloat16:
        notes.append(f"{hardware.name} has no bf16: fp16 is used, which takes the same memory.")
    if shape.max_length is not None and config.training.max_length_tokens > shape.max_length:
        notes.append(f"The model was made for {shape.max_length:,} tokens; longer rows ask for positions it never saw.")
    return notes


def _engine_notes(
    config: RunConfig, known: KnownModel, hardware: Hardware | None, estimate: MemoryEstimate
) -> list[str]:
    if config.training.engine != "fast":
        return []
    device = "cuda" if hardware is None else hardware.kind
    reason, kept = why_not_fast(config, known.shape, device), estimate.kept_words()
    if reason is not None:
        return [f"training.engine is fast, and a run would use the stock engine, which is what is counted: {reason}."]
    return ["These are the figures of the fast engine.", *([f"fast engine: {kept}."] if kept else [])]


def _next_step(fits: bool | None, task: Task) -> str:
    if fits is None:
        return "Name a GPU (--gpu) or a memory limit to see whether it fits."
    if fits:
        return (
            "It fits. `qlora plan` writes a config with a reason for each value." if task == "training" else "It fits."
        )
    if task == "training":
        return "It does not fit for sure. `qlora plan` finds the fewest changes that make it fit."
    return "It does not fit for sure: lower training.max_length_tokens, quantise, or choose a smaller model."
