"""Calibration: p-values, held-out skill, error bars and bounds against brute force, and by many small simulations."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge

from ntps import from_arrays
from ntps.scores import probes
from ntps.scores.bounds import tight_constants
from ntps.scores.error_bars import jackknife_error, score_interval
from ntps.scores.held_out_probe import WEAKER, held_out
from ntps.scores.layer import Layer
from ntps.scores.permutation_null import above, p_value
from ntps.scores.table import add_error_bars, layer_scores
from tests.synthetic_moments import moments_of, random_texts


class World:
    """Texts of five tokens, six coordinates and three classes, drawn as often as one likes."""

    d, tokens, classes = 6, 5, 3

    def __init__(self, signal=1.0):
        rng = np.random.default_rng(0)
        self.mixing = rng.normal(size=(self.d, self.d)) / 2 + np.diag(np.logspace(0, -1, self.d))
        self.centres = signal * rng.normal(size=(self.classes, self.d))

    def draw(self, n, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(self.classes, size=n)
        states = rng.normal(size=(n, self.tokens, self.d))
        for t in range(1, self.tokens):
            states[:, t] += 0.6 * states[:, t - 1] * np.linspace(1, 0.1, self.d)
        return (states + self.centres[labels][:, None]) @ self.mixing + 0.3 * self.mixing[0], labels

    def moments(self, states, labels, permutations=0, seed=0):
        lengths = [self.tokens] * len(labels)
        return from_arrays(states, lengths, labels, self.classes, permutations, seed).averages(0)


def curves(moments):
    return Layer(moments).orders["descending"]


# --- shuffled labels -----------------------------------------------------------------------------------------------


def test_p_value_and_the_share_above_a_level():
    null = torch.tensor([0.2, 0.4, 0.4, 0.5, 0.5 - 1e-14, 0.6], dtype=torch.float64)
    assert p_value(0.1, null) == p_value(0.7, null) == 2 / 7  # beyond all, on either side
    assert p_value(0.6, null) == p_value(0.2, null) == 4 / 7 and p_value(0.5, null) == 1
    assert math.isnan(p_value(0.5, null[:0])) and math.isnan(p_value(math.nan, null))
    assert math.isnan(p_value(0.5, torch.cat([null, null.new_tensor([math.nan])])))
    assert above(0.5, 0.4) == pytest.approx(0.1 / 0.6)
    assert above(1.0, 0.3) == 1 and math.isnan(above(1.0, 1.0)) and math.isnan(above(0.5, math.nan))


def test_p_values_are_uniform_on_their_grid_when_labels_mean_nothing():
    world, R, sims = World(signal=0.0), 9, 400
    found: dict[str, list[float]] = {"ntps": [], "retention": []}
    for seed in range(sims):
        c = curves(world.moments(*world.draw(40, seed), permutations=R, seed=seed))
        for name, null in (("ntps", c.null), ("retention", c.retained.permuted)):
            found[name].append(p_value(float(getattr(c, name)[1]), null[:, 1]))
    for values in found.values():
        counts = np.bincount(np.rint(np.array(values) * (R + 1) / 2).astype(int))[1:]
        assert counts.shape == (5,) and counts.sum() == sims and stats.chisquare(counts).pvalue > 0.01


def test_permutations_of_the_same_labels_tie_though_they_are_kept_in_float32():
    """Of eight rows of two equal classes one permutation in 35 is the labels themselves, by their names or exchanged."""
    world, R, found = World(signal=0.0), 199, []
    for seed in range(60):
        states, labels = world.draw(8, seed)[0], np.random.default_rng(seed).permutation([0, 1] * 4)
        moments = from_arrays(states, [world.tokens] * 8, labels, 2, R, seed).averages(0)
        c = curves(replace(moments, label_moment_permuted=moments.permuted.float().double()))
        found.append(p_value(float(c.ntps[1]), c.null[:, 1]))
    assert min(found) > 0.01  # .01 where none of 199 ties: one draw in 320
    rounded = torch.tensor([0.3, 0.5, 0.5]).double() + torch.tensor([0, -3e-7, 3e-7]).double()
    assert p_value(0.5, rounded) == 1 and p_value(0.5, rounded - 1e-4) == 0.5


def test_retention_of_drawn_shuffles_is_that_of_the_shuffled_labels():
    world = World()
    states, labels = world.draw(80, 0)
    moments = world.moments(states, labels, permutations=6)
    c = curves(moments)
    for S, row in zip(moments.permuted, c.retained.permuted, strict=True):
        torch.testing.assert_close(
            row, curves(replace(moments, mean_label_moment=S)).retention, atol=1e-9, rtol=0
        )
    (table,) = [
        row
        for row in layer_scores(moments).rows
        if row["kv"] == 2 and row["order"] == "descending" and row["fraction"] == 0.35 and row["rule"] == "task_rank"
    ]  # fmt: skip
    reached = int((c.retained.permuted[:, 1] >= table["retention"]).sum())
    assert table["retention_p_value"] == pytest.approx(min(1, 2 * (1 + min(reached, 6 - reached)) / 7))
    expected = (table["retention"] - table["retention_null"]) / (1 - table["retention_null"])
    assert table["retention_adjusted"] == pytest.approx(expected)


# --- held-out texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [80, 7], ids=["n>d", "n<d"])
def test_held_out_retention_is_that_of_ridge_on_the_texts(n):
    """The restricted ridge by scikit-learn on features in a basis of V_k, its strength by the hat matrix."""
    texts, labels = random_texts(n=n + 60, d=8, seed=3)
    (train, X, Y), (test, test_X, test_Y) = (
        moments_of(texts[part], labels[part]) for part in (slice(n), slice(n, None))
    )
    layer = Layer(train)
    V, scale = layer.auto.vectors, np.sqrt(np.square(X).mean(0))
    guess = np.square(test_Y - Y.mean(0)).sum(1).mean()
    full = probes.ridge(train, intercept=False)

    def fit(basis, strength):
        Q = np.linalg.qr(basis)[0]
        F, test_F = X / scale @ Q, test_X / scale @ Q
        peer = Ridge(alpha=n * strength, fit_intercept=False, solver="svd").fit(F, Y)
        hat = F @ np.linalg.solve(F.T @ F + n * strength * np.eye(F.shape[1]), F.T)
        known = n - np.trace(hat) >= 5 or strength == full.penalty
        score = np.square(Y - peer.predict(F)).sum() / (1 - np.trace(hat) / n) ** 2 if known else np.inf
        return score, 1 - np.square(test_Y - peer.predict(test_F)).sum(1).mean() / guess

    whole = fit(np.eye(8), full.penalty)[1]
    root = layer.orders["descending"].whitened_spans.R
    rows = held_out(layer.moments, test, full, V, root, range(1, 9))
    for k, row in rows.items():
        strengths = [max(full.penalty / 10**step, 1e-6) for step in range(WEAKER)]
        skill = min(fit(V.numpy()[:, :k] * scale[:, None], strength) for strength in strengths)[1]
        assert row.skill == pytest.approx(skill, abs=1e-6)
        assert row.skill_full == pytest.approx(whole, abs=1e-6)
        assert row.retention == pytest.approx(skill / whole, abs=1e-5)
    assert rows[8].retention == pytest.approx(1)  # V_8 is everything


def test_held_out_retention_needs_a_probe_that_works():
    """Labels without a pattern: of train, held-out skill is no better than guessing and retention is undefined."""
    world = World(signal=0.0)
    texts = [world.draw(60, seed) for seed in range(20)]
    found = []
    for train, test in zip(texts[::2], texts[1::2], strict=True):
        train, test = world.moments(*train), world.moments(*test)
        rows = layer_scores(train, test=test).rows
        assert all(math.isnan(row["heldout_retention"]) == (row["heldout_skill_full"] <= 0) for row in rows)
        found.append(rows[0]["heldout_skill_full"])
    assert min(found) < 0 and np.mean(found) < 0.01
    assert math.isnan(layer_scores(train).rows[0]["heldout_skill"])  # no test moments


@pytest.mark.parametrize("case", ["n<d", "d=1", "dead and constant", "a class missing"])
def test_held_out_figures_of_odd_texts(case):
    texts, labels = random_texts(n=60, d=1 if case == "d=1" else 8)
    if case == "dead and constant":
        texts = [
            np.hstack([text[:, :6], np.zeros((len(text), 1)), np.full((len(text), 1), 9.0)]) for text in texts
        ]
    n = 5 if case == "n<d" else 30
    train, test = moments_of(texts[:n], labels[:n])[0], moments_of(texts[n:], labels[n:])[0]
    if case == "a class missing":
        train = moments_of(texts[:n], np.where(labels[:n] == 1, 2, labels[:n]))[0]
    for row in layer_scores(train, test=test).rows:
        assert math.isfinite(row["heldout_skill"]) and math.isfinite(row["heldout_skill_full"])
        assert math.isnan(row["heldout_retention"]) == (row["heldout_skill_full"] <= 0)


# --- partitions of the texts ---------------------------------------------------------------------------------------


def split(world, states, labels, parts):
    return [world.moments(states[i::parts], labels[i::parts]) for i in range(parts)]


def test_leaving_a_partition_out_leaves_the_moments_of_the_others():
    world = World()
    states, labels = world.draw(31, 0)
    whole = world.moments(states, labels)
    for part, own in enumerate(split(world, states, labels, 4)):
        rest, moments = np.arange(31) % 4 != part, whole.without(own)
        expected = world.moments(states[rest], labels[rest])
        for field in fields(moments):
            value, wanted = getattr(moments, field.name), getattr(expected, field.name)
            if field.name not in ("label_moment_permuted", "residual_second_moment", "label_products"):
                torch.testing.assert_close(
                    torch.as_tensor(value, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64)
                )
    assert not len(moments.permuted)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = (values.sum() - values) / 11
    assert float(jackknife_error(without)) == pytest.approx(stats.sem(values.numpy()))


def test_error_bars_are_those_of_scoring_the_texts_that_are_left():
    world = World()
    states, labels = world.draw(90, 1)
    rows = layer_scores(world.moments(states, labels)).rows
    assert all(math.isnan(row["ntps_se"]) and math.isnan(row["retention_se"]) for row in rows)
    add_error_bars(rows, Layer(world.moments(states, labels)), split(world, states, labels, 3))
    left = [
        layer_scores(world.moments(states[np.arange(90) % 3 != i], labels[np.arange(90) % 3 != i])).rows
        for i in range(3)
    ]
    for row, *others in zip(rows, *left, strict=True):
        for name in ("ntps", "retention"):
            values = np.array([other[name] for other in others])
            expected = np.sqrt(2 / 3 * np.square(values - values.mean()).sum())
            if name == "retention" or row["rule"] == "task_rank":
                assert row[f"{name}_se"] == pytest.approx(expected, rel=1e-6, abs=1e-12)
            else:
                assert math.isnan(row["ntps_se"])


@pytest.mark.parametrize("n", [2, 5, 6])
def test_no_error_bars_where_too_few_texts_are_left(n):
    """With n <= d every text left out costs a rank: retention is 1 at fewer directions, without any doubt."""
    world = World()
    states, labels = world.draw(n, 1)
    rows = layer_scores(world.moments(states, labels)).rows
    add_error_bars(rows, Layer(world.moments(states, labels)), split(world, states, labels, 2))
    assert all(math.isnan(row["ntps_se"]) and math.isnan(row["retention_se"]) for row in rows)


def estimates_and_errors(world, n, parts, sims, listed):
    """NTPS and retention at these places of samples of n texts, (sims, 2, places), and their jackknife errors."""

    def estimate(moments):
        c = curves(moments)
        return torch.stack([c.ntps[listed], c.retention[listed]])

    found = []
    for seed in range(sims):
        states, labels = world.draw(n, seed)
        whole, pieces = world.moments(states, labels), split(world, states, labels, parts)
        errors = jackknife_error(torch.stack([estimate(whole.without(piece)) for piece in pieces]))
        found.append(torch.stack([estimate(whole), errors]).numpy())
    return np.moveaxis(np.array(found), 1, 0)


def coverage(values, errors, truth, parts):
    low, high = score_interval(values, errors, parts)
    return ((low <= truth) & (truth <= high)).mean(0)


def test_an_interval_is_symmetric_in_log_odds_and_stays_between_0_and_1():
    score = np.array([0.0, 0.02, 0.5, 0.98, 1.0])
    low, high = score_interval(score, [0.0, 0.05, 0.01, 0.05, 0.0], 5)
    assert ((low >= 0) & (low <= score + 1e-9) & (score <= high + 1e-9) & (high <= 1)).all()
    assert np.allclose(low, 1 - high[::-1])  # the score of what is not kept
    assert high[2] - 0.5 == pytest.approx(stats.t.isf(0.05, 4) * 0.01, rel=0.01)  # narrow: +- t error


@pytest.mark.slow
def test_intervals_from_ten_partitions_cover_the_truth():
    """90 % intervals over fresh samples of 1000 texts against the scores of 200000."""
    world, parts, listed = World(), 10, [0, 1, 2]
    c = curves(world.moments(*world.draw(200_000, 99)))
    truth = torch.stack([c.ntps[listed], c.retention[listed]]).numpy()
    values, errors = estimates_and_errors(world, 1000, parts, 150, listed)
    covered = coverage(values, errors, truth, parts)
    assert ((0.85 <= covered) & (covered <= 0.95)).all()


@pytest.mark.slow
def test_intervals_of_scores_near_1_are_not_too_short():
    """Against the mean score of samples of 60 texts; score -+ t error would be, for NTPS."""
    values, errors = estimates_and_errors(World(3.0), 60, 5, 200, [2, 3, 4])
    truth = values.mean(0)
    assert truth.min() > 0.85
    covered = coverage(values, errors, truth, 5)
    assert ((0.85 <= covered) & (covered <= 0.97)).all()
    plain = (np.abs(values - truth) <= stats.t.isf(0.05, 4) * errors).mean(0)
    assert plain[0, 2] < 0.85 <= covered[0, 2]


class WideWorld(World):
    """24 coordinates of like scale, and so an NTPS far from 1, as language models have."""

    d = 24

    def __init__(self, signal):
        super().__init__(signal)
        rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(self.d, self.d)))[0]
        self.mixing = np.logspace(0, -0.3, self.d)[:, None] * rotation


@pytest.mark.parametrize("texts_per_dimension", [2, 4])
def test_intervals_at_few_texts_per_dimension_are_not_too_short(texts_per_dimension):
    """90 % intervals from five partitions against the mean score of samples of that many texts."""
    values, errors = estimates_and_errors(WideWorld(0.3), texts_per_dimension * 24, 5, 100, [1, 5, 11])
    assert (coverage(values, errors, values.mean(0), 5) >= 0.85).all()
    assert (np.sqrt(np.square(errors[:, 0]).mean(0)) > values[:, 0].std(0)).all()  # NTPS: errors too large


# --- bounds of the excess loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["descending", "released"])
def test_tight_constants_are_those_of_the_schur_complement(order):
    moments, _, _ = moments_of(*random_texts(n=60, d=8))
    layer = Layer(moments)
    V, task = layer.orders[order].V, layer.task
    M, S = moments.mean_second_moment.numpy(), moments.mean_label_moment.numpy()
    inverse, values = np.linalg.inv(M), task.solution.eigenvalues
    norm, target = float(task.U.square().sum()), np.linalg.solve(M, S)
    excess = layer.orders[order].excess
    for k, (least, most) in zip(range(1, 9), tight_constants(task, V, range(1, 9)), strict=True):
        if k == 8:
            assert (least, most) == (0, 0)
            continue
        beyond = np.linalg.qr(V.numpy()[:, :k], mode="complete")[0][:, k:]
        schur = np.linalg.inv(beyond.T @ inverse @ beyond)
        assert float(excess[k - 1]) == pytest.approx(
            np.trace(target.T @ beyond @ schur @ beyond.T @ target), rel=1e-6
        )
        spectrum = np.linalg.eigvalsh(schur)
        assert least == pytest.approx(spectrum[0] * float(values[-1]) * norm, rel=1e-5)
        assert most == pytest.approx(spectrum[-1] * float(values[0]) * norm, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_tight_bounds_hold_and_are_no_looser_than_the_naive_ones(seed):
    rows = layer_scores(moments_of(*random_texts(n=40, d=6, seed=seed))[0], tight=True).rows
    for row in rows:
        slack = 1e-12 * row["excess_upper"] + 1e-15
        steps = ("excess_lower", "excess_lower_tight", "excess", "excess_upper_tight", "excess_upper")
        assert all(row[a] <= row[b] + slack for a, b in zip(steps, steps[1:]))
    few = layer_scores(moments_of(*random_texts(n=4, d=6, seed=seed))[0], tight=True).rows
    assert all(math.isnan(row["excess_lower_tight"]) and math.isnan(row["excess_upper_tight"]) for row in few)


def test_how_many_texts_there_are_for_each_dimension():
    rows = layer_scores(moments_of(*random_texts(n=40, d=8))[0]).rows
    assert {row["n_over_d"] for row in rows} == {5.0}
