"""What kinds of values the documents of a job hold. A value of another kind counts as not written, so that one wrong word
in one file spoils nothing else."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Document = dict[str, Any]
Kind = Callable[[Any], bool] | Mapping[str, "Kind"]

# What is told of a job is written as JSON again, which gives up at some depth.
_DEEPEST = 100
_MOST = 2**63
_LAST_SECOND = 1e11


def parsed(content: bytes, kinds: Mapping[str, Kind]) -> Document:
    """The JSON object `content` without values of wrong kinds. Raises `ValueError`, with the reason, where it is none."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if content.count(b"{") + content.count(b"[") > _DEEPEST:
        _require_shallow(value, _DEEPEST)
    if b"\\u" in content:
        # Half of a surrogate pair can be read, but told to nobody.
        json.dumps(value, ensure_ascii=False).encode()
    return _typed(value, kinds)


def _require_shallow(value: object, left: int) -> None:
    if left == 0:
        raise ValueError("it is nested too deep")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _require_shallow(item, left - 1)


def _typed(document: Document, kinds: Mapping[str, Kind]) -> Document:
    kept: Document = {}
    for name, value in document.items():
        kind = kinds.get(name)
        if kind is None:
            kept[name] = value
        elif isinstance(kind, Mapping):
            if isinstance(value, dict):
                kept[name] = _typed(value, kind)
        elif kind(value):
            kept[name] = value
    return kept


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST < value < _MOST


def _is_number(value: object) -> bool:
    # Neither NaN nor an infinite one is within.
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST


def _is_second(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LAST_SECOND


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


_PLAN: Mapping[str, Kind] = {
    "created": _is_moment,
    "kind": _is_text,
    "name": _is_text,
    "model": _is_text,
    "output_directory": _is_path,
    "needed_bytes": _is_whole,
    "needed_how": _is_text,
    "device_kind": _is_text,
    "planned_steps": _is_whole,
    "tracking": _is_text,
    "working_directory": _is_path,
    "key_sha256": _is_path,
    "request_sha256": _is_text,
}
_REQUEST: Mapping[str, Kind] = {
    "resume_from": _is_path,
    "changes": _is_object,
    "sequence": _is_whole,
    "visible_devices": _is_path,
    "begin_again": _is_flag,
    "folder": _is_whole,
}
_RESULT: Mapping[str, Kind] = {
    "steps": _is_whole,
    "planned_steps": _is_whole,
    "output_directory": _is_path,
    "adapter_directory": _is_path,
}
_EXIT: Mapping[str, Kind] = {
    "state": _is_text,
    "exit_code": _is_whole,
    "message": _is_text,
    "next_step": _is_text,
    "ended": _is_moment,
    "error": _is_object,
    "checkpoint": _is_path,
    "cause": _is_text,
    "result": _RESULT,
    "steps": _is_whole,
}
_STARTED: Mapping[str, Kind] = {
    "began": _is_flag,
    "verdict": _EXIT,
    "boot_id": _is_text,
    "device": _is_path,
    "memory_kills": {"file": _is_path, "count": _is_whole},
    "when": _is_moment,
}
_STATUS: Mapping[str, Kind] = {
    "attempt": _is_whole,
    "phase": _is_text,
    "begun": _is_flag,
    "step": _is_whole,
    "planned_steps": _is_whole,
    "loss": _is_number,
    "evaluation_loss": _is_number,
    "tokens_per_second": _is_number,
    "memory_bytes": _is_whole,
    "eta_seconds": _is_number,
    "warnings": _is_texts,
    "waiting_for": _is_text,
    "last_checkpoint": _is_path,
    "memory_kills": _is_whole,
    "updated": _is_moment,
}
# By the names of files.
KINDS: Mapping[str, Mapping[str, Kind]] = {
    "plan.json": _PLAN,
    "request.json": _REQUEST,
    "started.json": _STARTED,
    "exit.json": _EXIT,
    "status.json": _STATUS,
    "stop.json": {"kind": _is_text},
}
LAUNCH: Mapping[str, Kind] = {
    "event": _is_text,
    "time": _is_second,
    "log_bytes": _is_whole,
    "pid": _is_whole,
    "process": _is_text,
    "boot_id": _is_text,
    "error": _is_text,
}
