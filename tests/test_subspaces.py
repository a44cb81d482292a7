"""The solver and the score against golden numbers, explicit projectors and invariances."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ntps.errors import UserError
from ntps.scores.layer import ntps
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import Nested, Spectrum, head, left_singular, tail, tied, whiten
from ntps.scores.subspaces import Perception, solve
from tests.synthetic_moments import moments_of, random_texts

GOLDEN = Path(__file__).parent / "golden" / "moments_tiny.safetensors"
EXAMPLES = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 10_000)


def orthogonal(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def projected_share(U, V):
    """The definition: ||V V^+ U||^2 / ||U||^2."""
    U, V = np.asarray(U), np.asarray(V)
    return np.square(V @ np.linalg.pinv(V) @ U).sum() / np.square(U).sum()


def test_golden_scores_for_every_ku_and_kv():
    golden = load_file(GOLDEN)
    names = ("mean_second_moment", "mean_label_moment", "prefix_second_moment", "prefix_next_moment")
    expected = golden["expected.ntps_descending"]
    for layer in range(2):
        arrays = {name: golden[f"expected.{name}"][layer] for name in names}
        d, classes = arrays["mean_label_moment"].shape
        moments = LayerMoments(
            **arrays,
            mean_state=torch.zeros(d),
            class_counts=torch.ones(classes),
            label_second_moment=1.0,
            text_count=1,
        )
        for ku in range(1, 5):
            torch.testing.assert_close(ntps(moments, ku=ku), expected[layer, ku - 1], atol=1e-8, rtol=0)
        torch.testing.assert_close(ntps(moments), expected[layer, 3], atol=1e-8, rtol=0)
        assert ntps(moments, ku=2, kv=5) == pytest.approx(float(expected[layer, 1, 4]), abs=1e-8)


@pytest.mark.parametrize(
    ("n", "dead"), [(60, []), (60, [0, 5]), (5, []), (5, [2])], ids=["full", "dead", "n<d", "n<d, dead"]
)
@pytest.mark.parametrize(
    "with_solver", [whiten, lambda B: Spectrum.of(B).whitened()], ids=["whiten", "spectrum"]
)
def test_whitening(n, dead, with_solver):
    _, means, _ = moments_of(*random_texts(n=n, d=8, spread=4))
    means[:, dead] = 0
    B = torch.from_numpy(means.T @ means / n)
    white = with_solver(B)
    assert (
        white.rank == np.linalg.matrix_rank(means / np.maximum(means.std(0), 1e-300)) == min(n, 8 - len(dead))
    )
    assert not white.rank_unstable
    identity = torch.eye(white.rank, dtype=torch.float64)
    torch.testing.assert_close(white.W.T @ B @ white.W, identity, atol=1e-9, rtol=0)
    torch.testing.assert_close(white.F.T @ white.F, B, rtol=1e-9, atol=1e-12 * float(B.abs().max()))
    torch.testing.assert_close(white.F @ white.W, identity, atol=1e-9, rtol=0)
    x, y = torch.randn(8, 2, dtype=torch.float64), torch.randn(white.rank, 2, dtype=torch.float64)
    torch.testing.assert_close(white.pull(x), white.W.T @ x)
    torch.testing.assert_close(white.push(y), white.W @ y)
    inside = white.F.T @ torch.linalg.pinv(white.F.T)  # the projector on range(B)
    torch.testing.assert_close(inside @ white.W, white.W, rtol=1e-8, atol=1e-9 * float(white.W.abs().max()))


def test_rank_is_decided_on_the_scaled_matrix_and_flagged_near_the_limit():
    tiny = torch.diag(torch.tensor([1e20, 1.0, 1e-20], dtype=torch.float64))
    assert whiten(tiny).rank == 3
    close = torch.tensor([[1.0, 1 - 4e-12], [1 - 4e-12, 1.0]], dtype=torch.float64)  # eigenvalues 2 and 4e-12
    assert whiten(close).rank == 2 and whiten(close).rank_unstable
    closer = torch.tensor([[1.0, 1 - 1e-12], [1 - 1e-12, 1.0]], dtype=torch.float64)
    assert whiten(closer).rank == 1 and whiten(closer).rank_unstable
    assert not whiten(torch.tensor([[1.0, 1 - 1e-10], [1 - 1e-10, 1.0]], dtype=torch.float64)).rank_unstable


def test_float32_is_promoted_and_bad_moments_are_refused():
    assert whiten(torch.eye(2)).F.dtype == torch.float64
    with pytest.raises(UserError, match="every state of this layer is zero"):
        whiten(torch.zeros(3, 3))
    with pytest.raises(UserError, match="not finite"):
        whiten(torch.full((2, 2), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        solve(torch.full((3, 2), torch.inf), whiten(torch.eye(3)))
    with pytest.raises(UserError, match="unrelated"):
        solve(torch.zeros(3, 2), whiten(torch.eye(3)))


def test_solution_agrees_with_scipy_generalized_eigh():
    moments, _, _ = moments_of(*random_texts())
    for B, factor in (
        (moments.mean_second_moment, moments.mean_label_moment),
        (moments.prefix_second_moment, moments.prefix_next_moment),
    ):
        found = solve(factor, whiten(B))
        B, factor = B.numpy(), factor.numpy()
        values, vectors = scipy.linalg.eigh(factor @ factor.T, B)
        k = found.vectors.shape[1]
        np.testing.assert_allclose(found.eigenvalues, values[::-1][:k], rtol=1e-8, atol=1e-10 * values[-1])
        agreement = np.abs(np.diag(found.vectors.numpy().T @ B @ vectors[:, ::-1][:, :k]))
        np.testing.assert_allclose(agreement, 1, atol=1e-7)


@pytest.mark.parametrize("decades", [0.3, 4, 8])
def test_left_singular_vectors_without_squaring_the_condition_number(decades):
    d = 60
    left = torch.from_numpy(orthogonal(d, 1))
    sigma = torch.logspace(0, -decades, d, dtype=torch.float64)
    T = left * sigma @ torch.from_numpy(orthogonal(d, 2))
    found, squares = left_singular(T)
    torch.testing.assert_close(squares.sqrt(), sigma, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.T @ found, torch.eye(d, dtype=torch.float64), atol=1e-12, rtol=0)
    for k in (1, 10, 30, 50, 59):  # largest sine between the true span and the found one
        reference, _, _ = torch.linalg.svd(T)
        error = torch.linalg.matrix_norm(found[:, k:].T @ left[:, :k], 2)
        peer = torch.linalg.matrix_norm(reference[:, k:].T @ left[:, :k], 2)
        assert error < 10 * peer + 1e-9


def test_left_singular_of_a_rank_deficient_matrix():
    T = torch.outer(torch.arange(1.0, 6), torch.ones(7)).to(torch.float64)
    left, squares = left_singular(T)
    assert squares[0] == pytest.approx(55 * 7) and squares[1:].max() < 1e-20
    torch.testing.assert_close(left.T @ left, torch.eye(5, dtype=torch.float64))
    left, squares = left_singular(torch.zeros(3, 3, dtype=torch.float64))
    assert not squares.any() and left.shape == (3, 3)


@pytest.mark.parametrize("columns", [3, 8, 12], ids=["tall", "square", "wide"])
def test_nested_energies_are_those_of_explicit_projectors(columns):
    rng = np.random.default_rng(0)
    V, X = rng.normal(size=(8, columns)) * np.logspace(0, 5, columns), rng.normal(size=(8, 4))
    energies = Nested(torch.from_numpy(V)).energies(torch.from_numpy(X)).sum(1)
    inside, outside = head(energies, columns), tail(energies, columns)
    for k in range(1, columns + 1):
        basis = V[:, :k] / np.linalg.norm(V[:, :k], axis=0)
        P = basis @ np.linalg.pinv(basis)
        assert inside[k - 1] == pytest.approx(np.square(P @ X).sum())
        assert outside[k - 1] == pytest.approx(np.square(X - P @ X).sum(), abs=1e-20 if k >= 8 else 1e-12)


def test_ties_are_flagged_where_a_cut_separates_equals():
    values = torch.tensor([9.0, 4.0, 4.0 * (1 + 1e-12), 1.0, 1e-33, 0.0], dtype=torch.float64)
    assert tied(values).tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    "n", [60, 8]
)  # 8 texts of 3 classes: frequencies 3, 3 and 2 eighths, the first two tie
@pytest.mark.parametrize("order", ["descending", "released"])
def test_fraction_rule_is_the_expectation_over_random_null_bases(n, order):
    moments, _, _ = moments_of(*random_texts(n=n, d=10))
    task = Perception(whiten(moments.mean_second_moment), moments.mean_label_moment)
    V = solve(moments.prefix_next_moment, whiten(moments.prefix_second_moment)).vectors.numpy()
    values = task.solution.eigenvalues
    pair_is_tied = float(values[0] - values[1]) < 1e-9 * float(values[0])
    assert pair_is_tied == (n == 8)
    # A null basis of its own: white coordinates orthogonal to the label directions, turned at random.
    white = scipy.linalg.null_space(task.solution.left.numpy().T)
    rng = np.random.default_rng(0)
    kv = 3
    V = V if order == "descending" else V[:, ::-1]
    P = V[:, :kv] @ np.linalg.pinv(V[:, :kv])
    for ku in range(1, task.mean.rank + 1):
        top, bottom = 0.0, 0.0
        for _ in range(800):
            turn = np.linalg.qr(rng.normal(size=(white.shape[1],) * 2))[0]
            turned = task.U.numpy().copy()
            if pair_is_tied:
                turned[:, :2] @= np.linalg.qr(rng.normal(size=(2, 2)))[0]
            basis = np.hstack([turned, task.mean.W.numpy() @ white @ turn])
            U = basis[:, :ku] if order == "descending" else basis[:, ::-1][:, :ku]
            top, bottom = top + np.square(P @ U).sum(), bottom + np.square(U).sum()
        assert ntps(moments, ku=ku, kv=kv, order=order) == pytest.approx(top / bottom, rel=0.08)
    everything = basis  # all columns at once have no randomness left
    assert ntps(moments, ku=task.mean.rank, kv=kv, order=order) == pytest.approx(
        projected_share(everything, V[:, :kv])
    )


def test_released_task_rank_reverses_v_only():
    moments, _, _ = moments_of(*random_texts())
    task = Perception(whiten(moments.mean_second_moment), moments.mean_label_moment)
    V = solve(moments.prefix_next_moment, whiten(moments.prefix_second_moment)).vectors
    for kv in range(1, 9):
        expected = projected_share(task.U, V.flip(1)[:, :kv])
        assert ntps(moments, kv=kv, order="released") == pytest.approx(expected, rel=1e-9)


def test_ntps_refuses_what_it_cannot_do():
    moments, _, _ = moments_of(*random_texts())
    with pytest.raises(UserError, match="order must be one of"):
        ntps(moments, order="ascending")
    for wrong in ({"ku": 0}, {"ku": 9}, {"kv": 0}, {"kv": 9}):
        with pytest.raises(UserError, match="ku goes from 1 to 8"):
            ntps(moments, **wrong)


def every_score(moments):
    ranks = Perception(whiten(moments.mean_second_moment), moments.mean_label_moment).mean.rank
    curves = [ntps(moments, order=order) for order in ("descending", "released")]
    return torch.stack(curves + [ntps(moments, ku=ku) for ku in range(1, ranks + 1)])


@EXAMPLES
@given(seed=SEEDS, scale=st.floats(1e-6, 1e6))
def test_permuted_classes_and_scaled_states_change_nothing(seed, scale):
    texts, labels = random_texts(n=40, d=6, seed=seed)
    expected = every_score(moments_of(texts, labels)[0])
    permuted = np.random.default_rng(seed).permutation(3)[labels]
    torch.testing.assert_close(every_score(moments_of(texts, permuted)[0]), expected, atol=1e-8, rtol=0)
    scaled = moments_of([text * scale for text in texts], labels)[0]
    torch.testing.assert_close(every_score(scaled), expected, atol=1e-8, rtol=0)


@EXAMPLES
@given(seed=SEEDS, n=st.sampled_from([5, 40]))
def test_rotated_states_change_neither_rule(seed, n):
    texts, labels = random_texts(n=n, d=8, seed=seed, length=(3, 9))
    Q = orthogonal(8, seed + 1)
    expected = every_score(moments_of(texts, labels)[0])
    rotated = every_score(moments_of([text @ Q for text in texts], labels)[0])
    torch.testing.assert_close(rotated, expected, atol=1e-6, rtol=0)


@EXAMPLES
@given(seed=SEEDS)
def test_scores_grow_with_kv_from_zero_to_one(seed):
    scores = every_score(moments_of(*random_texts(n=40, d=6, seed=seed))[0])
    assert (scores.diff(dim=1) >= 0).all() and (scores >= 0).all()
    torch.testing.assert_close(scores[:, -1], torch.ones(len(scores), dtype=torch.float64))
