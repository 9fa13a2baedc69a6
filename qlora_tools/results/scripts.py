"""What rendering a script returns."""

from pydantic import Field

from .base import Result


class ScriptLines(Result):
    """Lines `first` to `last` of a script, from 1, and what they are there for.

    `field` is a field of the config, with its `value`, or a topic that belongs to none (`value` None). `effect` says what
    another value, or leaving the lines out, would do; `memory` what the estimator says that it costs, where it says so.
    """

    first: int
    last: int
    field: str
    title: str
    value: str | None = None
    reason: str
    source: str
    effect: str
    memory: str | None = None


class ScriptResult(Result):
    """A script of `kind`: its text, why each of its lines stands there, and where it was written, with files beside it.

    `checked` maps the libraries whose installed version has every name and argument that the script uses to that version;
    `unchecked` says why others could not be looked at.
    """

    kind: str
    text: str
    lines: list[ScriptLines] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    checked: dict[str, str] = Field(default_factory=dict)
    unchecked: list[str] = Field(default_factory=list)
    path: str | None = None
    files: list[str] = Field(default_factory=list)
    next_step: str


class ChangedLines(Result):
    """Lines of a script that are not those that its config renders: `first` to `last` in the script, from 1.

    Where lines were only taken out, `last` is `first` - 1, and they stood before `first`. `rendered` are those of
    the config, and `about` the fields and topics that they are there for.
    """

    first: int
    last: int
    rendered: list[str] = Field(default_factory=list)
    about: list[str] = Field(default_factory=list)


class ScriptExplanation(Result):
    """What the lines of a script are there for. `lines` of a script that somebody changed are those still as rendered.

    Where one line was asked for, `line` is its number, `text` how it reads, and `lines` what it is there for, the most
    particular first.
    """

    kind: str
    script: str | None = None
    line: int | None = None
    text: str | None = None
    lines: list[ScriptLines]
    changed: list[ChangedLines] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    next_step: str
