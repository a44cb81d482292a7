"""How often the intervals of ntps.selection hold the true correlation, and how often a family of scores errs.

    python -m benchmarks.interval_coverage
    python -m benchmarks.interval_coverage --groups 8 --trials 2000

Normal variables of a known Spearman correlation, 6 / pi asin(r / 2), on as many groups of data sets; thirteen unrelated scores for the
share of families with a verdict after Holm's correction (at most .05). An interval that is undefined (a perfect order) is left out.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

from ntps.evaluation.correlation import ALPHA, LEVEL, Draws, ordered, spearman
from ntps.run import cli


def run(groups: Sequence[int] = (12, 24), trials: int = 400, draws: int = 2000) -> int:
    """Print coverage and mean width of the intervals, and the error rate of families.

    Args:
        groups: numbers of groups
        trials: simulations of each
        draws: bootstrap samples and permutations of each
    """
    for n in groups:
        rng = np.random.default_rng(0)
        for r in (0, 0.5, 0.8, 0.95):
            truth, ends = 6 / math.pi * math.asin(r / 2), []
            for trial in range(trials):
                x, noise = rng.normal(size=(2, n))
                y = r * x + math.sqrt(1 - r**2) * noise
                ends.append(Draws(draws, draws, trial).interval(lambda at: spearman(x[at], y[at]), n))  # noqa: B023
            low, high = np.array(ends).T[:, np.isfinite(np.array(ends)).all(1)]
            print(
                f"{n} groups, correlation {truth:.2f}: {np.mean((low <= truth) & (truth <= high)):.1%} of {LEVEL:.0%} "
                f"intervals hold it, mean width {np.mean(high - low):.2f}, {trials - len(low)} undefined"
            )
        wrong = []
        for trial in range(trials):
            pair = rng.normal(size=(13, n)), rng.normal(size=n)
            wrong.append((Draws(draws, seed=trial).permuted(ordered([pair]), n).holm <= ALPHA).any())
        print(
            f"{n} groups, thirteen scores of no worth: a verdict in {np.mean(wrong):.1%} of the simulations"
        )
    return 0


def main() -> int:
    return cli.run(run)


if __name__ == "__main__":
    sys.exit(main())
