"""Closed-form probes against scikit-learn on the texts; cross-validation against the hat matrix."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ntps.scores.label_signal import LabelSignal
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL
from ntps.scores.probes import (
    RIDGE_GRID,
    constant_probe,
    gcv_skill,
    least_squares,
    mse,
    ridge,
    skill,
    squared_error,
)
from tests.synthetic_moments import moments_of, random_texts


@pytest.fixture
def train_and_test():
    texts, labels = random_texts(n=120, d=8)
    return moments_of(texts[:80], labels[:80]), moments_of(texts[80:], labels[80:])


def predict(probe, means):
    return means @ probe.coefficients.numpy() + probe.intercept.numpy()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [80, 6], ids=["n>d", "n<d"])
def test_least_squares_is_scikit_learns(intercept, n):
    texts, labels = random_texts(n=n + 40, d=8)
    moments, means, Y = moments_of(texts[:n], labels[:n])
    test, test_means, test_Y = moments_of(texts[n:], labels[n:])
    peer = LinearRegression(fit_intercept=intercept).fit(means, Y)
    probe = least_squares(moments, intercept)
    np.testing.assert_allclose(probe.coefficients.numpy().T, peer.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(probe.intercept, peer.intercept_ * np.ones(3), rtol=1e-6, atol=1e-9)
    assert mse(probe, test) == pytest.approx(mean_squared_error(test_Y, peer.predict(test_means)), rel=1e-6)
    assert mse(probe, moments) == pytest.approx(
        mean_squared_error(Y, peer.predict(means)), rel=1e-6, abs=1e-10
    )
    assert squared_error(probe, test) == pytest.approx(3 * mse(probe, test))


def test_scaling_first_does_not_change_the_probe_with_an_intercept(train_and_test):
    (train, means, Y), (_, test_means, _) = train_and_test
    peer = make_pipeline(StandardScaler(), LinearRegression()).fit(means, Y)
    np.testing.assert_allclose(
        predict(least_squares(train), test_means), peer.predict(test_means), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
def test_ridge_is_scikit_learns_on_scaled_states(train_and_test, intercept, penalty):
    (train, means, Y), (test, test_means, test_Y) = train_and_test
    mean = means.mean(0) if intercept else 0.0
    scale = np.sqrt(np.square(means - mean).mean(0))
    peer = Ridge(alpha=penalty * len(Y), fit_intercept=intercept).fit((means - mean) / scale, Y)
    probe = ridge(train, penalty, intercept)
    expected = peer.predict((test_means - mean) / scale)
    np.testing.assert_allclose(predict(probe, test_means), expected, rtol=1e-6, atol=1e-9)
    assert mse(probe, test) == pytest.approx(mean_squared_error(test_Y, expected), rel=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [40, 8], ids=["n>d", "n<=d"])
def test_generalized_cross_validation_is_that_of_the_hat_matrix(intercept, n):
    moments, means, Y = moments_of(*random_texts(n=n, d=8))
    X = means - means.mean(0) if intercept else means
    X = X / np.sqrt(np.square(X).mean(0))
    brute, left = [], []
    for penalty in RIDGE_GRID:
        H = X @ np.linalg.solve(X.T @ X + n * penalty * np.eye(8), X.T) + intercept * np.ones((n, n)) / n
        left.append(n - np.trace(H))
        brute.append(np.square(Y - H @ Y).mean() / (1 - np.trace(H) / n) ** 2)
        tolerance = 1e-6 if n > 8 or penalty > 1e-4 else 1e-3  # the brute force cancels where it interpolates
        assert ridge(moments, penalty, intercept).gcv_error == pytest.approx(brute[-1], rel=tolerance)
    chosen, known = ridge(moments, intercept=intercept), np.where(np.array(left) < 5, np.inf, brute)
    assert chosen.penalty == RIDGE_GRID[int(np.argmin(known))]
    assert chosen.gcv_error == pytest.approx(min(known), rel=1e-3)


def test_skill_is_zero_for_frequencies_and_below_one(train_and_test):
    (train, _, Y), (test, test_means, test_Y) = train_and_test
    assert skill(constant_probe(train), train, test) == 0
    probe = ridge(train)
    error = np.square(test_Y - predict(probe, test_means)).sum(1).mean()
    assert skill(probe, train, test) == pytest.approx(1 - error / np.square(test_Y - Y.mean(0)).sum(1).mean())
    assert 0 < skill(probe, train, test) < 1


def test_a_constant_and_a_dead_coordinate_are_left_to_the_intercept(train_and_test):
    texts, labels = random_texts(n=60, d=8)
    wider = [np.hstack([text, np.full((len(text), 1), 1234.5), np.zeros((len(text), 1))]) for text in texts]
    plain, wide = moments_of(texts, labels)[0], moments_of(wider, labels)[0]
    for fit in (least_squares, ridge):
        assert mse(fit(wide), wide) == pytest.approx(mse(fit(plain), plain), rel=1e-6)
        assert not fit(wide).coefficients[8:].any()


def test_a_constant_coordinate_is_one_however_many_rows_are_added_up():
    n, value = 20_000, 0.3
    square, mean = (
        np.cumsum(np.full(n, one))[-1] / n for one in (value**2, value)
    )  # one row after the other
    assert abs(square / mean**2 - 1) > 10 * np.finfo(float).eps
    M, mu = torch.tensor([[square]]), torch.tensor([mean])
    moments = LayerMoments(
        M, mu[:, None] * torch.tensor([[0.5, 0.5]]), mu, torch.tensor([n / 2, n / 2]), 1.0, n
    )
    assert not moments.centred.M.any()


def test_a_numeric_target():
    texts, _ = random_texts(n=60, d=8)
    moments, means, Y = moments_of(texts, np.random.default_rng(1).normal(size=60) + 5)
    peer = LinearRegression().fit(means, Y)
    assert mse(least_squares(moments), moments) == pytest.approx(
        mean_squared_error(Y, peer.predict(means)), rel=1e-6
    )


@pytest.mark.parametrize("ratio", [30, 300, 3000])
@pytest.mark.parametrize("shifted", [2, 60])
@pytest.mark.parametrize(("n", "rank"), [(40, 60), (300, 25)], ids=["n<d", "low rank"])
def test_states_far_from_zero_have_the_rank_that_they_have_around_it(ratio, shifted, n, rank):
    """Centring M - mu mu^T leaves eps (mean / deviation)^2, which is no direction: least squares would take it for one."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, n)
    inner = draw.normal(size=(n, rank)) + 0.4 * draw.normal(size=(3, rank))[labels]
    states = inner @ draw.normal(size=(rank, 60)) / np.sqrt(rank)
    shift = np.where(np.arange(60) < shifted, ratio * np.sign(draw.normal(size=60)), 0)
    plain, far = (moments_of((states + by)[:, None], labels)[0] for by in (0, shift))
    assert far.centred.spectrum.rank(RANK_RTOL) == plain.centred.spectrum.rank(RANK_RTOL) == min(n - 1, rank)
    one, other = ridge(plain), ridge(far)
    assert one.penalty == other.penalty
    assert other.gcv_error == pytest.approx(one.gcv_error, rel=1e-4)
    if n > rank + 5:
        one, other = LabelSignal.of(plain), LabelSignal.of(far)
        assert other.adjusted_r2 == pytest.approx(one.adjusted_r2, abs=1e-6)
        assert other.signal_share == pytest.approx(one.signal_share, abs=1e-3)


@pytest.mark.parametrize("n", [8, 40, 41, 42, 43, 60])
def test_cross_validation_keeps_degrees_of_freedom(n):
    """Where hardly one is left, error and degrees of freedom both vanish, and any penalty may look best."""
    draw = np.random.default_rng(1)
    for _ in range(30):
        states, labels = draw.normal(size=(n, 1, 40)), np.arange(n) % 2
        moments = moments_of(states, labels)[0]
        penalty = ridge(moments).penalty
        values = torch.linalg.eigvalsh(torch.as_tensor(np.corrcoef(states[:, 0].T))).clamp(min=0)
        assert n - 1 - float((values / (values + penalty)).sum()) >= 5


def test_of_labels_that_are_all_one_there_is_no_skill():
    moments = moments_of(np.random.default_rng(0).normal(size=(9, 1, 3)), np.zeros(9, int))[0]
    assert np.isnan(gcv_skill(ridge(moments), moments))
