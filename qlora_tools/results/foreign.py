"""What reading other people's recipes and scripts returns, and what comparing configs does."""

from typing import Any, Literal

from pydantic import Field

from .base import Result


class CarriedValue(Result):
    """One value of a foreign recipe and what it is here: `name` and `value` as written, our `field` and `our_value`.

    `why` says what is different about it, and is empty where it means the same. `line` is known for scripts.
    """

    name: str
    value: str
    line: int | None = None
    field: str
    our_value: Any
    why: str = ""


class LeftValue(Result):
    """One value of a foreign recipe that is not in the config: why, and what to do about it.

    What is `harmless` changes neither what is learnt nor how well.
    """

    name: str
    value: str
    line: int | None = None
    why: str
    what_to_do: str
    harmless: bool = False


class MissingValue(Result):
    """What a recipe leaves to its tool, whose default is not ours: the tool's was `taken`, so that the run stays the same."""

    field: str
    taken: Any
    our_default: Any
    of: str


class ImportedConfig(Result):
    """A foreign recipe as a RunConfig, with an account of every key that it holds.

    `config` is complete with defaults, `config_yaml` as short as it is written. `carried` means the same here, `changed`
    something else, `not_carried` is left out; `missing` is what the recipe did not say.
    """

    name: str
    kind: Literal["script", "axolotl", "llamafactory"]
    config: dict[str, Any]
    config_yaml: str
    carried: list[CarriedValue]
    changed: list[CarriedValue]
    not_carried: list[LeftValue]
    missing: list[MissingValue]
    notes: list[str]
    next_step: str


class FieldChange(Result):
    """One field that two configs differ in, which way it moves quality, memory and speed, and whether a run may go on.

    `direction` compares numbers; `effect` says what a higher or another value does.
    """

    field: str
    before: Any
    after: Any
    direction: Literal["higher", "lower", "other"]
    effect: str
    may_change_on_resume: bool


class ConfigFigures(Result):
    """What can be computed of one config without its data; None where it cannot, see `ConfigDifference.notes`.

    Bytes are what torch allocates at the fullest moment with rows that fill the length; tokens are those of such rows.
    """

    peak_bytes: int | None
    trainable_parameters: int | None
    rows_per_step: int | None
    tokens_per_step_at_most: int


class ConfigDifference(Result):
    """What changes from one config to another and what it means.

    `resumable` says whether a checkpoint of the first goes on with the second.
    """

    equal: bool
    changes: list[FieldChange]
    before: ConfigFigures
    after: ConfigFigures
    resumable: bool
    resume_problems: list[str]
    notes: list[str]
    next_step: str


class LintFinding(Result):
    """One thing in a script that is stale or wrong.

    `line` and `end_line` count from 1, in a notebook through all its code cells; `where` says the same in words, with the
    cell. `given` is the source as it stands and `replacement` the text to put in its place, None where the mending is more
    than that. Text of the script is shortened, and without control characters and secrets.
    """

    rule: str
    severity: Literal["error", "warning", "note"]
    line: int
    end_line: int
    where: str
    what: str
    why: str
    fix: str
    given: str | None = None
    replacement: str | None = None


class LintResult(Result):
    """What is stale or wrong in a script, in the order of severity and lines. The script was read, never run.

    `kind` is what the script does: "qlora" trains an adapter on a 4-bit base, "lora" on another one, "training" trains
    without an adapter, "other" does not train. `checked_against` has the version of each library that is installed here;
    what is said of other versions is written in the finding. `not_checked` names what the syntax does not tell.
    """

    name: str
    kind: Literal["qlora", "lora", "training", "other"]
    errors: int
    warnings: int
    notes: int
    findings: list[LintFinding]
    left_out: int = 0
    checked_against: dict[str, str]
    not_checked: list[str] = Field(default_factory=list)
    next_step: str
