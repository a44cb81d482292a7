"""Excess loss, retention, chance and label null against brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntps.scores.layer import Layer, ntps
from ntps.scores.linear_algebra import whiten
from ntps.scores.subspaces import Perception, solve
from ntps.scores.table import layer_scores
from ntps.system.threads import map_layers
from tests.synthetic_moments import moments_of, random_texts

COLUMNS = (
    "order rule fraction ku kv ntps chance chance_std z lift excess excess_lower excess_upper retention "
    "rank_mean rank_prefix rank_unstable n_texts null_mean null_std p_value retention_null label_free tie "
    "null_lift retention_adjusted retention_p_value heldout_retention heldout_skill heldout_skill_full "
    "ntps_se retention_se n_over_d excess_lower_tight excess_upper_tight eigenvalue_gap "
    "retention_corrected retention_corrected_se retention_corrected_jackknife retention_corrected_unequal corrected_refusal rotated_mean rotated_p_value "
    "ntps_pca ntps_minus_pca ntps_minus_pca_se ntps_random retention_pca retention_minus_pca retention_minus_pca_se "
    "retention_random retention_corrected_pca retention_corrected_minus_pca retention_corrected_minus_pca_se "
    "retention_corrected_random heldout_retention_pca heldout_retention_minus_pca heldout_retention_minus_pca_se "
    "heldout_retention_random"
).split()


def directions(moments, order):
    V = solve(moments.prefix_next_moment, whiten(moments.prefix_second_moment)).vectors.numpy()
    return V if order == "descending" else V[:, ::-1]


def best_error(means, Y, basis):
    """Smallest E||y - Z^T basis^T m||^2, by least squares on the texts themselves."""
    features = means @ basis / np.linalg.norm(means @ basis, axis=0)
    return np.square(Y - features @ np.linalg.lstsq(features, Y, rcond=1e-12)[0]).sum() / len(Y)


@pytest.mark.parametrize("n", [60, 5], ids=["n>d", "n<d"])
def test_excess_and_retention_are_those_of_least_squares_on_the_texts(n):
    moments, means, Y = moments_of(*random_texts(n=n, d=8))
    scores = layer_scores(moments)
    assert (scores.rank_mean, scores.rank_prefix, scores.task_rank) == (min(n, 8), 8, 3)
    full = best_error(means, Y, np.eye(8))
    for i, order in enumerate(("descending", "released")):
        V = directions(moments, order)
        for k in range(1, 9):
            error = best_error(means, Y, V[:, :k])
            assert float(scores.excess[i, k - 1]) == pytest.approx(error - full, abs=1e-9)
            retained = (np.square(Y).sum() / n - error) / (np.square(Y).sum() / n - full)
            assert float(scores.retention[i, k - 1]) == pytest.approx(retained, abs=1e-9)
        assert (scores.excess[i, scores.rank_mean - 1 :].abs() < 1e-15).all()


def test_excess_is_the_explicit_minimum_over_z():
    moments, _, _ = moments_of(*random_texts())
    M, S = moments.mean_second_moment.numpy(), moments.mean_label_moment.numpy()
    values, Q = np.linalg.eigh(M)
    root = Q * np.sqrt(values) @ Q.T
    target = root @ np.linalg.solve(M, S)
    V = directions(moments, "descending")
    for k in range(1, 9):
        Z = np.linalg.lstsq(root @ V[:, :k], target, rcond=None)[0]
        expected = np.square(target - root @ V[:, :k] @ Z).sum()
        assert float(layer_scores(moments).excess[0, k - 1]) == pytest.approx(expected, rel=1e-6, abs=1e-14)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.sampled_from([4, 40]))
def test_bounds_hold_and_curves_are_monotone(seed, n):
    scores = layer_scores(moments_of(*random_texts(n=n, d=6, seed=seed))[0])
    for row in scores.rows:
        slack = 1e-10 * scores.upper_constant
        assert row["excess_lower"] <= row["excess"] + slack and row["excess"] <= row["excess_upper"] + slack
        assert 0 <= row["ntps"] <= 1 and 0 <= row["retention"] <= 1
    assert (scores.lower_constant > 0) == (n > 6)
    for curve, sign in ((scores.ntps, 1), (scores.retention, 1), (scores.excess, -1)):
        assert (sign * curve.diff(dim=1) >= 0).all()


def test_lower_bound_uses_the_smallest_and_upper_the_largest_eigenvalue():
    moments, _, _ = moments_of(*random_texts())
    M = moments.mean_second_moment
    task = Perception(whiten(M), moments.mean_label_moment)
    scores = layer_scores(moments)
    spectrum, norm = np.linalg.eigvalsh(M), float(task.U.square().sum())
    assert scores.lower_constant == pytest.approx(spectrum[0] * float(task.solution.eigenvalues[2]) * norm)
    assert scores.upper_constant == pytest.approx(spectrum[-1] * float(task.solution.eigenvalues[0]) * norm)
    row = next(row for row in scores.rows if row["rule"] == "fraction" and row["kv"] == 4)  # ku is not r here
    assert row["ku"] != 3
    assert row["excess_upper"] == pytest.approx(scores.upper_constant * (1 - float(scores.ntps[0, 3])))


def test_table_has_the_promised_rows_and_columns():
    moments, _, _ = moments_of(*random_texts(n=80, d=24), permutations=3)
    scores = layer_scores(moments)
    assert len(scores.rows) == 2 * (20 + 19)
    assert all(sorted(row) == sorted(COLUMNS) for row in scores.rows)
    sweep = [row for row in scores.rows if row["rule"] == "fraction" and row["order"] == "released"]
    assert (
        [row["kv"] for row in sweep]
        == [row["ku"] for row in sweep]
        == [max(1, j * 24 // 20) for j in range(1, 20)]
    )
    assert [row["fraction"] for row in sweep] == pytest.approx([j / 20 for j in range(1, 20)])
    (tenth,) = [r for r in scores.rows if math.isnan(r["fraction"]) and r["order"] == "descending"]
    assert tenth["kv"] == 2 and tenth["ku"] == 3 and tenth["rule"] == "task_rank"
    for row in scores.rows:
        ku = row["ku"] if row["rule"] == "fraction" else None
        assert row["ntps"] == pytest.approx(ntps(moments, ku=ku, kv=row["kv"], order=row["order"]), abs=1e-12)
        i = ("descending", "released").index(row["order"])
        assert row["retention"] == float(scores.retention[i, row["kv"] - 1])
        assert math.isnan(row["p_value"]) == (row["rule"] == "fraction")


@pytest.mark.parametrize("order", ["descending", "released"])
def test_chance_is_that_of_random_subspaces(order):
    moments, _, _ = moments_of(*random_texts(n=80, d=6))
    task = Perception(whiten(moments.mean_second_moment), moments.mean_label_moment)
    rng = np.random.default_rng(0)
    U, W = task.U.numpy(), task.mean.W.numpy()
    NN = W @ W.T - U @ U.T
    for row in layer_scores(moments).rows:
        if row["order"] != order or row["kv"] not in (1, 3) or row["rule"] == "task_rank" and row["kv"] != 3:
            continue
        ku, kv = row["ku"], row["kv"]
        if row["rule"] == "task_rank":
            A = U @ U.T
        elif order == "descending":
            A = U[:, :ku] @ U[:, :ku].T + max(0, ku - 3) / 3 * NN
        else:
            A = min(ku, 3) / 3 * NN + U[:, 6 - ku :] @ U[:, 6 - ku :].T * (ku > 3)
        bases = np.linalg.qr(rng.normal(size=(20_000, 6, kv)))[0]
        shares = np.einsum("bik,ij,bjk->b", bases, A, bases) / np.trace(A)
        assert row["chance"] == pytest.approx(shares.mean(), rel=0.03) and row["chance"] == kv / 6
        assert row["chance_std"] == pytest.approx(shares.std(), rel=0.05)
        assert row["z"] == pytest.approx((row["ntps"] - kv / 6) / row["chance_std"])
        assert row["lift"] == pytest.approx((row["ntps"] - kv / 6) / (1 - kv / 6))


def test_label_free_score_of_the_released_sweep():
    moments, _, _ = moments_of(*random_texts(n=80, d=24))
    inverse = np.linalg.inv(moments.mean_second_moment.numpy())
    V = directions(moments, "released")
    for row in layer_scores(moments).rows:
        if row["order"] == "released" and row["rule"] == "fraction":
            P = V[:, : row["kv"]] @ np.linalg.pinv(V[:, : row["kv"]])
            assert row["label_free"] == pytest.approx(np.trace(P @ inverse) / np.trace(inverse), abs=1e-6)


def test_eigenvalue_gap_is_that_beside_the_cut():
    moments, _, _ = moments_of(*random_texts(n=80, d=8))
    P0, P1 = moments.prefix_second_moment, moments.prefix_next_moment
    plain = np.sort(np.linalg.eigvals(np.linalg.solve(P0, P1 @ P1.T)).real)
    for row in layer_scores(moments).rows:
        first, second = (plain if row["order"] == "released" else plain[::-1])[row["kv"] - 1 : row["kv"] + 1]
        expected = abs(first - second) / max(first, second)
        assert row["eigenvalue_gap"] == pytest.approx(expected, rel=1e-6) and 0 < expected < 1


@pytest.mark.parametrize("near", [0.0, 1e-4])
def test_nearly_equal_eigenvalues_show_in_the_gap_and_equal_ones_in_tie_too(near):
    moments = moments_of(*random_texts(n=80, d=4))[0]
    next_moment = np.diag(np.sqrt([4, 2, 2 * (1 - near), 0]))
    moments = replace(moments, prefix_second_moment=np.eye(4), prefix_next_moment=next_moment)
    found = {row["order"]: {} for row in layer_scores(moments).rows}
    for row in layer_scores(moments).rows:
        found[row["order"]][row["kv"]] = (row["tie"], row["eigenvalue_gap"])
    for order, gaps in (("descending", [0.5, near, 1]), ("released", [1, near, 0.5])):
        for kv, gap in enumerate(gaps, start=1):
            tie, shown = found[order][kv]
            assert shown == pytest.approx(gap, abs=1e-12) and tie == (gap == 0)
    layer = Layer(replace(moments, prefix_next_moment=np.diag([2.0, 1.0, 0.0, 0.0])))
    assert layer.orders["descending"].gaps.tolist() == pytest.approx([0.75, 1, 0, np.nan], nan_ok=True)


def test_shuffled_labels_are_scored_like_the_true_ones():
    moments, _, _ = moments_of(*random_texts(), permutations=9)
    scores = layer_scores(moments)
    for i, order in enumerate(("descending", "released")):
        expected = torch.stack([
            ntps(replace(moments, mean_label_moment=S), order=order) for S in moments.permuted
        ])  # fmt: skip
        torch.testing.assert_close(scores.null[i], expected, atol=1e-10, rtol=0)
    for row in scores.rows:
        if row["rule"] == "task_rank":
            null = scores.null[("descending", "released").index(row["order"]), :, row["kv"] - 1].numpy()
            sides = (null >= row["ntps"] - 1e-12).sum(), (null <= row["ntps"] + 1e-12).sum()
            assert row["p_value"] == pytest.approx(min(1, 2 * (1 + min(sides)) / 10))
            assert row["null_mean"] == pytest.approx(null.mean())
            assert row["null_std"] == pytest.approx(null.std(ddof=1), abs=1e-12)


@pytest.mark.parametrize("numeric", [False, True], ids=["classes", "numeric"])
def test_retention_null_is_the_mean_over_all_orders_of_the_labels(numeric):
    texts, labels = random_texts(n=6, d=4, classes=2, length=(4, 8))
    targets = np.array([0.5, -1.0, 2.0, 0.1, 0.7, 3.0]) if numeric else labels
    moments, means, Y = moments_of(texts, targets)
    found = {
        row["kv"]: row["retention_null"] for row in layer_scores(moments).rows if row["order"] == "descending"
    }
    shuffles = list(itertools.permutations(range(6)))
    full = np.mean([np.square(Y).sum() / 6 - best_error(means, Y[list(s)], np.eye(4)) for s in shuffles])
    V = directions(moments, "descending")
    for k, value in found.items():
        kept = np.mean([np.square(Y).sum() / 6 - best_error(means, Y[list(s)], V[:, :k]) for s in shuffles])
        assert value == pytest.approx(kept / full, rel=1e-8)


def test_odd_inputs():
    texts, labels = random_texts(n=50, d=8)
    for text in texts:
        text[:, 3] = 0.0  # dead
        text[:, 4] = 2.5  # constant
    moments, means, Y = moments_of(texts, labels)
    scores = layer_scores(moments)
    assert (
        scores.rank_mean == scores.rank_prefix == 7
        and scores.ntps.shape == (2, 7)
        and scores.lower_constant == 0
    )
    assert float(scores.ntps[0, -1]) == pytest.approx(1)
    error = best_error(means, Y, directions(moments, "descending")[:, :2])
    assert float(scores.excess[0, 1]) == pytest.approx(
        error - best_error(means, Y, np.delete(np.eye(8), 3, 1)), abs=1e-9
    )
    with_empty = replace(
        moments,
        mean_label_moment=np.hstack([moments.mean_label_moment, np.zeros((8, 1))]),
        class_counts=np.append(moments.class_counts, 0.0),
    )
    empty = layer_scores(with_empty)
    assert empty.task_rank == 3
    torch.testing.assert_close(empty.ntps, scores.ntps, atol=1e-9, rtol=0)
    numeric = layer_scores(moments_of(texts, np.linspace(-1.0, 2.0, 50), permutations=1)[0])
    assert numeric.task_rank == 1 and numeric.null.shape == (2, 1, 7)
    assert math.isnan(numeric.rows[0]["null_std"]) and not math.isnan(numeric.rows[0]["p_value"])
    assert math.isnan(scores.rows[0]["p_value"]) and math.isnan(scores.rows[0]["null_mean"])


def test_no_chance_to_beat_where_the_subspace_is_everything():
    moments, _, _ = moments_of(*random_texts(n=40, d=1, classes=2))
    row = layer_scores(moments).rows[0]
    assert row["ntps"] == row["chance"] == 1 and math.isnan(row["z"]) and math.isnan(row["lift"])


def test_layers_in_parallel_keep_their_order_and_the_thread_count():
    layers = [moments_of(*random_texts(seed=seed))[0] for seed in range(5)]
    threads, done = torch.get_num_threads(), 0
    for layer, scores in zip(layers, map_layers(layer_scores, layers, workers=2), strict=True):
        done += 1
        torch.testing.assert_close(scores.ntps[0], ntps(layer), atol=1e-12, rtol=0)
    assert done == 5 and torch.get_num_threads() == threads
