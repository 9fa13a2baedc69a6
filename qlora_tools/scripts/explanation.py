"""Why each line of a script stands there: the field or topic behind it, in words, with what it costs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..config.schema import RunConfig
from ..results import ScriptLines
from .costs import Costs
from .reasons import FieldReason, field_reasons
from .rendering import Rendered
from .topics import Topic
from .topics_after import TOPICS as AFTER_TOPICS
from .topics_files import TOPICS as FILE_TOPICS
from .topics_train import TOPICS as TRAIN_TOPICS

TOPICS: Mapping[str, Topic] = {**FILE_TOPICS, **AFTER_TOPICS, **TRAIN_TOPICS}


def explain_lines(rendered: Rendered, config: RunConfig, costs: Costs) -> list[ScriptLines]:
    """What every range of lines is there for, in the order of the lines; a range may stand within another."""
    reasons = field_reasons(config)
    return [
        _explained(name, first, last, reasons=reasons, memory=costs.words.get(name))
        for name, first, last in sorted(_runs(rendered), key=lambda run: (run[1], -run[2]))
    ]


def lines_about(lines: Iterable[ScriptLines], number: int) -> list[ScriptLines]:
    """What line `number` is there for, the most particular first."""
    around = [item for item in lines if item.first <= number <= item.last]
    return sorted(around, key=lambda item: item.last - item.first)


def _runs(rendered: Rendered) -> Iterator[tuple[str, int, int]]:
    """Name, first and last line of each unbroken run of lines; blank ones within it do not break it."""
    lines = rendered.text.splitlines()
    for name in dict.fromkeys(name for item in rendered.ranges for name in item.about):
        spans = [item for item in rendered.ranges if name in item.about]
        first, last = spans[0].first, spans[0].last
        for span in spans[1:]:
            if any(lines[last : span.first - 1]):
                yield name, first, last
                first = span.first
            last = span.last
        yield name, first, last


def _explained(
    name: str, first: int, last: int, *, reasons: Mapping[str, FieldReason], memory: str | None
) -> ScriptLines:
    if name in reasons:
        field = reasons[name]
        return ScriptLines(
            first=first,
            last=last,
            field=name,
            title=name,
            value=_written(field.value),
            reason=field.reason,
            source=field.source,
            effect=field.effect,
            memory=memory,
        )
    topic = TOPICS[name]
    return ScriptLines(
        first=first,
        last=last,
        field=name,
        title=topic.title,
        reason=topic.reason,
        source=topic.source,
        effect=topic.effect,
        memory=memory,
    )


def _written(value: Any) -> str:
    """A value as a config has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
