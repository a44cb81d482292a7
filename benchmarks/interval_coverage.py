"""How often 90 % intervals after a choice cover what they should: the held-out correlation's, the gap's, a difference's.

    python -m benchmarks.interval_coverage               # half an hour
    python -m benchmarks.interval_coverage --trials 60

n units, a target, and candidates that correlate with it at a given strength; the best candidate is chosen as
ntps.choosing does. Each line: the mean held-out correlation, and the share of intervals that hold it, for the width taken
from resamples alone, from permutations alone, and from both (ntps.rank_statistics.z_interval). Then the share of intervals
that hold the correlation on itself minus the held-out one, of the best candidate (gap) and of the best of two kinds, the
second of half the strength (gap of any), and the difference of what the two kinds are worth held out (difference_interval).
"""

import argparse
from itertools import product

import numpy as np

from ntps.evaluation.choice import judge
from ntps.evaluation.correlation import Array, difference_interval, orders, resamples, z_interval

DRAWS = 80
ANY = 2  # of ntps.choosing's procedures, after the two kinds


def intervals(draw: np.random.Generator, n: int, candidates: int, strength: float, trial: int) -> Array:
    """Observed value and interval, (3,) each: three of the held-out correlation, two gaps, and the difference."""
    y, noise = draw.normal(size=n), draw.normal(size=(2 * candidates, n))
    strengths = np.repeat([strength, strength / 2], candidates)[:, None]
    values = strengths * y + np.sqrt(1 - strengths**2) * noise
    kinds, once = [(0, candidates), (candidates, 2 * candidates)], np.ones((1, n))
    runs = [
        judge(values, kinds, targets, weights)
        for targets, weights in (
            (y[None], once), (y[None], resamples(n, DRAWS, trial)),
            (y[orders(n, DRAWS, trial)], once), (y[None], 1 - np.eye(n)),
        )
    ]  # fmt: skip
    held, drawn, null, _ = (one.heldout[:, 0] for one in runs)
    (found,) = held
    found_intervals = [
        (found, *z_interval(found, *pair)) for pair in ((drawn, n, drawn), (null, n, null), (drawn, n, null))
    ]
    heldout = runs[0].heldout[0]
    for figure, strength in (
        (lambda one: one.itself[:, 0] - one.heldout[:, 0], heldout[0]),
        (lambda one: one.itself[:, ANY] - one.heldout[:, ANY], heldout[ANY]),
        (lambda one: one.heldout[:, 0] - one.heldout[:, 1], heldout[:2].max()),
    ):
        (found,), drawn, null, left = map(figure, runs)
        found_intervals.append((found, *difference_interval(found, drawn, n, null, left, strength)))
    return np.array(found_intervals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=250)
    trials = parser.parse_args().trials
    print("                            held out:")
    print(
        "  n  candidates  strength   mean   resamples permutations both         gap  gap of any  difference"
    )
    for n, candidates, strength in product((7, 11, 16), (20, 200), (0, 0.3, 0.6, 0.9)):
        draw = np.random.default_rng(5)
        found = np.array([intervals(draw, n, candidates, strength, trial) for trial in range(trials)])
        truth = np.nanmean(found[..., 0], axis=0)
        covered = ((found[..., 1] <= truth) & (truth <= found[..., 2])).mean(0)
        shares = "".join(f"{share:11.2f}" for share in covered)
        print(f"{n:3}  {candidates:10}  {strength:8}  {truth[0]:5.2f}{shares}", flush=True)


if __name__ == "__main__":
    main()
