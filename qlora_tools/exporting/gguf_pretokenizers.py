"""How byte-level tokenizers cut text before their merges, and what llama.cpp calls each way.

llama.cpp chooses its cutting by one name in the file. The name is found here by the rules of the tokenizer, never by the
name of a model: a tokenizer whose rules are not among these would be cut otherwise, and is refused.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .gguf_families import CONVERTER_STEP

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_CASED = (f"{_BEFORE}{_UPPER}*{_LOWER}+", f"{_BEFORE}{_UPPER}+{_LOWER}*")
_SIGNS, _SIGNS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT2 = "gpt2"  # the expression inside of ByteLevel
_DIGITS = "digits"
_LLAMA3 = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", _SIGNS, _TAIL))
_QWEN2 = "|".join((_CONTRACTIONS, _WORDS, r"\p{N}", _SIGNS, _TAIL))
_TEKKEN = "|".join((*_CASED, r"\p{N}", _SIGNS_AND_SLASH, _TAIL))
_GPT4O = "|".join((*(words + _CONTRACTIONS + "?" for words in _CASED), r"\p{N}{1,3}", _SIGNS_AND_SLASH, _TAIL))

# The cuts, whether whole words of the vocabulary skip the merges, and the name.
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "dbrx",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}


def pre_tokenizer_name(rules: Mapping[str, Any], *, ignores_merges: bool, merges_make_all: bool) -> str:
    """llama.cpp's name for the `pre_tokenizer` of a tokenizer.json; raises `ModelError` where it has none.

    Where the merges make every token of the vocabulary, skipping them for whole words changes nothing.
    """
    cuts = _cuts(rules)
    skipping = (ignores_merges, not ignores_merges) if merges_make_all else (ignores_merges,)
    name = next((_NAMES[cuts, skips] for skips in skipping if cuts is not None and (cuts, skips) in _NAMES), None)
    if name is None:
        raise ModelError(
            f"The tokenizer cuts text in a way for which no name of llama.cpp is known here ({described(rules)}).",
            next_step=CONVERTER_STEP,
        )
    return name


def described(rules: Mapping[str, Any] | None) -> str:
    """The kinds of the steps, for a message."""
    return ", ".join(str(step.get("type")) for step in _steps(rules)) or "no pre-tokenizer"


def _cuts(rules: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The expressions by which text is cut, one after the other; None where a step is of another kind."""
    cuts = []
    for step in _steps(rules):
        if step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
            cuts += [_GPT2] if step.get("use_regex", True) else []
        elif step["type"] == "Digits" and step.get("individual_digits"):
            cuts.append(_DIGITS)
        elif step["type"] == "Split" and (step.get("behavior"), bool(step.get("invert"))) in _CUTTING:
            cuts.append(str(step["pattern"].get("Regex")))
        else:
            return None
    return tuple(cuts)


# Matches stand alone; keeping only the matches is the same for expressions that leave nothing out.
_CUTTING = {("Isolated", False), ("Removed", True)}


def _steps(rules: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if rules is None:
        return []
    return list(rules["pretokenizers"]) if rules["type"] == "Sequence" else [rules]
