"""A base with its adapter in memory, answering batches of prompts. Runs where torch runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from peft import PeftModel
from safetensors import SafetensorError

from ..adapters.check import check_adapter
from ..adapters.lora import read_lora
from ..adapters.record import AdapterRecord, read_adapter_record, text_hash
from ..config.library_arguments import resolve_compute_dtype
from ..config.schema import QuantizationConfig
from ..data.chat_template import install_instruction_form
from ..data.examples import Message, RowError
from ..data.rendering import Renderer
from ..engine.device import detect_hardware
from ..engine.loading import load_model, load_tokenizer
from ..errors import ModelError, UsageError
from ..events import Listener, StopAsked, ignore, never
from ..models.hardware import Hardware
from .batch import Row
from .decoding import Decoder
from .sampling import Sampling, SamplingOptions
from .stopping import answer_text, holds_stop_string
from .telling import Telling

_FIRST = "default"


@dataclass(frozen=True)
class GenerationSession:
    """Model, tokenizer and prompt form, as the adapter was trained.

    Several sessions may share one model (`beside`); `adapter_name` is what the model calls this one's adapter, and the
    model is switched to it whenever this session answers. `quantization` is how the base was loaded.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    record: AdapterRecord
    hardware: Hardware
    quantization: QuantizationConfig
    adapter_name: str = _FIRST

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

        Raises `ModelError` when one of them is missing, damaged or they do not belong together, before anything is loaded.
        """
        record = read_adapter_record(directory)
        check_adapter(directory, record)
        hardware = hardware or detect_hardware()
        quantization = quantization or record.quantization
        loaded = load_model(
            record.base(),
            quantization,
            compute_dtype=compute_dtype or _dtype_here(record, hardware),
            attention_implementation="auto",
            hardware=hardware,
        )
        tokenizer, renderer = prompt_form(directory, record, loaded.tokenizer)
        model = _in_compute_dtype(with_adapter(loaded.model, directory)).eval()
        return cls(model, tokenizer, renderer, record, hardware, quantization)

    def beside(self, directory: Path) -> "GenerationSession":
        """A session with another adapter on the same base in memory; it costs the adapter's own size.

        Raises `ModelError` where the adapter is damaged, and `UsageError` where it was trained on another base.
        """
        record = read_adapter_record(directory)
        require_same_base(self.record, record, loaded_as=self.quantization, directory=directory)
        check_adapter(directory, record)
        tokenizer, renderer = prompt_form(directory, record, load_tokenizer(record.base()))
        name = f"{_FIRST}-{1 + max((_number(one) for one in self.model.peft_config), default=0)}"
        with _fitting(directory):
            self.model.load_adapter(directory, name, is_trainable=False, torch_device=str(self.model.device))
        _in_compute_dtype(self.model).eval()
        return replace(self, tokenizer=tokenizer, renderer=renderer, record=record, adapter_name=name)

    def close_adapter(self) -> None:
        """Free this session's adapter; those beside it and the base stay."""
        self.model.delete_adapter(self.adapter_name)

    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        with_adapter: bool,
        on_event: Listener = ignore,
        stop: StopAsked = never,
        **sampling: Unpack[SamplingOptions],
    ) -> list[str]:
        """Answers in the order of `conversations`. Of one conversation, `on_event` hears the answer as it grows.

        Raises `UsageError` for a setting out of bounds or turns that the chat template refuses, `AnsweringStopped`.
        """
        prompts = [self.prompt_ids(turns) for turns in conversations]
        return self.answer_ids(
            dict(enumerate(prompts)),
            Sampling(**sampling),
            with_adapter=with_adapter,
            told=Telling(self.tokenizer, len(prompts), Sampling(**sampling), on_event),
            stop=stop,
        )

    def answer_ids(
        self,
        prompts: dict[int, list[int]],
        sampling: Sampling,
        *,
        with_adapter: bool,
        told: Callable[[Row], None],
        stop: StopAsked = never,
    ) -> list[str]:
        """Answers to prompts by the numbers that fix their random numbers; `told` hears of each token, may end its row."""
        rows = self._decoded(prompts, sampling, with_adapter=with_adapter, told=told, stop=stop)
        return [answer_text(self.tokenizer, row.answer, sampling.stop_strings) for row in rows]

    def generate_ids(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        *,
        told: Callable[[Row], None] = lambda row: None,
        stop: StopAsked = never,
    ) -> list[list[int]]:
        """Answers in tokens, up to and including the stop token, with what is switched on. Raises `AnsweringStopped`."""
        sampling = Sampling(max_new_tokens=max_new_tokens)
        rows = self._decoded(dict(enumerate(prompts)), sampling, with_adapter=None, told=told, stop=stop)
        return [row.answer for row in rows]

    def _decoded(
        self,
        prompts: dict[int, list[int]],
        sampling: Sampling,
        *,
        with_adapter: bool | None,
        told: Callable[[Row], None] = lambda row: None,
        stop: StopAsked = never,
    ) -> list[Row]:
        stops = frozenset(self.stop_token_ids())
        strings = sampling.stop_strings

        def ends(row: Row) -> bool:
            full = row.answer[-1] in stops or len(row.answer) >= sampling.max_new_tokens
            return full or (bool(strings) and holds_stop_string(self.tokenizer, row.answer, strings))

        rows = [Row(number, ids, sampling.source(number)) for number, ids in prompts.items()]
        with self._switched(with_adapter):
            # The model under PEFT's wrapper: its layers hold the adapter already.
            network = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
            pad = self.tokenizer.pad_token_id
            Decoder(network, self.hardware, sampling, pad, ends, told, stop).run(rows)
        return rows

    @contextmanager
    def _switched(self, with_adapter: bool | None) -> Iterator[None]:
        """The model with this adapter, without any, or (None) as the caller has left it."""
        if with_adapter is None:
            yield
            return
        if self.model.active_adapter != self.adapter_name:
            self.model.set_adapter(self.adapter_name, inference_mode=True)
        with nullcontext() if with_adapter else self.model.disable_adapter():
            yield

    def stop_token_ids(self) -> list[int]:
        """Where an answer ends: the tokens that ended the trained answers, and what the base stops at."""
        own = self.model.generation_config.eos_token_id
        base = own if isinstance(own, list) else [own]
        known = {*self.record.stop_token_ids, *base, self.tokenizer.eos_token_id}
        return sorted(token for token in known if token is not None)

    def prompt_ids(self, turns: Sequence[Message]) -> list[int]:
        """The tokens that the model is asked with. Raises `UsageError` for turns that the chat template refuses."""
        try:
            text = self.renderer.prompt(turns)
        except RowError as error:
            raise UsageError(f"A prompt cannot be rendered: {error}.", next_step="Change its turns.") from None
        ids: list[int] = self.tokenizer(text, add_special_tokens=self.renderer.adds_special_tokens)["input_ids"]
        if self.renderer.adds_special_tokens and ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        most = getattr(self.model.config, "max_position_embeddings", None)
        if not ids or (most is not None and len(ids) >= most):
            raise UsageError(
                f"A prompt has {len(ids):,} tokens; the model reads 1 to {most or 0:,}, its answer included.",
                next_step="Write something to answer, or shorten it.",
            )
        return ids


def require_same_base(
    first: AdapterRecord, other: AdapterRecord, *, loaded_as: QuantizationConfig, directory: Path
) -> None:
    """Raise `UsageError` unless an adapter can stand on the base of another, loaded as `loaded_as`."""
    own, theirs = first.base(), other.base()
    if own.location != theirs.location:
        raise UsageError(
            f"The adapter {directory} was trained on {other.base_name}, the first one on {first.base_name}.",
            next_step="Ask adapters of different bases one after the other.",
        )
    if loaded_as not in (other.quantization, QuantizationConfig(kind="none")):
        raise UsageError(
            f"The adapter {directory} was trained on the base as {other.quantization.kind}, and it is loaded as "
            f"{loaded_as.kind}, or with other settings.",
            next_step="Ask them one after the other, or on the base in 16 bits (base_precision 16bit).",
        )


def _number(name: str) -> int:
    last = name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def prompt_form(directory: Path, record: AdapterRecord, base_tokenizer: Any) -> tuple[Any, Renderer]:
    """Tokenizer and renderer as trained; raises `ModelError` where that is damaged or the template was changed since."""
    tokenizer = adapter_tokenizer(directory, base_tokenizer)
    if record.chat_template_sha256 not in (None, text_hash(tokenizer.chat_template)):
        raise ModelError(
            f"The chat template in {directory} is not the one that the adapter was trained with.",
            next_step="Restore the tokenizer files of the training run.",
        )
    if record.style == "chat_template" and not tokenizer.chat_template:
        install_instruction_form(tokenizer)
    return tokenizer, Renderer(tokenizer, record.style)


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
    with _fitting(directory):
        _grow_vocabulary(model, directory)
        return PeftModel.from_pretrained(model, directory, is_trainable=False)


def _grow_vocabulary(model: Any, directory: Path) -> None:
    """PEFT puts an adapter with tokens of its own only onto a model that has rows for them."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    saved = read_lora(directory).replaced.get(f"{name}.weight")
    if saved is not None and saved.shape[0] != embedding.weight.shape[0]:
        model.resize_token_embeddings(saved.shape[0], mean_resizing=False)


@contextmanager
def _fitting(directory: Path) -> Iterator[None]:
    try:
        yield
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
