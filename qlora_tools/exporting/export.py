"""The public call: an adapter or a merged model in, a directory for another tool out, checked before any work."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ModelError, UsageError
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..paths import as_path
from ..results import ExportResult, GgufFacts, ParityResult, TemplateParity
from .adapter_package import trained_stops, write_adapter_package
from .base_name import PublishedBase, exported_name, published_base
from .card import CardSubject, write_card
from .directory import check_target, made_whole, write_checksums
from .export_record import made_before, request_of, write_export_record
from .gguf import check_gguf
from .merged import gguf_bytes, merged_base, write_for_llama_cpp
from .run_record import RECORD_FILE, read_run_record
from .source import AdapterSource, MergedSource, Source, find_source, require_trained_template
from .vllm import require_servable, shown_command, write_vllm_command

ExportTarget = Literal["adapter", "vllm", "gguf", "ollama"]
ExportDtype = Literal["float32", "bfloat16", "f32", "bf16", "f16", "q8_0"]
_PACKAGES = ("adapter", "vllm")
_DTYPES: Mapping[str, tuple[str, ...]] = {
    "adapter": ("float32", "bfloat16"),
    "vllm": ("float32", "bfloat16"),
    "gguf": ("f16", "bf16", "f32", "q8_0"),
    "ollama": ("f16", "bf16", "f32", "q8_0"),
}


@dataclass(frozen=True)
class Export:
    """An export whose arguments are settled. `base` is None where a merged model's base has no public name."""

    source: Source
    to: ExportTarget
    target: Path
    name: str
    base: PublishedBase | None
    dtype: ExportDtype | None

    @property
    def request(self) -> dict[str, Any]:
        """All that decides what is written."""
        return request_of(self.source, self.base, to=self.to, name=self.name, dtype=self.dtype)


@dataclass(frozen=True)
class _Written:
    """What was made, for card and result."""

    notes: list[str]
    subject: CardSubject
    parity: ParityResult | None = None
    gguf: GgufFacts | None = None
    template: TemplateParity | None = None


def export(
    source: str | Path,
    *,
    to: ExportTarget,
    output: str | Path,
    name: str | None = None,
    base_name: str | None = None,
    dtype: ExportDtype | None = None,
    on_event: Listener = ignore,
    stop: StopAsked = never,
) -> ExportResult:
    """Make a new directory `output` that another tool loads: an adapter by itself, one with vLLM's command, GGUF, Ollama.

    `source` is the output directory of a run, an adapter, or (for gguf and ollama) a merged model; an adapter is merged on
    the way into the base that it was trained against, with the parity check. `base_name` says what the base is called on
    the Hub (`owner/name`, `owner/name@revision`) where only a directory is known. `dtype` is that of the weights: float32
    or bfloat16 for adapters (else they are copied), f16 (else), bf16, f32 or q8_0 for GGUF. The very same export that was
    finished before is not made again: its result is returned. One that was stopped or killed goes on from its merge.

    Raises `UsageError` (arguments, output exists), `ModelError` (source), `MachineError` (disk), `CheckFailed` (parity, or a
    GGUF file that does not hold the model), `WorkStopped`; then nothing stands at `output`.
    """
    began = time.monotonic()
    asked = _settled(source, to=to, output=output, name=name, base_name=base_name, dtype=dtype)
    finished = made_before(asked.target, asked.request)
    if finished is not None:
        on_event(RunEvent("note", f"The very same export stands in {asked.target}; nothing was written."))
        return finished
    _require_room(asked)
    with made_whole(asked.target, asked.request) as partial:
        written = _WRITERS[to](asked, partial, on_event, stop)
        on_event(RunEvent("phase", "Writing the card and the checksums"))
        write_card(partial, written.subject)
        result = _result(asked, written, time.monotonic() - began)
        write_export_record(partial, result, asked.request)
        found = write_checksums(partial)
    return result.model_copy(update={"files": found, "size_bytes": sum(file.size_bytes for file in found)})


def _result(asked: Export, written: _Written, seconds: float) -> ExportResult:
    """All but the files, whose list comes last."""
    return ExportResult(
        directory=str(asked.target),
        to=asked.to,
        name=asked.name,
        base=asked.base.name if asked.base else None,
        files=[],
        size_bytes=0,
        parity=written.parity,
        gguf=written.gguf,
        template=written.template,
        notes=written.notes,
        seconds=seconds,
    )


def check_export(
    source: str | Path,
    *,
    to: str,
    output: str | Path,
    name: str | None = None,
    base_name: str | None = None,
    dtype: str | None = None,
) -> Export:
    """What `export` refuses before it begins, as far as that can be told without torch; writes nothing. Raises as it does."""
    asked = _settled(source, to=to, output=output, name=name, base_name=base_name, dtype=dtype)
    _require_room(asked)
    return asked


def _settled(
    source: str | Path, *, to: str, output: str | Path, name: str | None, base_name: str | None, dtype: str | None
) -> Export:
    if to not in get_args(ExportTarget):
        raise UsageError(f"Nothing is exported to {to!a}.", next_step=f"Choose among {', '.join(_DTYPES)}.")
    if dtype is not None and dtype not in _DTYPES[to]:
        raise UsageError(
            f"The dtype {dtype!a} is none of an export to {to}.", next_step=f"Choose among {', '.join(_DTYPES[to])}."
        )
    path, target = as_path(str(source)), as_path(str(output))
    found = find_source(path)
    called = exported_name(name, path.parent.name if path.name == "adapter" else path.name)
    base = _base(found, to, base_name)
    if to == "vllm" and isinstance(found, AdapterSource):
        require_servable(found)
    if isinstance(found, AdapterSource):
        require_trained_template(found)
    if to not in _PACKAGES:
        check_gguf(found.base if isinstance(found, AdapterSource) else found.directory)
    return Export(found, to, target, called, base, dtype)  # type: ignore[arg-type]


def _base(found: Source, to: str, given: str | None) -> PublishedBase | None:
    """Demanded where the base is loaded by its name, told where it is known otherwise."""
    if isinstance(found, MergedSource):
        if to in _PACKAGES:
            raise ModelError(
                f"{found.directory} is a whole model, and there is no adapter in it to export to {to}.",
                next_step=f"Serve it as it is: `qlora serve {found.directory}`; or export it to gguf or ollama.",
            )
        return merged_base(found.merge, given)
    if to in _PACKAGES or given is not None:
        return published_base(found.record, given)
    return merged_base({"base_model": found.record.base_name, "base_revision": found.record.base_revision}, None)


def _require_room(asked: Export) -> None:
    """Room for the weights; a merge on the way, in bf16, stands beside the result for a while."""
    found, kind = asked.source, asked.dtype or "f16"
    if asked.to in _PACKAGES:
        needed = sum(path.stat().st_size for path in found.directory.glob("*.safetensors"))
    elif isinstance(found, MergedSource):
        needed = gguf_bytes(found.directory, kind)
    else:
        needed = gguf_bytes(found.base, kind) + gguf_bytes(found.base, "bf16") if found.base else 0
    check_target(asked.target, needed)


def _write_package(asked: Export, partial: Path, on_event: Listener, stop: StopAsked) -> _Written:
    source, base = asked.source, asked.base
    assert isinstance(source, AdapterSource) and base is not None  # check_export lets nothing else pass
    notes = write_adapter_package(source, partial, base, asked.dtype, on_event, stop)  # type: ignore[arg-type]
    commands = []
    if asked.to == "vllm":
        notes += write_vllm_command(source, partial, base, asked.name)
        commands = [shown_command(partial)]
    record = read_run_record(source.run or source.directory)
    (partial / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    subject = CardSubject(
        kind=asked.to,
        name=asked.name,
        base=base,
        adapter=source.record,
        record=record,
        tokenizer=partial if (partial / "tokenizer_config.json").is_file() else None,
        stop_token_ids=trained_stops(source),
        settings=source.facts.settings,
        notes=notes,
        files=commands,
    )
    return _Written(notes, subject)


def _write_gguf(asked: Export, partial: Path, on_event: Listener, stop: StopAsked) -> _Written:
    made = write_for_llama_cpp(asked.source, partial, asked.to, asked.name, asked.dtype or "f16", (on_event, stop))
    subject = CardSubject(
        kind=asked.to,
        name=asked.name,
        base=asked.base,
        adapter=asked.source.record if isinstance(asked.source, AdapterSource) else None,
        record=made.record,
        tokenizer=made.tokenizer,
        stop_token_ids=made.stop_token_ids,
        merged_into=made.merged_into,
        parity=made.parity,
        notes=made.notes,
        files=made.files,
    )
    return _Written(made.notes, subject, made.parity, made.gguf, made.template)


_WRITERS: Mapping[str, Callable[[Export, Path, Listener, StopAsked], _Written]] = {
    "adapter": _write_package,
    "vllm": _write_package,
    "gguf": _write_gguf,
    "ollama": _write_gguf,
}
