"""The decoder of a PeftModel as the fast engine computes it: the same weights, read where they lie."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from .dropout import Dropout
from .families import FAMILIES
from .host import Host
from .kernels import Kernels, kernels_for
from .layer import Layer
from .loss import SummedCrossEntropy
from .mlp import Mlp
from .norm import Norm
from .projections import Group
from .rows import Rows
from .self_attention import Place, SelfAttention
from .weights import Adapter, Projection, Scratch


class FastModel:
    """Loss of a Llama-like model with LoRA, for training and evaluation.

    `keep` says for each layer whether its activations are kept for the backward pass (True: more memory, faster) or computed
    again. The model must be one that `why_not_fast` has no word against. Its weights are read where they lie; the adapters
    have copies in the compute dtype, which follow them. On a GPU, the inputs of layers that are not kept wait in the memory
    of the host if `on_host`. `kernels` and `stacked`, whether the weights of a group are decoded together, are those of the
    model's device where they are not given.
    """

    def __init__(
        self,
        model: Any,
        *,
        keep: Sequence[bool],
        on_host: bool = False,
        kernels: Kernels | None = None,
        stacked: bool | None = None,
    ) -> None:
        causal = model.get_base_model()
        decoder, weight = causal.model, causal.model.embed_tokens.weight
        on_gpu = weight.device.type == "cuda"
        self._kernels = kernels_for(weight.device) if kernels is None else kernels
        scratch = Scratch(weight.device, weight.dtype) if (on_gpu if stacked is None else stacked) else None
        self._embedding = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        build = partial(Group, like=weight, kernels=self._kernels, scratch=scratch)
        self._layers = [
            _layer(number, layer, causal.config, build, self._kernels) for number, layer in enumerate(decoder.layers)
        ]
        self._norm = _norm(decoder.norm)
        self._head = causal.get_output_embeddings()
        if len(keep) != len(self._layers):
            raise ValueError(f"keep has {len(keep)} entries, and the model has {len(self._layers)} layers")
        self._keep, self._model = tuple(keep), model
        (settings,) = model.peft_config.values()
        self._dropout = settings.lora_dropout
        self._host = Host(weight.device, weight.dtype) if on_host and on_gpu else None
        self._copies = [copy for layer in self._layers for group in layer.groups for copy in group.copies()]

    def adapters(self) -> list[Tensor]:
        """The trained tensors that this engine computes gradients of."""
        return [tensor for layer in self._layers for tensor in layer.adapters()]

    def summed_loss(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the learnt tokens, and how many of them were the likeliest token: fp32 scalars."""
        self._follow_adapters()
        # Checkpointing in Transformers makes this output ask for a gradient, which nothing would read.
        hidden = self._embedding(rows.tokens).detach()
        # Angles in fp32, whatever the model computes in: in bf16 they are off by up to a part in 256.
        angles = self._rotary(hidden.new_empty(0, dtype=torch.float32), rows.positions[None])
        if self._host is not None:
            self._host.clear()
        place = Place(angles[0][0], angles[1][0], rows, self._host, self._masks())
        for layer, keep in zip(self._layers, self._keep, strict=True):
            hidden = layer(hidden, place, keep=keep)
        learnt = hidden.index_select(0, rows.places)
        total, likeliest = SummedCrossEntropy.apply(learnt, self._norm, self._head.weight, rows.targets, self._kernels)
        return total, likeliest

    def _masks(self) -> Dropout | None:
        """New masks for a micro-batch in training, drawn from the random state of the host, which a resumed run restores."""
        if not (self._dropout and self._model.training):
            return None
        return Dropout(self._dropout, int(torch.randint(2**63 - 1, ())))

    def _follow_adapters(self) -> None:
        # Each time: an optimiser that writes through pointers leaves no mark on the tensors, and this is a few launches.
        if self._copies:
            copies, trained, scales = (list(column) for column in zip(*self._copies, strict=True))
            with torch.no_grad():
                torch._foreach_copy_(copies, torch._foreach_mul(trained, scales))


def _layer(number: int, layer: Any, config: Any, build: Callable[..., Group], kernels: Kernels) -> Layer:
    attention, mlp, family = layer.self_attn, layer.mlp, FAMILIES[config.model_type]

    def group(block: Any, *names: str) -> Group:
        return build([_projection(getattr(block, name)) for name in names])

    return Layer(
        number,
        SelfAttention(
            norm=_norm(layer.input_layernorm),
            query_key_value=group(attention, *family.query_key_value),
            query_norm=_norm(attention.q_norm) if family.norms_heads else None,
            key_norm=_norm(attention.k_norm) if family.norms_heads else None,
            output=group(attention, "o_proj"),
            head_counts=(config.num_attention_heads, config.num_key_value_heads),
            head_size=attention.head_dim,
            window=family.window_of(attention, config),
            kernels=kernels,
        ),
        Mlp(
            norm=_norm(layer.post_attention_layernorm),
            gate_up=group(mlp, *family.gate_up),
            down=group(mlp, "down_proj"),
            kernels=kernels,
        ),
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _projection(module: Any) -> Projection:
    if not isinstance(module, LoraLayer):
        return Projection(module, None)
    (name,) = module.active_adapters
    adapter = Adapter(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))
    return Projection(module.get_base_layer(), adapter)
