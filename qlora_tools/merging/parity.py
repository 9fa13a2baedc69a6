"""Whether a merged model answers as base plus adapter did, on the same prompts, token by token.

Both compute in fp32: in bf16 two computations of one model differ by more than a merge may. The reference answers greedily;
the merged model then reads each answer: where its most likely token is the reference's at every place, its own greedy answer
is the same by induction. Models that fit are held in memory, others compute out of their files (`mapped_model`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, LogitsProcessorList

from ..config.schema import QuantizationConfig
from ..data.chat_template import install_instruction_form
from ..data.examples import Message
from ..data.rendering import Renderer
from ..engine.device import detect_hardware, host_hardware, release_memory
from ..engine.loading import load_model
from ..errors import ModelError
from ..events import Listener, RunEvent
from ..generation.session import with_adapter
from ..models.causal import require_causal_language_model
from ..models.hardware import Hardware
from ..models.local_files import read_model_config
from ..models.reference import ModelReference, ResolvedModel, resolve_model
from ..models.stored_tensors import BYTES_OF, model_tensors
from ..results import ParityResult
from .agreement import Asked, Keeping, Kept, Measured, measured_rows, parity_of
from .mapped_model import Source, open_mapped
from .rows import plain_rows, trained_rows

if TYPE_CHECKING:
    from .merge import MergeTask

_ANSWER_TOKENS = {"in memory": 32, "out of its files": 4}
# A model that is held in host memory takes no more than so much: merging promises to need little.
_MOST_HOST_BYTES = 2**30
# Activations of the widest layers of a large model then take some hundred megabytes.
_BATCH_TOKENS = {"in memory": 4096, "out of its files": 1024}
_HELD_FILE = ".reference.f32"


@dataclass(frozen=True)
class Where:
    """How both models are computed."""

    method: str
    hardware: Hardware


def check_parity(
    task: "MergeTask", place: Path, prompts: Sequence[str], on_event: Listener
) -> tuple[ParityResult, ParityResult | None]:
    """Compare the model in `place` with the base that was chosen plus the adapters.

    The second result compares it with the base that the adapter was trained against, where that is another one.
    """
    release_memory()
    where = _where(task)
    tokenizer, asked = _tokens(task, place, prompts)
    first = _compared(task, place, where, (tokenizer, asked), on_event)
    trained = task.record.quantization
    if not first.passed or trained.kind == task.quantization.kind or trained.kind == "none":
        return first, None
    on_event(RunEvent("phase", f"Comparing with the {trained.kind} base that the adapter was trained against"))
    return first, _compared(task.on_trained(), place, where, (tokenizer, asked), on_event)


def _compared(
    task: "MergeTask", place: Path, where: Where, asked: tuple[Any, list[list[int]]], on_event: Listener
) -> ParityResult:
    tokenizer, prompts = asked
    total = 2 * len(prompts)

    def tell(done: int) -> None:
        on_event(RunEvent("progress", "prompts compared", {"done": done, "total": total}))

    reference = _reference(task, where)
    kept = Kept(place / _HELD_FILE, len(prompts), _ANSWER_TOKENS[where.method])
    answers = _answers(reference, tokenizer, prompts, where, kept, tell)
    rows = [Asked(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    del reference
    release_memory()
    merged = _merged(task, place, where)
    measured: list[Measured] = []
    for indices, logits in _logits(merged, rows, where):
        measured += measured_rows(indices, logits, kept.of(rows), rows)
        tell(len(rows) + len(measured))
    (place / _HELD_FILE).unlink()
    return parity_of(rows, measured, f"{where.method}, fp32, {where.hardware.name}")


def _where(task: "MergeTask") -> Where:
    """In memory on a GPU that holds the model in fp32, or on the host where it is small; else out of the files."""
    parameters = sum(tensor.source.elements for tensor in task.plan.tensors)
    gpu, host = detect_hardware(), host_hardware()
    if not _is_text_only(task):
        return Where("out of its files", gpu)
    needed = BYTES_OF["F32"] * parameters * 5 // 4  # a quarter more, for activations
    if gpu.kind == "cuda" and needed < gpu.free_memory_bytes:
        return Where("in memory", gpu)
    if needed < min(host.free_memory_bytes, _MOST_HOST_BYTES):
        return Where("in memory", host)
    return Where("out of its files", gpu)


def _is_text_only(task: "MergeTask") -> bool:
    """What reads images too is never loaded whole: only its language model is asked."""
    try:
        require_causal_language_model(read_model_config(task.location), str(task.location))
    except ModelError:
        return False
    return True


def _tokens(task: "MergeTask", place: Path, prompts: Sequence[str]) -> tuple[Any, list[list[int]]]:
    """The tokenizer of the merged model, and the prompts in the form that was trained."""
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if task.record.style == "chat_template" and not tokenizer.chat_template:
        install_instruction_form(tokenizer)
    renderer = Renderer(tokenizer, task.record.style)
    texts = [renderer.prompt([Message(role="user", content=prompt)]) for prompt in prompts]
    return tokenizer, [
        list(tokenizer(text, add_special_tokens=renderer.adds_special_tokens)["input_ids"]) for text in texts
    ]


def _reference(task: "MergeTask", where: Where) -> Any:
    """Base and adapters, apart from each other."""
    if where.method != "in memory":
        device = where.hardware.kind
        changed = {tensor.name: tensor for tensor in task.plan.tensors}
        return open_mapped(Source(task.location, task.tensors, changed, trained_rows(task), device))
    model = _in_memory(task.resolved, task.quantization, where.hardware)
    for number, adapter in enumerate(task.adapters):
        name = "default" if number == 0 else f"adapter-{number}"
        directory = str(adapter.facts.directory)
        if number == 0:
            model = with_adapter(model, adapter.facts.directory)
        else:
            model.load_adapter(directory, adapter_name=name, is_trainable=False)
        for parameter, weight in model.named_parameters():
            parts = parameter.split(".")
            if name in parts and {"lora_B", "lora_embedding_B"} & set(parts):
                weight.data *= adapter.weight
    model.base_model.set_adapter(list(model.peft_config))
    return model.float().eval()


def _merged(task: "MergeTask", place: Path, where: Where) -> Any:
    if where.method == "in memory":
        resolved = resolve_model(ModelReference(str(place), "local"))
        return _in_memory(resolved, QuantizationConfig(kind="none"), where.hardware).eval()
    return open_mapped(Source(place, model_tensors(place), {}, plain_rows(), where.hardware.kind))


def _in_memory(resolved: ResolvedModel, quantization: QuantizationConfig, hardware: Hardware) -> Any:
    loaded = load_model(
        resolved, quantization, compute_dtype="float32", attention_implementation="auto", hardware=hardware
    )
    return loaded.model


def _answers(
    model: Any, tokenizer: Any, prompts: list[list[int]], where: Where, kept: Kept, tell: Callable[[int], None]
) -> list[list[int]]:
    """Greedy answers, each up to and including the token that ends it; what was said of each token is in `kept`."""
    stops = _stop_tokens(model, tokenizer)
    answers: dict[int, list[int]] = {}
    longest = _ANSWER_TOKENS[where.method]
    for indices in _batches([len(prompt) + longest for prompt in prompts], where):
        width = max(len(prompts[i]) for i in indices)
        ids = [[tokenizer.pad_token_id] * (width - len(prompts[i])) + prompts[i] for i in indices]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in indices]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=where.hardware.kind),
                attention_mask=torch.tensor(mask, device=where.hardware.kind),
                max_new_tokens=longest,
                do_sample=False,
                logits_processor=LogitsProcessorList([Keeping(kept, indices)]),
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
            )
        for index, row in zip(indices, output[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
            answers[index] = row[: end + 1]
        tell(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    own = model.generation_config.eos_token_id
    known = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    return sorted(token for token in known if token is not None)


def _logits(model: Any, rows: Sequence[Asked], where: Where) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Logits at the places that predict the answers: of a batch, `[all their answer tokens, vocabulary]`.

    Only these places go through the head: all of them would not fit for a large vocabulary.
    """
    head = model.get_output_embeddings()
    for indices in _batches([len(row.prompt_ids) + len(row.answer_ids) for row in rows], where):
        batch = [rows[i] for i in indices]
        width = max(len(row.prompt_ids) + len(row.answer_ids) for row in batch)
        ids = torch.tensor([_padded(row, width) for row in batch], device=where.hardware.kind)
        mask = torch.tensor([_mask(row, width) for row in batch], device=where.hardware.kind)
        chosen = torch.tensor(
            [
                number * width + len(row.prompt_ids) - 1 + token
                for number, row in enumerate(batch)
                for token in range(len(row.answer_ids))
            ],
            device=where.hardware.kind,
        )

        def only_chosen(_: Any, arguments: tuple[torch.Tensor, ...], chosen: torch.Tensor = chosen) -> Any:
            return (arguments[0].reshape(-1, arguments[0].shape[-1])[chosen][None],)

        hook = head.register_forward_pre_hook(only_chosen)
        try:
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
        finally:
            hook.remove()
        yield indices, logits.float().cpu()


def _padded(row: Asked, width: int) -> list[int]:
    ids = [*row.prompt_ids, *row.answer_ids]
    return ids + [ids[-1]] * (width - len(ids))


def _mask(row: Asked, width: int) -> list[int]:
    known = len(row.prompt_ids) + len(row.answer_ids)
    return [1] * known + [0] * (width - known)


def _batches(lengths: Sequence[int], where: Where) -> Iterator[list[int]]:
    """Indices of rows of like length, padded to at most so many tokens together."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > _BATCH_TOKENS[where.method]:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
