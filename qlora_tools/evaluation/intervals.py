"""Exact figures of counts: the 95 % interval of a share, and the test of a change of yes into no on the same rows."""

from math import exp, lgamma, log, log1p

from ..results.instruments import Interval

_TAIL = 0.025
_NEGLIGIBLE = 1e-12


def exact_share(successes: int, total: int) -> Interval:
    """Clopper-Pearson interval of a share; of nothing, everything from 0 to 1 is possible."""
    low = 0.0 if successes == 0 else _solve(successes, total, at_least=True)
    high = 1.0 if successes == total else _solve(successes, total, at_least=False)
    return Interval(low=low, high=high)


def exact_paired_p(lost: int, gained: int) -> float:
    """Two-sided exact McNemar test: how likely so uneven a change is where gaining and losing are equally likely."""
    changed = lost + gained
    return min(1.0, 2 * _tail(min(lost, gained), changed, 0.5, at_least=False))


def _solve(successes: int, total: int, *, at_least: bool) -> float:
    """The share at which so many successes, or more (`at_least`), or fewer, become as rare as 2.5 %."""
    found = successes / total
    low, high = (0.0, found) if at_least else (found, 1.0)
    for _ in range(50):
        middle = (low + high) / 2
        rare = _tail(successes, total, middle, at_least=at_least) < _TAIL
        low, high = (middle, high) if rare == at_least else (low, middle)
    return (low + high) / 2


def _tail(successes: int, total: int, share: float, *, at_least: bool) -> float:
    """How likely so many successes are, and those further from what `share` lets expect; each is rarer than the last."""
    # Through logarithms, since the number of ways to choose them overflows a float.
    ways = lgamma(total + 1) - lgamma(successes + 1) - lgamma(total - successes + 1)
    term = exp(ways + successes * log(share) + (total - successes) * log1p(-share))
    odds, count, summed = share / (1 - share), successes, 0.0
    while term > _NEGLIGIBLE * summed:
        summed += term
        term *= (total - count) / (count + 1) * odds if at_least else count / (total - count + 1) / odds
        count += 1 if at_least else -1
    return summed
