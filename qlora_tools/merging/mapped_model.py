"""A model that computes in fp32 while its weights stay in their files: for comparing models that do not fit in memory.

Transformers builds the model without weights; its linear layers then read slices of rows as they need them, its embeddings
the rows of the tokens at hand, and what is small is loaded. An adapter stays a product of two thin matrices here, so that the
comparison does not repeat the arithmetic of the merge that it proves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ..adapters.check import stored_name
from ..engine.loading import attention_name
from ..errors import MachineError
from ..models.stored_tensors import StoredTensor
from .arithmetic import Factors, row_slices, rows_and_width
from .plan import OutputTensor
from .reading import MappedFiles
from .rows import Rows

# What is larger stays in its file.
_SMALL_ELEMENTS = 2**20


@dataclass(frozen=True)
class Source:
    """Where a mapped model takes its weights from: `changed` holds what an adapter does to parameters, by stored names."""

    location: Path
    tensors: Mapping[str, StoredTensor]
    changed: Mapping[str, OutputTensor]
    rows: Callable[[OutputTensor], Rows]
    device: str


def open_mapped(source: Source) -> Any:
    """A causal language model in fp32 over mapped files. Raises `MachineError` for families that are stored otherwise."""
    config = AutoConfig.from_pretrained(source.location, trust_remote_code=False, local_files_only=True)
    config.dtype = torch.float32
    attention = attention_name("auto", config.to_dict())
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation=attention, dtype=torch.float32
        )
    files = MappedFiles()
    for name, module in list(model.named_modules()):
        _fill(model, name, module, source, files)
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise MachineError(
            f"The model cannot be compared out of its files: {left[0]} is stored in another form.",
            next_step="Merge on a machine with memory for the whole model in fp32, or without a check (--no-check).",
        )
    return model.to(source.device).eval()


class MappedLinear(nn.Module):
    """A linear layer whose weight `[out, in]` is read in slices of rows, with low-rank products beside it."""

    def __init__(self, tensor: OutputTensor, rows: Rows, bias: nn.Parameter | None, factors: Sequence[Factors]) -> None:
        super().__init__()
        self.out_features, self.in_features = rows_and_width(tensor.source)
        self.bias = bias
        self._tensor, self._rows, self._factors = tensor, rows, tuple(factors)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        flat = states.reshape(-1, self.in_features)
        # A tied head takes the embedding's adapter, which is laid out otherwise.
        embedding = [one for one in self._factors if one.addition.pair.embedding]
        own = [one for one in self._factors if not one.addition.pair.embedding]
        result = torch.empty(flat.shape[0], self.out_features, device=flat.device)
        for first, last in row_slices(self._tensor):
            rows = self._rows(first, last)
            for one in embedding:
                rows = one.applied(rows, first, last, self._tensor.name)
            weight = rows.to(flat.device)
            part = flat @ weight.T
            for one in own:
                part = part + _product(one, flat, first, last)
            for one in own:
                part = part if one.magnitude is None else part * _scale(one, weight, first, last)
            result[:, first:last] = part
        result = result if self.bias is None else result + self.bias
        return result.reshape(*states.shape[:-1], self.out_features)


def _product(factors: Factors, states: torch.Tensor, first: int, last: int) -> torch.Tensor:
    thin = states @ factors.a.T.to(states.device)
    return thin @ factors.b[first:last].T.to(states.device) * factors.scale


def _scale(factors: Factors, weight: torch.Tensor, first: int, last: int) -> torch.Tensor:
    assert factors.magnitude is not None
    moved = weight + factors.delta(first, last).to(weight.device)
    return factors.magnitude[first:last].to(weight.device) / torch.linalg.norm(moved, dim=1)


def _fill(model: Any, name: str, module: nn.Module, source: Source, files: MappedFiles) -> None:
    """Give `module` its own parameters: mapped where they are large."""
    for parameter, value in list(module.named_parameters(recurse=False)):
        tensor = _tensor(f"{name}.{parameter}", model, source)
        if tensor is None:
            continue
        large = parameter == "weight" and value.ndim == 2 and tensor.source.elements > _SMALL_ELEMENTS
        if large and type(module) is nn.Linear:
            _replace(model, name, _linear(tensor, module, source, files, name))
            return
        if large and isinstance(module, nn.Embedding):
            _gather(module, tensor, source, files)
        else:
            setattr(module, parameter, _loaded(tensor, source, files))


def _tensor(name: str, model: Any, source: Source) -> OutputTensor | None:
    """What is known of a parameter; a tied head is the embedding."""
    stored = stored_name(name, source.tensors)
    if stored is None and name in source.changed:
        return source.changed[name]
    if stored is None:
        tied = model.all_tied_weights_keys.get(name)
        stored = stored_name(tied, source.tensors) if tied else None
    return None if stored is None else _known(stored, source)


def _known(stored: str, source: Source) -> OutputTensor:
    return source.changed.get(stored) or OutputTensor(stored, "F32", source.tensors[stored])


def _linear(tensor: OutputTensor, module: nn.Linear, source: Source, files: MappedFiles, name: str) -> MappedLinear:
    bias = None
    if module.bias is not None:
        stored = stored_name(f"{name}.bias", source.tensors) or f"{name}.bias"
        bias = _loaded(_known(stored, source), source, files)
    return MappedLinear(tensor, source.rows(tensor), bias, _factors(tensor, source, files))


def _factors(tensor: OutputTensor, source: Source, files: MappedFiles) -> list[Factors]:
    rows, slices = source.rows(tensor), list(row_slices(tensor))
    return [Factors.read(addition, files).with_norms(rows, slices) for addition in tensor.additions]


def _loaded(tensor: OutputTensor, source: Source, files: MappedFiles) -> nn.Parameter:
    rows, _ = rows_and_width(tensor.source)
    weight = source.rows(tensor)(0, rows)
    for one in _factors(tensor, source, files):
        weight = one.applied(weight, 0, rows, tensor.name)
    return nn.Parameter(weight.reshape(tensor.source.shape), requires_grad=False)


def _gather(module: nn.Embedding, tensor: OutputTensor, source: Source, files: MappedFiles) -> None:
    """Let an embedding see the rows of the tokens at hand only, under new numbers."""
    rows, factors = source.rows(tensor), _factors(tensor, source, files)

    def before(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        known, numbers = arguments[0].unique(return_inverse=True)
        parts = []
        for token in known.tolist():
            row = rows(token, token + 1)
            for one in factors:
                row = one.applied(row, token, token + 1, tensor.name)
            parts.append(row)
        module.weight.data = torch.cat(parts).to(arguments[0].device)
        return (numbers, *arguments[1:])

    module.weight = nn.Parameter(torch.empty(0, module.embedding_dim), requires_grad=False)
    module.padding_idx = None
    module.register_forward_pre_hook(before)


def _replace(model: Any, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
