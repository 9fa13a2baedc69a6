"""One training run, from config to adapter. Reads from top to bottom; each step is a function of its own module."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ..adapters.record import AdapterRecord, config_hash, text_hash
from ..config import RunConfig, dump_config
from ..config.library_arguments import resolve_compute_dtype
from ..data.dataset import NumberedExamples, read_dataset
from ..data.rendering import Renderer
from ..data.rows import LengthLimit, TokenRows, tokenize_examples
from ..disk import disk_errors
from ..durable import replace_file
from ..errors import MachineError, RunStopped
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..inspection import inspect_config, require_ready
from ..models.reference import ModelReference, ResolvedModel, resolve_model
from ..paths import as_path
from ..requirements import require_tracker
from ..results import DatasetReport, TrainResult
from ..run_output import (
    CONFIG_FILE,
    DATA_REPORT_FILE,
    RESULT_FILE,
    check_output,
    check_writable,
    locked_output,
    prepare_output,
)
from .adapters import attach_adapter, initial_adapter
from .batches import build_training_set, choose_layout
from .device import detect_hardware, peak_memory, release_memory, reset_peak_memory
from .expectation import expected_memory, remember_run
from .fit import Fit
from .loading import LoadedModel, load_model, load_tokenizer, read_config
from .output import publish_adapter, require_finite
from .resuming import cut_as, leave_other_branches, open_checkpoint, ordered_as, run_identity, same_run
from .smoke import smoke_generation


def train(
    config: RunConfig,
    *,
    resume_from: Path | None = None,
    stop: StopAsked = never,
    on_event: Listener = ignore,
) -> TrainResult:
    """Train an adapter as `config` says and write it to `output.directory`.

    The directory then holds `adapter/` (PEFT format, with tokenizer and `qlora_tools.json`), `config.yaml` (complete, with
    defaults), `data_report.json` (what the check of the data found), `metrics.jsonl` (a line each logged step),
    `samples.jsonl` (answers at evaluations), `checkpoints/` and `result.json`. The adapter appears whole or not at all.

    `resume_from` is a complete checkpoint of this output directory: the run goes on from it as if it had not been
    interrupted, with the same losses. `stop` is asked between micro-batches; when it is true, a checkpoint is saved and
    `RunStopped` raised.

    Raises `UsageError` (config, data or model is wrong; nothing is written), `MachineError` (memory, disk or
    hardware), `CheckFailed` (the data is not ready and `data.check` is refuse, or the loss became NaN; no adapter is
    written), `RunStopped`. Where a checkpoint was saved, the message names it.
    """
    began = time.monotonic()
    output = as_path(config.output.directory)
    require_tracker(config.training.tracking)
    model = config.model
    reference = ModelReference.parse(model.name, source=model.source, revision=model.revision)
    with disk_errors(output, left=f"what is complete stays in {output}"):
        if resume_from is None:
            check_output(output, overwrite=config.output.overwrite)
        check_writable(output)
        opened = None if resume_from is None else open_checkpoint(resume_from, output)
        asked, config = config, ordered_as(opened, config)
        resolved = resolve_model(reference)
        on_event(RunEvent("phase", "Reading and tokenising rows"))
        data = _prepare_data(config, load_tokenizer(resolved), on_event)
        _leave_if_asked(stop, resume_from)
        on_event(RunEvent("phase", f"Loading {model.name} ({config.quantization.kind})"))
        with _memory_errors():
            loaded, fit = _prepare_fit(config, resolved, data, output, on_event)
            _leave_if_asked(stop, resume_from)
            identity = run_identity(config, resolved, fit.training_set.fingerprint)
            fit = replace(fit, identity=identity, start=cut_as(same_run(opened, identity), asked, config), stop=stop)
            result = _run(config, resolved, data, loaded, fit, began)
        del loaded
        release_memory()
        replace_file(output / RESULT_FILE, (result.model_dump_json(indent=2) + "\n").encode())
    return result


def _leave_if_asked(stop: StopAsked, resume_from: Path | None) -> None:
    """A stop between the phases before the first step."""
    if stop():
        raise RunStopped(int(resume_from.name.rpartition("-")[2]) if resume_from else 0, resume_from)


def _prepare_fit(
    config: RunConfig, resolved: ResolvedModel, data: "_Data", output: Path, on_event: Listener
) -> tuple[LoadedModel, Fit]:
    """Load the model and settle all that can still be wrong, before the output directory is touched."""
    hardware = detect_hardware()
    set_seed(config.training.seed)
    reset_peak_memory(hardware)
    loaded = load_model(
        resolved,
        config.quantization,
        compute_dtype=resolve_compute_dtype(config.quantization.compute_dtype, hardware),
        attention_implementation=config.model.attention_implementation,
        hardware=hardware,
    )
    layout = choose_layout(loaded.model, config.training, data.training)
    training_set = build_training_set(data.training, config.training, layout, loaded.tokenizer.pad_token_id)
    expected = expected_memory(
        config,
        read_config(resolved),
        data.training,
        layout=layout,
        compute_dtype=loaded.compute_dtype,
        hardware=hardware,
    )
    fit = Fit(
        config,
        training_set,
        data.training,
        data.evaluation,
        hardware,
        loaded.compute_dtype,
        output,
        on_event,
        expected,
    )
    return loaded, fit


def _run(
    config: RunConfig, resolved: ResolvedModel, data: "_Data", loaded: LoadedModel, fit: Fit, began: float
) -> TrainResult:
    smoke = _smoke_answer(config, loaded, data)
    set_seed(config.training.seed)  # the smoke generation must not move the start of the adapter
    adapted = attach_adapter(loaded.model, config.lora, resolved)
    with locked_output(fit.output):
        _write_settings(config, data, fit)
        fit.on_event(RunEvent("phase", fit.summary(adapted)))
        with initial_adapter(adapted, config.lora) as initial:
            outcome = fit.run(adapted, loaded.tokenizer)
            require_finite(adapted)
            record = _record(config, resolved, data, loaded.compute_dtype)
            publish_adapter(adapted, data.renderer.tokenizer, record, fit.output / "adapter", initial=initial)
    remember_run(config, fit.expected, peak_memory(fit.hardware), fit.hardware)
    return fit.result(adapted, outcome, smoke_answer=smoke, total_seconds=time.monotonic() - began)


def _write_settings(config: RunConfig, data: "_Data", fit: Fit) -> None:
    """The first files of a run; a resumed one keeps what is there of the others."""
    if fit.start is None:
        prepare_output(fit.output, overwrite=config.output.overwrite)
    else:
        leave_other_branches(fit.output, fit.start, fit.on_event)
    replace_file(fit.output / CONFIG_FILE, dump_config(config, complete=True).encode())
    replace_file(fit.output / DATA_REPORT_FILE, (data.report.model_dump_json(indent=2) + "\n").encode())


@dataclass(frozen=True)
class _Data:
    """Rows to train on and to hold out, how they were rendered, what their check found, and a prompt to try."""

    renderer: Renderer
    training: TokenRows
    evaluation: TokenRows | None
    report: DatasetReport
    sample_prompt: str


def _prepare_data(config: RunConfig, tokenizer: Any, on_event: Listener) -> _Data:
    rows = read_dataset(config.data, config.training.seed)
    report = _checked(config, tokenizer, on_event)
    renderer = Renderer.for_examples(tokenizer, rows.training.examples)

    def tokens(chosen: NumberedExamples, unusable: tuple[tuple[int, str], ...]) -> TokenRows:
        found = tokenize_examples(
            chosen.examples,
            renderer,
            loss_on=config.data.loss_on,
            limit=LengthLimit(config.training.max_length_tokens, config.data.long_rows),
            row_numbers=chosen.numbers,
            on_progress=lambda done, total: on_event(RunEvent("progress", "rows", {"done": done, "total": total})),
        )
        return replace(found, read=found.read + len(unusable), unusable=(*unusable, *found.unusable))

    training = tokens(rows.training, rows.unusable)
    epoch = rows.epoch([row.number for row in training.rows], config.training.seed)
    evaluation = tokens(rows.evaluation, rows.evaluation_unusable) if rows.evaluation else None
    first = rows.training.numbers.index(training.rows[0].number)
    sample = renderer.sample_prompt(rows.training.examples[first])
    return _Data(renderer, replace(training, epoch=tuple(epoch)), evaluation, report, sample)


def _checked(config: RunConfig, tokenizer: Any, on_event: Listener) -> DatasetReport:
    """What the check of the data found; raises `CheckFailed` where it is not ready and the config does not say go on."""
    on_event(RunEvent("phase", "Checking the data"))
    report = inspect_config(
        config, tokenizer=tokenizer, on_event=lambda event: on_event(event) if event.kind == "progress" else None
    )
    for found in report.findings:
        if found.severity != "note":
            on_event(RunEvent("note", f"  {found.severity}: {found.message}"))
    if config.data.check == "refuse":
        require_ready(report)
    return report


def _smoke_answer(config: RunConfig, loaded: LoadedModel, data: _Data) -> str | None:
    if not config.training.smoke_generation:
        return None
    return smoke_generation(loaded, data.renderer, data.sample_prompt)


def _record(config: RunConfig, resolved: ResolvedModel, data: _Data, compute_dtype: str) -> AdapterRecord:
    return AdapterRecord(
        base_name=str(as_path(config.model.name)) if resolved.reference.source == "local" else config.model.name,
        base_source=resolved.reference.source,
        base_revision=resolved.revision,
        base_config_sha256=config_hash(resolved),
        quantization=config.quantization,
        compute_dtype=compute_dtype,
        style=data.renderer.style,
        chat_template_sha256=text_hash(data.renderer.tokenizer.chat_template),
        stop_token_ids=data.training.stop_token_ids,
    )


@contextmanager
def _memory_errors() -> Iterator[None]:
    """What a fit cannot recover from: the model itself does not fit."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise MachineError(
            "The GPU ran out of memory while the model was loaded or saved.",
            next_step="`nvidia-smi` shows what else uses the GPU; `qlora estimate` shows what fits. quantization.kind: nf4 "
            "takes the least, then a smaller model.",
        ) from None
