"""How much an adapter changes each weight of its base, without ever forming a product B A or a base weight as a whole.

||s B A||_F^2 is the sum over (B^T B) * (A A^T), two matrices of rank by rank. Base weights are read back from 4 or 8 bits
in slices of rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_blockwise
from bitsandbytes.nn import Int8Params, Params4bit
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

from ..results.instruments import LayerEffect

_SLICE_ELEMENTS = 1 << 23
# Reading weights back takes about 10 s for so many on a CPU.
_MOST_ON_CPU = 8_000_000_000
# Relative change of a weight whose DoRA magnitudes are those of the start, rounded to bf16.
_ROUNDING = 2**-8


@dataclass(frozen=True)
class _Factors:
    """What LoRA adds to a weight of `[out, in]`: `b @ a` with the scaling in b, in fp32; magnitude `[out]` with DoRA."""

    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None

    @property
    def squared_norm(self) -> float:
        return float(((self.b.T @ self.b).double() * (self.a @ self.a.T).double()).sum().clamp(min=0))


def layer_effects(model: Any) -> list[LayerEffect]:
    """What the active adapters of a `PeftModel` change in each module they stand on, the largest relative change first."""
    readable = model.device.type != "cpu" or _adapted_parameters(model) <= _MOST_ON_CPU
    effects = [
        effect
        for name, module in model.get_base_model().named_modules()
        for effect in _effects_of(name, module, readable=readable)
    ]
    return sorted(effects, key=lambda effect: -(effect.relative_norm or 0.0))


def not_finite_parameters(model: Any) -> list[str]:
    """Modules whose adapter weights hold NaN or infinity."""
    names = {
        name.rpartition(f".{part}")[0]
        for name, parameter in model.get_base_model().named_parameters()
        if (part := _adapter_part(name)) and not bool(torch.isfinite(parameter).all())
    }
    return sorted(names)


def weight_slices(layer: Any) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of a layer's weight in fp32, a few million numbers at a time, read back from 4 or 8 bits where it is packed."""
    weight = layer.weight
    rows, width = (weight.quant_state.shape if isinstance(weight, Params4bit) else weight.shape)[:2]
    # A multiple of 64 rows begins at a block of any size up to 4096 wherever rows are 64 wide or a multiple of it.
    step = max(64, _SLICE_ELEMENTS // width // 64 * 64)
    if isinstance(weight, Params4bit):
        step = step if step * width % weight.quant_state.blocksize == 0 else rows
        yield from _unpacked(weight, rows, width, step)
        return
    scales = _row_scales(layer) if isinstance(weight, Int8Params) else None
    for start in range(0, rows, step):
        place = slice(start, min(start + step, rows))
        part = weight.data[place].float()
        yield place, part * scales[place, None] / 127 if scales is not None else part


def _row_scales(layer: Any) -> torch.Tensor:
    """bitsandbytes moves them from the weight to the layer's state in the first forward."""
    scales: torch.Tensor = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    return scales.float()


def _unpacked(weight: Any, rows: int, width: int, step: int) -> Iterator[tuple[slice, torch.Tensor]]:
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(absmax, state.state2).float() + state.offset
    packed = weight.data.view(torch.uint8).reshape(-1)
    for start in range(0, rows, step):
        place = slice(start, min(start + step, rows))
        first, last = place.start * width, place.stop * width
        codes = packed[first // 2 : -(-last // 2)].reshape(-1, 1)
        scales = absmax[first // state.blocksize : -(-last // state.blocksize)]
        shape = [place.stop - place.start, width]
        yield (
            place,
            torch.ops.bitsandbytes.dequantize_4bit(
                codes, scales, state.blocksize, state.quant_type, shape, torch.float32
            ),
        )


def _effects_of(name: str, module: Any, *, readable: bool) -> Iterator[LayerEffect]:
    if isinstance(module, ParamWrapper):
        yield _unread(name, module)
    elif isinstance(module, LoraLayer):
        yield _lora_effect(name, module, readable=readable)
    elif isinstance(module, ModulesToSaveWrapper):
        yield from _replaced(name, module)
    elif isinstance(module, TrainableTokensWrapper):
        yield from _token_effect(name, module)


def _lora_effect(name: str, module: Any, *, readable: bool) -> LayerEffect:
    factors = _factors(module)
    if factors is None:
        return LayerEffect(module=name, update_norm=0.0, relative_norm=0.0, trained=False, note="no active adapter")
    base = module.get_base_layer()
    if not readable or base.weight.ndim > 2:
        update = math.sqrt(factors.squared_norm)
        reason = "the base weight was not read: " + ("too much for a CPU" if not readable else "not a matrix")
        return LayerEffect(module=name, update_norm=update, relative_norm=None, trained=update > 0, note=reason)
    turned = isinstance(module, Embedding) or module.fan_in_fan_out
    if factors.magnitude is not None:
        return _dora_effect(name, factors, base, turned=turned)
    update = math.sqrt(factors.squared_norm)
    norm = math.sqrt(sum(float(part.square().sum()) for _, part in weight_slices(base)))
    return LayerEffect(module=name, update_norm=update, relative_norm=_ratio(update, norm), trained=update > 0)


def _dora_effect(name: str, factors: _Factors, base: Any, *, turned: bool) -> LayerEffect:
    """DoRA (arXiv 2402.09353): W' = m V / ||V|| by rows of V = W + s B A, so ||W' - W||^2 needs W's norms and W A^T only."""
    assert factors.magnitude is not None
    out, a, b = factors.b.shape[0], factors.a.double(), factors.b.double()
    squares = torch.zeros(out, dtype=torch.float64, device=a.device)
    projected = torch.zeros(out, a.shape[0], dtype=torch.float64, device=a.device)
    for place, part in weight_slices(base):
        rows = part.double()
        if turned:
            squares += rows.square().sum(0)
            projected += rows.T @ a[:, place].T
        else:
            squares[place] = rows.square().sum(1)
            projected[place] = rows @ a.T
    cross = (b * projected).sum(1)
    added = ((b @ (a @ a.T)) * b).sum(1)
    lengths = (squares + 2 * cross + added).clamp(min=0).sqrt()
    magnitude = factors.magnitude.double()
    changes = magnitude.square() - 2 * magnitude / lengths * (squares + cross) + squares
    update, norm = math.sqrt(float(changes.clamp(min=0).sum())), math.sqrt(float(squares.sum()))
    relative = _ratio(update, norm)
    trained = factors.squared_norm > 0 or (relative or 0.0) > _ROUNDING
    return LayerEffect(module=name, update_norm=update, relative_norm=relative, trained=trained, note="DoRA")


def _factors(module: Any) -> _Factors | None:
    """All active adapters of a module as one pair: their ranks stand side by side."""
    names = [name for name in module.active_adapters if name in module.scaling]
    if not names or module.disable_adapters:
        return None
    pairs = [_pair(module, name) for name in names]
    a = torch.cat([pair[0] for pair in pairs])
    b = torch.cat([pair[1] for pair in pairs], dim=1)
    dora = module.lora_magnitude_vector
    magnitude = dora[names[0]].weight.detach().float() if len(names) == 1 and names[0] in dora else None
    return _Factors(a, b, magnitude)


def _pair(module: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(module, Embedding):
        a, b = module.lora_embedding_A[name], module.lora_embedding_B[name]
    else:
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return a.detach().float().flatten(1), b.detach().float().flatten(1) * float(module.scaling[name])


def _unread(name: str, module: Any) -> LayerEffect:
    """Adapters on parameters of three dimensions: one pair an expert, side by side, so the product is not theirs."""
    trained = any(bool(module.lora_B[active].weight.any()) for active in module.active_adapters)
    note = f"the parameter {module.parameter_name} of all experts: only checked for being trained"
    return LayerEffect(module=name, update_norm=0.0, relative_norm=None, trained=trained, note=note)


def _replaced(name: str, module: Any) -> Iterator[LayerEffect]:
    for active in module.active_adapters:
        if active not in module.modules_to_save:
            continue
        before, after = module.original_module, module.modules_to_save[active]
        pairs = [
            (old, new) for (_, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        ]
        update = math.sqrt(sum(_squared_difference(old, new) for old, new in pairs))
        norm = math.sqrt(sum(float(_squares(old)) for old, _ in pairs))
        yield LayerEffect(
            module=name,
            update_norm=update,
            relative_norm=_ratio(update, norm),
            trained=update > 0,
            note="trained in full",
        )


def _token_effect(name: str, module: Any) -> Iterator[LayerEffect]:
    layer = module.token_adapter
    if layer.tied_adapter is not None:
        return
    for active in module.active_adapters:
        if active not in layer.trainable_tokens_delta:
            continue
        new = layer.trainable_tokens_delta[active].detach().float()
        old = layer.trainable_tokens_original[active].float()
        update, norm = float((new - old).norm()), float(old.norm())
        note = f"{len(new)} rows trained; the change is relative to these"
        relative = _ratio(update, norm)
        yield LayerEffect(module=name, update_norm=update, relative_norm=relative, trained=update > 0, note=note)


def _squared_difference(old: torch.Tensor, new: torch.Tensor) -> float:
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]] = list(zip(_rows(old), _rows(new), strict=True))
    return float(sum((b.float() - a.float()).square().sum().double() for a, b in parts))


def _squares(tensor: torch.Tensor) -> float:
    return float(sum(part.float().square().sum().double() for part in _rows(tensor)))


def _rows(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    width = max(1, tensor[0].numel()) if tensor.ndim else 1
    rows: Sequence[torch.Tensor] = tensor.detach().reshape(-1, width).split(max(1, _SLICE_ELEMENTS // width))
    return rows


def _adapted_parameters(model: Any) -> int:
    layers = (module for module in model.modules() if isinstance(module, LoraLayer))
    weights = [layer.get_base_layer().weight for layer in layers if not isinstance(layer, ParamWrapper)]
    return sum(
        math.prod(weight.quant_state.shape) if isinstance(weight, Params4bit) else weight.numel() for weight in weights
    )


def _adapter_part(name: str) -> str | None:
    parts = ("lora_", "modules_to_save", "token_adapter.trainable_tokens_delta")
    return next((part for part in parts if part in name), None)


def _ratio(update: float, norm: float) -> float | None:
    return update / norm if norm else None
