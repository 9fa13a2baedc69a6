"""In which form a trained model is asked: as its adapter says, or before there is one, as its config will have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..adapters.record import AdapterRecord, read_adapter_record
from ..config.schema import ModelConfig, RunConfig
from ..data.dataset import NamedRows, RowReader, training_sources
from ..data.examples import Conversation, Example, Message, PlainText
from ..data.reading.sources import is_on_hub
from ..data.rendering import Renderer, Style
from ..data.rows import encode_examples
from ..data.tokenizers import find_tokenizer
from ..errors import DataError, ModelError
from ..models.catalogue import CATALOGUE
from ..models.local_files import read_model_config
from ..models.reference import ModelReference
from ..paths import as_path
from ..run_output import ADAPTER_RECORD_FILE

_CHAT = (Message(role="user", content="hi"), Message(role="assistant", content="yes"))


@dataclass(frozen=True)
class AskedForm:
    """How prompts become tokens, and which tokens end an answer.

    `form`: through the chat template, or as written: `pair` of prompt and completion, or `text` to go on with.
    `folds_system`: the template has no place for a system turn; `adds_eos`: it ends an answer with nothing that stops.
    """

    form: Literal["chat", "pair", "text"]
    folds_system: bool = False
    adds_eos: bool = False
    stop_tokens: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def asked_form(config: RunConfig, adapter: Path) -> AskedForm:
    """The form of the adapter in `adapter`, or where it is not there yet, of the one that `config` trains.

    Nothing is fetched: of a model whose tokenizer is not on this machine, the usual is taken, and a note says so.
    """
    examples = [_first_example(source) for source in training_sources(config.data)]
    record, tokenizer = _trained(adapter)
    why_not = ""
    if tokenizer is None:
        model = config.model
        reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
        tokenizer, why_not = find_tokenizer(reference)
    if tokenizer is None:
        note = f"Rendered without the tokenizer ({why_not}): the script stops at what the model itself calls an end."
        return AskedForm(_form(examples, "chat_template"), notes=(note,))
    style = Renderer.for_examples(tokenizer, examples).style if record is None else record.style
    return _found(Renderer(tokenizer, style), _form(examples, style), record)


def attention_choice(model: ModelConfig) -> str:
    """The attention to name in `from_pretrained`; `auto` leaves it to the library.

    Before 5.21 that choice is sdpa for models that cap their attention scores, and sdpa leaves the cap out.
    """
    if model.attention_implementation != "auto":
        return model.attention_implementation
    return "eager" if _config_here(model).get("attn_logit_softcapping") else "auto"


def _config_here(model: ModelConfig) -> Mapping[str, Any]:
    """The model's config.json where it can be known without a network, else nothing."""
    reference = ModelReference.parse(model.name, source=model.source)
    if reference.source == "local":
        try:
            return read_model_config(as_path(reference.name))
        except ModelError:
            return {}  # A directory that is still to come; the script itself says so when it runs.
    known = (entry for entry in CATALOGUE.values() if reference.name.lower() in (entry.name, entry.hub_id.lower()))
    return next((entry.config for entry in known), {})


def _first_example(source: NamedRows) -> Example:
    """The first usable row; a chat where it cannot be known here."""
    if source.row_format == "text":
        return PlainText("")
    if not is_on_hub(source.source):
        try:
            return next((row.example for row in RowReader(source) if row.example is not None), Conversation(_CHAT))
        except DataError:
            pass  # The training says what is wrong with the rows.
    return Conversation(_CHAT, verbatim=source.row_format == "prompt_completion")


def _trained(adapter: Path) -> tuple[AdapterRecord | None, Any]:
    """Record and tokenizer of a finished adapter, as far as there are any; a training script leaves no record."""
    if not adapter.is_dir():
        return None, None
    tokenizer, _ = find_tokenizer(ModelReference(str(adapter), "local"))
    return (read_adapter_record(adapter) if (adapter / ADAPTER_RECORD_FILE).is_file() else None), tokenizer


def _form(examples: Sequence[Example], style: Style) -> Literal["chat", "pair", "text"]:
    if style == "chat_template":
        return "chat"
    return "text" if all(isinstance(example, PlainText) for example in examples) else "pair"


def _found(renderer: Renderer, form: Literal["chat", "pair", "text"], record: AdapterRecord | None) -> AskedForm:
    encoded = encode_examples([Conversation(_CHAT)], renderer, loss_on="completions")
    stops = {*encoded.stop_token_ids, *(record.stop_token_ids if record else ())}
    folds_system = adds_eos = False
    if form == "chat" and encoded.rows:
        written = renderer.tokenizer(renderer.template.text(_CHAT), add_special_tokens=False)["input_ids"]
        ends = [ids[-1] == renderer.tokenizer.eos_token_id for ids in (encoded.rows[0].input_ids, written)]
        adds_eos = ends == [True, False]
        folds_system = not renderer.template.abilities.system
    tokens = renderer.tokenizer.convert_ids_to_tokens(sorted(stops))
    return AskedForm(form, folds_system, adds_eos, tuple(tokens))
