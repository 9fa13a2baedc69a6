"""What NF4, double quantisation, FP4 and int8 cost weights: normal random ones in a catalogue model's shapes, and real ones.

    python benchmarks/quantisation_cost.py benchmarks/results/quantisation_cost.json [--model NAME] [--blocks 1]
        [--real DIRECTORY] [--losses]

Writes so many blocks of random bf16 weights (standard deviation 0.02) beside the temporary files, measures them, and removes
them. `--real` measures a model directory as well, with `--losses` on the committed texts in each kind too (loads it five
times). A base whose weights lie on a 4-bit grid already is refused: its errors would say nothing.
"""

import json
import platform
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qlora_tools.evaluation.quantisation_cost import quantisation_cost
from qlora_tools.models.catalogue import CATALOGUE
from qlora_tools.models.shape import ModelShape
from qlora_tools.results.instruments import QuantisationCost

_LIBRARIES = ("bitsandbytes", "torch", "transformers")


def main() -> None:
    arguments = _arguments()
    models = [_random(arguments.model, arguments.blocks)]
    if arguments.real:
        models.append(_real(arguments.real, losses=arguments.losses))
    result = {
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
        "models": models,
    }
    arguments.target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", default="llama-3.1-8b-instruct", choices=list(CATALOGUE))
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--losses", action="store_true")
    return parser.parse_args()


def _random(name: str, blocks: int) -> dict[str, Any]:
    """The linears of the first `blocks` blocks in the model's true shapes; the vocabulary is cut to 64, nothing reads it."""
    values = {**CATALOGUE[name].config, "num_hidden_layers": blocks, "vocab_size": 64, "pad_token_id": None}
    with tempfile.TemporaryDirectory() as directory:
        _write(Path(directory), values)
        cost = quantisation_cost(directory, texts=[], on_event=_tell)
    shape = ModelShape.from_config(CATALOGUE[name].config)
    about = {
        "model": name,
        "weights_are": "normal random",
        "blocks": blocks,
        "linear_parameters": shape.linear_parameters,
    }
    return {**about, **_kept(cost)}


def _write(directory: Path, values: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), trust_remote_code=False)
    torch.manual_seed(0)
    tensors = {
        name: torch.empty(parameter.shape).normal_(0, 0.02).to(torch.bfloat16)
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "tokenizer.json").write_text("{}")  # never read: no text is measured


def _real(directory: Path, *, losses: bool) -> dict[str, Any]:
    cost = quantisation_cost(directory, texts=None if losses else [], on_event=_tell)
    if cost.grid.on_grid:
        sys.exit(f"{directory}: {cost.notes[0]}")
    return {"model": directory.name, "weights_are": "trained", **_kept(cost)}


def _kept(cost: QuantisationCost) -> dict[str, Any]:
    return cost.model_dump(mode="json", exclude={"model", "tensors", "seconds"})


def _tell(event: Any) -> None:
    if event.kind == "progress":
        print(f"{event.message} {event.values['done']:.0f}/{event.values['total']:.0f}", file=sys.stderr)


if __name__ == "__main__":
    main()
