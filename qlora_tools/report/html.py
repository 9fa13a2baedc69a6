"""Rendering the report. Every value is escaped; the only markup put in is the curve that we drew ourselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from ..results import TrainResult
from .plots import loss_curve_svg

_MOST_ANSWERS = 40


@dataclass(frozen=True)
class Figure:
    """A headline number and what it is."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """A table of name, value and note."""

    title: str
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class AnswerRow:
    """One held-out prompt with both answers and the expected one."""

    prompt: str
    base: str
    adapter: str
    expected: str

    @property
    def base_right(self) -> bool:
        """Whether the base's answer is exactly the expected one."""
        return self.base.strip() == self.expected.strip()

    @property
    def adapter_right(self) -> bool:
        """Whether the adapter's answer is exactly the expected one."""
        return self.adapter.strip() == self.expected.strip()


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    figures: Sequence[Figure],
    answers: Sequence[AnswerRow],
    sections: Sequence[Section],
    training: TrainResult,
) -> None:
    """Write the report to `path`; what the adapter got wrong comes first, so that nobody has to look for it."""
    template = (files("qlora_tools.templates") / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(loader=DictLoader({"report": template}), autoescape=True, undefined=StrictUndefined)
    ordered = sorted(answers, key=lambda row: row.adapter_right)
    shown = (
        [*ordered[: _MOST_ANSWERS // 2], *ordered[-_MOST_ANSWERS // 2 :]] if len(ordered) > _MOST_ANSWERS else ordered
    )
    html = environment.get_template("report").render(
        title=title,
        lead=lead,
        figures=figures,
        loss_curve_svg=Markup(loss_curve_svg(training.losses, training.evaluation_losses)),  # noqa: S704
        has_evaluation=bool(training.evaluation_losses),
        answers=shown,
        wrong_answers=sum(not row.adapter_right for row in answers),
        total_answers=len(answers),
        answers_left_out=len(ordered) - len(shown),
        sections=sections,
        config_yaml=(Path(training.output_directory) / "config.yaml").read_text(encoding="utf-8"),
    )
    path.write_text(html, encoding="utf-8")
