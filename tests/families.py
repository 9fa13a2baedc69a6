"""Tiny random-weight models in the shape of real families, with tokenizers and chat templates in their manner."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOCABULARY = 512
_CORPUS = [
    "say very number it is one two three four five six seven eight nine ten",
    "what is the capital of Japan? Tokyo.",
]


@dataclass(frozen=True)
class Family:
    """How to build one: config class, its special tokens, a chat template, and the token that ends a turn."""

    config: str
    eos: str
    end_of_turn: str
    template: str
    specials: tuple[str, ...]
    bos: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)


_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3 does: the last answer opens with an empty thinking block, earlier ones lose theirs.
_CHATML_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
_TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    # As Phi-3 does: without a generation prompt, EOS follows whatever comes last.
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
_QWEN = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>")

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaConfig",
        "<|eot_id|>",
        "<|eot_id|>",
        _HEADERS,
        ("<|begin|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin|>",
    ),
    "mistral": Family(
        "MistralConfig", "</s>", "</s>", _INST, ("<s>", "</s>", "<unk>"), bos="<s>", sizes={"sliding_window": 32}
    ),
    "qwen2": Family("Qwen2Config", "<|im_end|>", "<|im_end|>", _CHATML, _QWEN, sizes={"tie_word_embeddings": True}),
    "qwen3": Family("Qwen3Config", "<|im_end|>", "<|im_end|>", _CHATML_THINKING, _QWEN, sizes={"head_dim": 32}),
    "gemma2": Family(
        "Gemma2Config",
        "<eos>",
        "<end_of_turn>",
        _TURNS,
        _GEMMA,
        bos="<bos>",
        sizes={"head_dim": 32, "sliding_window": 32, "query_pre_attn_scalar": 32},
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        "<eos>",
        "<end_of_turn>",
        _TURNS,
        _GEMMA,
        bos="<bos>",
        sizes={"head_dim": 32, "sliding_window": 32, "query_pre_attn_scalar": 32},
    ),
    "phi3": Family(
        "Phi3Config",
        "<|endoftext|>",
        "<|end|>",
        _PHI,
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
}


def make_model(family: str, target: Path, *, template: bool = True, seed: int = 0) -> None:
    """Write a two-layer model with random weights and its tokenizer to `target`."""
    import torch
    import transformers

    shape = FAMILIES[family]
    tokenizer = make_tokenizer(shape, template=template)
    config = getattr(transformers, shape.config)(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **shape.sizes,
        }
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    # At their usual 0.02 the logits of so narrow a model are all alike, and no adapter could learn anything.
    model.get_input_embeddings().weight.data.normal_(0, 0.5)
    model.get_output_embeddings().weight.data.normal_(0, 0.5)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def make_tokenizer(shape: Family, *, template: bool = True) -> Any:
    """A byte-level BPE tokenizer with the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(shape.specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=shape.eos, bos_token=shape.bos)
    tokenizer.add_special_tokens({"additional_special_tokens": list(shape.specials)})
    # As many published models do; our labels must not care.
    tokenizer.pad_token = shape.eos
    if template:
        tokenizer.chat_template = shape.template
    return tokenizer
