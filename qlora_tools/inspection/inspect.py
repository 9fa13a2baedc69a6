"""The public call: a dataset in, one verdict out. Reads every row once; what costs time looks at an even sample."""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.overrides import config_with
from ..config.schema import RunConfig
from ..data.dataset import evaluation_source, training_sources
from ..data.formats.detect import UnknownFormatError
from ..data.lengths import RowLengths, tokens_by_characters
from ..data.order import split_for_evaluation
from ..data.tokenizers import find_tokenizer
from ..events import Listener, RunEvent, ignore
from ..models.reference import ModelReference
from ..results import DatasetReport, Finding, LengthSummary, MaskedRow, PackingSummary
from .checks import language_shares, run_content_checks
from .findings import finding, shown
from .masks import masked_rows
from .overlap import OverlapPair
from .rows import CheckedRow
from .scan import Scan, refusals, scan, source_counts, unusable_findings
from .structure import structure_findings
from .summaries import length_summary, packing_summary
from .template import prompt_form, template_findings
from .tokens import TokenView, token_findings, tokenise_sample
from .verdict import by_severity, next_step, summary_line, verdict_of

ROWS_CHECKED = 20_000
_NO_MODEL = "any"


def inspect_dataset(
    data: str,
    model: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    rows: int = ROWS_CHECKED,
    on_event: Listener = ignore,
) -> DatasetReport:
    """Check the rows of `data` as training with `model` would see them.

    `data` is a path or a Hub id, `settings` further fields of a config (`{"data.loss_on": "assistant"}`). Every row is
    read; checks that cost time look at `rows` of them, spread evenly. Without a model, or where its tokenizer is not on
    this machine, tokens and masks are not checked. The length limit is the one in `settings`, or the suggested one.

    Raises `DataError` (exit code 2) where nothing can be read; anything else that is wrong is in the report.
    """
    config = config_with(settings or {}, model=model or _NO_MODEL, data=data)
    tokenizer, why_not = find_tokenizer(_reference(config)) if model else (None, "no model was named")
    given = {name.rsplit(".", 1)[-1] for name in settings or {}}
    limit = config.training.max_length_tokens if "max_length_tokens" in given else None
    return _Inspection(config, model, tokenizer, why_not, limit, rows, on_event).report()


def inspect_config(
    config: RunConfig, *, tokenizer: Any = None, rows: int = ROWS_CHECKED, on_event: Listener = ignore
) -> DatasetReport:
    """Check the rows of a run config exactly as its run would see them; as `inspect_dataset` otherwise."""
    # A copy, since a base without a chat template gets one installed on its tokenizer.
    found, why_not = (deepcopy(tokenizer), "") if tokenizer is not None else find_tokenizer(_reference(config))
    limit = config.training.max_length_tokens
    return _Inspection(config, config.model.name, found, why_not, limit, rows, on_event, from_config=True).report()


def _reference(config: RunConfig) -> ModelReference:
    model = config.model
    return ModelReference.parse(model.name, source=model.source, revision=model.revision)


@dataclass(frozen=True)
class _Tokens:
    """What the tokenizer told of the sample."""

    findings: tuple[Finding, ...]
    lengths: LengthSummary
    packing: PackingSummary
    masks: tuple[MaskedRow, ...]
    tokens_per_row: float
    learnt_per_row: float | None
    prompt_form: str | None
    stop_tokens: tuple[str, ...]
    refused: int = 0


@dataclass(frozen=True)
class _Inspection:
    """One inspection; reads from top to bottom."""

    config: RunConfig
    model: str | None
    tokenizer: Any
    why_no_tokens: str
    limit: int | None
    rows: int
    on_event: Listener
    from_config: bool = False

    def report(self) -> DatasetReport:
        began = time.monotonic()
        self.on_event(RunEvent("phase", f"Reading {self.config.data.path}"))
        try:
            found = scan(training_sources(self.config.data), self.rows, self.on_event)
        except UnknownFormatError as error:
            return self._unknown_format(error, time.monotonic() - began)
        checked = found.checked_rows()
        held_out = self._held_out()
        findings = structure_findings(found, held_out)
        overlap, not_compared = self._overlap(found, checked, held_out)
        content, left_out = run_content_checks(checked, source_counts(found), overlap, self.on_event)
        tokens = self._tokens(checked, found)
        findings += [*content, *(tokens.findings if tokens else ())]
        not_checked = [*not_compared, *left_out]
        if self.tokenizer is None:
            not_checked.append(f"tokens, masks and the chat template: {self.why_no_tokens}")
            findings += self._model_not_used()
        rest = (tokens, language_shares(checked), time.monotonic() - began)
        return self._assembled(found, checked, findings, not_checked, rest)

    def _model_not_used(self) -> list[Finding]:
        """A model that was named and could not be looked at: the rows alone make nothing ready."""
        if self.model is None:
            return []
        message = f"The rows were not checked with {shown(self.model, 80)}: {self.why_no_tokens}"
        there = Path(self.model).is_dir() and not self.model.startswith((".", "/", "~"))
        step = (
            f"Write ./{self.model} for the directory." if there else "Fetch the model first, or name a local directory."
        )
        return [finding("model_not_used", "warning", message, [], 0, next_step=step)]

    def _held_out(self) -> Scan | None:
        source = evaluation_source(self.config.data)
        if source is None:
            return None
        self.on_event(RunEvent("phase", f"Reading {source.source.path}"))
        return scan((source,), self.rows, self.on_event)

    def _overlap(
        self, found: Scan, checked: Sequence[CheckedRow], held_out: Scan | None
    ) -> tuple[OverlapPair | None, list[str]]:
        """The rows that are held out and the training rows beside them, or why they are not compared."""
        data = self.config.data
        if held_out is not None:
            shared = found.digests.shared_with(held_out.digests)
            return OverlapPair(checked, held_out.checked_rows(), shared), []
        if data.evaluation_fraction == 0:
            return None, []
        if len(checked) != found.usable:
            return None, ["rows that are held out and stand in the training rows too: there are more rows than --rows"]
        kept, held = split_for_evaluation(len(checked), data.evaluation_fraction, self.config.training.seed)
        return OverlapPair([checked[place] for place in kept], [checked[place] for place in held]), []

    def _tokens(self, checked: Sequence[CheckedRow], found: Scan) -> _Tokens | None:
        if not checked:
            return None
        if self.tokenizer is None:
            return self._lengths_by_characters(checked, found, self.why_no_tokens)
        own_template = bool(self.tokenizer.chat_template)
        self.on_event(RunEvent("phase", "Tokenising rows as training does"))
        renderer, encoded = tokenise_sample(checked, self.tokenizer, self.config, self.on_event)
        refused = unusable_findings(refusals(encoded.unusable), len(checked))
        findings = [*refused, *template_findings(checked, renderer, own_template=own_template)]
        form = prompt_form(renderer, own_template=own_template)
        if not encoded.rows:
            by_characters = self._lengths_by_characters(checked, found, "the chat template refuses every row")
            told = tuple(findings)
            return replace(by_characters, findings=told, prompt_form=form, refused=len(encoded.unusable))
        counted = [len(row.input_ids) for row in encoded.rows]
        looked_at = (
            "" if len(checked) == found.usable else f", on {len(checked):,} of {found.usable:,} rows spread evenly"
        )
        note = f"counted with the model's tokenizer{looked_at}"
        lengths = replace(RowLengths.of(counted, note=note), rows=found.usable)
        summary = self._summary(lengths)
        limit = summary.max_length_tokens
        data = self.config.data
        view = TokenView(checked, renderer, encoded, limit, data.long_rows, data.loss_on)
        return _Tokens(
            findings=(*findings, *token_findings(view)),
            refused=len(encoded.unusable),
            lengths=summary,
            packing=self._packing(lengths, limit),
            masks=tuple(masked_rows(view, side_by_side=self.config.training.packing in ("bins", "padding_free"))),
            tokens_per_row=sum(min(tokens, limit) for tokens in counted) / len(counted),
            learnt_per_row=sum(label >= 0 for row in encoded.rows for label in row.labels[:limit]) / len(counted),
            prompt_form=form,
            stop_tokens=tuple(self.tokenizer.convert_ids_to_tokens(list(encoded.stop_token_ids))),
        )

    def _lengths_by_characters(self, checked: Sequence[CheckedRow], found: Scan, why: str) -> _Tokens:
        counted = sorted(tokens_by_characters(row.example) for row in checked)
        note = f"estimated from characters, since {why}"
        lengths = RowLengths(tuple(counted), found.usable, "characters", note)
        summary = self._summary(lengths)
        mean = sum(min(tokens, summary.max_length_tokens) for tokens in counted) / len(counted)
        packing = self._packing(lengths, summary.max_length_tokens)
        return _Tokens((), summary, packing, (), mean, None, None, ())

    def _summary(self, lengths: RowLengths) -> LengthSummary:
        return length_summary(lengths, limit=self.limit, model_limit=_model_limit(self.tokenizer))

    def _packing(self, lengths: RowLengths, limit: int) -> PackingSummary:
        training = self.config.training
        bins = training.packing == "bins"
        return packing_summary(lengths, limit=limit, micro_batch_size=training.micro_batch_size, bins=bins)

    def _rows_per_epoch(self, found: Scan) -> float:
        """Usable rows that are trained, as often as their sources' weights say."""
        weights = {named.source.path: named.weight for named in training_sources(self.config.data)}
        rows = sum(count * weights[path] for path, count in found.rows_by_source.items())
        return rows * (1 - self.config.data.evaluation_fraction)

    def _assembled(
        self,
        found: Scan,
        checked: Sequence[CheckedRow],
        findings: Sequence[Finding],
        not_checked: Sequence[str],
        rest: tuple[_Tokens | None, dict[str, float], float],
    ) -> DatasetReport:
        tokens, languages, seconds = rest
        ordered = by_severity(findings)
        verdict = verdict_of(ordered)
        return DatasetReport(
            path=self.config.data.path,
            model=self.model,
            verdict=verdict,
            summary=summary_line(found, ordered, tokens.refused if tokens else 0),
            mapping=found.mappings[0],
            proposal=None,
            rows=found.rows,
            rows_checked=len(checked),
            unusable_rows=found.unusable + (tokens.refused if tokens else 0),
            findings=ordered,
            lengths=tokens.lengths if tokens else None,
            masks=list(tokens.masks) if tokens else [],
            loss_on=self.config.data.loss_on,
            prompt_form=tokens.prompt_form if tokens else None,
            stop_tokens=list(tokens.stop_tokens) if tokens else [],
            packing=tokens.packing if tokens else None,
            tokens_per_epoch=round(tokens.tokens_per_row * self._rows_per_epoch(found)) if tokens else None,
            learnt_tokens_per_epoch=_projected(tokens, self._rows_per_epoch(found)),
            sources=source_counts(found),
            languages=languages,
            not_checked=list(not_checked),
            seconds=seconds,
            next_step=next_step(verdict, self.config.data.path, self.model, from_config=self.from_config),
        )

    def _unknown_format(self, error: UnknownFormatError, seconds: float) -> DatasetReport:
        wrong = finding("unknown_format", "error", error.message, [], 0, next_step=error.next_step)
        return DatasetReport(
            path=self.config.data.path,
            model=self.model,
            verdict="not ready",
            summary="The rows have no format that is known.",
            mapping=None,
            proposal=error.proposal,
            rows=0,
            rows_checked=0,
            unusable_rows=0,
            findings=[wrong],
            lengths=None,
            masks=[],
            loss_on=self.config.data.loss_on,
            prompt_form=None,
            stop_tokens=[],
            packing=None,
            tokens_per_epoch=None,
            learnt_tokens_per_epoch=None,
            sources={},
            languages={},
            not_checked=["everything else: rows of no known format cannot be read"],
            seconds=seconds,
            next_step=error.next_step,
        )


def _projected(tokens: _Tokens | None, rows: float) -> int | None:
    if tokens is None or tokens.learnt_per_row is None:
        return None
    return round(tokens.learnt_per_row * rows)


def _model_limit(tokenizer: Any) -> int | None:
    """The length that the tokenizer says its model was made for; some say a number without meaning."""
    limit = getattr(tokenizer, "model_max_length", None)
    return limit if isinstance(limit, int) and limit < 10**8 else None
