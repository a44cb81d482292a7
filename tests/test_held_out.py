"""ntps.evaluation.held_out: against the choice written out, and on noise, where choosing must not look like knowing."""

import math
import time
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ntps.evaluation.correlation import Draws
from ntps.evaluation.held_out import judge


def rho(values, target):
    with np.errstate(all="ignore"):
        found = spearmanr(values, target)[0] if len(set(values)) > 1 and len(set(target)) > 1 else math.nan
    return -2.0 if math.isnan(found) else round(float(found), 9)


def written_out(values, y):
    """The candidates chosen without each group, the shares of the others below it, and their correlation with y."""
    groups, fold, share = range(len(y)), [], []
    for i in groups:
        others = [j for j in groups if j != i]
        fold.append(
            max(range(len(values)), key=lambda c: rho(values[c, others], y[others]))
        )  # first of equals
        own = values[fold[-1]]
        share.append(np.mean([(own[j] < own[i]) + 0.5 * (own[j] == own[i]) for j in others]))
    return fold, share, rho(share, y)


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_one_written_out(seed):
    rng = np.random.default_rng(seed)
    n = 5 + seed % 3
    values, y = rng.integers(0, 9, (9, n)).astype(float), rng.integers(0, 9, n).astype(float)
    found, (fold, share, heldout) = judge(values, y), written_out(values, y)
    assert found.fold.tolist() == fold and found.share == pytest.approx(share)
    assert found.heldout == pytest.approx(heldout)
    every = [rho(row, y) for row in values]
    assert found.itself == pytest.approx(max(every)) and found.chosen == int(np.argmax(every))


def test_a_stack_of_targets_is_each_alone():
    rng = np.random.default_rng(6)
    values, targets = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    together = judge(values, targets)
    for b in (0, 55):
        alone = judge(values, targets[b])
        assert together.heldout[b] == pytest.approx(alone.heldout)
        assert together.itself[b] == pytest.approx(alone.itself)
        assert (together.fold[b] == alone.fold).all() and together.chosen[b] == alone.chosen


def test_on_noise_the_best_of_many_looks_good_on_itself_and_is_nothing_held_out():
    rng = np.random.default_rng(7)
    judged = [judge(rng.normal(size=(120, 10)), rng.normal(size=(25, 10))) for _ in range(20)]
    itself, heldout = (np.concatenate([getattr(j, name) for j in judged]) for name in ("itself", "heldout"))
    assert (itself > 0.55).mean() > 0.9 and itself.mean() > 0.7
    assert abs(heldout.mean()) < 0.07  # 3 standard errors of 500 draws


def test_p_values_of_the_whole_search_are_uniform_on_noise():
    rng = np.random.default_rng(8)
    p = []
    for trial in range(200):
        values, y = rng.normal(size=(20, 9)), rng.normal(size=9)  # of 6, best correlations tie often

        def both(at, values=values, y=y):
            judged = judge(values, y[at])
            return np.stack([judged.itself, judged.heldout], -1)

        p.append(Draws(79, seed=trial).permuted(both, 9).p)
    for a in (0.1, 0.25, 0.5, 0.75):
        share = (np.array(p) <= a).mean(0)
        assert share == pytest.approx([a] * 2, abs=3 * math.sqrt(a * (1 - a) / 200))


def test_p_of_few_groups_repeats_the_whole_choice_in_every_permutation():
    rng = np.random.default_rng(12)
    values, y = rng.normal(size=(4, 5)), rng.normal(size=5)
    null = [written_out(values, np.array(order))[2] for order in permutations(y)]
    p = Draws(500).permuted(lambda at: judge(values, y[at]).heldout[..., None], 5).p
    sides = np.array(null) >= null[0] - 1e-9, np.array(null) <= null[0] + 1e-9
    assert p == pytest.approx(min(1, 2 * min(map(np.mean, sides))))


def test_thousands_of_candidates_take_seconds():
    rng = np.random.default_rng(13)
    values, y = rng.normal(size=(3300, 12)), rng.normal(size=12)
    started = time.perf_counter()
    Draws(10_000).permuted(lambda at: judge(values, y[at]).heldout, 12)
    assert time.perf_counter() - started < 20


def test_a_strong_score_is_found_and_holds():
    rng = np.random.default_rng(10)
    y = rng.normal(size=12)
    values = np.concatenate([rng.normal(size=(30, 12)), 0.95 * y + 0.3 * rng.normal(size=(5, 12))])
    found = judge(values, y)
    assert found.heldout > 0.7 and found.chosen >= 30


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_groups_give_undefined_values_not_errors(n):
    rng = np.random.default_rng(n)
    found = judge(rng.normal(size=(6, n)), rng.normal(size=(1, n)))
    assert found.heldout.shape == (1,)
    assert np.isnan(found.itself).all() == (n < 3)
    assert np.isnan(found.heldout).all() == (n < 4)
