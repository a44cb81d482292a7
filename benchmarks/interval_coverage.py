"""How often 90 % intervals of a held-out correlation cover what the choice is worth on average.

    python benchmarks/interval_coverage.py               # some minutes
    python benchmarks/interval_coverage.py --trials 60

n units, a target, and candidates that correlate with it at a given strength; the best candidate is chosen as
ntps.choosing does. Each line: the mean held-out correlation, and the share of intervals that hold it, for the width taken
from resamples alone, from permutations alone, and from both (ntps.rank_statistics.z_interval).
"""

import argparse
import math
from itertools import product

import numpy as np

from ntps.choosing import judge
from ntps.rank_statistics import Array, orders, resamples, z_interval

DRAWS = 80


def intervals(draw: np.random.Generator, n: int, candidates: int, strength: float, trial: int) -> list[Array]:
    """The observed value and its three intervals."""
    y, noise = draw.normal(size=n), draw.normal(size=(candidates, n))
    values, kinds, once = (
        strength * y + math.sqrt(1 - strength**2) * noise,
        [(0, candidates)],
        np.ones((1, n)),
    )
    found, drawn, null = (
        judge(values, kinds, targets, weights).heldout[:, 0]
        for targets, weights in (
            (y[None], once), (y[None], resamples(n, DRAWS, trial)), (y[orders(n, DRAWS, trial)], once)
        )
    )  # fmt: skip
    observed = float(found[0])
    pairs = (drawn, drawn), (null, null), (drawn, null)
    return [np.array([observed, *z_interval(observed, first, n, second)]) for first, second in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=250)
    trials = parser.parse_args().trials
    print("  n  candidates  strength   mean   resamples  permutations  both")
    for n, candidates, strength in product((7, 11, 16), (20, 200), (0, 0.3, 0.6, 0.9)):
        draw = np.random.default_rng(5)
        found = np.array([intervals(draw, n, candidates, strength, trial) for trial in range(trials)])
        truth = np.nanmean(found[:, 0, 0])
        covered = ((found[..., 1] <= truth) & (truth <= found[..., 2])).mean(0)
        shares = "".join(f"{share:12.2f}" for share in covered)
        print(f"{n:3}  {candidates:10}  {strength:8}  {truth:5.2f}{shares}", flush=True)


if __name__ == "__main__":
    main()
