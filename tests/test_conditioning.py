"""The path over tolerances against principal-component regression on the texts, and cross-validation against refits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LinearRegression

from ntps.scores.conditioning import GRID, Tolerances, best_and_largest, chosen, fold_errors, path
from ntps.scores.layer import Layer, ntps
from ntps.scores.linear_algebra import Spectrum
from tests.synthetic_moments import moments_of, random_texts

TAUS = (1e-12, 1e-3, 1e-2, 1e-1)


@pytest.fixture(scope="module")
def world():
    return moments_of(*random_texts(n=90, d=8), permutations=19)


def plain_coefficients(X: np.ndarray, Y: np.ndarray, tau: float) -> np.ndarray:
    """Principal-component regression without intercept, on coordinates of unit mean square."""
    scale = np.sqrt(np.square(X).mean(0))
    svd = TruncatedSVD(X.shape[1] - 1, algorithm="arpack", random_state=0).fit(X / scale)
    rank = int((np.linalg.eigvalsh((X / scale).T @ (X / scale)) > tau * svd.singular_values_[0] ** 2).sum())
    if rank < X.shape[1]:
        Z = svd.components_[:rank].T / scale[:, None]
    else:
        Z = np.eye(X.shape[1])
    return Z @ LinearRegression(fit_intercept=False).fit(X @ Z, Y).coef_.T


def plain_subspace(B: np.ndarray, explained: np.ndarray) -> np.ndarray:
    """U with U U^T = B (S^T B)^+ B^T: the directions of the coefficients, of unit length in what they explain."""
    values, vectors = np.linalg.eigh(explained)
    return B @ vectors / np.sqrt(values)


@pytest.mark.parametrize("kv", [1, 3])
def test_the_path_is_that_of_principal_component_regression(world, kv):
    moments, means, Y = world
    layer, n = Layer(moments), len(means)
    spectrum = Spectrum.of(moments.prefix_second_moment)
    P1 = moments.prefix_next_moment.numpy()
    for one in path(layer, [Tolerances(a, b) for a in TAUS for b in TAUS], kv):
        white = spectrum.whitened(one.tolerances.prefix_rtol).W.numpy()
        V = white @ np.linalg.svd(white.T @ P1)[0][:, :kv]
        Q = np.linalg.qr(V)[0]

        def share(targets):
            B = plain_coefficients(means, targets, one.tolerances.rtol)  # noqa: B023
            U = plain_subspace(B, (means.T @ targets / n).T @ B)
            return np.square(Q.T @ U).sum() / np.square(U).sum()  # noqa: B023

        assert one.kv == min(kv, one.rank_prefix) and one.ntps == pytest.approx(share(Y), abs=1e-8)
        rng = np.random.default_rng(0)
        null = [share(Y[rng.permutation(n)]) for _ in range(19)]
        assert one.null.tolist() == pytest.approx(null, abs=1e-8)


def test_at_the_usual_tolerance_it_is_ntps(world):
    moments, *_ = world
    (one,) = path(Layer(moments), [Tolerances(1e-12, 1e-12)], 3)
    assert (
        one.ntps == pytest.approx(float(ntps(moments, kv=3)), abs=1e-10)
        and one.rank_mean == one.rank_prefix == 8
    )
    cut = Layer(moments, rtol=1e-2, prefix_rtol=1e-1)
    (other,) = path(Layer(moments), [Tolerances(1e-2, 1e-1)], 2)
    assert other.ntps == pytest.approx(float(cut.orders["descending"].ntps[1]), abs=1e-10)
    assert other.null.tolist() == pytest.approx(cut.orders["descending"].null[:, 1].tolist(), abs=1e-10)
    assert other.rank_mean == cut.task.mean.rank < 8 and other.rank_prefix == cut.K < 8


def test_permuted_labels_keep_as_many_directions_as_the_labels_at_a_tolerance_of_m(world):
    """rtol cuts M alone: label directions of a hundredth of the largest eigenvalue stay on both sides."""
    moments, *_ = world
    weak = torch.ones(moments.targets, dtype=torch.float64)
    weak[-1] = 0.02  # of S's columns: eigenvalues go with its square
    scaled = replace(
        moments,
        mean_label_moment=moments.mean_label_moment * weak,
        label_moment_permuted=moments.permuted * weak,
    )
    (one,) = path(Layer(scaled), [Tolerances(1e-2, 1e-12)], 3)
    cut = Layer(scaled, rtol=1e-2, prefix_rtol=1e-12)
    assert cut.orders["descending"].null[:, 2].tolist() == pytest.approx(one.null.tolist(), abs=1e-10)


def test_cross_validation_is_that_of_refitting_without_each_part():
    texts, labels = random_texts(n=80, d=8, seed=5)
    moments, means, Y = moments_of(texts, labels)
    for fold in range(4):
        inside = np.arange(80) % 4 == fold
        part, *_ = moments_of([texts[i] for i in np.flatnonzero(inside)], labels[inside])
        rest = moments.without(part)
        found, found_next = fold_errors(rest, part)
        train, test = (prefixes([texts[i] for i in np.flatnonzero(rows)]) for rows in (~inside, inside))
        for tau in (1e-12, 1e-3, 1e-2, 1e-1):
            place = int(np.argmin(np.abs(np.log10(GRID) - np.log10(tau))))
            B = plain_coefficients(means[~inside], Y[~inside], GRID[place])
            expected = np.square(Y[inside] - means[inside] @ B).sum() / inside.sum()
            assert float(found[place]) == pytest.approx(expected, abs=1e-8)
            units = np.sqrt(np.square(train[0]).sum(0) / (~inside).sum())
            B = plain_coefficients(*train, GRID[place])
            power = np.square(test[1] / units).sum() / inside.sum()
            expected = np.square((test[1] - test[0] @ B) / units).sum() / inside.sum() - power
            assert float(found_next[place]) == pytest.approx(expected, rel=1e-8)


def test_the_units_of_a_coordinate_have_no_say_in_the_choice():
    texts, labels = random_texts(n=80, d=8, seed=5)
    units = np.array([1, 1000, 1, 1e-3, 1, 30, 1, 1])
    errors = []
    for scale in (np.ones(8), units):
        moments, *_ = moments_of([text * scale for text in texts], labels)
        part, *_ = moments_of([text * scale for text in texts[::4]], labels[::4])
        errors.append(fold_errors(moments.without(part), part))
    for plain, scaled in zip(*errors):
        assert scaled.tolist() == pytest.approx(plain.tolist(), rel=1e-8, abs=1e-10)


def prefixes(texts):
    """Prefix sums and next states, rows below each other."""
    return np.concatenate([t.cumsum(0)[:-1] for t in texts]), np.concatenate([t[1:] for t in texts])


def test_the_minimum_and_the_largest_within_one_standard_error():
    errors = np.full((5, len(GRID)), 10.0)
    errors[:, 20] = 1.0
    errors[:, 30] = 1.0 + np.array([0.5, -0.5, 0.3, -0.3, 0.1])  # 0.02 above, standard error 0.19
    errors[:, 40] = 2.0
    assert best_and_largest(errors, np.full(5, 0.2)) == (GRID[20], GRID[30])
    assert best_and_largest(errors[:, ::-1], np.full(5, 0.2))[0] == GRID[len(GRID) - 1 - 20]
    flat = np.zeros((5, len(GRID)))
    assert best_and_largest(flat, np.full(5, 0.2)) == (
        GRID[-1],
        GRID[-1],
    )  # of equal ones the fewest directions
    both = chosen([(torch.as_tensor(row), torch.as_tensor(row)) for row in errors], [3] * 5)
    assert [one.choice for one in both] == ["cv", "cv_1se"]
    assert both[0].rtol == both[0].prefix_rtol == GRID[20] and both[1].rtol == GRID[30]


def test_rank_deficient_moments_stay_in_their_range():
    moments, means, Y = moments_of(*random_texts(n=6, d=8), permutations=3)
    for one in path(Layer(moments), [Tolerances(tau, tau) for tau in TAUS], 2):
        assert 0 <= one.ntps <= 1 and one.rank_mean <= 6


def test_no_lift_where_any_labels_would_take_every_direction(world):
    moments, *_ = world
    spectrum = moments.plain.spectrum
    for one in path(Layer(moments), [Tolerances(tau, 1e-12) for tau in GRID], 2):
        few = spectrum.rank(one.tolerances.rtol) <= 3
        assert few == (len(one.null) == 0) == np.isnan(one.lift) == np.isnan(one.p_value)


def test_the_signal_share_on_what_is_left_is_that_of_the_centred_states(world):
    moments, *_ = world
    (one,) = path(Layer(moments), [Tolerances(1e-12, 1e-12)], 2)
    assert one.signal_share == pytest.approx(Layer(moments).label_signal.signal_share, abs=1e-12)
