"""Resources: guides, the config schema, and what jobs wrote. All of it text, safe to show and without secrets."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource

import qlora_tools
from qlora_tools.errors import QloraError, UsageError
from qlora_tools.guide import read_topic, topics
from qlora_tools.jobs.layout import TRAINING, Workspace
from qlora_tools.run_output import METRICS_FILE

from .answers import shown
from .options import ServerOptions
from .work import Document, WorkRoom

if TYPE_CHECKING:
    from qlora_tools.jobs import JobStatus

_LOG_LINES = 2_000
_MOST_METRICS_BYTES = 1_000_000
_MARKDOWN = "text/markdown"


def add_resources(server: MCPServer, options: ServerOptions, room: WorkRoom) -> None:
    """Give `server` its resources. What needs torch is made in `room`."""
    for topic, summary in topics().items():
        server.add_resource(
            FunctionResource(
                uri=f"qlora://guide/{topic}",
                name=f"guide-{topic}",
                description=summary,
                mime_type=_MARKDOWN,
                fn=partial(read_topic, topic),
            )
        )
    server.resource("qlora://config/schema", name="config-schema", mime_type="application/json")(_schema)
    server.resource("qlora://guide/{topic}", name="guide", mime_type=_MARKDOWN)(_guide)
    files = JobFiles(options, room)
    parts = (
        ("config", "text/yaml", files.config),
        ("log", "text/plain", files.log),
        ("metrics", "application/jsonl", files.metrics),
        ("report", "text/html", files.report),
        ("script", "text/x-python", files.script),
    )
    for part, mime_type, read in parts:
        server.resource(f"qlora://jobs/{{job_id}}/{part}", name=f"job-{part}", mime_type=mime_type)(read)


def _schema() -> str:
    """The JSON Schema of a run config: every field, its type, bounds, default and effect."""
    from qlora_tools.config import config_schema

    return json.dumps(config_schema())


def _guide(topic: str) -> str:
    """A short reference text in Markdown."""
    return _said(read_topic, topic)


class JobFiles:
    """What a job wrote, as far as it lies where this server may read."""

    def __init__(self, options: ServerOptions, room: WorkRoom) -> None:
        self._options, self._room = options, room

    def config(self, job_id: str) -> str:
        """The job's complete run config as YAML; of an evaluation, merge or export its arguments."""
        return _said(self._config, job_id)

    def log(self, job_id: str) -> str:
        """The last 2,000 lines of the job's log."""
        return _said(lambda: qlora_tools.read_log(job_id, lines=_LOG_LINES, workspace=self._options.workspace).text)

    def metrics(self, job_id: str) -> str:
        """The job's metrics, one JSON object a line; of long runs the end."""
        return _said(self._metrics, job_id)

    def report(self, job_id: str) -> str:
        """How the job went, as a page of HTML."""
        return _said(self._report, job_id)

    async def script(self, job_id: str) -> str:
        """The job's training as a script in plain Transformers, PEFT and TRL."""
        with _in_words():
            config = await anyio.to_thread.run_sync(self._trained, job_id)
            found = await self._room.done("script", {"config": config}, _untold)
            if found is None:
                raise UsageError(f"The script of {job_id} is still being rendered.", next_step="Read it again.")
            return shown(found["text"])

    def _trained(self, job_id: str) -> Document:
        """The config of a training, with every path in it checked."""
        from qlora_tools.jobs.facts import read_document
        from qlora_tools.jobs.training import with_changes

        status = self._status(job_id)
        if status.kind != TRAINING:
            raise UsageError(f"The job {status.id} is no training.", next_step=f"Read qlora://jobs/{status.id}/config.")
        job = Workspace.at(self._options.workspace).job(status.id)
        config = self._options.access.checked_config(with_changes(read_document(job.config_file) or {}, {}))
        whole: Document = config.model_dump(mode="json")
        return whole

    def _config(self, job_id: str) -> str:
        from qlora_tools.config import dump_config
        from qlora_tools.jobs.facts import read_document
        from qlora_tools.jobs.training import with_changes
        from qlora_tools.jobs.working import asked_work

        status = self._status(job_id)
        job = Workspace.at(self._options.workspace).job(status.id)
        if status.kind != TRAINING:
            return json.dumps(dict(zip(("kind", "arguments"), asked_work(job), strict=True)), indent=1)
        return dump_config(with_changes(read_document(job.config_file) or {}, {}))

    def _metrics(self, job_id: str) -> str:
        from qlora_tools.jobs.run_report import require_training

        status = self._status(job_id)
        require_training(status)
        path = self._output(status) / METRICS_FILE
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _MOST_METRICS_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            raise UsageError(f"The job {job_id} has no metrics yet.", next_step="Look again later.") from None
        return text if size <= _MOST_METRICS_BYTES else text.partition("\n")[2]

    def _report(self, job_id: str) -> str:
        from qlora_tools.jobs.run_report import curve_of, evaluation_page, read_job_run
        from qlora_tools.report.job_page import job_page

        status = self._status(job_id)
        output = self._output(status)
        if status.kind == "evaluate":
            return evaluation_page(status, output).read_text(encoding="utf-8", errors="replace")
        summary, course = read_job_run(status)
        return job_page(summary.model_dump(mode="json"), curve_of(summary, course))

    def _status(self, job_id: str) -> "JobStatus":
        return qlora_tools.get_job(job_id, workspace=self._options.workspace)

    def _output(self, status: "JobStatus") -> Path:
        return self._options.access.to_read(status.output_directory, f"output directory of {status.id}")


def _said(read: Callable[..., str], *arguments: str) -> str:
    """The text that `read` gives. Raises `ResourceError` in the words of what went wrong."""
    with _in_words():
        return shown(read(*arguments))


async def _untold(event: Document) -> None:
    """Nobody is told of progress while a resource is read."""


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise ResourceNotFoundError(f"{error.message} {error.next_step}") from None
    except QloraError as error:
        raise ResourceError(f"{error.message} {error.next_step}") from None
    except OSError as error:
        raise ResourceError(f"It cannot be read: {error.strerror}.") from None
