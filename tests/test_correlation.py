"""ntps.evaluation.correlation: against scipy and brute force, and for calibration in simulation."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata, spearmanr

from ntps.evaluation import correlation as rs
from ntps.evaluation.correlation import Draws


def interval(x, y, seed=0, count=200):
    return Draws(20, count, seed).interval(lambda at: rs.spearman(x[at], y[at]), len(x))


def p_value(x, y, permutations=500, seed=0):
    return float(Draws(permutations, seed=seed).p_value(lambda at: rs.spearman(x, y[at]), len(x)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def correlated(rng, n, rho):
    x, noise = rng.normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def true_spearman(rho):
    """Of two normal variables with that correlation."""
    return 6 / math.pi * math.asin(rho / 2)


def test_spearman_is_scipys_with_ties_and_in_stacks(rng):
    x, y = rng.integers(0, 5, (20, 3, 9)).astype(float), rng.integers(0, 5, (20, 1, 9)).astype(float)
    found = rs.spearman(x, y)
    for b in range(20):
        wanted = [spearmanr(values, y[b, 0])[0] for values in x[b]]
        assert found[b] == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_constant_variables_have_no_correlation():
    assert math.isnan(rs.spearman(np.ones(5), np.arange(5.0)))
    assert math.isnan(rs.spearman(np.arange(5.0), np.ones(5)))
    assert math.isnan(rs.partial(np.arange(5.0), np.arange(5.0)[::-1], np.ones(5)))


def test_no_variables_have_no_correlations():
    assert rs.spearman(np.empty((0, 6)), np.arange(6.0)).shape == (0,)


def test_partial_is_the_correlation_of_what_the_ranks_of_z_leave(rng):
    x, y, z = rng.normal(size=(3, 12))
    y, x = y + z, x + z

    def left(v):
        design = np.stack([np.ones(12), rankdata(z)], 1)
        r = rankdata(v)
        return r - design @ np.linalg.lstsq(design, r)[0]

    assert rs.partial(x, y, z) == pytest.approx(np.corrcoef(left(x), left(y))[0, 1])
    assert math.isnan(rs.partial(x, y, x))


# --- p-values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_p_of_few_groups_is_the_share_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, (2, 5)).astype(float)
    rho = [spearmanr(x, order)[0] for order in permutations(y)]
    assert p_value(x, y) == pytest.approx(np.mean(np.array(rho) >= rho[0] - 1e-9))


def test_exact_p_values_are_uniform_on_their_grid(rng):
    x = rng.normal(size=5)
    p = np.sort([p_value(x, np.array(order, float)) for order in permutations(range(5))])
    # P(p <= a) <= a at every value that p takes, and with equality: the p of the k smallest is the share of them.
    assert all((p <= a + 1e-12).mean() == pytest.approx(a) for a in p)


def test_p_counts_the_undefined_as_reaching_and_is_never_zero():
    def statistic(at):  # observed 1; undefined where group 0 is not the first
        return np.where(np.atleast_2d(at)[:, 0] == 0, 1.0, math.nan)

    assert Draws(500).p_value(statistic, 4) == 1
    assert math.isnan(Draws(500).p_value(lambda at: statistic(at) * math.nan, 4)[0])
    assert math.isnan(p_value(np.ones(1), np.ones(1)))
    assert p_value(np.arange(9.0), np.arange(9.0), permutations=50) == pytest.approx(1 / 51)


def test_drawn_p_values_are_uniform_under_the_null(rng):
    p = np.array([p_value(*rng.normal(size=(2, 8)), permutations=99, seed=trial) for trial in range(400)])
    for a in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(p <= a) == pytest.approx(a, abs=2.6 * math.sqrt(a * (1 - a) / 400))


# --- intervals -----------------------------------------------------------------------------------------------------


def test_every_group_is_drawn_equally_often():
    drawn = rs.resamples(7, 4000, 1)
    assert drawn.shape == (4000, 7)
    assert np.bincount(drawn.ravel()) / 28000 == pytest.approx([1 / 7] * 7, abs=0.01)
    assert np.mean([len(set(row)) for row in drawn]) == pytest.approx(7 * (1 - (6 / 7) ** 7), abs=0.05)


def test_intervals_are_scipys_paired_percentile_bootstrap(rng):
    x, y = correlated(rng, 15, 0.6)
    scipys = bootstrap(
        (x, y),
        rs_along_axis,
        paired=True,
        method="percentile",
        confidence_level=0.9,
        n_resamples=20_000,
        rng=1,
    ).confidence_interval
    assert interval(x, y, count=20_000) == pytest.approx(scipys, abs=0.02)


def rs_along_axis(x, y, axis):
    return rs.spearman(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1))


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize("rho", [0, 0.5, 0.8])
def test_percentile_intervals_cover(rng, n, rho):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, n, rho)
        low, high = interval(x, y, trial)
        hits.append(low <= true_spearman(rho) <= high)
    assert 0.85 - 0.03 <= np.mean(hits) <= 0.95 + 0.02  # the simulation's own error: 2 x 0.015


def test_intervals_of_differences_cover(rng):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, 12, 0.7)
        other = 0.3 * y + math.sqrt(1 - 0.3**2) * rng.normal(size=12)
        difference = lambda at: rs.spearman(x[at], y[at]) - rs.spearman(other[at], y[at])  # noqa: B023, E731
        low, high = Draws(20, 200, trial).interval(difference, 12)
        hits.append(low <= true_spearman(0.7) - true_spearman(0.3) <= high)
    assert 0.83 <= np.mean(hits) <= 0.97


def test_partial_intervals_cover(rng):
    hits = []
    for trial in range(400):  # x and y share z and nothing else
        x, y, z = rng.normal(size=(3, 12))
        x, y = x + z, y + z
        low, high = Draws(20, 200, trial).interval(lambda at: rs.partial(x[at], y[at], z[at]), 12, held=1)  # noqa: B023
        hits.append(low <= 0.02 <= high)  # rank correlations leave a little of what z explains
    assert 0.83 <= np.mean(hits) <= 0.97


def test_a_perfect_order_of_few_is_not_certain():
    y = np.arange(8.0)
    low, high = interval(y, y)
    assert 0.3 < low < 0.95 and high == 1
    low, high = interval(-y, y)
    assert low == -1 and -0.95 < high < -0.3


def test_too_few_groups_have_no_interval():
    assert all(map(math.isnan, rs.percentile_interval(0.5, np.linspace(0, 1, 50), 5)))
    assert all(map(math.isnan, rs.percentile_interval(math.nan, np.linspace(0, 1, 50), 6)))
    low, high = rs.percentile_interval(0.5, np.linspace(0, 1, 50), 6)
    assert low < 0.5 < high


def test_constant_bootstrap_samples_do_not_count():
    drawn = np.append(np.linspace(0, 1, 50), math.nan)
    assert rs.percentile_interval(0.5, drawn, 6) == rs.percentile_interval(0.5, drawn[:-1], 6)
