"""Exports that start from whole weights: an adapter is merged first, into a place that goes when the export stands."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..adapters.record import adapter_directory, read_adapter_record
from ..disk import disk_errors
from ..durable import replace_file
from ..errors import QloraError
from ..events import Listener, RunEvent, StopAsked, ignore
from ..merging import merge
from ..models.catalogue import CATALOGUE
from ..models.reference import ModelReference
from ..models.stored_tensors import model_tensors
from ..results import GgufFacts, MergeResult, ParityResult, TemplateParity
from .base_name import PublishedBase
from .card import CARD_FILE, CardSubject, write_card
from .directory import merge_beside
from .gguf import require_convertible, write_gguf
from .gguf_source import read_tokenizer
from .run_record import RECORD_FILE, RunRecord, read_run_record
from .source import MERGE_RECORD_FILE, AdapterSource, MergedSource, Source, read_document, tokenizer_directory

# Bytes of a number in each type of file.
_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
# In less than this a longer question or answer has no room, and Ollama drops the beginning of a conversation without a word.
_LEAST_CONTEXT = 2048
_PLAIN_TEXT = "It was trained on plain text, not on chats: the chat template in the file is that of the base."
_MERGED_INTO = {"original": "the original 16-bit weights", "none": "the 16-bit weights that it was trained on"}


@dataclass(frozen=True)
class MadeGguf:
    """A GGUF file with what card and result tell of it."""

    files: list[str]
    record: RunRecord
    tokenizer: Path | None
    stop_token_ids: list[int]
    merged_into: str
    parity: ParityResult | None
    gguf: GgufFacts
    template: TemplateParity | None
    notes: list[str] = field(default_factory=list)


def write_for_llama_cpp(
    source: Source, target: Path, to: str, name: str, kind: str, watch: tuple[Listener, StopAsked]
) -> MadeGguf:
    """Write `name-kind.gguf`, and for Ollama the Modelfile, into the empty `target`; `watch` is (on_event, stop)."""
    if isinstance(source, MergedSource):
        return _converted(source, read_run_record(source.directory), target, (to, name, kind), watch)
    on_event, stop = watch
    _require_convertible(source, to)
    on_event(RunEvent("phase", "Merging the adapter first"))
    whole = merge_beside(target)
    merge(source.directory, whole, on_event=on_event, stop=stop)
    record = read_run_record(source.run or source.directory)
    merged = MergedSource(whole, read_document(whole / MERGE_RECORD_FILE))
    made = _converted(merged, record, target, (to, name, kind), watch)
    notes = [_PLAIN_TEXT] if source.record.style == "verbatim" and made.gguf.chat_template_sha256 else []
    return replace(made, tokenizer=tokenizer_directory(source), notes=[*notes, *made.notes])


def _require_convertible(source: AdapterSource, to: str) -> None:
    """Before hours of merging; a base that is not here is looked at when the merge has fetched it."""
    place = tokenizer_directory(source)
    if source.base is None or place is None:
        return
    tokenizer = require_convertible(source.base, place)
    if to == "ollama":
        from .ollama import require_sayable

        require_sayable(tokenizer)


def _converted(
    source: MergedSource,
    record: RunRecord,
    target: Path,
    asked: tuple[str, str, str],
    watch: tuple[Listener, StopAsked],
) -> MadeGguf:
    to, name, kind = asked
    # Ollama's directory is made whole by itself, so its file waits beside.
    file = target / f"{name}-{kind}.gguf" if to == "gguf" else target.with_name("gguf") / "model.gguf"
    facts = write_gguf(source.directory, file, kind=kind, name=name, on_event=watch[0], stop=watch[1])  # type: ignore[arg-type]
    template, notes = _template_in(file, source.directory), facts.notes
    if to == "ollama":
        template, more = _write_for_ollama(source.directory, file, target, record)
        notes = list(dict.fromkeys([*notes, *more]))
    (target / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return MadeGguf(
        files=[file.name],
        record=record,
        tokenizer=source.directory,
        stop_token_ids=stops_of(source.directory),
        merged_into=merged_into(source.merge),
        parity=parity_of(source.merge),
        gguf=facts.model_copy(update={"file": file.name}),
        template=template,
        notes=notes,
    )


def _template_in(file: Path, model_dir: Path) -> TemplateParity | None:
    """The prompts of the template that stands in the file, beside those of the tokenizer."""
    from .gguf_reading import read_gguf
    from .templates_parity import template_parity

    template = read_gguf(file).fields.get("tokenizer.chat_template")
    return template_parity(read_tokenizer(model_dir), jinja=template) if template else None


def _write_for_ollama(model_dir: Path, file: Path, target: Path, record: RunRecord) -> tuple[TemplateParity, list[str]]:
    """The directory that Ollama takes, which links the file; how its prompts compare, and what to know."""
    from .ollama import write_ollama

    trained = record.max_length_tokens
    length = max(trained, _LEAST_CONTEXT) if trained else None
    made = write_ollama(model_dir, file, target, stop_token_ids=stops_of(model_dir), num_ctx=length)
    return made.parity, made.notes


def gguf_bytes(directory: Path, kind: str) -> int:
    """What the weights of a model take in a GGUF file of a type, or merged (`bf16`)."""
    return math.ceil(sum(tensor.elements for tensor in model_tensors(directory).values()) * _BYTES[kind])


def merged_base(merge: Mapping[str, Any], given: str | None) -> PublishedBase | None:
    """The public name of what was merged into; None where only a directory is known."""
    name = given or str(merge.get("base_model") or "")
    name = CATALOGUE[name].hub_id if name in CATALOGUE else name
    name, _, revision = name.partition("@")
    try:
        if ModelReference.parse(name).source != "hub":
            return None
    except QloraError:
        return None
    return PublishedBase(name, revision or merge.get("base_revision"), same_files=False)


def merged_into(merge: Mapping[str, Any]) -> str:
    """In words, which weights the adapter was merged into; empty where nothing is told."""
    kind = str(merge.get("base") or "")
    quantization = str(merge.get("quantization") or "")
    if kind == "original" or quantization == "none":
        return _MERGED_INTO["original" if kind == "original" else "none"]
    return f"the weights dequantised from {quantization}, as it was trained" if quantization else ""


def parity_of(merge: Mapping[str, Any]) -> ParityResult | None:
    """The proof of a merge; None where it was not made, or is told in another form."""
    try:
        return ParityResult.model_validate(merge.get("parity"))
    except ValidationError:
        return None


@functools.wraps(merge, assigned=())
def merge_with_card(
    adapter: str | Path | Mapping[str, float], output: str | Path, *, on_event: Listener = ignore, **options: Any
) -> MergeResult:
    """`merge` with a model card beside the merged model, as the command and jobs make it; arguments and errors are the same.

    A card that is there, of the same merge that was finished before, is left as it is: somebody may have written in it.
    """
    result = merge(adapter, output, on_event=on_event, **options)
    directory = Path(result.directory)
    if not (directory / CARD_FILE).exists():
        on_event(RunEvent("phase", "Writing the model card"))
        with disk_errors(directory, left="the merged model is whole, but for its card"):
            write_merged_card(directory, adapters=result.adapters)
    return result


def write_merged_card(directory: Path, *, adapters: Mapping[str, float] | None = None) -> None:
    """Write card and training record into a merged model's directory; `adapters` are what was merged, with their weights.

    Call it when `merge.json`, config and tokenizer lie there. The run of one adapter is told of; of several only how many.
    """
    told, found = read_document(directory / MERGE_RECORD_FILE), None
    record = read_run_record(directory)
    if adapters is not None and len(adapters) == 1:
        found = adapter_directory(Path(next(iter(adapters))))
        record = read_run_record(found.parent if found.name == "adapter" else found)
        replace_file(directory / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())
    subject = CardSubject(
        kind="merged",
        name=directory.name.lstrip("."),
        base=merged_base(told, None),
        adapter=read_adapter_record(found) if found else None,
        record=record,
        tokenizer=directory,
        stop_token_ids=stops_of(directory),
        merged_into=merged_into(told),
        parity=parity_of(told),
        notes=_notes_of_merge(told),
    )
    write_card(directory, subject)


def _notes_of_merge(merge: Mapping[str, Any]) -> list[str]:
    adapters = merge.get("adapters")
    if not isinstance(adapters, list):
        return []
    weights = [one.get("weight") for one in adapters if isinstance(one, dict)]
    if len(weights) == 1 and weights[0] == 1:
        return []
    return [f"Adapters that were merged: {len(weights)}, with the weights {', '.join(map(str, weights))}."]


def stops_of(directory: Path) -> list[int]:
    """The tokens that end an answer, as a model directory names them."""
    told = read_document(directory / "generation_config.json") or read_document(directory / "config.json")
    value = told.get("eos_token_id")
    return [token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)]
