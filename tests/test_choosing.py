"""ntps.choosing: against the same procedures written out, and on noise, where choosing must not look like knowing."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from ntps.evaluation.choice import judge
from ntps.evaluation.correlation import difference_interval, orders, p_value, resamples, z_interval


def rho(values, target):
    with np.errstate(all="ignore"):
        found = spearmanr(values, target)[0] if len(set(values)) > 1 and len(set(target)) > 1 else math.nan
    return -2.0 if math.isnan(found) else round(float(found), 5)


def written_out(values, kinds, y, units):
    """Held-out correlation of each kind, any and nested on the units (with copies), all copies of one left out at once."""

    def best(rows, kept):
        return max(rows, key=lambda c: rho(values[c, kept], y[kept]))  # the first of equals

    def share(c, i, kept):
        return np.mean([(values[c, j] < values[c, i]) + 0.5 * (values[c, j] == values[c, i]) for j in kept])

    def held(rows, kept):
        return [share(best(rows, [j for j in kept if j != i]), i, [j for j in kept if j != i]) for i in kept]

    rows = [range(*kind) for kind in kinds]
    found = [rho(held(r, units), y[units]) for r in [*rows, range(len(values))]]
    nested = []
    for i in units:
        kept = [j for j in units if j != i]
        chosen = max(rows, key=lambda r: rho(held(r, kept), y[kept]))
        nested.append(share(best(chosen, kept), i, kept))
    return [*found, rho(nested, y[units])]


@pytest.mark.parametrize("seed", range(4))
def test_held_out_correlations_are_those_of_the_procedure_written_out(seed):
    rng = np.random.default_rng(seed)
    n, kinds = 6 + seed % 2, [(0, 4), (4, 6), (6, 9)]
    values, y = rng.integers(0, 9, (9, n)).astype(float), rng.integers(0, 9, n).astype(float)
    found = judge(values, kinds, y[None], np.ones((1, n)), np.float64)
    assert found.heldout[0] == pytest.approx(written_out(values, kinds, y, list(range(n))), abs=2e-5)
    whole = [max(rho(values[c], y) for c in range(*kind)) for kind in kinds]
    assert found.itself[0, :4] == pytest.approx([*whole, max(whole)], abs=2e-5)


def test_a_resample_leaves_out_all_copies_of_a_group():
    rng = np.random.default_rng(5)
    values, y, kinds = rng.normal(size=(5, 9)), rng.normal(size=9), [(0, 3), (3, 5)]
    weights = resamples(9, 30, 3)
    weights = weights[(weights > 0).sum(1) >= 6][:4]
    found = judge(values, kinds, y[None], weights, np.float64)
    for row, w in zip(found.heldout, weights):
        copies = np.repeat(np.arange(9), w.astype(int)).tolist()
        assert row == pytest.approx(written_out(values, kinds, y, copies), abs=2e-5)


def test_float32_and_a_stack_of_targets_change_nothing():
    rng = np.random.default_rng(6)
    values, kinds, targets = rng.normal(size=(40, 8)), [(0, 20), (20, 40)], rng.normal(size=(60, 8))
    together = judge(values, kinds, targets, np.ones((1, 8)))
    for b in (0, 55):
        alone = judge(values, kinds, targets[b : b + 1], np.ones((1, 8)), np.float64)
        assert together.heldout[b] == pytest.approx(alone.heldout[0], abs=1e-4)
        assert (together.fold[b] == alone.fold[0]).all()


def test_on_noise_the_best_of_many_looks_good_on_itself_and_is_nothing_held_out():
    rng = np.random.default_rng(7)
    itself, heldout = [], []
    for _ in range(20):
        found = judge(
            rng.normal(size=(120, 10)), [(0, 60), (60, 120)], rng.normal(size=(25, 10)), np.ones((1, 10))
        )
        itself.append(found.itself)
        heldout.append(found.heldout)
    assert (np.concatenate(itself)[:, 2:] > 0.55).mean() > 0.9
    assert np.concatenate(itself)[:, 2].mean() > 0.7
    assert (abs(np.nanmean(np.concatenate(heldout), axis=0)) < 0.07).all()  # 3 standard errors of 500 draws


def test_p_values_of_the_whole_search_are_uniform_on_noise():
    rng = np.random.default_rng(8)
    p = []
    for trial in range(150):
        values, y = rng.normal(size=(20, 6)), rng.normal(size=6)
        null = judge(values, [(0, 10), (10, 20)], y[orders(6, 59, trial)], np.ones((1, 6)))
        p.append([p_value(v[0, q], v[:, q]) for v in (null.itself, null.heldout) for q in (2, 3)])
    for a in (0.1, 0.25, 0.5, 0.75):
        share = (np.array(p) <= a).mean(0)
        assert share == pytest.approx([a] * 4, abs=3 * math.sqrt(a * (1 - a) / 150))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "strength"), [(8, 0), (8, 0.6), (12, 0), (12, 0.6)])
def test_held_out_intervals_cover_what_the_procedure_is_worth(n, strength):
    rng = np.random.default_rng(9)
    observed, ends = [], []
    for trial in range(200):
        y = rng.normal(size=n)
        values = strength * y + math.sqrt(1 - strength**2) * rng.normal(size=(20, n))
        found = judge(values, [(0, 20)], y[None], np.ones((1, n))).heldout[0, 0]
        drawn = judge(values, [(0, 20)], y[None], resamples(n, 100, trial)).heldout[:, 0]
        null = judge(values, [(0, 20)], y[orders(n, 100, trial)], np.ones((1, n))).heldout[:, 0]
        observed.append(found)
        ends.append(z_interval(float(found), drawn, n, null))
    truth = np.nanmean(observed)
    hits = [low <= truth <= high for low, high in ends]
    assert 0.84 <= np.mean(hits) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "strengths"), [(7, (0.6, 0.6)), (7, (0.8, 0.3)), (10, (0.8, 0.3)), (10, (0, 0))]
)
def test_intervals_of_the_search_cover(n, strengths):
    """Of `any`, of `nested`, of the gap of `any`, and of one kind's held-out correlation minus the other's."""
    rng = np.random.default_rng(11)
    observed, ends = [], []
    for trial in range(150):
        y = rng.normal(size=n)
        values = np.concatenate([s * y + math.sqrt(1 - s**2) * rng.normal(size=(15, n)) for s in strengths])
        whole, shuffled = np.ones((1, n)), y[orders(n, 80, trial)]
        found, *drawn = (
            judge(values, [(0, 15), (15, 30)], targets, weights)
            for targets, weights in (
                (y[None], whole), (y[None], resamples(n, 80, trial)), (shuffled, whole), (y[None], 1 - np.eye(n)),
            )
        )  # fmt: skip
        searches = [lambda j: j.heldout[:, 2], lambda j: j.heldout[:, 3]]
        differences = [
            lambda j: j.itself[:, 2] - j.heldout[:, 2],
            lambda j: j.heldout[:, 0] - j.heldout[:, 1],
        ]
        strengths_found = found.heldout[0, 2], found.heldout[0, :2].max()
        observed.append([float(figure(found)[0]) for figure in searches + differences])
        boot, null, left = drawn
        ends.append(
            [z_interval(float(figure(found)[0]), figure(boot), n, figure(null)) for figure in searches]
            + [
                difference_interval(
                    float(figure(found)[0]), figure(boot), n, figure(null), figure(left), strong
                )
                for figure, strong in zip(differences, strengths_found)
            ]
        )
    truth = np.nanmean(observed, axis=0)
    low, high = np.moveaxis(np.array(ends), 2, 0)
    hits = ((low <= truth) & (truth <= high)).mean(0)
    assert ((hits >= 0.82) & (hits <= 0.98)).all(), hits


def test_a_strong_score_is_found_and_holds():
    rng = np.random.default_rng(10)
    y = rng.normal(size=12)
    values = np.concatenate([rng.normal(size=(30, 12)), 0.95 * y + 0.3 * rng.normal(size=(5, 12))])
    found = judge(values, [(0, 30), (30, 35)], y[None], np.ones((1, 12)), np.float64)
    assert (found.heldout[0, 1:] > 0.7).all()
    assert found.chosen[0, 3] >= 30


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_groups_give_undefined_figures_not_errors(n):
    rng = np.random.default_rng(n)
    found = judge(rng.normal(size=(6, n)), [(0, 3), (3, 6)], rng.normal(size=(1, n)), np.ones((1, n)))
    assert found.heldout.shape == (1, 4)
    assert np.isnan(found.itself).all() == (n < 3)
    assert np.isnan(found.heldout).all() == (n < 4)
