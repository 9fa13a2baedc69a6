"""How a card shows that the model is loaded: code that runs as it stands, in the directory of the card."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..adapters.record import AdapterRecord
from ..config.schema import QuantizationConfig
from .base_name import PublishedBase

_ASK_CHAT = """
messages = [{"role": "user", "content": "What is the capital of Japan?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
_ASK_TEXT = """
prompt = tokenizer("The capital of Japan is", return_tensors="pt")
"""
_ANSWER = """answer = model.generate(**prompt.to(model.device), max_new_tokens=200, eos_token_id=STOPS)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_ANSWER_AS_BASE = _ANSWER.replace(", eos_token_id=STOPS", "")


@dataclass(frozen=True)
class Loading:
    """One way to load the model."""

    title: str
    language: str
    code: str


def asking(stop_token_ids: Sequence[int], *, templated: bool) -> str:
    """The code that asks a loaded model one question."""
    answer = _ANSWER.replace("STOPS", str(list(stop_token_ids))) if stop_token_ids else _ANSWER_AS_BASE
    return (_ASK_CHAT if templated else _ASK_TEXT) + answer


def loading_blocks(
    kind: str, base: PublishedBase | None, adapter: AdapterRecord | None, files: Sequence[str], ask: str
) -> list[Loading]:
    """The ways that fit what is exported; `files` are names in its directory, commands for vLLM as one line each.

    `ask` is the code that follows loading in Python.
    """
    if kind in ("adapter", "vllm") and base is not None:
        blocks = [Loading("With Transformers and PEFT, in this directory:", "python", _with_peft(base, adapter) + ask)]
        return blocks + [Loading("With vLLM, in this directory:", "bash", line) for line in files if kind == "vllm"]
    if kind == "merged":
        return [
            Loading("With Transformers, in this directory:", "python", _MERGED + ask),
            Loading("With vLLM, in this directory:", "bash", "vllm serve ."),
        ]
    if kind in ("gguf", "ollama"):
        return list(_of_gguf(kind, files))
    return []


_MERGED = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(".")
"""


def _with_peft(base: PublishedBase, adapter: AdapterRecord | None) -> str:
    """The base as it was trained against, then the adapter."""
    quantization = adapter.quantization if adapter else QuantizationConfig(kind="none")
    arguments = ["dtype=torch.bfloat16", 'device_map="auto"']
    if base.revision:
        arguments.insert(0, f'revision="{base.revision}"')
    names, settings = "AutoModelForCausalLM, AutoTokenizer", ""
    if quantization.kind != "none":
        names += ", BitsAndBytesConfig"
        settings = f"quantization = {_quantization(quantization)}\n"
        arguments.append("quantization_config=quantization")
    return (
        f"import torch\nfrom peft import PeftModel\nfrom transformers import {names}\n\n{settings}"
        f'base = AutoModelForCausalLM.from_pretrained("{base.name}", {", ".join(arguments)})\n'
        'model = PeftModel.from_pretrained(base, ".")\n'
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
    )


def _quantization(quantization: QuantizationConfig) -> str:
    if quantization.kind == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)"
    return (
        f'BitsAndBytesConfig(\n    load_in_4bit=True,\n    bnb_4bit_quant_type="{quantization.kind}",\n'
        f"    bnb_4bit_use_double_quant={quantization.double_quantization},\n    bnb_4bit_compute_dtype=torch.bfloat16,\n)"
    )


def _of_gguf(kind: str, files: Sequence[str]) -> list[Loading]:
    model = next((name for name in files if name.endswith(".gguf")), "model.gguf")
    blocks = [Loading("With llama.cpp, in this directory:", "bash", f"llama-server -m {shlex.quote(model)} --jinja")]
    if kind == "ollama":
        lines = "ollama create NAME -f Modelfile\nollama run NAME"
        blocks.insert(0, Loading("With Ollama, in this directory:", "bash", lines))
    return blocks
