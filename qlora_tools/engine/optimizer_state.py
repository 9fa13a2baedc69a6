"""The state of any optimiser by the names of its parameters, so that it can be kept in safetensors and go on elsewhere."""

from collections.abc import Mapping
from typing import Any

import torch

# Per parameter: tensors (moments, scales) and numbers (steps).
ParameterStates = dict[str, dict[str, Any]]
_ALIAS = "same as "
# bitsandbytes pages no tensor below this size.
_LEAST_PAGED_ELEMENTS = 100_000


def take_optimizer(optimizer: Any, model: Any) -> ParameterStates:
    """References to the states of all trained parameters; nothing is copied."""
    inner = _inner(optimizer)
    return {name: dict(inner.state[p]) for name, p in _trained(model) if inner.state.get(p)}


def put_optimizer(optimizer: Any, model: Any, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Make `optimizer`, new and without a step, go on from `states`. Paged states are paged again."""
    inner = _inner(optimizer)
    parameters = dict(_trained(model))
    shared: dict[int, torch.Tensor] = {}
    for name, state in states.items():
        parameter = parameters[name]
        inner.state[parameter] = {key: _placed(inner, parameter, key, value, shared) for key, value in state.items()}


def to_tensors(states: ParameterStates) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by flat names, each stored once, and the numbers: the form of safetensors and JSON."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    names: dict[int, str] = {}
    for parameter, state in states.items():
        for key, value in state.items():
            flat = f"{parameter}|{key}"
            if not isinstance(value, torch.Tensor):
                numbers[flat] = value
            elif id(value) in names:
                # bitsandbytes shares one quantisation map between all parameters.
                numbers[flat] = _ALIAS + names[id(value)]
            else:
                names[id(value)] = flat
                tensors[flat] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, numbers


def from_tensors(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> ParameterStates:
    """The inverse of `to_tensors`."""
    states: ParameterStates = {}
    for flat, value in {**tensors, **numbers}.items():
        if isinstance(value, str) and value.startswith(_ALIAS):
            value = tensors[value.removeprefix(_ALIAS)]
        parameter, _, key = flat.rpartition("|")
        states.setdefault(parameter, {})[key] = value
    return states


def _inner(optimizer: Any) -> Any:
    """The optimiser itself: Accelerate wraps it."""
    return getattr(optimizer, "optimizer", optimizer)


def _trained(model: Any) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _placed(inner: Any, parameter: Any, key: str, value: Any, shared: dict[int, torch.Tensor]) -> Any:
    if not isinstance(value, torch.Tensor) or getattr(value, "is_paged", False):
        return value
    if _is_paged(inner, parameter, key):
        buffer = inner.get_state_buffer(parameter, dtype=value.dtype)
        buffer.copy_(value)
        return buffer
    # torch's own optimisers keep the count of steps on the host.
    if key == "step":
        return value
    return shared.setdefault(id(value), value.to(parameter.device))


def _is_paged(inner: Any, parameter: Any, key: str) -> bool:
    large = parameter.device.type == "cuda" and parameter.numel() >= _LEAST_PAGED_ELEMENTS
    return large and key in ("state1", "state2") and bool(getattr(inner, "is_paged", False))
