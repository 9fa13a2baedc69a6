"""Likely failures by the library whose own frame raised the error, for messages that no sign tells."""

from .log_text import LogText
from .recognition import Hit, measured
from .unknown import unknown_error

_BY_LIBRARY = {
    "aiohttp httpcore httpx huggingface_hub requests urllib3": "hub_not_reached",
    "datasets fsspec pandas pyarrow": "data_unreadable",
    "deepspeed": "deepspeed_config_wrong",
    "flash_attn": "flash_attention_for_another_torch",
    "gguf": "gguf_conversion_failed",
    "hydra jsonargparse omegaconf pydantic pydantic_core": "yaml_or_arguments_wrong",
    "jinja2": "template_fails",
    "mlflow swanlab wandb": "tracker_not_set_up",
    "safetensors": "weights_damaged",
    "sentencepiece tiktoken": "tokenizer_library_missing",
    "lmdeploy sglang vllm": "model_refused_by_server",
    "triton": "triton_does_not_fit",
    "xformers": "xformers_for_another_torch",
}
_CHANGING = frozenset(
    {"accelerate", "bitsandbytes", "peft", "transformers", "trl", "unsloth", "unsloth_zoo", "optimum"}
)
_OF_CALLS = frozenset(
    {"TypeError", "AttributeError", "NameError", "ImportError", "UnboundLocalError", "NotImplementedError"}
)


def origin_hits(log: LogText) -> list[Hit]:
    """What the library that raised the last error mostly fails of; nothing where the script itself raised it."""
    error = unknown_error(log)
    if error is None or error.library is None:
        return []
    failure = next((id_ for names, id_ in _BY_LIBRARY.items() if error.library in names.split()), None)
    if failure is None and error.library in _CHANGING and error.name in _OF_CALLS:
        failure = "libraries_disagree"
    return [measured(failure, log.offset_of(error.index), "possible")] if failure else []
