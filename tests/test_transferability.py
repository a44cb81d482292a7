"""H-score, LogME and RankMe against their definitions on the features themselves, and the other scores' row."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import optimize
from scipy.stats import multivariate_normal
from sklearn.covariance import OAS

from ntps import from_arrays
from ntps.scores import probes
from ntps.scores.layer import Layer
from ntps.scores.peers import h_score, logme, rankme
from ntps.scores.registry import headroom
from ntps.scores.table import layer_row
from tests.synthetic_moments import moments_of, random_texts

GOLDEN = Path(__file__).parent / "golden"


def moments(features, labels, classes=None):
    """Moments of texts of one token, whose mean states are these features."""
    return from_arrays(features[:, None], [1] * len(features), labels, classes)


def sample(n=90, d=8, seed=0, spread=2.0):
    """Features of unequal scale around class means, with unequal classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    labels[:3] = [0, 1, 2]
    return (rng.normal(size=(n, d)) + rng.normal(size=(3, d))[labels]) * np.logspace(0, spread, d) + 3, labels


def plain_h_score(X, labels, covariance):
    """Bao et al. 2019: the covariance of the features, each replaced by its class's mean, in theirs."""
    means = np.stack([X[labels == label].mean(0) for label in labels])
    return np.trace(np.linalg.pinv(covariance) @ np.cov(means.T, bias=True).reshape(covariance.shape))


def plain_logme(X, y):
    """You et al. 2021, algorithm 3, iterated until nothing changes; log|A| over all dimensions."""
    n, d = X.shape
    gram, cross, alpha, beta = X.T @ X, X.T @ y, 1.0, 1.0
    values = np.linalg.eigvalsh(gram).clip(0)
    for _ in range(100_000):
        weights = beta * np.linalg.solve(alpha * np.eye(d) + beta * gram, cross)
        gamma = (beta * values / (alpha + beta * values)).sum()
        before = alpha, beta
        alpha, beta = gamma / (weights @ weights), (n - gamma) / np.square(y - X @ weights).sum()
        if max(abs(alpha / before[0] - 1), abs(beta / before[1] - 1)) < 1e-10:
            break
    A = alpha * np.eye(d) + beta * gram
    weights = beta * np.linalg.solve(A, cross)
    misfit = beta * np.square(y - X @ weights).sum() + alpha * weights @ weights + np.linalg.slogdet(A)[1]
    return (n * np.log(beta) + d * np.log(alpha) - n * np.log(2 * np.pi) - misfit) / (2 * n)


def test_golden_values():
    arrays, golden = (
        load_file(GOLDEN / "scores_tiny.safetensors"),
        json.loads((GOLDEN / "scores_tiny.json").read_text()),
    )
    m = moments(arrays["states"].numpy(), arrays["labels"].numpy()).averages(0)
    assert h_score(m, shrink=False) == pytest.approx(golden["h_score_unshrunk_population"], rel=1e-9)
    assert h_score(m) == pytest.approx(golden["h_score_oas"], rel=1e-9)
    assert logme(m) == pytest.approx(golden["logme_converged"], abs=1e-9)
    assert logme(m) == pytest.approx(golden["logme_peer"], abs=1e-6)
    assert rankme(m) == pytest.approx(golden["rankme"], rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(90, 8), (400, 5), (90, 1)])
def test_they_equal_their_definitions_on_features_also_from_shards(n, d):
    X, labels = sample(n, d)
    shards = [moments(X[i::3], labels[i::3], 3) for i in range(3)]
    for m in (moments(X, labels).averages(0), shards[0].merge(shards[1]).merge(shards[2]).averages(0)):
        population, shrunk = np.cov(X.T, bias=True).reshape(d, d), OAS().fit(X).covariance_
        assert h_score(m, shrink=False) == pytest.approx(plain_h_score(X, labels, population), rel=1e-6)
        assert h_score(m) == pytest.approx(plain_h_score(X, labels, shrunk), rel=1e-6)
        expected = np.mean([plain_logme(X, (labels == c).astype(float)) for c in range(3)])
        assert logme(m) == pytest.approx(expected, abs=1e-6)
        shares = np.linalg.svd(X, compute_uv=False)
        shares /= shares.sum()
        assert rankme(m) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_fewer_texts_than_dimensions():
    X, labels = sample(n=20, d=30, spread=0.3)
    m = moments(X, labels).averages(0)
    assert h_score(m) == pytest.approx(plain_h_score(X, labels, OAS().fit(X).covariance_), rel=1e-6)

    def missing(logs, y):  # minus the evidence of y itself, as a Gaussian vector
        alpha, beta = np.exp(logs)
        return -multivariate_normal(cov=np.eye(20) / beta + X @ X.T / alpha).logpdf(y) / 20

    best = []
    for c in range(3):
        y = (labels == c).astype(float)
        best.append(-optimize.minimize(missing, [0.0, 0.0], args=(y,), method="Nelder-Mead").fun)
    assert logme(m) == pytest.approx(np.mean(best), abs=1e-6)
    shares = np.linalg.svd(X, compute_uv=False)
    shares /= shares.sum()
    assert rankme(m) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_a_class_without_texts_changes_nothing():
    X, labels = sample()
    with_it, without = (moments(X, labels, classes).averages(0) for classes in (5, 3))
    for score in (h_score, logme, rankme):
        assert score(with_it) == pytest.approx(score(without), rel=1e-12)


def test_a_numeric_target():
    texts, _ = random_texts(n=60, d=5)
    m, means, Y = moments_of(texts, np.random.default_rng(1).normal(2.0, 3.0, size=60))
    assert math.isnan(h_score(m))
    assert logme(m) == pytest.approx(plain_logme(means, Y[:, 0]), abs=1e-6)


def test_the_best_features_score_highest():
    """Labels from the features, half from them, and at random: each score of the labels falls in turn."""
    X, labels = sample(n=300)
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(300) < 0.5, rng.permutation(labels), labels)
    tables = [moments(X, y).averages(0) for y in (labels, noisy, rng.permutation(labels))]
    for score in (h_score, logme, lambda m: layer_row(Layer(m))["gcv_skill"]):
        good, middle, none = map(score, tables)
        assert good > middle > none
    assert abs(layer_row(Layer(tables[2]))["gcv_skill"]) < 0.02


@pytest.mark.parametrize(
    "X",
    [
        np.ones((12, 4)),
        np.hstack([np.random.default_rng(0).normal(size=(12, 3)), np.full((12, 1), 7.0), np.zeros((12, 1))]),
        np.random.default_rng(0).normal(size=(12, 1)),
        np.ones((12, 1)),
        np.random.default_rng(0).normal(size=(2, 40)),
        np.random.default_rng(0).normal(size=(12, 3)) * [1.0, 1e6, 1e-6],
    ],
    ids=["constant", "constant and dead", "d=1", "constant d=1", "n=2", "scales"],
)
def test_odd_features(X):
    labels = np.arange(len(X)) % 2
    row = layer_row(Layer(moments(X, labels, 3).averages(0)))
    for name in ("h_score", "logme", "rankme", "gcv_skill"):
        assert math.isfinite(row[name]), name
    assert row["h_score"] >= 0 and 1 <= row["rankme"] <= X.shape[1] + 1e-9
    if (X == 1).all():
        assert row["h_score"] == 0 and row["rankme"] == pytest.approx(1)


def test_row_of_a_layer_and_headroom():
    train, test = (moments(*sample(seed=seed)).averages(0) for seed in (0, 1))
    row, alone = layer_row(Layer(train, test)), layer_row(Layer(train))
    assert {k: v for k, v in row.items() if "test" not in k} == {
        k: v for k, v in alone.items() if "test" not in k
    }
    assert math.isnan(alone["ridge_test_mse"]) and math.isnan(alone["ridge_test_skill"])
    probe = probes.ridge(train)
    assert row["ridge_test_skill"] == probes.skill(probe, train, test)
    # the constant probe's own cross-validation error: SE / (1 - 1/n)^2 over the classes
    p = train.class_counts.numpy() / 90
    assert row["gcv_skill"] == pytest.approx(
        1 - row["gcv_error"] / ((1 - np.square(p).sum()) / 3 / (89 / 90) ** 2)
    )
    assert headroom([{"gcv_skill": 0.2}, {"gcv_skill": 0.5}, {"gcv_skill": 0.4}]) == pytest.approx(0.1)
    assert headroom([{"gcv_skill": 0.2}, {"gcv_skill": 0.5}]) == 0
