"""A candidate for loading bases into 4 bits, which moves into `engine/` if it is measured faster on a GPU. No run uses it.

`from_pretrained` takes weights as a `state_dict`, fetches each in its turn, by slicing it with `...`, and quantises it on its
device. So all that it knows of names, merged tensors, tied weights and buffers holds here too; only the reading is ours.

The supposition: what costs time on a GPU is not quantising a base but bringing 16 bits a weight there, which one thread does
from mapped, pageable memory. Here several threads read pieces into pinned memory of their own and send them from there, while
the main thread quantises what has arrived. `load_speed.py` measures it; on a CPU it saves no work.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any

import torch
from safetensors import safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from qlora_tools.models.stored_tensors import SINGLE_FILE, StoredTensor, file_tensors, model_tensors

# Bytes on the device before their turn. A CPU spends its time on quantising, and tensors that come early tear up its heap.
_AHEAD = {"cuda": 512 * 2**20, "cpu": 0}
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_PIECE = 16 * 2**20  # bytes that a thread reads at a time, and its pinned memory
_THREADS = 8


def can_be_read_ahead(directory: Path, config: PreTrainedConfig) -> bool:
    """Whether `load_read_ahead` knows this model's class and all its files; `from_pretrained` looks further.

    It takes the text part out of models of several kinds, loads an adapter that lies beside the weights, and weights from a
    file that config.json names.
    """
    plain = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and "text_config" not in config.sub_configs
    named = getattr(config, "transformers_weights", None)
    return plain and not named and not (directory / "adapter_config.json").exists()


def load_read_ahead(
    directory: Path, config: PreTrainedConfig, device: torch.device, arguments: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model of `directory` and Transformers' loading info: what `from_pretrained` gives for `arguments`, bit for bit.

    `config` is that of the directory, `device` where all goes, as `device_map` of the arguments says too. Raises `ModelError`
    for files that are cut off or damaged, before anything is loaded.
    """
    stored = _stored_tensors(directory)
    # What must be converted is left to the host: on a GPU both forms of a tensor would be there at once.
    ahead = {name: tensor for name, tensor in stored.items() if _DTYPES.get(tensor.dtype) == arguments["dtype"]}
    with ExitStack() as opened:
        reader = opened.enter_context(WeightReader(list(ahead.values()), device, _AHEAD[device.type]))
        others = sorted({tensor.file for name, tensor in stored.items() if name not in ahead})
        files = {file: opened.enter_context(safe_open(file, framework="pt")) for file in others}
        weights = {
            name: _Awaited(reader, name) if name in ahead else files[tensor.file].get_slice(name)
            for name, tensor in stored.items()
        }
        model, info = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, **arguments
        )
    _say_where_from(model, str(directory))
    return model, info


def _stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """As Transformers reads a directory: the single file before an index, and of shards all they hold."""
    if (directory / SINGLE_FILE).is_file():
        return file_tensors(directory / SINGLE_FILE)
    shards = sorted({tensor.file for tensor in model_tensors(directory).values()})
    return {name: tensor for shard in shards for name, tensor in file_tensors(shard).items()}


def _say_where_from(model: Any, directory: str) -> None:
    """What `from_pretrained` takes from a directory besides weights: its name, and how to generate."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.name_or_path = module.config.name_or_path = directory
    if model.can_generate():
        source = {"cache_dir": None, "force_download": False, "proxies": None, "local_files_only": True}
        more = {"token": None, "revision": None, "subfolder": "", "trust_remote_code": False}
        model.adjust_generation_fn(None, True, None, directory, **source, **more)


@dataclass(frozen=True)
class _Arriving:
    """A tensor whose pieces are being read into it."""

    tensor: torch.Tensor
    pieces: list[Future[None]]


class _Lane:
    """What a reading thread has of its own on a GPU: pinned memory and a stream."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.buffer = torch.empty(_PIECE, dtype=torch.uint8, device="cpu", pin_memory=True)

    def send(self, piece: torch.Tensor, file: Path, place: int, free: torch.cuda.Event) -> None:
        """Read a piece and have it on the device when this returns."""
        buffer = self.buffer[: piece.numel()]
        _fill(buffer, file, place)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(free)
            piece.copy_(buffer, non_blocking=True)
        # The buffer is filled again next, and whoever takes the tensor need not know of this stream.
        self.stream.synchronize()


class WeightReader:
    """Gives stored tensors on `device`, each in the dtype it is stored in, and reads ahead in the order of layers.

    Any order of asking is right; that of the layers is fast. Beside what it has given away it holds at most `ahead` bytes on
    the device, and for a GPU 128 MiB of pinned memory. Use it in a `with` block and from one thread.
    """

    def __init__(self, tensors: Sequence[StoredTensor], device: torch.device, ahead: int) -> None:
        self._tensors = sorted(tensors, key=lambda tensor: _by_layers(tensor.name))
        self._places = {tensor.name: place for place, tensor in enumerate(self._tensors)}
        self._device = device
        self._ahead = ahead
        self._lanes = threading.local()
        self._arriving: dict[int, _Arriving] = {}
        self._next = 0  # the place from which nothing is read yet
        self._pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="weights")

    def __enter__(self) -> "WeightReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._arriving.clear()

    def take(self, name: str) -> torch.Tensor:
        """The tensor called `name`, whole. Raises `OSError` where its file cannot be read to the end."""
        place = self._places[name]
        for passed in [earlier for earlier in self._arriving if earlier < place]:
            del self._arriving[passed]  # left out by the model; pieces under way keep their memory until they are done
        arriving = self._arriving.pop(place, None) or self._begin(place)
        self._next = max(self._next, place + 1)
        self._look_ahead()
        for piece in arriving.pieces:
            piece.result()
        return arriving.tensor

    def _look_ahead(self) -> None:
        room = self._ahead - sum(arriving.tensor.nbytes for arriving in self._arriving.values())
        while self._next < len(self._tensors) and (room := room - self._tensors[self._next].size_bytes) >= 0:
            self._arriving[self._next] = self._begin(self._next)
            self._next += 1

    def _begin(self, place: int) -> _Arriving:
        stored = self._tensors[place]
        tensor = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype], device=self._device)
        # Its memory may still be read by kernels that were queued before it was freed.
        free = torch.cuda.current_stream(self._device).record_event() if tensor.is_cuda else None
        pieces = tensor.view(-1).view(torch.uint8).split(_PIECE) if stored.size_bytes else ()
        places = range(stored.begin, stored.end, _PIECE)
        read = [
            self._pool.submit(self._read, piece, stored.file, at, free)
            for piece, at in zip(pieces, places, strict=True)
        ]
        return _Arriving(tensor, read)

    def _read(self, piece: torch.Tensor, file: Path, place: int, free: torch.cuda.Event | None) -> None:
        if free is None:
            _fill(piece, file, place)
        else:
            self._lane().send(piece, file, place, free)

    def _lane(self) -> _Lane:
        if not hasattr(self._lanes, "own"):
            self._lanes.own = _Lane(self._device)
        lane: _Lane = self._lanes.own
        return lane


class _Awaited:
    """A tensor of the state dict that is read when it is sliced."""

    def __init__(self, reader: WeightReader, name: str) -> None:
        self._reader = reader
        self._name = name

    def __getitem__(self, whole: EllipsisType) -> torch.Tensor:
        return self._reader.take(self._name)


def _fill(target: torch.Tensor, file: Path, place: int) -> None:
    memory = memoryview(target.numpy())
    # Read, not mapped: pages of a mapped file count as memory of this process.
    with file.open("rb", buffering=0) as opened:
        opened.seek(place)
        while memory:
            read = opened.readinto(memory)
            if not read:
                raise OSError(f"{file} ends before its last tensor")
            memory = memory[read:]


def _by_layers(name: str) -> list[tuple[int, str]]:
    """The order in which Transformers places tensors: layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
