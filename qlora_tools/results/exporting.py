"""What exporting, pushing and planning a server return."""

from .base import Result
from .gguf import GgufFacts, TemplateParity
from .merging import ParityResult


class ExportedFile(Result):
    """One file of an export; `name` is relative to its directory."""

    name: str
    size_bytes: int
    sha256: str


class ExportResult(Result):
    """A finished export. `base` is how the base is called there, None in a merged model that names none.

    `parity` is that of the merge where one was made on the way, `gguf` tells of the file that was read again and compared,
    `template` compares the prompts that the exported template builds with the trained ones: None where there is nothing to
    compare. All of it stands in `export.json` too. `notes` is what a reader should know before using it.
    """

    directory: str
    to: str
    name: str
    base: str | None
    files: list[ExportedFile]
    size_bytes: int
    parity: ParityResult | None
    gguf: GgufFacts | None
    template: TemplateParity | None
    notes: list[str]
    seconds: float


class PushResult(Result):
    """What was uploaded, or with `pushed` False would be. `missing` is what has to be mended before it can be."""

    directory: str
    repository: str
    private: bool
    files: list[ExportedFile]
    size_bytes: int
    missing: list[str]
    notes: list[str]
    pushed: bool
    url: str | None


class ServingCheck(Result):
    """One thing that was checked before a server starts; `next_step` is the way out where it failed."""

    name: str
    passed: bool
    message: str
    next_step: str | None = None


class ServingPlan(Result):
    """How a model is served: the command as arguments, where it answers, and under which name.

    `base` says what the adapter works on there: "nf4" as it was trained, "16-bit", or "merged".
    """

    server: str
    version: str
    command: list[str]
    model: str
    url: str
    base: str
    checks: list[ServingCheck]
    notes: list[str]
    curl: str
    python: str
