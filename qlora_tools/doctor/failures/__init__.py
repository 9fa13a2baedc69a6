"""The table of known failures, one module a subject. A failure is told by the stable core of its messages."""

from dataclasses import replace

from . import (
    adapters,
    attention,
    complaints,
    data,
    distributed,
    gpu,
    libraries,
    machine,
    memory,
    models,
    numbers,
    quantised,
    serving,
    shapes,
    training,
)
from .entry import Confidence, Failure, Sign
from .families import FAMILY_SIGNS
from .frames import FRAME_SIGNS
from .own import OWN_SIGNS
from .rarer import MORE_SIGNS
from .wider import WIDER_SIGNS

__all__ = ["FAILURES", "Confidence", "Failure", "Sign"]

_SUBJECTS = (memory, numbers, training, gpu, distributed, libraries, attention, models, quantised, data, adapters)
_LESS_SPECIAL = (shapes, serving, machine, complaints)
_TABLES = (OWN_SIGNS, MORE_SIGNS, WIDER_SIGNS, FAMILY_SIGNS, FRAME_SIGNS)


def _more_signs(failure: Failure) -> tuple[Sign, ...]:
    return (*failure.signs, *(sign for table in _TABLES for sign in table.get(failure.id, ())))


FAILURES: dict[str, Failure] = {
    failure.id: replace(failure, signs=_more_signs(failure), in_words=module is complaints)
    for module in (*_SUBJECTS, *_LESS_SPECIAL)
    for failure in module.FAILURES
}
