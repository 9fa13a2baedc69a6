"""A few tokens from the untrained model: mistakes in the set-up show in seconds, not after a night."""

from typing import Any

import torch

from ..data.rendering import Renderer
from ..errors import CheckFailed
from .loading import LoadedModel

_TOKENS = 8
_LONGEST_PROMPT = 512


def smoke_generation(loaded: LoadedModel, renderer: Renderer, prompt: str) -> str:
    """Answer `prompt` greedily for eight tokens; raises `CheckFailed` when the model computes no numbers."""
    inputs: Any = loaded.tokenizer(
        prompt, return_tensors="pt", add_special_tokens=renderer.adds_special_tokens, return_token_type_ids=False
    )
    ids = inputs["input_ids"][:, -_LONGEST_PROMPT:].to(loaded.model.device)
    with torch.no_grad():
        logits = loaded.model(input_ids=ids, use_cache=False).logits[:, -1]
        if not torch.isfinite(logits).all():
            raise CheckFailed(
                "The base model computes NaN or infinity before any training.",
                next_step="Use quantization.compute_dtype: bfloat16 or float32; check that the weights are whole.",
            )
        answer = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_TOKENS,
            do_sample=False,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )
    return str(loaded.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
