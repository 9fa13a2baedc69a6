"""Writing a merged model as one GGUF file for llama.cpp, and checking the file before it gets its name."""

import hashlib
import importlib.util
import secrets
import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.record import text_hash
from ..disk import disk_errors
from ..durable import sync_directory, sync_file
from ..errors import CheckFailed, DiskSpaceError, MissingLibraryError, UsageError, WorkStopped
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..models.local_files import read_model_config
from ..results.gguf import GgufCheck, GgufFacts
from ..untrusted import visible_text
from .gguf_families import KINDS, Family, Kind, family_of, require_known_type, write_architecture
from .gguf_source import Source, read_source, read_tokenizer
from .gguf_tokenizer import Vocabulary, model_name, read_vocabulary, write_vocabulary

if TYPE_CHECKING:  # numpy is not in the light install
    from .gguf_tensors import PlannedTensor

# Fields and padding beside the weights; token lists of 256,000 tokens take some 10 MB.
_BESIDE_WEIGHTS = 64 << 20
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def write_gguf(
    model_dir: Path,
    target: Path,
    *,
    kind: Kind = "f16",
    name: str | None = None,
    on_event: Listener = ignore,
    stop: StopAsked = never,
) -> GgufFacts:
    """Write the merged model in `model_dir` to the new file `target`; some 200 MB of memory, whatever the model's size.

    `kind` is the type of the matrices (norms and biases stay fp32). `name` is the model's name in the file. The file is
    written aside, read again and compared with the model, and only then gets its name.

    Raises, before any work: `ModelError` (not a merged model in floating point, or one that llama.cpp would compute or
    tokenise otherwise), `UsageError` (`target` exists), `MissingLibraryError` (the `export` extra), `DiskSpaceError`.
    Later: `CheckFailed` where the file is not what the model holds, `WorkStopped` where `stop` asked; `target` is then
    absent.
    """
    began = time.monotonic()
    require_gguf()
    from .gguf_tensors import plan_tensors

    _require_target(target, kind)
    on_event(RunEvent("phase", "reading the model"))
    source = read_source(model_dir)
    family = family_of(source.config)
    vocabulary = read_vocabulary(source.tokenizer, source.stop_ids, source.config.vocab_size)
    planned = plan_tensors(source, family, kind)
    _require_space(target, planned)
    with disk_errors(target, left="nothing was written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _aside(target) as partial:
            title = model_name(visible_text(name or model_dir.name), strips=vocabulary.strips)
            writer = _writer(partial, family, title, kind)
            notes = write_architecture(writer, source.config, family)
            write_vocabulary(writer, vocabulary)
            _write_tensors(writer, planned, on_event, stop)
            on_event(RunEvent("phase", "checking the file"))
            sync_file(partial)
            check = _checked(partial, planned, vocabulary)
            facts = _facts(partial, target, source, planned, vocabulary, check)
            partial.rename(target)
            sync_directory(target.parent)
    told = {"kind": kind, "architecture": family.architecture, "notes": [*notes, *vocabulary.notes]}
    return facts.model_copy(update={**told, "seconds": time.monotonic() - began})


def check_gguf(model_dir: Path | None) -> None:
    """What can be told without Transformers: raise `MissingLibraryError`, or `ModelError` for a family that is not written.

    `model_dir` None is a base that has to be fetched first.
    """
    require_gguf()
    if model_dir is not None:
        require_known_type(str(read_model_config(model_dir).get("model_type", "")))


def require_convertible(model_dir: Path, tokenizer_dir: Path) -> Any:
    """Raise what `write_gguf` would of a merge of `model_dir` with the tokenizer of `tokenizer_dir`, which is returned."""
    import gguf

    source, tokenizer = read_source(model_dir), read_tokenizer(tokenizer_dir)
    family = family_of(source.config)
    # Merging may make the vocabulary larger.
    read_vocabulary(tokenizer, source.stop_ids, max(source.config.vocab_size, len(tokenizer)))
    write_architecture(gguf.GGUFWriter(None, family.architecture), source.config, family)
    return tokenizer


def require_gguf() -> None:
    """Raise `MissingLibraryError` where the library that writes GGUF is not installed."""
    missing = [name for name in ("gguf", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingLibraryError(
            f"Writing GGUF needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            next_step="Run: pip install 'qlora-tools[train,export]'",
        )


def _require_target(target: Path, kind: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"The type {kind!r} is not written; {', '.join(KINDS)} are.", next_step="Choose one of these.")
    if target.exists():
        raise UsageError(f"{target} exists already.", next_step="Choose another name, or remove the file.")


def _require_space(target: Path, planned: "Sequence[PlannedTensor]") -> None:
    needed = sum(tensor.size_bytes for tensor in planned) + _BESIDE_WEIGHTS
    place = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskSpaceError(
            f"The file takes {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; nothing was written.",
            next_step="Free space there, choose another directory, or the smaller q8_0.",
        )


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _writer(partial: Path, family: Family, name: str, kind: Kind) -> Any:
    import gguf

    writer = gguf.GGUFWriter(partial, family.architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return writer


def _write_tensors(writer: Any, planned: "Sequence[PlannedTensor]", on_event: Listener, stop: StopAsked) -> None:
    import gguf
    import numpy as np

    from .gguf_tensors import LazyTensor

    for tensor in planned:
        kind = gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, raw_dtype=kind)
    on_event(RunEvent("phase", "writing the tensors"))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(planned):
            if stop():
                raise WorkStopped(
                    f"The export was stopped after {done} of {len(planned)} tensors; no file was left.",
                    next_step="Run it again: a merge before it is kept, and the file is begun anew.",
                )
            writer.write_tensor_data(LazyTensor(tensor), tensor_endianess=writer.endianess)
            on_event(RunEvent("progress", "tensors", {"done": done + 1, "total": len(planned)}))
    finally:
        writer.close()


def _checked(partial: Path, planned: "Sequence[PlannedTensor]", vocabulary: Vocabulary) -> GgufCheck:
    from .gguf_check import check_file

    try:
        check = check_file(partial, planned, vocabulary)
    except (ValueError, KeyError, struct.error) as error:
        raise CheckFailed(
            f"The written file cannot be read again ({error}); it was removed.",
            next_step="Check the disk, and try again.",
        ) from None
    if not check.passed:
        raise CheckFailed(
            f"The written file is not what the model holds (largest error {check.largest_error:.2f} roundings, "
            f"shapes {_word(check.same_shapes)}, tokens {_word(check.same_tokens)}, "
            f"template {_word(check.same_template)}); it was removed.",
            next_step="Check the disk and its memory, and export again; if it stays, report it as a bug.",
        )
    return check


def _word(same: bool) -> str:
    return "the same" if same else "different"


def _facts(
    partial: Path,
    target: Path,
    source: Source,
    planned: "Sequence[PlannedTensor]",
    vocabulary: Vocabulary,
    check: GgufCheck,
) -> GgufFacts:
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return GgufFacts(
        file=str(target),
        kind="",
        architecture="",
        size_bytes=partial.stat().st_size,
        sha256=digest,
        parameters=sum(tensor.source.elements for tensor in planned if tensor.source),
        tensors=len(planned),
        tokens=len(vocabulary.tokens),
        tokenizer_model=vocabulary.model,
        pre_tokenizer=vocabulary.pre,
        bos_added=vocabulary.add_bos,
        stop_tokens=[source.tokenizer.convert_ids_to_tokens(number) for number in vocabulary.stop_ids],
        chat_template_sha256=text_hash(vocabulary.template),
        check=check,
        notes=[],
        seconds=0.0,
    )
