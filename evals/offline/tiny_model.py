"""A two-layer Llama with random weights and its tokenizer, written without torch, whose import takes seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_VOCABULARY, _HIDDEN, _INNER, _LAYERS, _HEADS, _KEY_HEADS = 512, 64, 128, 2, 4, 2
_SPECIAL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CORPUS = ("What is kept in drawer 0123456789?", "Drawer 0123456789 keeps 0123456789 labels.")


def write_tiny_model(target: Path) -> None:
    """Write a model that the engine loads from a directory."""
    target.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_HEADS,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _write_tokenizer(target)
    from safetensors.numpy import save_file

    save_file(_weights(), target / "model.safetensors", metadata={"format": "pt"})


def _weights() -> dict[str, Any]:
    random = np.random.default_rng(0)
    half = _HIDDEN // _HEADS * _KEY_HEADS
    of_layer = {
        "self_attn.q_proj": (_HIDDEN, _HIDDEN),
        "self_attn.k_proj": (half, _HIDDEN),
        "self_attn.v_proj": (half, _HIDDEN),
        "self_attn.o_proj": (_HIDDEN, _HIDDEN),
        "mlp.gate_proj": (_INNER, _HIDDEN),
        "mlp.up_proj": (_INNER, _HIDDEN),
        "mlp.down_proj": (_HIDDEN, _INNER),
    }
    shapes = {"model.embed_tokens": (_VOCABULARY, _HIDDEN), "lm_head": (_VOCABULARY, _HIDDEN)}
    shapes |= {f"model.layers.{layer}.{name}": shape for layer in range(_LAYERS) for name, shape in of_layer.items()}
    norms = [
        f"model.layers.{layer}.{name}_layernorm" for layer in range(_LAYERS) for name in ("input", "post_attention")
    ]
    weights = {f"{name}.weight": random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {f"{name}.weight": np.ones(_HIDDEN, np.float32) for name in (*norms, "model.norm")}


def _write_tokenizer(target: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    bpe.save(str(target / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "additional_special_tokens": list(_SPECIAL[2:]),
        "chat_template": _TEMPLATE,
        "model_max_length": 512,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
