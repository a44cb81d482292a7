"""ntps.evaluation.correlation: against scipy and brute force, and for calibration in simulation."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata, spearmanr

from ntps.evaluation import correlation as rs
from ntps.evaluation.correlation import Draws


def interval(x, y, seed=0, count=1000):
    ends = Draws(20, count, seed).interval(lambda at: rs.spearman(x[at], y[at]), len(x))
    return tuple(map(float, ends))


def permuted(x, y, permutations=500, seed=0):
    """Of scores x, (m, n) or (n,)."""
    return Draws(permutations, seed=seed).permuted(rs.ordered([(np.atleast_2d(x), y)]), len(y))


def p_value(x, y, permutations=500, seed=0):
    return float(permuted(x, y, permutations, seed).p[0])


def two_sided(null, observed):
    """Twice the smaller share of the null on one side."""
    null = np.array(null)
    return min(1, 2 * min(np.mean(null >= observed - 1e-9), np.mean(null <= observed + 1e-9)))


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
def test_p_of_few_groups_is_the_two_sided_share_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, (2, 5)).astype(float)
    rho = [spearmanr(x, order)[0] for order in permutations(y)]
    assert p_value(x, y) == pytest.approx(two_sided(rho, rho[0]))
    assert p_value(x, -y) == pytest.approx(p_value(x, y))


def test_exact_p_values_are_uniform_on_their_grid(rng):
    x = rng.normal(size=5)
    p = np.sort([p_value(x, np.array(order, float)) for order in permutations(range(5))])
    # P(p <= a) <= a at every value that p takes below 1, and with equality: the p of the k smallest is the share of them.
    assert all((p <= a + 1e-12).mean() == pytest.approx(a) for a in p[p < 1])


def test_p_counts_the_undefined_as_reaching_and_is_never_zero():
    def statistic(at):  # observed 1; undefined where group 0 is not the first
        return np.where(at[..., [0]] == 0, 1.0, math.nan)

    assert Draws(500).permuted(statistic, 4).p == 1
    assert math.isnan(Draws(500).permuted(lambda at: statistic(at) * math.nan, 4).p[0])
    assert math.isnan(p_value(np.ones(1), np.ones(1)))
    assert math.isnan(p_value(np.ones(6), np.arange(6.0)))
    assert p_value(np.arange(9.0), np.arange(9.0), permutations=50) == pytest.approx(2 / 51)


def test_drawn_p_values_are_uniform_under_the_null(rng):
    p = np.array([p_value(*rng.normal(size=(2, 8)), permutations=99, seed=trial) for trial in range(400)])
    for a in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.mean(p <= a) == pytest.approx(a, abs=2.6 * math.sqrt(a * (1 - a) / 400))


def test_swapped_scores_are_tested_by_all_their_exchanges(rng):
    x, other, y = rng.permuted(np.tile(np.arange(6.0), (3, 1)), axis=1)
    null = []
    for swap in product([False, True], repeat=6):
        own, its = np.where(swap, other, x), np.where(swap, x, other)
        null.append(np.corrcoef(own, y)[0, 1] - np.corrcoef(its, y)[0, 1])
    found = Draws(500).swapped([(np.stack([10 * x, -np.exp(-other)]), y)])  # of any unit
    assert found.exact and found.p[0] == pytest.approx(two_sided(null, null[0]))
    same = Draws(500).swapped([(np.stack([x, x]), y)])
    assert same.p[0] == 1 and math.isnan(same.critical[0])


def test_swapped_scores_of_equal_worth_differ_as_often_as_alpha(rng):
    p = []
    for trial in range(300):
        y = rng.normal(size=12)
        x = 0.7 * y + 0.7 * rng.normal(size=(2, 12))
        p.append(Draws(500, seed=trial).swapped([(x, y)]).p[0])
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=2.6 * math.sqrt(0.09 / 300))


# --- families ------------------------------------------------------------------------------------------------------


def closed(p):
    """Adjusted p of each test: the largest Bonferroni p of the families that hold it (closed testing)."""
    sets = [s for size in range(1, len(p) + 1) for s in combinations(range(len(p)), size)]
    return [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]


@pytest.mark.parametrize("seed", range(8))
def test_holm_is_the_closed_test(seed):
    p = np.random.default_rng(seed).uniform(size=1 + seed) ** 3
    p[: seed // 3] = p[-1]  # equal ones
    assert rs.holm(p) == pytest.approx(closed(p))
    assert rs.holm(np.insert(p, 0, math.nan))[1:] == pytest.approx(closed(p))
    assert math.isnan(rs.holm(np.insert(p, 0, math.nan))[0])


@pytest.mark.parametrize(
    ("n", "m", "least"), [(5, 1, 1.0), (5, 4, math.nan), (6, 1, 0.8857), (6, 18, 1), (6, 19, math.nan)]
)
def test_the_critical_correlation_is_the_smallest_that_is_significant_after_holm(n, m, least):
    y = np.arange(float(n))  # two-sided: 2 / 5! = .017, .05 / 4 = .0125; 2 / 6! = .0028 = .05 / 18
    family = permuted(np.tile(y, (m, 1)), y, permutations=1000)
    assert family.critical == pytest.approx([least] * m, abs=1e-4, nan_ok=True)
    assert (family.holm[0] <= rs.ALPHA) == (not math.isnan(least))


def test_a_drawn_critical_correlation_is_the_first_with_a_significant_p(rng):
    x, y = rng.normal(size=(2, 9))
    family = permuted(np.stack([x] * 3), y, permutations=2000)
    null, least = family.null[:, 0], family.critical[0]
    for value, significant in ((least, True), (null[null < least].max(), False)):
        p = 2 * (1 + (null >= value).sum()) / 2001
        assert (p <= rs.ALPHA / 3) == significant


@pytest.mark.parametrize("shared", [0, 0.9])
def test_under_the_null_a_family_errs_as_often_as_alpha(rng, shared):
    """Thirteen scores, unrelated or alike, of eleven groups: some verdict in at most 5 % of the simulations."""
    wrong = []
    for trial in range(400):
        y, common, own = rng.normal(size=11), rng.normal(size=11), rng.normal(size=(13, 11))
        family = permuted(shared * common + math.sqrt(1 - shared**2) * own, y, permutations=2000, seed=trial)
        wrong.append((family.holm <= rs.ALPHA).any())
    assert np.mean(wrong) <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean(wrong) > (0.01 if shared == 0 else 0)  # Holm of unrelated scores wastes little


@pytest.mark.parametrize(
    ("value", "p", "critical", "ends", "reliability", "shown"),
    [
        (0.9, 0.05, 0.8, (0.3, 1), math.nan, "holds"),
        (0.9, 0.05, 0.8, (math.nan, math.nan), math.nan, "holds"),
        (-0.9, 0.01, 0.8, (-1, -0.3), 0.3, "reversed"),
        (0.9, 0.01, 0.8, (-0.1, 1), math.nan, "not significant"),
        (0.5, 0.06, 0.8, (0.3, 1), 0.65, "not significant"),  # sqrt(.65) = .806
        (0.5, 0.06, 0.8, (0.3, 1), 0.63, "not measurable: reliability 0.63"),
        (0.5, 0.06, 0.8, (0.3, 1), -0.2, "not measurable: reliability -0.20"),
        (0.5, 0.06, math.nan, (0.3, 1), 0.9, "not measurable: 11 groups"),
        (math.nan, math.nan, math.nan, (math.nan, math.nan), math.nan, "not measurable: undefined"),
    ],
)  # fmt: skip
def test_a_verdict_takes_p_and_interval_and_says_what_cannot_be_measured(
    value, p, critical, ends, reliability, shown
):
    assert rs.verdict(11, value, p, critical, *ends, reliability) == shown


# --- intervals -----------------------------------------------------------------------------------------------------


def test_intervals_are_scipys_paired_bca_bootstrap(rng):
    x, y = correlated(rng, 15, 0.6)
    scipys = bootstrap(
        (x, y), rs_along_axis, paired=True, method="BCa", confidence_level=0.9, n_resamples=20_000, rng=1
    ).confidence_interval
    assert interval(x, y, count=20_000) == pytest.approx(scipys, abs=0.02)


def rs_along_axis(x, y, axis):
    return rs.spearman(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1))


def test_a_stack_of_statistics_is_each_alone(rng):
    x, y = rng.normal(size=(3, 9)), rng.normal(size=9)
    ends = Draws(resamples=500, seed=0).interval(rs.mean_rho([(x, y)]), 9)
    assert np.transpose(ends) == pytest.approx(np.array([interval(own, y, count=500) for own in x]))


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize("rho", [0, 0.5, 0.8])
def test_intervals_cover(rng, n, rho):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, n, rho)
        low, high = interval(x, y, trial)
        hits += [] if math.isnan(low) else [low <= true_spearman(rho) <= high]
    assert np.mean(hits) >= 0.85 - 0.03  # the simulation's own error: 2 x 0.015
    assert n == 6 or np.mean(hits) <= 0.95 + 0.02  # six groups have few samples: wide
    assert len(hits) >= 370


def test_intervals_of_differences_cover(rng):
    hits = []
    for trial in range(400):
        x, y = correlated(rng, 12, 0.7)
        other = 0.3 * y + math.sqrt(1 - 0.3**2) * rng.normal(size=12)
        difference = lambda at: rs.spearman(x[at], y[at]) - rs.spearman(other[at], y[at])  # noqa: B023, E731
        low, high = Draws(20, 1000, trial).interval(difference, 12)
        hits.append(low <= true_spearman(0.7) - true_spearman(0.3) <= high)
    assert 0.83 <= np.mean(hits) <= 0.97


def test_partial_intervals_cover(rng):
    hits = []
    for trial in range(400):  # x and y share z and nothing else
        x, y, z = rng.normal(size=(3, 12))
        x, y = x + z, y + z
        low, high = Draws(20, 1000, trial).interval(lambda at: rs.partial(x[at], y[at], z[at]), 12, held=1)  # noqa: B023
        hits.append(low <= 0.02 <= high)  # rank correlations leave a little of what z explains
    assert 0.83 <= np.mean(hits) <= 0.97


def test_a_perfect_order_has_no_interval():
    y = np.arange(8.0)
    assert all(map(math.isnan, interval(y, y))) and all(map(math.isnan, interval(-y, y)))
    nearly = y.copy()
    nearly[[3, 4]] = nearly[[4, 3]]
    low, high = interval(nearly, y)
    assert low < 0.95 and high == 1


def test_a_statistic_that_many_samples_leave_undefined_has_no_interval(rng):
    """Given z of two values, one of them once: a third of the samples have one value alone."""
    x, y = rng.normal(size=(2, 12))
    z = np.array([1.0] + [0.0] * 11)

    def given(at):
        return rs.partial(x[at], y[at], z[at])

    assert math.isfinite(given(np.arange(12)))
    assert all(map(math.isnan, Draws(20, 1000, 0).interval(given, 12, held=1)))


def test_too_few_groups_and_the_undefined_have_no_interval(rng):
    x, y = rng.normal(size=(2, 6))
    assert all(map(math.isnan, interval(x[:5], y[:5])))
    assert all(map(math.isnan, interval(np.ones(6), y)))
    held = Draws(resamples=500).interval(lambda at: rs.spearman(x[at], y[at]), 6, held=1)
    assert np.isnan(held).all()
    low, high = interval(x, y)  # some of its samples are of one group, and constant
    assert low < high
