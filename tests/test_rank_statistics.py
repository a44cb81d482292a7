"""ntps.rank_statistics: against scipy on the data itself, and for calibration in simulation."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from ntps.evaluation import correlation as rs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def correlated(rng, n, rho):
    x, noise = rng.normal(size=(2, n))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def true_spearman(rho):
    """Of two normal variables with that correlation."""
    return 6 / math.pi * math.asin(rho / 2)


def test_weighted_spearman_is_scipys_on_the_copied_units(rng):
    x, y = rng.integers(0, 5, (3, 9)).astype(float), rng.integers(0, 5, 9).astype(float)
    drawn = rs.resamples(9, 20, 1)
    found = rs.spearman(x, y, drawn)
    for row, w in zip(found, drawn):
        copies = np.repeat(np.arange(9), w.astype(int))
        wanted = [spearmanr(v[copies], y[copies])[0] for v in x]
        assert row == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_constant_variables_have_no_correlation():
    assert np.isnan(rs.spearman(np.ones((1, 5)), np.arange(5.0))).all()
    assert np.isnan(rs.spearman(np.arange(5.0)[None], np.ones(5))).all()
    assert math.isnan(rs.partial(np.arange(5.0), np.arange(5.0)[::-1], np.ones(5))[0])


def test_partial_is_the_correlation_of_what_the_ranks_of_z_leave(rng):
    x, y, z = rng.normal(size=(3, 12))
    y, x = y + z, x + z

    def left(v):
        design = np.stack([np.ones(12), rankdata(z)], 1)
        r = rankdata(v)
        return r - design @ np.linalg.lstsq(design, r)[0]

    assert rs.partial(x, y, z)[0] == pytest.approx(np.corrcoef(left(x), left(y))[0, 1])
    assert math.isnan(rs.partial(x, y, x)[0])


def test_all_orders_are_taken_where_they_are_few():
    few = rs.orders(4, 500, 0)
    assert {tuple(row) for row in few} == set(permutations(range(4)))
    assert few[0].tolist() == [0, 1, 2, 3]
    many = rs.orders(8, 500, 0)
    assert len(many) == 501 and many[0].tolist() == list(range(8))
    assert (np.sort(many, 1) == np.arange(8)).all()


def test_exact_p_values_are_uniform_on_their_grid(rng):
    x = rng.normal(size=(1, 5))
    everything = rs.spearman(x, np.arange(5.0)[rs.orders(5, 500, 0)])[:, 0]
    p = np.sort([rs.p_value(rho, everything) for rho in everything])
    # P(p <= a) <= a at every value that p takes, and with equality: the p of the k smallest is the share of them.
    assert all((p <= a + 1e-12).mean() == pytest.approx(a) for a in p)


def test_p_counts_the_undefined_as_reaching_and_is_never_zero():
    assert rs.p_value(1.0, np.array([1.0, 0.0, 0.5, math.nan])) == 0.5
    assert math.isnan(rs.p_value(math.nan, np.zeros(3)))


def test_drawn_p_values_are_uniform_under_the_null(rng):
    p = []
    for trial in range(400):
        x, y = rng.normal(size=(2, 8))
        null = rs.spearman(x[None], y[rs.orders(8, 99, trial)])[:, 0]
        p.append(rs.p_value(float(null[0]), null))
    for a in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(np.array(p) <= a) == pytest.approx(a, abs=2.6 * math.sqrt(a * (1 - a) / 400))


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize("rho", [0, 0.5, 0.8])
def test_percentile_intervals_cover(rng, n, rho):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, n, rho)
        observed = float(rs.spearman(x[None], y)[0, 0])
        low, high = rs.percentile_interval(
            observed, rs.spearman(x[None], y, rs.resamples(n, 200, trial))[:, 0], n
        )
        hits.append(low <= true_spearman(rho) <= high)
    assert 0.85 - 0.03 <= np.mean(hits) <= 0.95 + 0.02  # the simulation's own error: 2 x 0.015


def test_intervals_of_differences_cover(rng):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, 12, 0.7)
        other = 0.3 * y + math.sqrt(1 - 0.3**2) * rng.normal(size=12)
        both = rs.spearman(np.stack([x, other]), y, rs.resamples(12, 200, trial))
        observed = rs.spearman(np.stack([x, other]), y)[0]
        low, high = rs.percentile_interval(float(observed[0] - observed[1]), both[:, 0] - both[:, 1], 12)
        hits.append(low <= true_spearman(0.7) - true_spearman(0.3) <= high)
    assert 0.83 <= np.mean(hits) <= 0.97


def test_partial_intervals_cover(rng):
    hits = []
    for trial in range(400):  # x and y share z and nothing else
        x, y, z = rng.normal(size=(3, 12))
        x, y = x + z, y + z
        drawn = rs.partial(x, y, z, rs.resamples(12, 200, trial))
        low, high = rs.percentile_interval(float(rs.partial(x, y, z)[0]), drawn, 11)
        hits.append(low <= 0.02 <= high)  # rank correlations leave a little of what z explains
    assert 0.83 <= np.mean(hits) <= 0.97


def test_swap_p_values_are_uniform_when_two_scores_are_alike(rng):
    p = []
    for _ in range(400):
        y = rng.normal(size=8)
        p.append(rs.swap_p_value(y + rng.normal(size=8), y + rng.normal(size=8), y))
    for a in (0.1, 0.25, 0.5):
        assert np.mean(np.array(p) <= a) == pytest.approx(a, abs=2.6 * math.sqrt(a * (1 - a) / 400))
    y = np.arange(12.0)
    assert rs.swap_p_value(y, rng.normal(size=12), y) < 0.1
    assert math.isnan(rs.swap_p_value(y, np.ones(12), y))


def test_a_perfect_order_of_few_is_not_certain():
    y = np.arange(8.0)
    low, high = rs.percentile_interval(1.0, rs.spearman(y[None], y, rs.resamples(8, 200, 0))[:, 0], 8)
    assert 0.3 < low < 0.95 and high == 1
    low, high = rs.percentile_interval(-1.0, rs.spearman(-y[None], y, rs.resamples(8, 200, 0))[:, 0], 8)
    assert low == -1 and -0.95 < high < -0.3


@pytest.mark.parametrize(
    ("interval", "least"),
    [
        (rs.percentile_interval, 6),
        (lambda rho, drawn, n: rs.z_interval(rho, drawn, n, drawn - 0.5), 7),
        (lambda rho, drawn, n: rs.difference_interval(rho, drawn, n, drawn - 0.5, drawn, 0.5), 7),
    ],
)
def test_too_few_units_have_no_interval(interval, least):
    assert all(map(math.isnan, interval(0.5, np.linspace(0, 1, 50), least - 1)))
    assert all(map(math.isnan, interval(math.nan, np.linspace(0, 1, 50), least)))
    low, high = interval(0.5, np.linspace(0, 1, 50), least)
    assert low < 0.5 < high


def test_width_of_a_difference_after_a_choice():
    """In deviations: resamples', part of the way to a smaller jackknife's, or permutations' if that is smaller."""

    def reach(n: int, drawn: float, null: float, left: float, strength: float) -> float:
        # of deviation 1; the jackknife's is sqrt(n - 1) times that of its figures
        even = np.tile([-1.0, 1.0], 30)
        figures = drawn * even, n, null * even, left * even / math.sqrt(n - 1)
        low, high = rs.difference_interval(0.0, *figures, strength)
        assert high == -low
        return high / 1.6448536

    assert reach(7, 0.4, 0.9, 0.1, 1) == pytest.approx(0.4)
    assert reach(9, 0.4, 0.9, 0.1, 1) == pytest.approx(0.4 ** (1 / 3) * 0.1 ** (2 / 3))
    assert reach(16, 0.4, 0.9, 0.1, 1) == pytest.approx(0.1)
    assert reach(16, 0.4, 0.9, 0.1, 0.5**0.25) == pytest.approx(0.2)
    assert reach(16, 0.4, 0.9, 0.1, -0.9) == reach(16, 0.4, 0.9, 0.8, 1) == pytest.approx(0.4)
    assert reach(16, 0.4, 0.3, 0.8, 1) == pytest.approx(0.3)


def test_no_variables_have_no_correlations():
    y = np.arange(6.0)
    assert rs.spearman(np.empty((0, 6)), y).shape == (1, 0)
    assert rs.spearman(np.empty((0, 6)), y, rs.resamples(6, 9, 0)).shape == (9, 0)
