"""The public call: one or several adapters in, a plain model directory out, checked before it is called merged."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._version import __version__
from ..adapters.check import require_fit
from ..adapters.lora import read_lora
from ..adapters.record import ADAPTER_WEIGHTS, AdapterRecord, adapter_directory, file_hash, read_adapter_record
from ..config.schema import QuantizationConfig
from ..disk import disk_errors
from ..durable import as_json
from ..errors import CheckFailed, UsageError
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..models.reference import ResolvedModel
from ..models.stored_tensors import StoredTensor, model_tensors
from ..paths import as_path
from ..requirements import require_training_libraries
from ..results import BaseDifference, MergeResult, ParityResult
from .companions import MERGE_RECORD_FILE, copy_tokenizer, write_config, write_generation_config, write_merge_record
from .difference import base_difference
from .found import Found
from .plan import MergePlan, WeightedAdapter, plan_merge, require_mergeable
from .prompts import PARITY_PROMPTS
from .workplace import fingerprint, publish, require_disk, workplace

if TYPE_CHECKING:
    from .writing import WeightError

MergeBase = Literal["trained", "original", "nf4", "fp4", "int8"]
MergeDtype = Literal["bfloat16", "float16", "float32"]
SHARD_BYTES = 5 * 10**9


def merge(
    adapter: str | Path | Mapping[str, float],
    output: str | Path,
    *,
    base: MergeBase = "trained",
    base_model: str | None = None,
    dtype: MergeDtype = "bfloat16",
    prompts: Sequence[str] = PARITY_PROMPTS,
    check: bool = True,
    stop: StopAsked = never,
    on_event: Listener = ignore,
) -> MergeResult:
    """Merge an adapter and write a model directory that plain Transformers loads.

    `adapter` is the output directory of a run or an adapter directory; a mapping of several to their weights adds them all,
    each times its weight. `base` "trained" merges into the weights that the adapter was trained against (for a 4-bit base:
    dequantised), so that the result answers as the adapter did; "original" into the published weights; "nf4", "fp4" and
    "int8" into the base dequantised from that kind, for adapters that do not tell. `base_model` says where the base lies
    now. It works from file to file in slices and holds no model in memory; a merge that was cut off goes on when the same
    call is made again. With `check`, the merged model is compared on `prompts` with that base plus the adapter, and only
    then put in place.

    Raises `ModelError`, `UsageError` (output exists), `MachineError` (disk, libraries), `CheckFailed` (parity), all but the
    last before any weight is computed; `WorkStopped`.
    """
    require_training_libraries("merging")
    began = time.monotonic()
    target = as_path(str(output))
    if not prompts and check:
        raise UsageError("There is no prompt to compare answers on.", next_step="Give prompts, or check=False.")
    task = _prepared(_found(adapter, base_model), base, dtype)
    if target.exists():
        return _made_before(task, target, check=check)
    with workplace(target, task.asked()) as place, disk_errors(target.parent, left="the same merge goes on from there"):
        require_disk(target, place, task.plan.size_bytes)
        on_event(RunEvent("phase", f"Merging into the {base} base"))
        with ThreadPoolExecutor(1) as aside:  # An adapter with trained embeddings takes seconds to hash.
            hashes = aside.submit(_adapter_hashes, task)
            error = _write(task, place, on_event, stop)
        parity, answers = None, None
        if check:
            on_event(RunEvent("phase", f"Comparing answers to {len(prompts)} prompts"))
            parity, answers = _checked(task, place, prompts, on_event)
        difference = base_difference(task, error.relative, answers)
        result = _result(task, target, place, parity, difference, time.monotonic() - began)
        _finish(task, place, target, result, hashes.result())
    return result


def check_merge(
    adapter: str | Path | Mapping[str, float], output: str | Path, *, base_model: str | None = None
) -> Found:
    """What can be said of a merge from headers alone, without torch: raises as `merge` does before it computes anything."""
    _require_free(as_path(str(output)))
    return _found(adapter, base_model)


def _require_free(target: Path) -> None:
    if target.exists():
        raise UsageError(f"The output {target} exists.", next_step="Choose a directory that does not exist yet.")


def _found(adapter: str | Path | Mapping[str, float], base_model: str | None) -> Found:
    wanted = _weighted(adapter)
    records = [read_adapter_record(directory).on(base_model) for directory, _ in wanted]
    for record in records[1:]:
        _require_same_base(records[0], record)
    resolved = records[0].base()
    tensors = model_tensors(Path(resolved.location))
    adapters = tuple(WeightedAdapter(read_lora(directory), weight) for directory, weight in wanted)
    for one in adapters:
        require_fit(one.facts, tensors, resolved)
    require_mergeable(adapters)
    return Found(adapters, records[0], resolved, tensors)


@dataclass(frozen=True)
class MergeTask:
    """A merge that is settled: everything it needs was found, and fits."""

    adapters: tuple[WeightedAdapter, ...]
    record: AdapterRecord
    resolved: ResolvedModel
    base_kind: MergeBase
    quantization: QuantizationConfig
    tensors: Mapping[str, StoredTensor]
    plan: MergePlan
    dtype: MergeDtype

    @property
    def location(self) -> Path:
        """Where the base's files lie."""
        return Path(self.resolved.location)

    @property
    def loaded_as(self) -> str | None:
        """The dtype in which the base is loaded before it is quantised; None where it is taken as it is stored."""
        return None if self.quantization.kind == "none" else _loaded_as(self.record)

    @property
    def weights(self) -> dict[str, float]:
        """Adapters and how much of each is merged."""
        return {str(one.facts.directory): one.weight for one in self.adapters}

    @property
    def request_hash(self) -> str:
        """SHA-256 of all that decides what is written."""
        return hashlib.sha256(as_json(self.asked())).hexdigest()

    def on_trained(self) -> "MergeTask":
        """The same adapters on the base that they were trained against."""
        from ..engine.skeleton import read_skeleton

        quantization = self.record.quantization
        skeleton = read_skeleton(self.location, quantization, _loaded_as(self.record))
        plan = plan_merge(self.tensors, self.adapters, skeleton, self.dtype)
        return replace(self, quantization=quantization, base_kind="trained", plan=plan)

    def asked(self) -> dict[str, Any]:
        """All that decides what is written: what a merge that goes on must have in common with the one before."""
        return {
            "version": __version__,
            "adapters": [
                [str(one.facts.directory), fingerprint(one.facts.tensors), one.weight] for one in self.adapters
            ],
            "base": fingerprint(list(self.tensors.values())),
            "base_kind": self.base_kind,
            "quantization": self.quantization.model_dump(mode="json"),
            "compute_dtype": self.record.compute_dtype,
            "dtype": self.dtype,
        }


def _weighted(adapter: str | Path | Mapping[str, float]) -> tuple[tuple[Path, float], ...]:
    if not isinstance(adapter, Mapping):
        return ((adapter_directory(as_path(str(adapter))), 1.0),)
    if not adapter:
        raise UsageError("There is no adapter to merge.", next_step="Give at least one.")
    for name, weight in adapter.items():
        if not math.isfinite(weight):
            raise UsageError(f"The weight of {name} is {weight}.", next_step="Give a number; 1 is what was trained.")
    return tuple((adapter_directory(as_path(str(name))), float(weight)) for name, weight in adapter.items())


def _prepared(found: Found, base: MergeBase, dtype: MergeDtype) -> MergeTask:
    from ..engine.skeleton import read_skeleton

    quantization = _quantization(found.record, base)
    skeleton = read_skeleton(Path(found.resolved.location), quantization, _loaded_as(found.record))
    plan = plan_merge(found.tensors, found.adapters, skeleton, dtype)
    return MergeTask(found.adapters, found.record, found.resolved, base, quantization, found.tensors, plan, dtype)


def _require_same_base(first: AdapterRecord, other: AdapterRecord) -> None:
    if first.base().location != other.base().location:
        raise UsageError(
            f"The adapters have different bases: {first.base_name} and {other.base_name}.",
            next_step="Merge adapters of one base.",
        )


def _quantization(record: AdapterRecord, base: MergeBase) -> QuantizationConfig:
    if base == "trained":
        return record.quantization
    if base == "original":
        return QuantizationConfig(kind="none")
    return record.quantization.model_copy(update={"kind": base})


def _loaded_as(record: AdapterRecord) -> str:
    """The dtype in which the base was loaded for training; bf16 where an adapter does not tell."""
    return record.compute_dtype if record.compute_dtype != "auto" else "bfloat16"


def _write(task: MergeTask, place: Path, on_event: Listener, stop: StopAsked) -> "WeightError":
    from .shards import shards_of, write_index
    from .writing import ShardWriter

    writer = ShardWriter(place, task.quantization, task.loaded_as, on_event, stop)
    shards = shards_of(task.plan, SHARD_BYTES)
    writer.write(shards)
    write_index(place, shards)
    write_config(task.location, place, task.plan, task.dtype)
    write_generation_config(task.location, place, task.record)
    copy_tokenizer(task.location, task.adapters[0].facts.directory, place)
    return writer.error


def _checked(
    task: MergeTask, place: Path, prompts: Sequence[str], on_event: Listener
) -> tuple[ParityResult, ParityResult | None]:
    """Parity with the base that was chosen, and where that is the original one, the distance from the trained one."""
    from .parity import check_parity

    parity, difference = check_parity(task, place, prompts, on_event)
    if not parity.passed:
        shutil.rmtree(place)
        raise CheckFailed(
            f"The merged model does not answer as base plus adapter: {100 * parity.clear_agreement:.2f} % of the tokens "
            f"with a clear lead agree (at least 99 %), mean KL {parity.mean_kl:.2e} nats (at most 1e-3); it is removed, "
            "nothing was written.",
            next_step="Merge with --dtype float32, or keep base and adapter apart.",
        )
    return parity, difference


def _made_before(task: MergeTask, target: Path, *, check: bool) -> MergeResult:
    """The result of the very same merge that was finished before, as when a job is resumed; raises for anything else."""
    try:
        told = json.loads((target / MERGE_RECORD_FILE).read_text(encoding="utf-8"))
        whole = told["shards"] == sum(1 for _ in target.glob("*.safetensors"))
        if told.pop("request_sha256") != task.request_hash or not whole or (check and told["parity"] is None):
            raise ValueError("another merge, one that is not whole, or was not compared")
        kept = {name: told[name] for name in MergeResult.model_fields if name in told}
        here = {"directory": str(target), "adapters": task.weights, "base_model": task.resolved.reference.name}
        return MergeResult(**{**kept, **here})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        _require_free(target)
        raise


def _result(
    task: MergeTask,
    target: Path,
    place: Path,
    parity: ParityResult | None,
    difference: BaseDifference | None,
    seconds: float,
) -> MergeResult:
    return MergeResult(
        directory=str(target),
        base=task.base_kind,
        base_model=task.resolved.reference.name,
        base_revision=task.resolved.revision or task.record.base_revision,
        quantization=task.quantization.kind,
        adapters=task.weights,
        dtype=task.dtype,
        size_bytes=sum(path.stat().st_size for path in place.iterdir() if not path.name.startswith(".")),
        shards=sum(1 for _ in place.glob("*.safetensors")),
        untied=task.plan.untied,
        parity=parity,
        base_difference=difference,
        seconds=seconds,
    )


def _adapter_hashes(task: MergeTask) -> list[str]:
    return [file_hash(one.facts.directory / ADAPTER_WEIGHTS) for one in task.adapters]


def _finish(task: MergeTask, place: Path, target: Path, result: MergeResult, hashes: list[str]) -> None:
    told = result.model_dump(mode="json", exclude={"directory", "adapters"})
    if task.resolved.reference.source == "local":
        told["base_model"] = task.location.name  # The record goes out with the model; this machine's paths do not.
    adapters = [{"sha256": sha, "weight": one.weight} for sha, one in zip(hashes, task.adapters, strict=True)]
    document = {"format_version": 1, "qlora_tools": __version__, "request_sha256": task.request_hash}
    write_merge_record(place, {**document, **told, "adapters": adapters})
    publish(place, target)
