"""`explain_script`: why a line stands in the script of a config, also in one that somebody has changed."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..config.files import load_config
from ..config.schema import RunConfig
from ..errors import UsageError
from ..paths import as_path
from ..results import ChangedLines, ScriptExplanation, ScriptLines
from .costs import memory_costs
from .explanation import explain_lines, lines_about
from .kinds import find_kind
from .render import made_script

_MOST_BYTES = 2**20


def explain_script(
    config: RunConfig | str | Path,
    *,
    script: str | Path | None = None,
    kind: str = "train",
    line: int | None = None,
) -> ScriptExplanation:
    """What the lines of the script that `config` renders are there for: all of them, or `line` alone, from 1.

    With `script`, a file rendered from it that may have been changed since, line numbers are those of the file, and
    `changed` says which of its lines are no longer as rendered. Raises `UsageError` for a file that is no text, and for a
    line that is not there; and as `render_script` does.
    """
    path = None if script is None else as_path(str(script))
    text = None if path is None else _read(path)
    run = config if isinstance(config, RunConfig) else load_config(Path(config))
    chosen = find_kind(kind)
    made = made_script(run, kind=kind, stem=Path(chosen.file).stem if path is None else path.stem)
    costs = memory_costs(run, trains=not chosen.about_adapter)
    explained = explain_lines(made.rendered, run, costs)
    rendered = made.rendered.text.splitlines()
    written = rendered if text is None else text.splitlines()
    matched = _Matched(rendered, written)
    lines, changed = matched.lines(explained), list(matched.changed(explained))
    if line is not None:
        if not 1 <= line <= len(written):
            raise UsageError(f"There is no line {line}; the script has {len(written)}.", next_step="Give another line.")
        changed = [item for item in changed if item.first <= line <= item.last]
        lines = lines_about(lines, line)
    return ScriptExplanation(
        kind=kind,
        script=None if path is None else str(path),
        line=line,
        text=None if line is None else written[line - 1],
        lines=lines,
        changed=changed,
        notes=[*made.notes, *costs.notes],
        next_step="Change the field in the config and render it again, or change the line: the script is yours.",
    )


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > _MOST_BYTES:
            raise UsageError(f"{path} is over 1 MiB, too large for a script.", next_step="Check the path.")
        return content.decode("utf-8")
    except OSError as error:
        reason = str(error.strerror).lower()
        raise UsageError(f"{path} cannot be read: {reason}.", next_step="Check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no UTF-8 text.", next_step="Check the path.") from None


class _Matched:
    """The lines of a rendered script beside those of a file, counted from 0."""

    def __init__(self, rendered: Sequence[str], written: Sequence[str]) -> None:
        self._rendered = rendered
        self._blocks = difflib.SequenceMatcher(None, rendered, written, autojunk=False).get_opcodes()
        self._places = {
            first + place: there + place
            for tag, first, last, there, _ in self._blocks
            if tag == "equal"
            for place in range(last - first)
        }

    def lines(self, explained: Iterable[ScriptLines]) -> list[ScriptLines]:
        """The explanations by the file's own numbers, without the lines that are no longer as rendered."""
        found = [
            item.model_copy(update={"first": first, "last": last})
            for item in explained
            for first, last in self._runs(item)
        ]
        return sorted(found, key=lambda item: (item.first, -item.last))

    def changed(self, explained: Sequence[ScriptLines]) -> Iterator[ChangedLines]:
        """What is not as rendered."""
        for tag, first, last, there, end in self._blocks:
            if tag != "equal":
                about = [item.field for item in explained if item.first <= last and item.last > first]
                yield ChangedLines(
                    first=there + 1,
                    last=end,
                    rendered=list(self._rendered[first:last]),
                    about=list(dict.fromkeys(about)) if last > first else [],
                )

    def _runs(self, item: ScriptLines) -> Iterator[tuple[int, int]]:
        places = [self._places[line] + 1 for line in range(item.first - 1, item.last) if line in self._places]
        first = last = None
        for place in places:
            if first is None or last is None:
                first = place
            elif place != last + 1:
                yield first, last
                first = place
            last = place
        if first is not None and last is not None:
            yield first, last
