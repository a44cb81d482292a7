"""How often 90 % intervals after a choice cover what they should: the held-out correlation's, the gap's, a difference's.

    python -m benchmarks.interval_coverage               # half an hour
    python -m benchmarks.interval_coverage --trials 60

n units, a target, and candidates that correlate with it at a given strength; the best candidate is chosen as
ntps.choosing does. Each line: the mean held-out correlation, and the share of intervals that hold it, for the width taken
from resamples alone, from permutations alone, and from both (ntps.rank_statistics.z_interval). Then the same shares for the
correlation on itself minus the held-out one (gap), and for two kinds of candidates, the second of half the strength, each
chosen by itself (difference), with widths of resamples alone and of both (difference_interval).
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from ntps.choosing import judge
from ntps.rank_statistics import Array, difference_interval, orders, resamples, z_interval

DRAWS = 80


def intervals(draw: np.random.Generator, n: int, candidates: int, strength: float, trial: int) -> list[Array]:
    """Observed value and interval, (3,) each: three of the held-out correlation, two of the gap, two of the difference."""
    y, noise = draw.normal(size=n), draw.normal(size=(2 * candidates, n))
    strengths = np.repeat([strength, strength / 2], candidates)[:, None]
    values = strengths * y + np.sqrt(1 - strengths**2) * noise
    kinds, once = [(0, candidates), (candidates, 2 * candidates)], np.ones((1, n))
    found, drawn, null = (
        judge(values, kinds, targets, weights)
        for targets, weights in (
            (y[None], once), (y[None], resamples(n, DRAWS, trial)), (y[orders(n, DRAWS, trial)], once)
        )
    )  # fmt: skip
    runs = (found, drawn, null)
    held = [one.heldout[:, 0] for one in runs]
    gap = [one.itself[:, 0] - one.heldout[:, 0] for one in runs]
    apart = [one.heldout[:, 0] - one.heldout[:, 1] for one in runs]

    def row(
        interval: Callable[..., tuple[float, float]], figures: Sequence[Array], one: int, two: int
    ) -> Array:
        observed = float(figures[0][0])
        return np.array([observed, *interval(observed, figures[one], n, figures[two])])

    three = [row(z_interval, held, *pair) for pair in ((1, 1), (2, 2), (1, 2))]
    return three + [row(difference_interval, figures, 1, two) for figures in (gap, apart) for two in (1, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=250)
    trials = parser.parse_args().trials
    print("                            held out:                             gap:              difference:")
    print(
        "  n  candidates  strength   mean   resamples permutations both    resamples   both  resamples   both"
    )
    for n, candidates, strength in product((7, 11, 16), (20, 200), (0, 0.3, 0.6, 0.9)):
        draw = np.random.default_rng(5)
        found = np.array([intervals(draw, n, candidates, strength, trial) for trial in range(trials)])
        truth = np.nanmean(found[..., 0], axis=0)
        covered = ((found[..., 1] <= truth) & (truth <= found[..., 2])).mean(0)
        shares = "".join(f"{share:10.2f}" for share in covered)
        print(f"{n:3}  {candidates:10}  {strength:8}  {truth[0]:5.2f}{shares}", flush=True)


if __name__ == "__main__":
    main()
