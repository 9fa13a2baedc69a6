"""What a run left in its output directory beside the metrics: config, result, samples, the verdict on its data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..config import RunConfig, load_config
from ..errors import QloraError
from ..results import TrainResult
from ..results.base import Result
from ..run_output import CONFIG_FILE, DATA_REPORT_FILE, RESULT_FILE, SAMPLES_FILE
from ..untrusted import visible_text

_LONGEST_TEXT = 2_000
_LONGEST_VALUE = 300


class Sample(Result):
    """What the model in training answered after `step`; `reference` is the answer in the data."""

    step: int
    prompt: str
    reference: str | None
    answer: str


def read_result(output: Path) -> TrainResult | None:
    """The result of a finished run; None where there is none that can be read."""
    try:
        return TrainResult.model_validate_json((output / RESULT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def read_config(output: Path) -> RunConfig | None:
    """The config of the run; None where there is none, or one of another version."""
    try:
        return load_config(output / CONFIG_FILE)
    except (OSError, QloraError):
        return None


def changed_settings(config: RunConfig) -> dict[str, str]:
    """The fields of `config` that are not at their default, as text."""
    return dict(_flat(config, config.model_dump(mode="json", exclude_defaults=True)))


def _flat(part: BaseModel, values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        inner = getattr(part, name)
        if isinstance(inner, BaseModel):
            yield from _flat(inner, value, f"{before}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{before}{name}", safe_text(shown, _LONGEST_VALUE)


def read_data_verdict(output: Path) -> str | None:
    """What the check of the data said, in a sentence; None where it was not checked."""
    try:
        report = json.loads((output / DATA_REPORT_FILE).read_bytes())
        return safe_text(f"{report['verdict'].capitalize()}: {report['summary']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_samples(output: Path, *, last_step: int) -> list[Sample]:
    """The samples of all evaluations up to `last_step`, safe to show; of one made twice the later."""
    found: dict[tuple[int, str], Sample] = {}
    try:
        with (output / SAMPLES_FILE).open("rb") as lines:
            for line in lines:
                sample = _sample(line)
                if sample is not None and sample.step <= last_step:
                    found[sample.step, sample.prompt] = sample
    except FileNotFoundError:
        pass
    return sorted(found.values(), key=lambda sample: sample.step)


def _sample(line: bytes) -> Sample | None:
    try:
        sample = Sample.model_validate_json(line)
    except ValidationError:
        return None  # A kill tore the line.
    reference = None if sample.reference is None else safe_text(sample.reference)
    return Sample(
        step=sample.step, prompt=safe_text(sample.prompt), reference=reference, answer=safe_text(sample.answer)
    )


def safe_text(text: str, longest: int = _LONGEST_TEXT) -> str:
    """`text` without what steers a terminal, cut at `longest` characters."""
    shown = visible_text(text[: 2 * longest])
    return shown if len(shown) <= longest else shown[:longest] + " …"
