"""A tokenizer as llama.cpp has it: tokens with types, merges or scores, the names of its rules, and what ends an answer.

Read from the tokenizer that Transformers runs, not from the files beside it, so that both split text alike.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.chat_template import ChatTemplate, writes_bos
from ..data.examples import RowError
from ..errors import ModelError
from ..untrusted import visible_text
from .gguf_families import CONVERTER_STEP
from .gguf_pretokenizers import described, pre_tokenizer_name

# llama.cpp's kinds of tokens (llama_token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"
_MARK = "yqxvjm"
_EXCHANGE = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": _MARK},
    {"role": "user", "content": "a"},
]
# llama.cpp lets the special tokens of a model of this name swallow the space behind them, but for these three.
_STRIPPING_NAME = "phi-3"
_NEVER_STRIP = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class Vocabulary:
    """What the `tokenizer.*` fields of a GGUF file say. `model` is "gpt2" (bytes and merges) or "llama" (scores).

    `stop_ids` end an answer, EOS first; `strips` says that special tokens swallow the space behind them.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]
    stop_ids: tuple[int, ...]
    add_bos: bool
    template: str | None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False
    strips: bool = False
    notes: tuple[str, ...] = ()


def read_vocabulary(tokenizer: Any, stop_ids: Sequence[int], size: int) -> Vocabulary:
    """The vocabulary, filled up to the `size` rows of the embedding.

    Raises `ModelError` for tokenizers that llama.cpp would not run as Transformers does.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model = rules["model"]
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise _refused(f"it is of the kind {visible_text(str(model.get('type')))[:40]}, not BPE")
    template = chat_template_of(tokenizer)
    ends = end_of_turn_ids(tokenizer) if template else ()
    stops = tuple(dict.fromkeys((*stop_ids, *ends)))
    pieces = _with_scores(rules, tokenizer) if model.get("byte_fallback") else _with_merges(rules)
    tokens, types = _tokens(rules, size, set(stops), spaces=pieces["model"] == "llama")
    strips, notes = _stripping(rules["added_tokens"])
    return Vocabulary(
        tokens=tokens,
        types=types,
        ids=_special_ids(tokenizer, ends),
        stop_ids=stops,
        add_bos=adds_bos(tokenizer),
        template=template,
        strips=strips,
        notes=notes + pieces.pop("notes"),
        **pieces,
    )


def chat_template_of(tokenizer: Any) -> str | None:
    """The template that renders chats where none is named."""
    found = tokenizer.chat_template
    found = found.get("default") if isinstance(found, dict) else found
    return str(found) if found else None


def adds_bos(tokenizer: Any) -> bool:
    """Whether BOS stands before a prompt: where the chat template writes it, or, without one, the tokenizer.

    Some models name the sign that opens every turn as their BOS: it opens the answer too, and is left to the template.
    """
    if chat_template_of(tokenizer) is None:
        return writes_bos(tokenizer)
    rendered = _rendered(tokenizer, _EXCHANGE[:1], generation_prompt=True)
    bos = tokenizer.bos_token
    return bool(bos) and rendered.startswith(bos) and rendered.count(bos) == 1


def without_bos(tokenizer: Any, text: str) -> str:
    """A rendered chat as llama.cpp must be given it, which adds BOS itself where `adds_bos` says so."""
    return text.removeprefix(tokenizer.bos_token) if adds_bos(tokenizer) else text


def end_of_turn_ids(tokenizer: Any) -> tuple[int, ...]:
    """The special token that the template writes behind an answer; none where the turn ends in plain text."""
    behind = [*_rendered(tokenizer, _EXCHANGE).split(_MARK), ""][1]
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"]
    added = set(tokenizer.get_added_vocab().values())
    return tuple(ids[:1]) if ids and ids[0] in added else ()


def _rendered(tokenizer: Any, turns: list[Any], *, generation_prompt: bool = False) -> str:
    try:
        return ChatTemplate(tokenizer).text(turns, generation_prompt=generation_prompt)
    except RowError:
        return ""


def _special_ids(tokenizer: Any, ends: tuple[int, ...]) -> dict[str, int]:
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "eot": ends[0] if ends else None,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    return {name: int(value) for name, value in found.items() if value is not None}


def _tokens(rules: Mapping[str, Any], size: int, stops: set[int], *, spaces: bool) -> tuple[list[str], list[int]]:
    """Texts and types by id; ids that no token has are filled up."""
    texts = {number: text for text, number in rules["model"]["vocab"].items()}
    types = {number: BYTE if spaces and _is_byte(text) else NORMAL for number, text in texts.items()}
    merged = {left + right for left, right in _merge_pairs(rules["model"])} if spaces else set()
    for token in rules["added_tokens"]:
        control = token["special"] or token["id"] in stops
        if _SPACE in token["content"] and token["content"] in merged:
            continue  # Transformers finds runs of spaces by its merges: the sign stands in no text
        types[token["id"]] = CONTROL if control else USER_DEFINED
        texts[token["id"]] = token["content"].replace(_SPACE, " ") if spaces and not control else token["content"]
    unknown = rules["model"].get("unk_token")
    types |= {number: UNKNOWN for number, text in texts.items() if spaces and text == unknown}
    if texts and max(texts) >= size:
        raise ModelError(
            f"The tokenizer has {max(texts) + 1:,} tokens and the model's embedding {size:,} rows: "
            "they do not belong together.",
            next_step="Put the tokenizer of this model beside it, or resize its embedding.",
        )
    words = [texts.get(number, f"[PAD{number}]") for number in range(size)]
    if len(set(words)) != size or "" in words:
        raise _refused("two of its tokens have the same text, or one has none")
    return words, [types.get(number, UNUSED) for number in range(size)]


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _merge_pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]


def _with_merges(rules: Mapping[str, Any]) -> dict[str, Any]:
    """A byte-level tokenizer: its merges in order, and the name of its cuts."""
    model, normalizer = rules["model"], rules["normalizer"]
    if normalizer is not None and normalizer != {"type": "NFC"}:
        raise _refused(f"it changes text first ({visible_text(str(normalizer.get('type')))[:40]})")
    if rules["pre_tokenizer"] is None:
        raise _refused("it is neither byte-level nor made by SentencePiece")
    skips = bool(model.get("ignore_merges"))
    name = pre_tokenizer_name(
        rules["pre_tokenizer"], ignores_merges=skips, merges_make_all=skips and _merges_make_all(model)
    )
    merges = [" ".join(pair) for pair in _merge_pairs(model)]
    notes = ("llama.cpp does not normalise text to NFC, as this tokenizer does: give it text in NFC.",)
    return {"model": "gpt2", "pre": name, "merges": merges, "notes": notes if normalizer else ()}


def _merges_make_all(model: Mapping[str, Any]) -> bool:
    """Whether the merges alone would put together every token of the vocabulary."""
    from tokenizers.models import BPE

    plain = BPE(vocab=model["vocab"], merges=_merge_pairs(model))
    return all(len(plain.tokenize(text)) == 1 for text in model["vocab"])


def _with_scores(rules: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A tokenizer of SentencePiece: llama.cpp joins the neighbours with the best score, so scores follow the merges."""
    prefix = _space_prefix(rules)
    if rules["model"].get("ignore_merges"):
        raise _refused("whole words skip its merges")
    template = chat_template_of(tokenizer)
    notes: tuple[str, ...] = ()
    if prefix == "first" and template and _starts_special(tokenizer):
        prefix = "never"
        notes = (
            "Chats are split as trained; plain text that does not begin with a special token gets no space in front, "
            "which Transformers would put there.",
        )
    return {
        "model": "llama",
        "pre": "default",
        "scores": _scores(rules),
        "add_space_prefix": prefix != "never",
        "notes": notes,
    }


def _space_prefix(rules: Mapping[str, Any]) -> str:
    """Where a space is put in front: always, at the first piece only, or never. Raises `ModelError` for other rules."""
    steps = rules["normalizer"] or {"type": "Sequence", "normalizers": []}
    steps = steps["normalizers"] if steps["type"] == "Sequence" else [steps]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    cut = rules["pre_tokenizer"]
    if cut is not None and cut["type"] == "Metaspace":
        if steps or cut["replacement"] != _SPACE or cut.get("split", True):
            raise _refused(f"it changes or cuts text in another way ({described(cut)})")
        return str(cut["prepend_scheme"])
    harmless = cut is None or (cut["type"] == "Split" and cut["pattern"] == {"String": " "})
    if not harmless or steps not in ([replace], [prepend, replace]):
        raise _refused(f"it changes or cuts text in another way ({described(cut)})")
    return "always" if prepend in steps else "never"


def _starts_special(tokenizer: Any) -> bool:
    rendered = _rendered(tokenizer, [{"role": "user", "content": _MARK}])
    return any(rendered.startswith(text) for text in tokenizer.get_added_vocab())


def _scores(rules: Mapping[str, Any]) -> list[float]:
    """By id, up to the last token of the vocabulary: a token that is merged earlier has a better score."""
    vocabulary = rules["model"]["vocab"]
    added = [token["id"] for token in rules["added_tokens"]]
    scores = [-1e6] * (max([*vocabulary.values(), *added], default=-1) + 1)
    for rank, (left, right) in reversed(list(enumerate(_merge_pairs(rules["model"])))):
        scores[vocabulary[left + right]] = -float(rank)
    return scores


def _stripping(added: Sequence[Mapping[str, Any]]) -> tuple[bool, tuple[str, ...]]:
    """Whether special tokens swallow the space behind them in the one way that llama.cpp knows, and what it does not do."""
    flags = {token["content"]: (bool(token["rstrip"]), bool(token["lstrip"])) for token in added}
    if not any(True in pair for pair in flags.values()):
        return False, ()
    known = {"</s>", *_NEVER_STRIP} <= flags.keys()
    if known and all(pair == (text not in _NEVER_STRIP, False) for text, pair in flags.items()):
        return True, ()
    names = ", ".join(visible_text(text)[:30] for text, pair in flags.items() if True in pair)
    return False, (f"Transformers drops spaces beside {names}; llama.cpp keeps them.",)


def model_name(name: str, *, strips: bool) -> str:
    """A name for the file: llama.cpp reads "phi-3" in it as a rule for spaces, so it stands there if and only if it holds."""
    said = any(word in name.lower() for word in (_STRIPPING_NAME, "phi3"))
    if strips:
        return name if said else f"{_STRIPPING_NAME} {name}"
    return name.lower().replace("phi-3", "phi 3").replace("phi3", "phi 3") if said else name


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Write all `tokenizer.*` fields."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    else:
        missing = len(vocabulary.tokens) - len(vocabulary.scores)
        writer.add_token_scores([*vocabulary.scores, *([-1e6] * missing)])
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    for name, number in vocabulary.ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    # Ollama's own engine reads all of them; llama.cpp knows EOS and the end of a turn.
    if vocabulary.stop_ids:
        writer.add_array("tokenizer.ggml.eos_token_ids", list(vocabulary.stop_ids))
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(False)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _refused(why: str) -> ModelError:
    return ModelError(f"llama.cpp cannot run this tokenizer as Transformers does: {why}.", next_step=CONVERTER_STEP)
