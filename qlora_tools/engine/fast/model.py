"""The decoder of a PeftModel as the fast engine computes it: the same weights, read where they lie."""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from .layer import Layer, Norm, Place
from .loss import FinalNorm, SummedCrossEntropy
from .rows import Rows
from .weights import Adapter, Projection, Scratch


class FastModel:
    """Loss of a Llama-like model with LoRA, for training and evaluation.

    `keep` says for each layer whether its activations are kept for the backward pass (True: more memory, faster) or computed
    again. The model must be one that `why_not_fast` has no word against. Nothing of it is copied or changed.
    """

    def __init__(self, model: Any, *, keep: Sequence[bool]) -> None:
        causal = model.get_base_model()
        decoder, scratch = causal.model, Scratch()
        self._embedding = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self._layers = [_layer(layer, causal.config, scratch) for layer in decoder.layers]
        self._norm = _norm(decoder.norm)
        self._head = causal.get_output_embeddings()
        if len(keep) != len(self._layers):
            raise ValueError(f"keep has {len(keep)} entries, and the model has {len(self._layers)} layers")
        self._keep = tuple(keep)

    def adapters(self) -> list[Tensor]:
        """The trained tensors that this engine computes gradients of."""
        return [tensor for layer in self._layers for tensor in layer.adapters()]

    def summed_loss(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the learnt tokens, and how many of them were the likeliest token: fp32 scalars."""
        hidden = self._embedding(rows.tokens)
        # Angles in fp32, whatever the model computes in: in bf16 they are off by up to a part in 256.
        angles = self._rotary(hidden.new_empty(0, dtype=torch.float32), rows.positions[None])
        place = Place(angles[0][0], angles[1][0], rows)
        for layer, keep in zip(self._layers, self._keep, strict=True):
            hidden = layer(hidden, place, keep=keep)
        learnt = FinalNorm.apply(hidden.index_select(0, rows.places), self._norm.weight, self._norm.eps)
        total, likeliest = SummedCrossEntropy.apply(learnt, self._head.weight, rows.targets)
        return total, likeliest


def _layer(layer: Any, config: Any, scratch: Scratch) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def projection(module: Any) -> Projection:
        return _projection(module, scratch)

    return Layer(
        attention_norm=_norm(layer.input_layernorm),
        query_key_value=(
            projection(attention.q_proj),
            projection(attention.k_proj),
            projection(attention.v_proj),
        ),
        query_norm=_norm(attention.q_norm) if config.model_type == "qwen3" else None,
        key_norm=_norm(attention.k_norm) if config.model_type == "qwen3" else None,
        output=projection(attention.o_proj),
        mlp_norm=_norm(layer.post_attention_layernorm),
        gate_up=(projection(mlp.gate_proj), projection(mlp.up_proj)),
        down=projection(mlp.down_proj),
        head_size=attention.head_dim,
        window=_window(attention, config),
    )


def _window(attention: Any, config: Any) -> int | None:
    """Mistral limits every layer, Qwen some of them."""
    limits = {"llama": None, "mistral": config} | dict.fromkeys(("qwen2", "qwen3"), attention)
    owner = limits[config.model_type]
    return None if owner is None else owner.sliding_window


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _projection(module: Any, scratch: Scratch) -> Projection:
    if not isinstance(module, LoraLayer):
        return Projection(module, None, scratch)
    (name,) = module.active_adapters
    adapter = Adapter(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))
    return Projection(module.get_base_layer(), adapter, scratch)
