"""Successive halving over rows: all candidates on few rows, those clearly behind dropped, the others on twice as many.

The schedule is that of Jamieson and Talwalkar 2016; as in Hoeffding races (Maron and Moore 1994) a test decides who is dropped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ntps.errors import UserError

ERROR_RATE = 0.05  # of races in which the best candidate is dropped as significantly behind, at most


@dataclass(frozen=True)
class Dropped:
    """After which round a candidate was dropped, and how far it was behind the leader of that round, with its standard error."""

    round: int
    leader: str
    behind: float
    error: float
    significant: bool  # or else the budget was spent


def schedule(parts: int) -> list[int]:
    """Parts of the rows that candidates have seen after each round: half as many before, rounded up; 1, 2, 4, 8 of 8."""
    return [1] if parts == 1 else [*schedule(-(-parts // 2)), parts]


def race(
    names: Sequence[str], parts: int, budget: float, measure: Callable[[str, range], np.ndarray | None]
) -> dict[str, Dropped]:
    """The candidates that were dropped before they had seen all parts of the rows.

    measure(name, new): a candidate's passes over new parts, and its loss (n,) on each held-out row of all parts so far; None
    if it fails, which ends its race. budget: passes over all parts, of all candidates together.

    Paired over rows: a candidate is dropped where mean(loss - leader's) > t sem, that is where its one-sided t interval excludes
    0, at ERROR_RATE / ((K - 1) (R - 1)) for K candidates and R rounds (Bonferroni). All pairs of the best candidate are among
    these tests, so it does not matter that the same rows chose the leader. If the budget does not suffice to take all to the next
    round, and one to the end, only so many of the first go on as it takes to the end. UserError for less than a first round.
    """
    rounds = schedule(parts)
    level = ERROR_RATE / max(1, (len(names) - 1) * (len(rounds) - 1))
    if (needed := (len(names) - 1) * rounds[0] / parts + 1) > budget:
        raise UserError(f"a first round of {len(names)} models on 1/{parts} of the rows, and one model on all, take {needed:.1f} "
                        f"passes over all rows, the budget is {budget:g}: raise --budget, or --partitions up to half of the test rows")  # fmt: skip
    left, done, alive, dropped = budget * parts, 0, list(names), dict[str, Dropped]()
    for number, now in enumerate(rounds, 1):
        measured = {name: measure(name, range(done, now)) for name in alive}
        losses = {name: loss for name, loss in measured.items() if loss is not None}
        left, done = left - len(losses) * (now - done), now
        if done == parts or not losses:
            break
        leader, behind = paired(losses, number, level)
        alive = [leader, *(name for name, gap in behind.items() if not gap.significant)]
        if len(alive) * (rounds[number] - done) + parts - rounds[number] > left:
            # one can: the budget was checked, but for rounding
            alive = alive[: max(1, int(left // (parts - done)))]
        dropped |= {name: gap for name, gap in behind.items() if name not in alive}
    return dropped


def paired(losses: dict[str, np.ndarray], number: int, level: float) -> tuple[str, dict[str, Dropped]]:
    """The leader of a round, and what to say of each other, the nearest first, if it is dropped now."""
    leader, *others = sorted(losses, key=lambda name: losses[name].mean())
    n, found = len(losses[leader]), dict[str, Dropped]()
    far = float(t.isf(level, n - 1))
    for name in others:
        gaps = losses[name] - losses[leader]
        behind, error = float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(n))
        found[name] = Dropped(number, leader, behind, error, behind > far * error)
    return leader, found
