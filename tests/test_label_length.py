"""The share of the label directions' length in M's small eigenvectors, against explicit matrices."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import eigh

import cache
import K_sweep
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import whiten
from ntps.scores.subspaces import Perception
from report import label_length
from tests.fake_results import fake_grid
from tests.tiny import tiny_world, world_flags


def test_the_share_is_that_of_the_generalized_eigenvectors():
    draw = np.random.default_rng(0)
    states, labels = draw.normal(size=(200, 8)) * np.geomspace(0.1, 3, 8), np.eye(3)[draw.integers(0, 3, 200)]
    M, S = states.T @ states / 200, states.T @ labels / 200
    values, vectors = eigh(S @ S.T, M)
    U, Q = vectors[:, values > 1e-9 * values[-1]], np.linalg.eigh(M)[1][:, :4]
    wanted = np.linalg.norm(Q.T @ U) ** 2 / np.linalg.norm(U) ** 2
    M, S, Q = map(torch.from_numpy, (M, S, Q))
    found = label_length.share(Perception(whiten(M), S).U, Q)
    assert found == pytest.approx(wanted, rel=1e-8) and found > 0.5


def test_added_signal_is_that_of_least_squares_with_and_without_the_directions():
    draw = np.random.default_rng(1)
    n, d, kv = 300, 6, 2
    states, labels = draw.normal(size=(n, d)) + 1, draw.integers(0, 3, n)
    states[:, 1] += labels
    Y, orders = np.eye(3), [draw.permutation(n) for _ in range(4)]
    P0, P1 = (np.cov(draw.normal(size=(d, 50))) for _ in range(2))
    layer = Layer(
        LayerMoments(**{
            "mean_second_moment": states.T @ states / n, "mean_label_moment": states.T @ Y[labels] / n,
            "mean_state": states.mean(0), "label_moment_permuted": np.stack([states.T @ Y[labels[order]] / n for order in orders]),
            "prefix_second_moment": P0, "prefix_next_moment": P1, "class_counts": np.bincount(labels),
            "label_second_moment": 1.0, "text_count": n,
        })
    )  # fmt: skip
    V = eigh(P1 @ P1.T, P0)[1][:, ::-1][:, :kv]

    def explained(columns, y):  # of the mean square of y
        return np.square(columns @ np.linalg.lstsq(columns, y, rcond=None)[0]).sum() / n

    full, kept = (
        explained(columns, Y[labels]) - np.mean([explained(columns, Y[labels[order]]) for order in orders])
        for columns in (states, states @ V)
    )
    assert label_length.added_signal(layer, kv) == pytest.approx((full, kept / full), rel=1e-9)


def test_a_row_for_every_pair(tmp_path, capsys):
    world = tiny_world(tmp_path)
    flags = world_flags(world, tmp_path / "out")
    assert cli.run(cache.main, [*flags, "--splits", "train", "--label_permutations", "3"]) == 0
    assert cli.run(K_sweep.main, flags) == 0
    assert cli.run(label_length.main, [str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "label_length.csv")
    assert table["dataset"].tolist() == ["tiny"] and table[["labels", "shuffled"]].stack().between(0, 1).all()
    assert table["added"].notna().all() and table["added_kept"].notna().all()


def test_an_unknown_model_is_named(tmp_path, capsys):
    fake_grid(tmp_path, ["m"], ["a"])
    assert cli.run(label_length.main, [str(tmp_path), "--models", "other"]) == 1
    assert "other: not in the results" in capsys.readouterr().err
