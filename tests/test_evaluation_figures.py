"""Statistics, measures and verdicts of an evaluation: pure functions against known values, without a model."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qlora_tools.errors import MissingLibraryError, UsageError
from qlora_tools.evaluation import text_metrics
from qlora_tools.evaluation.harness import check_tasks
from qlora_tools.evaluation.json_metrics import field_scores
from qlora_tools.evaluation.metrics import METRICS, Metric, choose_metrics, load_function, suited_to
from qlora_tools.evaluation.statistics import PairedSums, compare, randomisation
from qlora_tools.evaluation.verdict import Evidence, decide
from qlora_tools.results import Comparison, Leakage, MetricResult, ScoreInterval, Stopping
from qlora_tools.results.instruments import AdapterEffect, Forgetting, Interval, Refusals, RefusalShare

NO_LEAK = Leakage(exact=0, same_prompt=0, near=0, rows=[], not_checked=[])


def metric(name: str) -> Metric:
    return choose_metrics([name], ["x"]).metrics[0]


def values_of(name: str, answers: list[str], references: list[str]) -> float:
    return metric(name).of(answers, answers, references).values[1]


def means(base: list[float], adapter: list[float], *, is_share: bool = False) -> PairedSums:
    sides = [np.array([[score, 1.0] for score in side]) for side in (base, adapter)]
    return PairedSums(sides[0], sides[1], lambda sums: sums[:, 0] / sums[:, 1], is_share)


def test_right_or_wrong_measures_are_compared_by_an_exact_test() -> None:
    base, adapter = [0] * 10 + [1] * 10, [1] * 9 + [0] * 1 + [1] * 9 + [0]
    found = compare("exact_match", means(base, adapter, is_share=True), higher_is_better=True, seed=0)
    assert (found.better, found.worse, found.same) == (9, 1, 10)
    # Of ten rows that differ, nine or more, or one or fewer: 2 (1 + 10) / 1024.
    assert found.p_value == pytest.approx(22 / 1024)
    assert found.base.value == 0.5 and found.adapter.value == 0.9
    assert found.difference.low < 0.4 < found.difference.high
    assert found.test == "McNemar, exact"


def test_a_share_of_nothing_still_has_an_interval_and_a_noise_floor() -> None:
    found = compare("exact_match", means([0] * 20, [0] * 20, is_share=True), higher_is_better=True, seed=0)
    assert found.p_value == 1.0
    assert found.adapter.high == pytest.approx(0.168, abs=0.001)  # Clopper-Pearson of 0 in 20
    assert found.difference.low < 0 < found.difference.high
    assert found.noise_floor is not None and found.noise_floor > 0.1


def test_few_rows_are_swapped_in_every_way() -> None:
    base, adapter = [1.0, 2.0, 3.0, 5.0, 4.0], [1.5, 1.0, 4.5, 6.0, 6.5]
    differences = [b - a for a, b in zip(base, adapter, strict=True)]
    ways = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=5)]
    by_hand = sum(way >= abs(sum(differences)) - 1e-9 for way in ways) / 32
    assert randomisation(means(base, adapter), seed=0) == by_hand


def test_many_rows_are_swapped_by_chance_and_agree_with_the_normal_distribution() -> None:
    random = np.random.default_rng(3)
    apart = random.normal(0.15, 1.0, 200)
    z = abs(apart.sum()) / math.sqrt((apart**2).sum())
    p = randomisation(means([0.0] * 200, apart.tolist()), seed=1)
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_the_bootstrap_of_a_loss_resamples_rows_with_their_tokens() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(5, 50, 300)
    rates = random.normal(2.0, 0.5, 300)
    table = np.stack([rates * tokens, tokens], axis=1)
    better = np.stack([(rates - 0.3) * tokens, tokens], axis=1)
    sums = PairedSums(table, better, lambda summed: summed[:, 0] / summed[:, 1])
    found = compare("loss", sums, higher_is_better=False, seed=0)
    mean = (rates * tokens).sum() / tokens.sum()
    error = math.sqrt((((rates - mean) * tokens) ** 2).sum()) / tokens.sum()
    assert found.base.high - found.base.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.difference.value == pytest.approx(-0.3)
    assert found.gain == pytest.approx(0.3)
    assert found.difference.high - found.difference.low < 1e-9  # each row gained the same
    assert found == compare("loss", sums, higher_is_better=False, seed=0)


def test_the_noise_floor_is_the_difference_that_four_of_five_experiments_show() -> None:
    random = np.random.default_rng(7)
    apart = random.normal(0, 1, 100)
    floor = compare("score", means([0.0] * 100, apart.tolist()), higher_is_better=True, seed=0).noise_floor
    assert floor == pytest.approx(2.8 * apart.std() / 10, rel=0.1)
    shown = 0
    for trial in range(200):
        drawn = np.random.default_rng(100 + trial).normal(floor, 1, 100)
        shown += abs(drawn.mean()) / (drawn.std(ddof=1) / 10) > 1.984
    assert 0.7 < shown / 200 < 0.9


def test_measures_of_text_have_their_known_values() -> None:
    assert values_of("exact_match", [" Tokyo\n", "tokyo"], ["Tokyo", "Tokyo"]) == 0.5
    assert values_of("accuracy", ["Spam ", "the answer is spam"], ["spam", "spam"]) == 0.5
    # SQuAD's own example of overlap: two of three words found, two of two wanted.
    assert values_of("token_f1", ["the big cat"], ["big cat"]) == pytest.approx(0.8)
    assert values_of("token_f1", ["東京です"], ["東京"]) == pytest.approx(2 * 2 / 6)
    labels, given = ["a", "a", "b", "c"], ["a", "b", "b", "x"]
    # a: 1 of 1 found, 1 of 2 wanted; b: 1 of 2, 1 of 1; c: none.
    assert values_of("macro_f1", given, labels) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert values_of("regex:^\\d+$", ["12", "x1"], ["", ""]) == 0.5


def test_rouge_has_the_values_of_its_paper_and_counts_words_of_any_script() -> None:
    # Lin 2004: reference "police killed the gunman", candidate "police kill the gunman": ROUGE-2 1/3, ROUGE-L 3/4.
    assert values_of("rouge2", ["police kill the gunman"], ["police killed the gunman"]) == pytest.approx(1 / 3)
    assert values_of("rougeL", ["police kill the gunman"], ["police killed the gunman"]) == pytest.approx(3 / 4)
    assert values_of("rouge1", ["полиция убила"], ["полиция убила стрелка"]) == pytest.approx(0.8)


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    from sacrebleu import corpus_bleu, sentence_chrf

    answers = ["the cat sat on the mat today", "he reads a very long book at night"]
    references = ["the cat sat on a mat today", "he reads a long book every night at home"]
    assert values_of("bleu", answers, references) == pytest.approx(corpus_bleu(answers, [references]).score / 100)
    scores = [sentence_chrf(a, [r]).score / 100 for a, r in zip(answers, references, strict=True)]
    assert values_of("chrf", answers, references) == pytest.approx(sum(scores) / 2)
    assert values_of("bleu", ["今日は天気がいい"], ["今日は天気がいい"]) == pytest.approx(1.0)


def test_measures_of_json_compare_values_with_their_types() -> None:
    wanted = ['{"call": "alarm", "at": [7, 30], "on": true}'] * 4
    given = [
        '{"on": true, "at": [7.0, 30], "call": "alarm"}',
        '{"call": "alarm", "at": [7, 30], "on": 1}',
        "none",
        "NaN",
    ]
    assert values_of("json_equal", given, wanted) == 0.25
    assert values_of("json_valid", given, wanted) == 0.5
    # Found 4 + 3, superfluous 1, missing 0 + 1 + 4 + 4.
    assert values_of("json_fields", given, wanted) == pytest.approx(2 * 7 / (2 * 7 + 1 + 9))
    by_field = {found.field: found for found in field_scores(given, wanted, wanted)}
    assert set(by_field) == {"call", "at[]", "on"}
    assert by_field["on"].base == (0.5, 0.25, pytest.approx(1 / 3)) and by_field["on"].adapter == (1.0, 1.0, 1.0)
    assert by_field["at[]"].values == 8


def test_measures_are_chosen_by_the_references_and_the_reason_is_told() -> None:
    long = "This answer is a paragraph of free text, in which one explains at some length what to do and why."
    cases: dict[str, list[str]] = {
        "json_equal": [json.dumps({"n": n}) for n in range(10)],
        "accuracy": ["yes", "no"] * 10,
        "exact_match": [f"Room {n} at noon" for n in range(20)],
        "rougeL": [f"{long} {n}" for n in range(20)],
    }
    chosen = {name: suited_to(references) for name, references in cases.items()}
    assert {name: names[0] for name, (names, _) in chosen.items()} == {name: name for name in cases}
    assert "2 different labels" in chosen["accuracy"][1] and "free text" in chosen["rougeL"][1]
    assert suited_to([]) == ([], "no row ends with an answer in text, so losses alone are measured")


def test_an_unknown_metric_a_bad_pattern_and_metrics_without_references_are_refused() -> None:
    with pytest.raises(UsageError, match="no metric 'rogue'") as caught:
        choose_metrics(["rogue"], ["x"])
    assert all(name in caught.value.next_step for name in METRICS)
    with pytest.raises(UsageError, match="no regular expression"):
        choose_metrics(["regex:("], ["x"])
    with pytest.raises(UsageError, match="No row ends with an answer"):
        choose_metrics(["exact_match"], [])


def test_a_pattern_that_would_be_tried_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "_PATTERN_SECONDS", 0.05)
    metric = choose_metrics(["regex:(a|aa)+$"], ["b"]).metrics[0]
    with pytest.raises(UsageError, match="cannot be looked for in the answer 'aaaa"):
        metric.of(["a" * 60 + "!"], ["b"], ["b"])


def test_a_function_of_ones_own_decides_and_is_tried_before_anything_is_done(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def share(answer, reference):\n    return len(answer) / len(reference)\nbad = lambda a, r: 'x'\n")
    chosen = choose_metrics(["exact_match"], ["four"], f"{file}:share")
    assert [one.name for one in chosen.metrics] == ["share", "exact_match"]
    assert chosen.metrics[0].of(["fo"], ["four"], ["four"]).values == (0.5, 1.0)
    for given, said in (
        (f"{file}:bad", "gave 'x'"),
        (f"{file}:absent", "no function 'absent'"),
        ("no.py:f", "no Python"),
    ):
        with pytest.raises(UsageError, match=said):
            load_function(given, ["four"])


def test_benchmark_tasks_without_the_harness_name_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tasks([])
    monkeypatch.setattr("qlora_tools.evaluation.harness.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError) as caught:
        check_tasks(["arc_easy"])
    assert "pip install 'lm-eval" in caught.value.next_step


def comparison(difference: float, p: float, *, rows: int = 100, name: str = "exact_match") -> Comparison:
    sides = [
        ScoreInterval(value=value, low=value - 0.1, high=value + 0.1) for value in (0.5, 0.5 + difference, difference)
    ]
    return Comparison(
        name=name,
        higher_is_better=name != "loss",
        is_share=name != "loss",
        rows=rows,
        base=sides[0],
        adapter=sides[1],
        difference=sides[2],
        p_value=p,
        test="",
        noise_floor=0.1,
        better=0,
        worse=0,
        same=rows if difference == 0 else 0,
    )


def result(difference: float, p: float, **given: Any) -> MetricResult:
    return MetricResult(comparison=comparison(difference, p, **given))


LOWER_LOSS = result(-0.5, 0.0001, name="loss")
GAIN = result(0.2, 0.001)


def effect(verdict: Any) -> AdapterEffect:
    return AdapterEffect(
        verdict=verdict, reasons=["As its instrument says."], positions=1, mean_logit_difference=0, max_logit_difference=0,
        mean_kl=0, max_kl=0, changed_top1=0, changed_answers=None, answers=0, layers=[], untrained=[], not_finite=[],
        modules_to_save=[], active=True,
    )  # fmt: skip


def forgetting(verdict: Any) -> Forgetting:
    nothing = Interval(low=0, high=0)
    return Forgetting(
        verdict=verdict, reasons=["It lost 9 of 20.", "Its texts are fine."],
        items=[], counted=20, kept=11, lost=9, gained=0, lost_share=0.45,
        lost_share_interval=nothing, texts=[], base_perplexity=10, adapter_perplexity=20, loss_difference=0.7,
        loss_difference_interval=nothing,
    )  # fmt: skip


def refusals(prompts: Any, change: Any) -> Refusals:
    nothing = Interval(low=0, high=1)
    share = RefusalShare(
        set=prompts, prompts=20, base=2, adapter=15, base_interval=nothing, adapter_interval=nothing, started=13, ceased=0,
        p_value=0.0002, change=change,
    )  # fmt: skip
    return Refusals(shares=[share], changed=[], answers=[], reasons=[], limits=[])


@pytest.mark.parametrize(
    ("given", "decision", "check"),
    [
        ({}, "ship", "gain"),
        ({"metrics": []}, "ship", "gain"),
        ({"metrics": [result(0.05, 0.3)]}, "cannot tell", "noise"),
        ({"metrics": [result(-0.2, 0.01)]}, "do not ship", "loss_of_quality"),
        ({"metrics": [result(0.2, 0.001, rows=12)]}, "cannot tell", "rows"),
        ({"metrics": [GAIN, result(-0.2, 0.001, name="rougeL")]}, "do not ship", "regression"),
        ({"metrics": [GAIN, result(-0.1, 0.04), result(-0.1, 0.04)]}, "ship", "gain"),
        ({"metrics": [], "loss": result(0.5, 0.001, name="loss")}, "do not ship", "loss_of_quality"),
        ({"loss": result(0.5, 0.001, name="loss")}, "ship", "gain"),
        ({"metrics": [result(0, 1.0)], "loss": result(0, 1.0, name="loss"), "changed_answers": 0}, "do not ship", "effect"),
        ({"effect": effect("does nothing"), "metrics": [result(0, 1.0)]}, "do not ship", "effect"),
        ({"effect": effect("broken")}, "do not ship", "effect"),
        ({"effect": effect("changes little")}, "ship", "gain"),
        ({"stopping": Stopping(max_new_tokens=64, rows=100, base=0, adapter=10)}, "do not ship", "stopping"),
        ({"stopping": Stopping(max_new_tokens=64, rows=100, base=0, adapter=9)}, "ship", "gain"),
        ({"forgetting": forgetting("forgot")}, "do not ship", "forgetting"),
        ({"forgetting": forgetting("cannot tell")}, "ship", "gain"),
        ({"refusals": refusals("harmless", "more")}, "do not ship", "refusals"),
        ({"refusals": refusals("careful", "fewer")}, "do not ship", "refusals"),
        ({"refusals": refusals("harmless", "fewer")}, "ship", "gain"),
        ({"leakage": NO_LEAK.model_copy(update={"exact": 100})}, "cannot tell", "leakage"),
        ({"leakage": NO_LEAK.model_copy(update={"exact": 10})}, "ship", "gain"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_what_was_measured(given: dict[str, Any], decision: str, check: str) -> None:
    verdict = decide(
        Evidence(**{"loss": LOWER_LOSS, "metrics": [GAIN], "leakage": NO_LEAK, "changed_answers": 40, **given})
    )
    assert verdict.decision == decision
    assert verdict.reasons[0].check == check
    assert verdict.summary.startswith(verdict.reasons[0].message)


def test_the_verdict_tells_every_reason_of_forgetting() -> None:
    evidence = Evidence(loss=LOWER_LOSS, metrics=[GAIN], leakage=NO_LEAK, forgetting=forgetting("forgot"))
    assert decide(evidence).summary.endswith("It lost 9 of 20. Its texts are fine.")


def test_the_verdict_goes_by_the_rows_that_were_not_trained_on() -> None:
    seen = MetricResult(comparison=comparison(0.4, 0.0001), without_leaked=comparison(0.02, 0.7, rows=60))
    leakage = NO_LEAK.model_copy(update={"exact": 30, "near": 10})
    verdict = decide(Evidence(loss=LOWER_LOSS, metrics=[seen], leakage=leakage))
    assert verdict.decision == "cannot tell"
    assert "not trained on" in verdict.summary
    assert "40 of 100 rows stand in the training data" in " ".join(reason.message for reason in verdict.reasons)


def test_the_verdict_tells_the_noise_floor_and_how_many_rows_would_show_the_difference() -> None:
    verdict = decide(Evidence(loss=LOWER_LOSS, metrics=[result(0.05, 0.3)], leakage=NO_LEAK))
    assert "100 rows show 10.0 points or more" in verdict.summary
    assert "about 400 rows would show it" in verdict.summary
