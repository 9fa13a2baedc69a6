"""A base with its adapter in memory, answering batches of prompts. Runs where torch runs."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import set_seed

from ..adapters.record import AdapterRecord, read_adapter_record, text_hash
from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import QuantizationConfig
from ..data.chat_template import install_instruction_form
from ..data.examples import Message, RowError
from ..data.rendering import Renderer
from ..engine.device import detect_hardware, release_memory
from ..engine.loading import load_model
from ..errors import MachineError, ModelError, UsageError
from ..events import Listener, RunEvent, ignore
from ..models.hardware import Hardware

# Padded tokens of a batch: enough to keep the device busy, little enough for its key-value cache.
_BATCH_TOKENS = {"cuda": 65_536, "cpu": 8_192}
_MOST_ROWS = 64


@dataclass(frozen=True)
class GenerationSession:
    """Model, tokenizer and prompt form, as the adapter was trained."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    record: AdapterRecord
    hardware: Hardware

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        quantization: QuantizationConfig | None = None,
        compute_dtype: str | None = None,
        hardware: Hardware | None = None,
    ) -> "GenerationSession":
        """Load base and adapter as they were trained and on the best device, unless an argument says otherwise.

        Raises `ModelError` when one of them is missing or they do not belong together.
        """
        record = read_adapter_record(directory)
        hardware = hardware or detect_hardware()
        loaded = load_model(
            record.base(),
            quantization or record.quantization,
            compute_dtype=compute_dtype or _dtype_here(record, hardware),
            attention_implementation="auto",
            hardware=hardware,
        )
        tokenizer = adapter_tokenizer(directory, loaded.tokenizer)
        if record.chat_template_sha256 not in (None, text_hash(tokenizer.chat_template)):
            raise ModelError(
                f"The chat template in {directory} is not the one that the adapter was trained with.",
                next_step="Restore the tokenizer files of the training run.",
            )
        model = _in_compute_dtype(with_adapter(loaded.model, directory))
        if record.style == "chat_template" and not tokenizer.chat_template:
            install_instruction_form(tokenizer)
        return cls(model.eval(), tokenizer, Renderer(tokenizer, record.style), record, hardware)

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        with_adapter: bool,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        on_event: Listener = ignore,
    ) -> list[str]:
        """Answers in the order of `conversations`, computed in batches of like length."""
        set_seed(seed)
        prompts = [self.prompt_ids(turns) for turns in conversations]
        answers: dict[int, str] = {}
        with nullcontext() if with_adapter else self.model.disable_adapter():
            for batch in _batches(prompts, max_new_tokens, _BATCH_TOKENS[self.hardware.kind]):
                ids = self.generate_ids([prompts[i] for i in batch], max_new_tokens, temperature)
                answers.update(zip(batch, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
                on_event(RunEvent("progress", "answers", {"done": len(answers), "total": len(prompts)}))
        return [answers[i] for i in range(len(prompts))]

    def stop_token_ids(self) -> list[int]:
        """Where an answer ends: the tokens that ended the trained answers, and what the base stops at."""
        own = self.model.generation_config.eos_token_id
        base = own if isinstance(own, list) else [own]
        known = {*self.record.stop_token_ids, *base, self.tokenizer.eos_token_id}
        return sorted(token for token in known if token is not None)

    def prompt_ids(self, turns: Sequence[Message]) -> list[int]:
        """The tokens that the model is asked with."""
        try:
            text = self.renderer.prompt(turns)
        except RowError as error:
            raise UsageError(f"A prompt cannot be rendered: {error}.", next_step="Change its turns.") from None
        ids: list[int] = self.tokenizer(text, add_special_tokens=self.renderer.adds_special_tokens)["input_ids"]
        if self.renderer.adds_special_tokens and ids and ids[-1] == self.tokenizer.eos_token_id:
            return ids[:-1]
        return ids

    def generate_ids(
        self, prompts: Sequence[list[int]], max_new_tokens: int, temperature: float = 0.0
    ) -> list[list[int]]:
        """Answers of one batch in tokens, each up to and including its stop token."""
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.model.device)
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        try:
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_new_tokens,
                    eos_token_id=self.stop_token_ids(),
                    pad_token_id=pad,
                    use_cache=True,
                    **sampling,
                )
        except torch.cuda.OutOfMemoryError:
            output = None
        if output is None:
            return self._generate_in_halves(prompts, max_new_tokens, temperature)
        return [_until_stop(row, self.stop_token_ids()) for row in output[:, longest:].tolist()]

    def _generate_in_halves(
        self, prompts: Sequence[list[int]], max_new_tokens: int, temperature: float
    ) -> list[list[int]]:
        """The key-value cache of the batch did not fit; smaller batches give the same answers."""
        release_memory()
        if len(prompts) == 1:
            raise MachineError(
                f"The GPU ran out of memory answering one prompt of {len(prompts[0])} tokens.",
                next_step="Ask for fewer new tokens or a shorter prompt.",
            )
        half = len(prompts) // 2
        first = self.generate_ids(prompts[:half], max_new_tokens, temperature)
        return first + self.generate_ids(prompts[half:], max_new_tokens, temperature)


def _dtype_here(record: AdapterRecord, hardware: Hardware) -> str:
    """The dtype that was trained with; on another kind of hardware, the best that it computes."""
    if record.compute_dtype == "bfloat16" and not hardware.computes_bfloat16:
        return resolve_compute_dtype("auto", hardware)
    if record.compute_dtype in ("auto", "float16") and hardware.kind == "cpu":
        return resolve_compute_dtype("auto", hardware)
    return resolve_compute_dtype(record.compute_dtype, hardware)


def adapter_tokenizer(directory: Path, base_tokenizer: Any) -> Any:
    """The tokenizer saved with the adapter: its template is the one that was trained."""
    if not (directory / "tokenizer_config.json").is_file():
        return base_tokenizer
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"The tokenizer in {directory} is damaged: {first}", next_step="Restore its files.") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = base_tokenizer.pad_token
    return tokenizer


def with_adapter(model: Any, directory: Path) -> Any:
    """The model with the adapter on it; raises `ModelError` where they do not fit."""
    try:
        return PeftModel.from_pretrained(model, directory, is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The adapter {directory} does not fit its base: {first}",
            next_step="Give the base that it was trained on; the adapter's qlora_tools.json names it.",
        ) from None


def _in_compute_dtype(adapted: Any) -> Any:
    """Inference needs no fp32 master weights; in the compute dtype the thin products cost a third."""
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(adapted.dtype)
    return adapted


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in stops), len(ids) - 1)
    return ids[: end + 1]


def _batches(prompts: list[list[int]], max_new_tokens: int, budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        padded = (len(batch) + 1) * (len(prompts[index]) + max_new_tokens)
        if batch and (padded > budget or len(batch) == _MOST_ROWS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
