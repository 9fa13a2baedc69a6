"""The model card of what is exported, from the record of its run, its merge and its own tokenizer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined

from .._version import __version__
from ..adapters.record import AdapterRecord
from ..data.examples import Message, RowError
from ..durable import replace_file
from ..progress.durations import duration_words
from ..results import ParityResult
from .base_name import PublishedBase
from .card_licence import base_licence
from .card_loading import Loading, asking, loading_blocks
from .card_text import code_span, fenced, interval, plain, prose, table_cell
from .run_record import RunRecord

CardKind = Literal["adapter", "vllm", "merged", "gguf", "ollama"]
CARD_FILE = "README.md"
_LIBRARY = {"adapter": "peft", "vllm": "peft", "merged": "transformers", "gguf": "gguf", "ollama": "gguf"}
_RELATION = {"adapter": "adapter", "vllm": "adapter", "merged": "finetune", "gguf": "quantized", "ollama": "quantized"}
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_QUESTION = "What is the capital of Japan?"


@dataclass(frozen=True)
class CardSubject:
    """What a card is about. `base` None is a base that has no public name; `tokenizer` is where one lies, if any."""

    kind: CardKind
    name: str
    base: PublishedBase | None
    adapter: AdapterRecord | None
    record: RunRecord
    tokenizer: Path | None
    stop_token_ids: Sequence[int] = ()
    merged_into: str = ""
    parity: ParityResult | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Sequence[str] = ()


def write_card(directory: Path, subject: CardSubject) -> None:
    """Write `README.md` of `directory`; an earlier one is replaced."""
    replace_file(directory / CARD_FILE, card_text(subject).encode())


def card_text(subject: CardSubject) -> str:
    """The card as Markdown with YAML front matter, as the Hub reads it."""
    template = (files("qlora_tools.templates") / "model_card.md.j2").read_text(encoding="utf-8")
    environment = Environment(  # noqa: S701 - Markdown: what is untrusted goes through the filters
        loader=DictLoader({"card": template}), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(code=code_span, cell=table_cell, plain=plain, fenced=fenced, interval=interval)
    hub_id = subject.base.name if subject.base else None
    licence = base_licence(hub_id)
    prompt = _prompt(subject)
    text = environment.get_template("card").render(
        front_matter=_front_matter(subject, licence.front_matter),
        name=plain(subject.name),
        kind=subject.kind,
        lead=_lead(subject),
        base_words=_base_words(subject.base),
        licence_words=licence.words,
        merged_into=subject.merged_into and code_span(subject.merged_into),
        record=subject.record,
        recipe=_recipe(subject),
        course=_course(subject.record),
        parity=subject.parity,
        prompt=prompt.text,
        prompt_words=prompt.words,
        stop_tokens=prompt.stops,
        loading=_loading(subject, prompt.text is not None),
        limits=_limits(subject),
        version=__version__,
    )
    return text.rstrip() + "\n"


@dataclass(frozen=True)
class _Prompt:
    """How the model is asked: in words, as rendered, and the tokens that end an answer."""

    words: str
    text: str | None = None
    stops: tuple[str, ...] = ()


def _front_matter(subject: CardSubject, licence: Mapping[str, str]) -> str:
    values: dict[str, Any] = {**licence, "library_name": _LIBRARY[subject.kind], "pipeline_tag": "text-generation"}
    if subject.base is not None:
        values |= {"base_model": subject.base.name, "base_model_relation": _RELATION[subject.kind]}
    datasets = [source.name for source in subject.record.sources if source.on_hub and _HUB_ID.fullmatch(source.name)]
    if datasets:
        values["datasets"] = datasets
    values["tags"] = ["lora", *(["qlora"] if _quantized(subject) else []), "qlora-tools"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=False)


def _quantized(subject: CardSubject) -> bool:
    return subject.adapter is not None and subject.adapter.quantization.kind in ("nf4", "fp4")


def _lead(subject: CardSubject) -> str:
    what = {
        "adapter": "A LoRA adapter",
        "vllm": "A LoRA adapter, ready for vLLM,",
        "merged": "A model with a LoRA adapter merged into it,",
        "gguf": "A model with a LoRA adapter merged into it, as GGUF,",
        "ollama": "A model with a LoRA adapter merged into it, as GGUF with a Modelfile,",
    }[subject.kind]
    trained = " trained with QLoRA" if _quantized(subject) else ""
    return f"{what}{trained} on {code_span(subject.base.name) if subject.base else 'a base without a public name'}."


def _base_words(base: PublishedBase | None) -> str:
    if base is None:
        return "a model that was known by its directory only; whoever made this one has to say which."
    at = f", revision {code_span(base.revision)}" if base.revision else "; the revision is not known"
    return f"[{base.name}](https://huggingface.co/{base.name}){at}"


def _recipe(subject: CardSubject) -> Mapping[str, str]:
    """That of the run, else what the adapter's own settings tell."""
    settings = subject.settings
    if subject.record.recipe or not settings:
        return subject.record.recipe
    modules = settings.get("target_modules")
    shown = ", ".join(map(str, modules)) if isinstance(modules, list) else str(modules)
    return {"rank, alpha": f"{settings.get('r')}, {settings.get('lora_alpha')}", "modules": shown}


def _course(record: RunRecord) -> list[tuple[str, str]]:
    rows = [("hardware", record.device), ("computed in", record.compute_dtype)]
    if record.steps is not None:
        rows.append(("steps", f"{record.steps:,}"))
    if record.train_seconds is not None:
        rows.append(("time", duration_words(record.train_seconds)))
    if record.peak_allocated_bytes is not None:
        rows.append(("peak memory", f"{record.peak_allocated_bytes / 2**30:.2f} GiB"))
    if record.first_loss is not None and record.last_loss is not None:
        rows.append(("training loss", f"{record.first_loss:.3f} at first, {record.last_loss:.3f} at last"))
    if record.evaluation_losses:
        step, loss = max(record.evaluation_losses.items())
        rows.append(("loss on held-out rows", f"{loss:.3f} at step {step:,}"))
    if record.versions:
        rows.append(("versions", ", ".join(f"{name} {value}" for name, value in sorted(record.versions.items()))))
    return [(name, value) for name, value in rows if value]


def _prompt(subject: CardSubject) -> _Prompt:
    """The form of a prompt, shown on a question of ours: no row of the data is in a card."""
    if subject.tokenizer is None or find_spec("transformers") is None:
        return _Prompt("As the base is asked: no tokenizer lies with this model.")
    from transformers import AutoTokenizer

    from ..data.rendering import Renderer

    try:
        tokenizer = AutoTokenizer.from_pretrained(subject.tokenizer, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError):
        return _Prompt("Not shown: the tokenizer cannot be loaded.")
    stops = tuple(token for token in tokenizer.convert_ids_to_tokens(list(subject.stop_token_ids)) if token)
    style = subject.adapter.style if subject.adapter else "chat_template" if tokenizer.chat_template else "verbatim"
    if style == "verbatim" or not tokenizer.chat_template:
        return _Prompt("Plain text, as it was trained: there is no chat template.", None, stops)
    try:
        text = Renderer(tokenizer, style).prompt([Message(role="user", content=_QUESTION)])
    except RowError:
        return _Prompt("By the tokenizer's chat template.", None, stops)
    return _Prompt("By the tokenizer's chat template. One question becomes:", text, stops)


def _loading(subject: CardSubject, templated: bool) -> list[Loading]:
    ask = asking(subject.stop_token_ids, templated=templated)
    return loading_blocks(subject.kind, subject.base, subject.adapter, subject.files, ask)


def _limits(subject: CardSubject) -> list[str]:
    limits = [prose(note) for note in subject.notes]
    if subject.merged_into and subject.parity is None:
        limits.append("The merge was not compared with base plus adapter.")
    if not subject.record.measures:
        limits.append("It was not compared with its base on held-out rows: whether it is better is not known.")
    if subject.record.max_length_tokens:
        limits.append(f"It was trained on rows of up to {subject.record.max_length_tokens:,} tokens.")
    limits += [
        "It may state what is false, and repeat what stood in its training data.",
        "Fine-tuning weakens what the base learnt to refuse; whether it still refuses is not said by this card.",
        "Intended use, people affected, and uses that are out of scope: to be written by whoever publishes it.",
    ]
    return limits
