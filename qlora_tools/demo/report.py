"""The demo's report: what was measured, in the order in which people ask."""

import json

from ..report import AnswerRow, Figure, Section, write_report
from .run import DemoResult


def write_demo_report(result: DemoResult) -> None:
    """Write `report.html` and `answers.json` into the demo's output directory."""
    rows = [
        AnswerRow(answer.prompt, str(answer.base), str(answer.adapter), expected)
        for answer, expected in zip(result.generation.answers, result.references, strict=True)
    ]
    answers = [{"prompt": r.prompt, "base": r.base, "adapter": r.adapter, "expected": r.expected} for r in rows]
    (result.output_directory / "answers.json").write_text(
        json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write_report(
        result.report,
        title="qlora-tools demo: spoken requests to JSON calls",
        lead=_lead(result),
        figures=_figures(result),
        answers=rows,
        sections=[_plan(result), _memory(result), _run(result), _merge(result)],
        training=result.training,
    )


def _lead(result: DemoResult) -> str:
    verdict = "reached" if result.passed else "MISSED"
    return (
        f"{result.plan.config.model.name}, NF4 with double quantisation, rank {result.plan.config.lora.rank}: exact match on "
        f"{result.base.total} held-out rows went from {result.base.percent:.1f} % to {result.adapter.percent:.1f} %. "
        f"The aim (base at most 20 %, at least 40 points more) was {verdict}."
    )


def _figures(result: DemoResult) -> list[Figure]:
    training = result.training
    return [
        Figure("exact match, base", f"{result.base.percent:.1f} %"),
        Figure("exact match, adapter", f"{result.adapter.percent:.1f} %"),
        Figure("loss, first and last step", f"{training.losses[0]:.2f} → {training.losses[-1]:.2f}"),
        Figure("training", f"{training.train_seconds:.0f} s"),
        Figure("peak memory", f"{training.peak_allocated_bytes / 2**30:.2f} GiB"),
        Figure("whole demo", f"{result.seconds:.0f} s"),
    ]


def _plan(result: DemoResult) -> Section:
    return Section("Plan", [(value.field, str(value.value), value.reason) for value in result.plan.values])


def _memory(result: DemoResult) -> Section:
    estimate, training = result.plan.estimate, result.training
    parts = [(name, f"{size / 2**20:,.0f} MiB", "") for name, size in estimate.parts.items()]
    band = f"{estimate.low_bytes / 2**30:.2f} to {estimate.high_bytes / 2**30:.2f} GiB"
    on_cpu = "On a CPU the measured figure is the whole process: Python, libraries and file cache of the weights too."
    measured = (
        "measured peak",
        f"{training.peak_allocated_bytes / 2**30:.2f} GiB",
        on_cpu if "CPU" in training.device else "",
    )
    return Section("Memory", [*parts, ("expected, low to high", band, ""), measured])


def _run(result: DemoResult) -> Section:
    training = result.training
    share = 100 * training.trainable_parameters / training.total_parameters
    return Section(
        "Run",
        [
            ("device", training.device, ""),
            ("engine", training.engine, training.engine_reason),
            ("compute dtype", training.compute_dtype, ""),
            (
                "trainable parameters",
                f"{training.trainable_parameters:,}",
                f"{share:.2f} % of {training.total_parameters:,}",
            ),
            ("steps", str(training.steps), ""),
            ("speed", f"{training.tokens_per_second:,.0f} tokens/s", "tokens without padding over the time of the fit"),
            ("answers", f"{result.generation.seconds:.0f} s", f"{2 * result.base.total} answers, loading included"),
            *((name, version, "") for name, version in training.versions.items()),
        ],
    )


def _merge(result: DemoResult) -> Section:
    if result.merged is None:
        return Section("Merge", [("FAILED", "no merged model", result.merge_failure or "")])
    parity = result.merged.parity
    rows = [
        ("merged model", result.merged.directory, f"{result.merged.size_bytes / 1e6:,.0f} MB in {result.merged.dtype}")
    ]
    if parity is not None:
        rows += [
            (
                "answers equal to base plus adapter",
                f"{parity.same_answers} of {parity.prompts}",
                "greedy, up to 32 tokens",
            ),
            (
                "agreement of tokens with a clear lead",
                f"{100 * parity.clear_agreement:.2f} %",
                f"{parity.tokens} tokens, {parity.near_ties} without; at least 99 % is needed",
            ),
            ("mean KL divergence", f"{parity.mean_kl:.1e} nats", "at most 1e-3 is needed"),
        ]
    return Section("Merge", rows)
