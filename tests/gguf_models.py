"""Tiny models for llama.cpp: configs with the special facts of their families, tokenizers that cut text as real ones do."""

import json
from pathlib import Path
from typing import Any

from .chat_templates import CHATML, LLAMA_2, PHI_3

TEXTS = (
    "Hello world, it's 12345 o'clock. DON'T!",
    "  two  spaces   and\ttabs\n\n\nlines \n end ",
    "日本の首都は東京です。 Ünïcode naïve ﬁ 🙂🙂 ½",
    "def f(x):\n    return {'a': x[0]**2} # ok\r\n",
    "HTTPServer camelCase  ... --- ___ 1,000.50 €",
)
_CORPUS = [*TEXTS, "say very number it is one two three four five", "what is the capital of Japan? Tokyo."] * 3
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# As they stand in the tokenizer.json of Llama 3, Qwen 2, Mistral Nemo and Phi-4-mini.
EXPRESSIONS = {
    "llama-bpe": f"{_CONTRACTIONS}|{_REST % '{1,3}'}",
    "dbrx": f"{_CONTRACTIONS}|{_REST % '{1,3}'}",
    "qwen2": f"{_CONTRACTIONS}|{_REST % ''}",
    "tekken": _WORD % ("", "") + r"|\p{N}" + _SLASH,
    "gpt-4o": _WORD % (_CONTRACTIONS + "?", _CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _SLASH,
}
_SKIPPING = ("llama-bpe", "tekken")
_SPACE = "\u2581"


def byte_level_tokenizer(kind: str) -> Any:
    """A byte-level BPE tokenizer that cuts text in the way that llama.cpp calls `kind`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    inside = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    steps: list[Any] = [inside]
    if kind == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif kind in EXPRESSIONS:
        steps.insert(0, pre_tokenizers.Split(Regex(EXPRESSIONS[kind]), "isolated"))
    bpe = Tokenizer(models.BPE(ignore_merges=kind in _SKIPPING))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(steps)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    return _wrapped(bpe, CHATML, bos="<|begin_of_text|>", eos="<|im_end|>")


def sentencepiece_tokenizer(kind: str) -> Any:
    """A tokenizer as Transformers makes of a SentencePiece model: all ways to join a token are merges, bytes fall back.

    `kind`: "llama" puts a space in front of every piece, "mistral" of the first, "gemma" and "phi3" as their families do.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    specials = ["<unk>", "<s>", "</s>"]
    vocabulary, merges = _pieces(specials, [_SPACE * 2] if kind == "gemma" else [])
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", _SPACE)
    if kind == "mistral":
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "first", split=False)
    elif kind == "gemma":
        bpe.normalizer = replace
        bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace])
    bpe.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    if kind == "phi3":
        swallowing = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
        bpe.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
        bpe.add_special_tokens(
            [AddedToken(text, special=True, normalized=False, rstrip=True) for text in (*swallowing, "</s>")]
        )
        return _wrapped(bpe, PHI_3, bos="<s>", eos="<|endoftext|>")
    if kind == "gemma":
        bpe.add_tokens([AddedToken(_SPACE * 2, normalized=False), AddedToken("\n\n", normalized=False)])
    return _wrapped(bpe, LLAMA_2, bos="<s>", eos="</s>")


def _pieces(specials: list[str], spaces: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE)
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    joined = [*spaces, *("".join(pair) for pair in model["merges"])]
    signs = [text for text in model["vocab"] if len(text) == 1]
    order = dict.fromkeys([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *joined, *signs])
    vocabulary = {text: number for number, text in enumerate(order)}
    splits = ((text[:at], text[at:]) for text in dict.fromkeys(joined) for at in range(1, len(text)))
    return vocabulary, [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]


def _wrapped(backend: Any, template: str, *, bos: str, eos: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def save_model(target: Path, config: str, tokenizer: Any, **sizes: Any) -> None:
    """A tiny random model of a config class with this tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape = {
        # As in many published models, the embedding has more rows than the tokenizer has tokens.
        "vocab_size": len(tokenizer) + 7,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **sizes,
    }
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**shape), dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        # Norms, biases and embeddings away from what they start as, so that each of them counts.
        if weight.ndim == 1:
            weight.data.add_(torch.randn_like(weight) * 0.1)
        elif "embed" in name or "lm_head" in name:
            weight.data.normal_(0, 0.5)
        else:
            weight.data.mul_(4)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 384,
    "short_factor": [1.0 + 0.01 * place for place in range(8)],
    "long_factor": [1.0 + 0.5 * place for place in range(8)],
}
# What sets members of a family apart from the plain one.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3 scaling": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    "linear scaling": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen 2 with yarn": ("Qwen2Config", {"rope_parameters": _YARN, "tie_word_embeddings": True}),
    "qwen 3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma 2": ("Gemma2Config", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma 3 with scaling": (
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi 3, a part of each head turned": (
        "Phi3Config",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "phi 3, long": ("Phi3Config", {"rope_parameters": _LONG, "original_max_position_embeddings": 384}),
}
