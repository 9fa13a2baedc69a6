"""Where the parts of a decoder layer are in the families that the fast engine knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """Names of the projections that share an input; `window`: who says how far back a token sees."""

    query_key_value: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    norms_heads: bool = False
    window: Literal["nobody", "config", "attention"] = "nobody"

    def projections(self, layer: Any) -> Iterator[Any]:
        """All projections of a decoder layer."""
        yield from (getattr(layer.self_attn, name) for name in (*self.query_key_value, "o_proj"))
        yield from (getattr(layer.mlp, name) for name in (*self.gate_up, "down_proj"))

    def window_of(self, attention: Any, config: Any) -> int | None:
        """How many tokens a token of this layer sees at most, itself included; None for all."""
        owner = {"nobody": None, "config": config, "attention": attention}[self.window]
        return None if owner is None else owner.sliding_window


FAMILIES = {
    "llama": Family(),
    "mistral": Family(window="config"),
    "phi3": Family(query_key_value=("qkv_proj",), gate_up=("gate_up_proj",), window="config"),
    "qwen2": Family(window="attention"),
    "qwen3": Family(norms_heads=True, window="attention"),
}
