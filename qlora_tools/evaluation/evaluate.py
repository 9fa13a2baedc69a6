"""The public call: an adapter in, one verdict out. What needs torch is imported when it runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..adapters import adapter_directory, read_adapter_record
from ..adapters.check import check_adapter
from ..disk import disk_errors
from ..durable import replace_file
from ..errors import UsageError, WorkStopped
from ..events import Listener, RunEvent, StopAsked, ignore, never
from ..paths import as_path
from ..report.evaluation_page import write_evaluation_page
from ..requirements import require_training_libraries
from ..results import EvaluationResult, HarnessScore
from ..results.base import Result
from ..results.evaluation import HarnessScores
from ..results.instruments import AdapterEffect, Forgetting, QuantisationCost, Refusals
from .assembling import Measured, assembled
from .harness import check_tasks, run_task
from .metrics import check_metrics
from .preparing import Prepared, prepare
from .rows import Run, evaluation_rows, find_run, require_held_out, require_readable
from .store import PAGE_FILE, RESULT_FILE, EvaluationStore, check_store, open_store

if TYPE_CHECKING:
    from ..generation.session import GenerationSession
    from .measuring import Watched

Instrument = Literal["adapter_effect", "forgetting", "refusals", "quantisation_cost"]
# The cost of quantisation is the base's, not the adapter's, and loads the base several times: only where asked for.
USUAL_INSTRUMENTS: tuple[Instrument, ...] = ("adapter_effect", "forgetting", "refusals")
INSTRUMENTS: tuple[Instrument, ...] = (*USUAL_INSTRUMENTS, "quantisation_cost")
MOST_ROWS = 100_000
MOST_ASKED_TOKENS = 32_768
_EFFECT_ROWS = 32
Found = TypeVar("Found", bound=Result)


def evaluate(
    adapter: str | Path,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    metrics: Literal["auto"] | Sequence[str] = "auto",
    metric_file: str | None = None,
    max_rows: int = 500,
    max_new_tokens: int | None = None,
    instruments: Sequence[Instrument] = USUAL_INSTRUMENTS,
    lm_eval: Sequence[str] = (),
    seed: int = 0,
    on_event: Listener = ignore,
    stop: StopAsked = never,
) -> EvaluationResult:
    """Compare an adapter with its base on the same rows, and say whether to ship it.

    `adapter` is the output directory of a training run or an adapter directory; `data` any dataset that training reads
    (path or Hub id), without it the rows that the training held out. At most `max_rows` rows are measured, spread evenly:
    loss of the answers, as it is trained, and greedy answers of at most `max_new_tokens` (None: what the longest
    reference needs). `metrics` are names (`METRICS`), or chosen by the references; `metric_file` is a function of one's
    own as `FILE.py:FUNCTION`, and `lm_eval` names tasks of lm-eval-harness or .yaml files of tasks: such files run code.

    The directory `output` (default: `evaluation` in the run's) then holds `results.json`, `report.html`, `losses.jsonl`
    and `answers.jsonl`. A stopped evaluation goes on there from what it has written.

    Raises `UsageError` (arguments, rows or adapter are wrong, or the directory is in use; nothing is loaded), `MachineError`
    (memory, disk, a library that is not installed), `WorkStopped`.
    """
    require_training_libraries("evaluating an adapter")
    began = time.monotonic()
    _check_arguments(max_rows, max_new_tokens, instruments, seed)
    check_tasks(lm_eval)
    directory = adapter_directory(as_path(str(adapter)))
    run = find_run(directory)
    record = read_adapter_record(directory)
    check_adapter(directory, record)
    place = as_path(str(output)) if output is not None else default_output(directory, run, data)
    on_event(RunEvent("phase", "Reading rows"))
    rows = evaluation_rows(run, None if data is None else str(data), max_rows)
    prepared = prepare(directory, record, rows, (metrics, metric_file), max_new_tokens)
    with disk_errors(place, left="the evaluation can go on there when that is mended"):
        check_store(place, prepared.settings)
        with open_store(place, prepared.settings) as store:
            from .measuring import Watched

            watched = Watched(on_event, stop)
            measured = _measured(prepared, store, (instruments, lm_eval, seed), watched)
            result = assembled(measured, rows, prepared.chosen, store, seed=seed, began=began)
            replace_file(place / RESULT_FILE, (result.model_dump_json(indent=1) + "\n").encode())
            write_evaluation_page(place / PAGE_FILE, result)
    return result


def check_evaluation(
    adapter: str | Path,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    metrics: Literal["auto"] | Sequence[str] = "auto",
    max_rows: int = 500,
    max_new_tokens: int | None = None,
    instruments: Sequence[Instrument] = USUAL_INSTRUMENTS,
    seed: int = 0,
    **others: object,
) -> None:
    """What `evaluate` refuses before it reads all rows; runs no file and writes nothing. Raises as it does."""
    _check_arguments(max_rows, max_new_tokens, instruments, seed)
    check_metrics(metrics)
    directory = adapter_directory(as_path(str(adapter)))
    run = find_run(directory)
    if data is None:
        require_held_out(run)
    else:
        require_readable(run, str(data))
    check_store(as_path(str(output)) if output is not None else default_output(directory, run, data), {})


def _check_arguments(max_rows: int, max_new_tokens: int | None, instruments: Sequence[str], seed: int) -> None:
    bounds = (
        ("max_rows", max_rows, 1, MOST_ROWS),
        ("max_new_tokens", max_new_tokens or 1, 1, MOST_ASKED_TOKENS),
        ("seed", seed, 0, 2**32 - 1),
    )
    for name, value, least, most in bounds:
        if not least <= value <= most:
            raise UsageError(f"{name} is {value}; allowed is {least} to {most}.", next_step=f"Change {name}.")
    unknown = [name for name in instruments if name not in INSTRUMENTS]
    if unknown:
        raise UsageError(f"There is no instrument {unknown[0]!r}.", next_step=f"Choose among {', '.join(INSTRUMENTS)}.")


def default_output(adapter: Path, run: Run | None, data: str | Path | None) -> Path:
    """Where an evaluation goes unless one says otherwise: beside the adapter, apart for each dataset."""
    home = run.directory if run else adapter.parent
    stem = "evaluation" if run else f"{adapter.name}-evaluation"
    return home / (stem if data is None else f"{stem}-{Path(str(data)).name.partition('.')[0]}")


def _measured(
    prepared: Prepared,
    store: EvaluationStore,
    asked: tuple[Sequence[Instrument], Sequence[str], int],
    watched: "Watched",
) -> Measured:
    """Everything that needs the model; the session is closed before the base is loaded again for its quantisation."""
    from ..engine.device import release_memory

    instruments = asked[0]
    device, found, harness = _with_session(prepared, store, asked, watched)
    release_memory()
    if "quantisation_cost" in instruments:
        from .quantisation_cost import quantisation_cost

        watched.on_event(RunEvent("phase", "Measuring what quantisation costs the base"))
        base = prepared.record.base().location

        def measure() -> QuantisationCost:
            return quantisation_cost(base, on_event=watched.on_event, stop=watched.stop)

        found["quantisation_cost"] = _kept(store, "quantisation_cost", QuantisationCost, measure)
    return Measured(
        adapter=str(prepared.adapter),
        model=prepared.record.base_name,
        device=device,
        tokens=prepared.tokens,
        long_rows=prepared.long_rows,
        answered=prepared.answered,
        reference_tokens=prepared.reference_tokens,
        max_new_tokens=prepared.max_new_tokens,
        instruments=found,
        harness=tuple(harness),
    )


def _with_session(
    prepared: Prepared,
    store: EvaluationStore,
    asked: tuple[Sequence[Instrument], Sequence[str], int],
    watched: "Watched",
) -> tuple[str, dict[str, Result], list[HarnessScore]]:
    from ..generation.session import GenerationSession
    from ..generation.stopping import AnsweringStopped
    from .measuring import measure_answers, measure_losses

    instruments, tasks, seed = asked
    watched.on_event(RunEvent("phase", f"Loading {prepared.record.base_name} and the adapter"))
    session = GenerationSession.open(prepared.adapter)
    watched.leave_if_asked("loading")
    watched.on_event(RunEvent("phase", f"Losses of {len(prepared.tokens.rows):,} rows, base and adapter"))
    try:
        measure_losses(session, prepared.tokens.rows, store, watched)
        measure_answers(session, prepared.answered, prepared.max_new_tokens, store, watched)
        found = dict(_instruments(session, prepared, store, instruments, watched))
    except AnsweringStopped:
        raise WorkStopped("The evaluation was stopped among its answers.") from None
    limit = len(prepared.tokens.rows)
    scores: list[HarnessScore] = []
    for task in tasks:

        def run(task: str = task) -> HarnessScores:
            return run_task(session, task, limit=limit, seed=seed, on_event=watched.on_event)

        scores += _kept(store, f"lm_eval-{Path(task).name}", HarnessScores, run).scores
        watched.leave_if_asked(task)
    return session.hardware.name, found, scores


def _instruments(
    session: "GenerationSession",
    prepared: Prepared,
    store: EvaluationStore,
    wanted: Sequence[Instrument],
    watched: "Watched",
) -> Iterator[tuple[str, Result]]:
    """What the instruments say of the adapter in memory, each measured once."""
    from .adapter_effect import adapter_effect
    from .forgetting import forgetting
    from .refusals import refusals

    heard: Any = {"on_event": watched.within, "stop": watched.stop}

    def effect() -> AdapterEffect:
        rows = [(row.input_ids, row.labels) for row in prepared.tokens.rows[:_EFFECT_ROWS]]
        base, adapter = store.answers("base"), store.answers("adapter")
        answers = [(base[row.number].answer, adapter[row.number].answer) for row in prepared.answered]
        sides = ([one for one, _ in answers], [other for _, other in answers]) if answers else None
        return adapter_effect(session, [], rows=rows, answers=sides, on_event=watched.within)

    if "adapter_effect" in wanted:
        watched.on_event(RunEvent("phase", "What the adapter changes"))
        yield "adapter_effect", _kept(store, "adapter_effect", AdapterEffect, effect)
    if "forgetting" in wanted:
        watched.on_event(RunEvent("phase", "What the adapter forgot"))
        yield "forgetting", _kept(store, "forgetting", Forgetting, lambda: forgetting(session, **heard))
    if "refusals" in wanted:
        watched.on_event(RunEvent("phase", "What the adapter refuses"))
        yield "refusals", _kept(store, "refusals", Refusals, lambda: refusals(session, **heard))


def _kept(store: EvaluationStore, name: str, kind: type[Found], measure: Callable[[], Found]) -> Found:
    """What the store has of an instrument, else what it measures now."""
    earlier = store.instrument(name, kind)
    if earlier is not None:
        return earlier
    found = measure()
    store.add_instrument(name, found)
    return found
