"""A directory for Ollama: the model as GGUF, and a Modelfile that asks it in the form in which it was trained."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..disk import disk_errors
from ..durable import publish_directory
from ..errors import DiskSpaceError, ModelError, UsageError
from ..results.gguf import OllamaFacts, TemplateParity
from .gguf import require_gguf
from .gguf_families import short_context
from .gguf_source import read_source
from .gguf_tokenizer import chat_template_of, end_of_turn_ids
from .ollama_template import go_template, trained_forms
from .templates_parity import template_parity

MODELFILE, MODEL = "Modelfile", "model.gguf"
# Ollama reserves memory for all of the context; a model's own length may be 128,000 tokens.
_LONGEST_DEFAULT = 8192
_QUOTES = '"""'


def write_ollama(
    model_dir: Path,
    gguf_path: Path,
    target_dir: Path,
    *,
    stop_token_ids: Sequence[int] = (),
    num_ctx: int | None = None,
) -> OllamaFacts:
    """Make `target_dir` with `gguf_path` (linked, or copied) and a Modelfile; `ollama create NAME` there takes it.

    `stop_token_ids` end an answer beside those that the model directory names. `num_ctx` is the context in tokens, at most
    the model's own; None for the model's own up to 8,192. The temperature is 0 and repetition is not punished, so that
    Ollama answers as the evaluation did; its own defaults (0.8 and 1.1) do not.

    Raises `UsageError` (`target_dir` not empty, no GGUF file, texts that a Modelfile cannot hold) and `ModelError` (no chat
    template, or one that Ollama's language cannot say) before anything is written. A template that builds
    other prompts for some conversations is written, and the result says for which.
    """
    _require_places(gguf_path, target_dir)
    require_gguf()
    source = read_source(model_dir)
    template, parity = require_sayable(source.tokenizer)
    ends = (*stop_token_ids, *source.stop_ids, *end_of_turn_ids(source.tokenizer))
    stops, notes = _stops(source.tokenizer, ends)
    longest = int(source.config.max_position_embeddings)
    parameters: dict[str, float | int] = {
        "temperature": 0.0,
        "repeat_penalty": 1.0,
        "num_ctx": min(num_ctx or min(_LONGEST_DEFAULT, short_context(source.config) or longest), longest),
    }
    quoted = [quoted_value(text) for text in stops]
    text = _modelfile(template, quoted, parameters)
    _publish(target_dir, gguf_path, text)
    return OllamaFacts(
        directory=str(target_dir),
        modelfile=str(target_dir / MODELFILE),
        gguf=str(target_dir / MODEL),
        template=template,
        stops=stops,
        parameters=parameters,
        parity=parity,
        notes=[*notes, *_parity_notes(parity, source.tokenizer)],
    )


def _require_places(gguf_path: Path, target_dir: Path) -> None:
    try:
        with gguf_path.open("rb") as file:
            sign = file.read(4)
    except OSError as error:
        raise UsageError(f"{gguf_path} cannot be read: {error.strerror}.", next_step="Export the GGUF first.") from None
    if sign != b"GGUF":
        raise UsageError(f"{gguf_path} is no GGUF file.", next_step="Give the file that the export wrote.")
    if target_dir.exists() and not (target_dir.is_dir() and not any(target_dir.iterdir())):
        raise UsageError(f"{target_dir} exists already and is not empty.", next_step="Choose a new directory.")


def require_sayable(tokenizer: Any) -> tuple[str, TemplateParity]:
    """The reading of the trained template in Ollama's language that builds the most prompts alike.

    Raises `ModelError` where there is no template, or even plain conversations would be asked in another form.
    """
    if chat_template_of(tokenizer) is None:
        raise ModelError(
            "The tokenizer has no chat template, so there is no form for Ollama to ask in.",
            next_step="Export it as GGUF and give llama.cpp whole prompts.",
        )
    readings = [go_template(form) for form in trained_forms(tokenizer)]
    tried = [(text, template_parity(tokenizer, ollama=text)) for text in readings]
    best = max(tried, key=lambda pair: pair[1].same)
    failed = {conversation.name for conversation in best[1].different}
    if {"a question", "two questions"} & failed:
        raise ModelError(
            "The trained chat template cannot be said in Ollama's language: even plain conversations would be asked "
            "in another form than the trained one.",
            next_step="Serve the GGUF file with llama.cpp's own server, which runs the trained template (--jinja).",
        )
    return best


def _stops(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], list[str]]:
    """Texts of the tokens that end an answer, and which of them a Modelfile cannot hold."""
    texts = dict.fromkeys(tokenizer.decode([number]) for number in dict.fromkeys(ids) if 0 <= number < len(tokenizer))
    held = [text for text in texts if text.strip() and _can_be_quoted(text)]
    left = len(texts) - len(held)
    note = f"{left} stop tokens cannot stand in a Modelfile; the model file itself names them."
    return held, [note] if left else []


def _can_be_quoted(text: str) -> bool:
    return _QUOTES not in text and all(sign in "\n\t" or sign.isprintable() for sign in text)


def quoted_value(text: str) -> str:
    """`text` as a Modelfile holds it; raises `UsageError` for three quotes in a row and control characters.

    Ollama's reader knows no escapes: a value ends at the closing quotes, and nothing inside may look like them.
    """
    if not _can_be_quoted(text):
        raise UsageError(
            'A Modelfile cannot hold a text with three quotes in a row (""") or control characters.',
            next_step="Take them out of the chat template.",
        )
    if text and not {'"', "\n"} & set(text) and text == text.strip():
        return f'"{text}"'
    return _QUOTES + text + _QUOTES


def _modelfile(template: str, stops: Sequence[str], parameters: dict[str, float | int]) -> str:
    environment = Environment(
        loader=PackageLoader("qlora_tools.templates", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - a Modelfile is no HTML; every text comes quoted
    )
    page = environment.get_template("Modelfile.j2")
    return page.render(model=MODEL, template=quoted_value(template), stops=stops, parameters=parameters)


def _publish(target_dir: Path, gguf_path: Path, modelfile: str) -> None:
    with disk_errors(target_dir, left="nothing was written"):
        target_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = target_dir.with_name(f".{target_dir.name}.{secrets.token_hex(4)}.partial")
        partial.mkdir()
        try:
            _link_or_copy(gguf_path, partial / MODEL)
            (partial / MODELFILE).write_text(modelfile, encoding="utf-8", newline="\n")
            publish_directory(partial, target_dir)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        needed, free = source.stat().st_size, shutil.disk_usage(target.parent).free
        if needed > free:
            raise DiskSpaceError(
                f"{source} takes {needed / 1e9:.2f} GB and {target.parent.parent} has {free / 1e9:.2f} GB free.",
                next_step="Choose a directory on the disk of the GGUF file: it is then linked, not copied.",
            ) from None
        shutil.copyfile(source, target)


def _parity_notes(parity: TemplateParity, tokenizer: Any) -> list[str]:
    notes = ["Tools and pictures are not in this template; Ollama leaves them out."]
    if parity.different:
        names = ", ".join(conversation.name for conversation in parity.different)
        notes.append(
            f"Ollama's prompt is the trained one in {parity.same} of {parity.conversations} compared conversations; "
            f"it differs for: {names}."
        )
    if "strftime_now" in (chat_template_of(tokenizer) or ""):
        notes.append("The trained template writes the date; the exported one always writes that of the export.")
    return notes
