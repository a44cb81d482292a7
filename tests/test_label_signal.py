"""Corrected retention and its baselines against least squares on the states themselves; its p-value; the rotated null."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LinearRegression

from ntps.scores.label_signal import LabelSignal, residual_moment
from ntps.scores.layer import Layer
from ntps.scores.permutation_null import p_value, rotated
from ntps.scores.table import add_error_bars, layer_row, layer_scores
from tests.synthetic_moments import moments_of, moments_of_numbers, random_texts


def adjusted_r2(X: np.ndarray, Y: np.ndarray) -> float:
    """Of all targets together: the textbook's 1 - (SSE / (n - k - 1)) / (SST / (n - 1))."""
    fitted, spare = LinearRegression().fit(X, Y).predict(X), len(X) - X.shape[1] - 1
    return 1 - (np.square(Y - fitted).sum() / spare) / (np.square(Y - Y.mean(0)).sum() / (len(Y) - 1))


def explained(X: np.ndarray, Y: np.ndarray) -> float:
    fitted = LinearRegression().fit(X, Y).predict(X)
    return np.square(fitted - Y.mean(0)).sum() / len(Y)


@pytest.fixture(scope="module")
def world():
    moments, means, Y = moments_of(*random_texts(n=90, d=8), permutations=19)
    return moments, means, Y


def plain_noise(means, Y):
    """s2 and the full adjusted explained variance, by their definitions."""
    n, d = means.shape
    residual = np.square(Y - LinearRegression().fit(means, Y).predict(means)).sum()
    s2 = residual / (n - d - 1)
    return s2, explained(means, Y) - s2 * d / n


def test_corrected_retention_is_a_ratio_of_adjusted_r2(world):
    moments, means, Y = world
    n = len(means)
    layer = Layer(moments)
    V, components = layer.auto.vectors.numpy(), np.linalg.eigh(np.cov(means.T))[1][:, ::-1]
    for row in layer_scores(moments).rows:
        if row["order"] == "released" or row["rule"] == "fraction":
            assert math.isnan(row["retention_corrected"]) and row["corrected_refusal"]
            continue
        k = row["kv"]
        for name, basis in (("retention_corrected", V), ("retention_corrected_pca", components)):
            expected = adjusted_r2(means @ basis[:, :k], Y) / adjusted_r2(means, Y)
            assert row[name] == pytest.approx(expected, abs=1e-8)
        assert row["corrected_refusal"] == ""
        difference = row["retention_corrected"] - row["retention_corrected_pca"]
        assert row["retention_corrected_minus_pca"] == pytest.approx(difference, abs=1e-12)
        raw = row["retention_pca"] * float(layer.explained)
        B = np.linalg.lstsq(means @ components[:, :k], Y)[0]
        assert raw == pytest.approx(
            (np.square(Y).sum() - np.square(Y - means @ components[:, :k] @ B).sum()) / n, abs=1e-8
        )
        U = layer.task.U.numpy()
        assert row["ntps_pca"] == pytest.approx(
            np.square(components[:, :k].T @ U).sum() / np.square(U).sum(), abs=1e-8
        )


def test_adjusted_r2_and_signal_share_are_those_of_least_squares(world):
    moments, means, Y = world
    n, d = means.shape
    s2, full = plain_noise(means, Y)
    row = layer_row(Layer(moments))
    total = np.square(Y - Y.mean(0)).sum() / n
    assert row["adjusted_r2"] == pytest.approx(full / total, abs=1e-8)
    # the textbook's variance of y has n - 1, here n
    assert 1 - adjusted_r2(means, Y) == pytest.approx(s2 * (n - 1) / n / total, abs=1e-8)
    B = LinearRegression().fit(means, Y).coef_.T
    inverse = np.linalg.inv(np.cov(means.T, bias=True))
    assert row["signal_share"] == pytest.approx(1 - s2 / n * np.trace(inverse) / np.square(B).sum(), abs=1e-8)


def test_one_target_has_the_f_test(world):
    texts, _ = random_texts(n=60, d=6, seed=4)
    y = np.random.default_rng(1).normal(size=60) + np.array([text.mean() for text in texts]) * 0.2
    moments, means, Y = moments_of(texts, y)
    r2 = LinearRegression().fit(means, Y).score(means, Y)
    f = (r2 / 6) / ((1 - r2) / (60 - 7))
    assert LabelSignal.of(moments).p_value == pytest.approx(stats.f.sf(f, 6, 53), rel=1e-8)


def test_signal_p_values_are_uniform_without_signal():
    rng = np.random.default_rng(0)
    values = []
    for seed in range(300):
        texts, labels = random_texts(n=40, d=6, classes=4, seed=seed)
        moments, *_ = moments_of(texts, rng.permutation(labels))
        values.append(LabelSignal.of(moments).p_value)
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_no_share_of_a_signal_that_is_not_there():
    texts, labels = random_texts(n=60, d=6, seed=2)
    moments, *_ = moments_of(texts, np.random.default_rng(3).permutation(labels))
    rows = [
        row
        for row in layer_scores(moments).rows
        if row["rule"] == "task_rank" and row["order"] == "descending"
    ]
    assert all(math.isnan(row["retention_corrected"]) for row in rows)
    assert all("not significant (p = 0." in row["corrected_refusal"] for row in rows)
    few, *_ = moments_of(*random_texts(n=6, d=8))
    (row, *_) = layer_scores(few).rows
    assert math.isnan(row["retention_corrected"]) and "too few" in row["corrected_refusal"]


def test_a_ratio_of_adjusted_r2_takes_five_residual_degrees_of_freedom():
    for n, refused in (
        (13, "13 rows are too few: they span 8 directions, and 6 rows more than these are needed"),
        (14, ""),
    ):
        texts, labels = random_texts(n=n, d=8)
        signal = LabelSignal.of(moments_of(texts, labels, permutations=0)[0])
        assert signal.rank == 8
        assert ("too few" in signal.refusal) == bool(refused) and refused in signal.refusal


def test_corrected_retention_near_the_rank_is_too_low_where_the_signal_is_weak():
    """Why prescreen.py warns below half as many residual degrees of freedom as directions: a significant p picks the rows whose
    R2 in full came out too large. k directions known beforehand hold 80 % of the signal."""

    def held(n, strength, d=30, k=5):
        draw, found = np.random.default_rng(0), []
        w = np.concatenate([np.full(k, math.sqrt(0.8 / k)), np.full(d - k, math.sqrt(0.2 / (d - k)))])
        for _ in range(400):
            x = draw.normal(size=(n, d))
            y = math.sqrt(strength) * x @ w + math.sqrt(1 - strength) * draw.normal(size=n)
            signal = LabelSignal.of(moments_of_numbers(x[:, None], y - y.mean()))
            if signal.refusal:
                continue
            q, _ = np.linalg.qr((x - x.mean(0))[:, :k])
            within = q.T @ (y - y.mean()) / math.sqrt(n)
            energies = torch.from_numpy(np.square(within).cumsum())
            value, error = (
                float(signal.retained(energies)[-1]),
                signal.retained_error(torch.from_numpy(within[:, None])),
            )
            found.append((value, abs(value - 0.8) <= 1.645 * error))
        return np.mean(found, 0)

    (low, few), (_, enough) = held(37, 0.4), held(90, 0.8)
    assert low < 0.65 and few < 0.7
    assert enough > 0.82


def test_unequal_variance_is_that_of_leverage_corrected_residuals(world):
    moments, means, Y = world
    n, d = means.shape
    X = np.c_[np.ones(n), means - means.mean(0)]
    hat = X @ np.linalg.solve(X.T @ X, X.T)
    errors = np.square(Y - hat @ Y).sum(1) / (1 - hat.diagonal())
    Omega = (X[:, 1:].T * errors) @ X[:, 1:] / n
    found = residual_moment(moments, torch.as_tensor(means), torch.as_tensor(Y))
    assert np.allclose(found, Omega, rtol=1e-8, atol=1e-12 * np.abs(Omega).max())
    whole = replace(moments, residual_second_moment=found)
    layer, C = Layer(whole), np.cov(means.T, bias=True)
    V = layer.auto.vectors.numpy()
    full = explained(means, Y) - np.trace(np.linalg.solve(C, Omega)) / n
    for row in layer_scores(whole).rows:
        if row["order"] == "descending" and row["rule"] == "task_rank":
            basis = V[:, : row["kv"]]
            taken = np.trace(np.linalg.solve(basis.T @ C @ basis, basis.T @ Omega @ basis)) / n
            kept, chance = (explained(means @ basis, Y) - taken) / full, row["kv"] / (n - 1)
            expected = (kept - chance) / (1 - chance)
            assert row["retention_corrected_unequal"] == pytest.approx(expected, abs=1e-8)


def test_corrected_retention_does_not_change_under_rotation_and_scale(world):
    moments, *_ = world
    Q = (
        torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
        * 3
    )
    turned = replace(
        moments,
        mean_second_moment=Q.mT @ moments.mean_second_moment @ Q,
        mean_label_moment=Q.mT @ moments.mean_label_moment,
        mean_state=Q.mT @ moments.mean_state,
        prefix_second_moment=Q.mT @ moments.prefix_second_moment @ Q,
        prefix_next_moment=Q.mT @ moments.prefix_next_moment @ Q,
        label_moment_permuted=torch.einsum("ij,rik->rjk", Q, moments.permuted),
    )
    for a, b in zip(layer_scores(moments).rows, layer_scores(turned).rows, strict=True):
        for name in ("retention_corrected", "retention_corrected_pca", "ntps_pca", "retention_pca"):
            assert a[name] == pytest.approx(b[name], abs=1e-8, nan_ok=True)


def test_rotated_signals_are_as_large_and_lie_anywhere():
    moments, *_ = moments_of(*random_texts(n=90, d=8), permutations=200)
    layer = Layer(moments)
    rotated, own = layer.rotated, LabelSignal.of(moments)
    signals = [LabelSignal.of(replace(moments, mean_label_moment=S)) for S in rotated]
    for signal in signals[:5]:
        assert torch.allclose(signal.T.mT @ signal.T, own.T.mT @ own.T, atol=1e-10)  # classes and size stay
    outer = torch.stack([signal.T @ signal.T.mT for signal in signals]).mean(0)
    expected = own.explained / 8 * torch.eye(8, dtype=torch.float64)
    assert torch.allclose(outer, expected, atol=0.2 * own.explained / 8)


def test_rotated_p_values_are_uniform_for_signals_that_lie_anywhere():
    values = []
    moments, *_ = moments_of(*random_texts(n=90, d=8), permutations=200)
    for number, S in enumerate(Layer(moments).rotated):
        layer = Layer(replace(moments, mean_label_moment=S, label_moment_permuted=None))
        layer.rotated = rotated(layer.moments, layer.label_signal, 19, seed=number + 1)
        curve = layer.orders["descending"]
        values.append(p_value(float(curve.ntps[1]), curve.rotated[:, 1]))
    counts = np.bincount(np.rint(np.array(values) * 10).astype(int))[1:]
    assert counts.sum() == 200 and stats.chisquare(counts).pvalue > 0.01


def test_states_that_are_all_the_same_and_dead_coordinates_are_scored():
    texts = [np.r_[np.ones(6), np.zeros(2)] * np.ones((3, 1)) for _ in range(30)]
    moments, *_ = moments_of(texts, np.arange(30) % 3)
    rows = layer_scores(moments, test=moments).rows
    (tenth,) = [row for row in rows if math.isnan(row["fraction"]) and row["order"] == "descending"]
    assert math.isnan(tenth["retention_pca"]) and math.isnan(tenth["heldout_retention_pca"])
    assert tenth["corrected_refusal"] == "the states are all the same" and tenth[
        "retention"
    ] == pytest.approx(1)


def test_a_partition_that_holds_all_of_a_class_leaves_nothing_to_explain():
    """Without it every label is the same: no share, and the scores that it has no error bars for."""
    texts, labels = random_texts(n=60, d=4, seed=1)
    labels = np.where(np.arange(60) == 7, 1, 0)
    whole, part = moments_of(texts, labels)[0], moments_of(texts[2::5], labels[2::5])[0]
    rest = whole.without(part)
    assert LabelSignal.of(rest).refusal == "all labels are the same"
    rows = layer_scores(whole).rows
    add_error_bars(rows, Layer(whole), [part, rest])
    assert all(math.isnan(row["retention_corrected_jackknife"]) for row in rows)
