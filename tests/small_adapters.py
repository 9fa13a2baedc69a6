"""Adapters without a training: real tensors on a tiny model, with a record and what a run leaves beside it."""

import json
from pathlib import Path
from typing import Any

from qlora_tools.adapters.record import AdapterRecord, text_hash, write_record
from qlora_tools.config import dump_config, parse_config
from qlora_tools.config.schema import QuantizationConfig
from qlora_tools.models.stored_tensors import model_tensors

RANK = 4


def small_adapter(model: Path, run: Path, settings: dict[str, Any] | None = None, rank: int = RANK) -> Path:
    """The output directory `run` with an adapter on one projection of the tiny model in `model`, as training leaves it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(2):
        module = f"model.layers.{layer}.self_attn.o_proj"
        wide = model_tensors(model)[f"{module}.weight"].shape
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, wide[1], generator=generator)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(wide[0], rank, generator=generator)
    adapter = run / "adapter"
    adapter.mkdir(parents=True)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": rank}
    told |= {"lora_alpha": 2 * rank, "target_modules": ["o_proj"], "bias": "none", **(settings or {})}
    (adapter / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(adapter)
    write_record(adapter, _record(model, tokenizer))
    (adapter / "README.md").write_text(f"base_model: {model}\n", encoding="utf-8")
    _write_run(run, model)
    return run


def _record(model: Path, tokenizer: Any) -> AdapterRecord:
    return AdapterRecord(
        base_name=str(model),
        base_source="local",
        base_revision=None,
        base_config_sha256=None,
        quantization=QuantizationConfig(kind="nf4"),
        compute_dtype="float32",
        style="chat_template",
        chat_template_sha256=text_hash(tokenizer.chat_template),
        stop_token_ids=(tokenizer.eos_token_id,),
    )


def _write_run(run: Path, model: Path) -> None:
    rows = run.parent / f"{run.name}-rows.jsonl"
    rows.write_text('{"question": "my secret row", "answer": "no"}\n', encoding="utf-8")
    raw = {"model": {"name": str(model)}, "data": {"path": str(rows)}, "output": {"directory": str(run)}}
    (run / "config.yaml").write_text(dump_config(parse_config(raw), complete=True), encoding="utf-8")
    counted = {"read": 20, "used": 18, "tokens": 900, "learnt_tokens": 300, "cut": 0, "dropped_long": 2}
    result = {"device": "NVIDIA H100", "steps": 30, "train_seconds": 61.0, "peak_allocated_bytes": 3 * 2**30}
    result |= {
        "losses": [2.5, 1.25],
        "evaluation_losses": {"30": 1.5},
        "training_rows": counted,
        "compute_dtype": "bfloat16",
    }
    result |= {"output_directory": str(run), "versions": {"torch": "2.13.0"}}
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    finding = {"check": "few_rows", "severity": "warning", "count": 20, "example": "my secret row"}
    (run / "data_report.json").write_text(json.dumps({"findings": [finding], "path": str(rows)}), encoding="utf-8")
