"""Runs in a child process: reads a config.json on stdin, builds the model without memory, prints what it is made of."""

import json
import sys
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging


def main() -> None:
    """Print counts of parameters as one JSON line: those of quantisable linears, of embeddings and head, and others."""
    logging.set_verbosity_error()
    config = AutoConfig.for_model(**json.load(sys.stdin))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    print(json.dumps(count(model)))


def count(model: Any) -> dict[str, int]:
    """Parameters by what becomes of them: plain linears are quantised, matrices of other kinds are not, vectors are small."""
    tables = {id(p) for p in _tables(model)}
    linears = {
        id(module.weight)
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and id(module.weight) not in tables and "lm_head" not in name
    }
    counts = {"linear": 0, "embeddings": 0, "others": 0, "small": 0}
    for parameter in model.parameters():
        small = parameter.ndim < 2
        kind = "linear" if id(parameter) in linears else "small" if small else "others"
        counts["embeddings" if id(parameter) in tables else kind] += parameter.numel()
    return counts


def _tables(model: Any) -> list[Any]:
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings = (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    return [module.weight for module in (*heads, *embeddings) if module is not None]


if __name__ == "__main__":
    main()
