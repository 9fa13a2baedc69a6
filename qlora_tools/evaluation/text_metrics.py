"""Measures of answers that are text: equality, labels, shared words, patterns; ROUGE, BLEU and chrF by their libraries."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import MissingLibraryError, UsageError
from ..inspection.rows import folded
from .statistics import Sums

Texts = Sequence[str]
# Rows of sums, and the score of summed rows.
Table = tuple[list[list[float]], Callable[[Sums], Sums]]
# A letter where a script has no spaces between words, else a word; the libraries' own splitters drop all but ASCII.
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\\W_]+")
_NGRAMS = 4
_PATTERN_SECONDS = 2.0  # on one answer


def mean_of(scores: Sequence[float]) -> Table:
    """The mean over rows."""
    return [[float(score), 1.0] for score in scores], lambda sums: sums[:, 0] / sums[:, 1]


def f1_of(counts: Sequence[Sequence[float]]) -> Table:
    """F1 of found, superfluous and missing parts, counted over all rows; 0 where there is nothing at all."""
    return [list(map(float, row)) for row in counts], _f1


def _f1(sums: Sums) -> Sums:
    parts = 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
    return 2 * sums[..., 0] / (parts + (parts == 0))


def exact_match_table(answers: Texts, references: Texts) -> Table:
    """1 where the answer equals its reference, white space at both ends aside."""
    return mean_of([a.strip() == r.strip() for a, r in zip(answers, references, strict=True)])


def accuracy_table(answers: Texts, references: Texts) -> Table:
    """1 where the answer is its label, case and white space aside; a label within a sentence does not count."""
    return mean_of([folded(a) == folded(r) for a, r in zip(answers, references, strict=True)])


def macro_f1_table(answers: Texts, references: Texts) -> Table:
    """The mean of the F1 of each label that a reference has; answers that are no label count as missed."""
    labels = sorted({folded(reference) for reference in references})
    rows = []
    for answer, reference in zip(map(folded, answers), map(folded, references), strict=True):
        rows.append([float(count) for label in labels for count in _label_counts(label, answer, reference)])

    def score(sums: Sums) -> Sums:
        return _f1(sums.reshape(len(sums), len(labels), 3)).mean(axis=1)

    return rows, score


def _label_counts(label: str, answer: str, reference: str) -> tuple[bool, bool, bool]:
    return (
        answer == label == reference,
        answer == label != reference,
        reference == label != answer,
    )


def words_of_text(text: str) -> list[str]:
    """Words in lower case, of any script."""
    return _WORD.findall(text.lower())


def token_f1_table(answers: Texts, references: Texts) -> Table:
    """Mean over rows of the F1 of shared words, as SQuAD has it (Rajpurkar 2016), articles kept."""
    return mean_of([_shared_words(a, r) for a, r in zip(answers, references, strict=True)])


def _shared_words(answer: str, reference: str) -> float:
    given, wanted = Counter(words_of_text(answer)), Counter(words_of_text(reference))
    if not given or not wanted:
        return float(given == wanted)
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def regex_table(pattern: str) -> Callable[[Texts, Texts], Table]:
    """1 where `pattern` is found in the answer; needs no references. Raises `UsageError` for what is no pattern.

    So does the table for a pattern that takes too long on an answer: such ones may try more ways than there is time for.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"The pattern {pattern!r} is no regular expression of Python: {error}.", next_step="Mend the pattern."
        ) from None
    return lambda answers, references: mean_of([_found(pattern, answer) for answer in answers])


def _found(pattern: str, answer: str) -> bool:
    # Python's own cannot be ended; this one comes with Transformers.
    import regex  # type: ignore[import-untyped]

    try:
        return regex.search(pattern, answer, timeout=_PATTERN_SECONDS) is not None
    except (TimeoutError, regex.error) as error:
        raise UsageError(
            f"The pattern {pattern!r} cannot be looked for in the answer {answer[:80]!r}: {error}.",
            next_step="Mend the pattern; repeats within repeats, such as (a|aa)+, take for ever. What was measured is kept.",
        ) from None


def rouge_table(kind: str) -> Callable[[Texts, Texts], Table]:
    """Mean F-measure of ROUGE (Lin 2004) over rows; `kind` is rouge1, rouge2 or rougeL. No stemming, words of any script."""

    def table(answers: Texts, references: Texts) -> Table:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=_Words())
        pairs = zip(answers, references, strict=True)
        return mean_of([scorer.score(reference, answer)[kind].fmeasure for answer, reference in pairs])

    return table


class _Words:
    """The splitter that ROUGE is given."""

    def tokenize(self, text: str) -> list[str]:
        return words_of_text(text)


def bleu_table(answers: Texts, references: Texts) -> Table:
    """BLEU of the whole corpus by sacreBLEU (Post 2018), 0 to 1; Chinese and Japanese are taken letter by letter."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize=_splitter(references), smooth_method="exp")
    scores = [bleu.corpus_score([a], [[r]]) for a, r in zip(answers, references, strict=True)]
    rows = [[*map(float, (*s.counts, *s.totals, s.sys_len, s.ref_len))] for s in scores]

    def one(sums: Any) -> float:
        counts, totals = sums[:_NGRAMS].astype(int).tolist(), sums[_NGRAMS : 2 * _NGRAMS].astype(int).tolist()
        return float(BLEU.compute_bleu(counts, totals, int(sums[-2]), int(sums[-1]), smooth_method="exp").score) / 100

    def score(sums: Sums) -> Sums:
        import numpy as np

        return np.array([one(row) for row in sums])

    return rows, score


def _splitter(references: Texts) -> str:
    """sacreBLEU's tokeniser for the script of the references."""
    letters = "".join(references)
    without_spaces = sum("\u3040" <= letter <= "\u9fff" for letter in letters)
    return "zh" if without_spaces > len(letters) / 4 else "13a"


def chrf_table(answers: Texts, references: Texts) -> Table:
    """Mean over rows of chrF2 by sacreBLEU, 0 to 1: shared runs of letters, the same for every script."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    pairs = zip(answers, references, strict=True)
    return mean_of([chrf.sentence_score(answer, [reference]).score / 100 for answer, reference in pairs])


def require_library(module: str, package: str, metric: str) -> None:
    """Raise `MissingLibraryError` unless the library that computes `metric` is installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingLibraryError(
            f"The metric {metric} is computed by {package}, which is not installed.",
            next_step=f"Run: pip install {package}",
        )
