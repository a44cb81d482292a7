"""Populations of known scores against explicit matrices, their samples against explicit rows; intervals by simulation."""

import math
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import cache
from ntps.errors import UserError
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from report import estimators
from report import known_truth as known
from report.estimator_trials import Cell, Estimate, judged, solved, trial
from tests.synthetic_moments import moments_of, random_texts
from tests.tiny import tiny_world, world_flags

D, K = 20, 2


@pytest.fixture(scope="module")
def base():
    moments, *_ = moments_of(*random_texts(n=400, d=D))
    layer = Layer(moments)
    assert layer.tenth == K
    return layer


def rng(seed=0):
    return np.random.default_rng(seed)


def population_retention(world, V):
    """Share of Cov(m)^-1 Cov(m, y)'s explained variance that V (d, k) keeps, by the definition."""
    m = world.moments
    C = (m.mean_second_moment - torch.outer(m.mean_state, m.mean_state)).numpy()
    S = (m.mean_label_moment - torch.outer(m.mean_state, m.label_mean)).numpy()
    V = V.numpy()
    within = np.trace(S.T @ V @ np.linalg.solve(V.T @ C @ V, V.T @ S))
    full = np.trace(S.T @ np.linalg.solve(C, S))
    return within / full, full


@pytest.mark.parametrize(("targets", "r2"), [(1, 0.3), (2, 0.5)])
def test_a_population_has_the_retention_and_the_signal_asked_for(base, targets, r2):
    V = base.auto.vectors[:, :K]
    for retention in (0.2, 0.7):
        world = known.population(base, retention, 0.5, targets, r2, rng())
        found, explained = population_retention(world, V)
        variance = 1.0 if targets == 1 else 1 - 1 / targets
        assert found == pytest.approx(retention, abs=1e-9) and explained == pytest.approx(
            r2 * variance, abs=1e-9
        )
        truth = solved(world.moments, base)
        assert float(truth.orders["descending"].corrected[K - 1]) == pytest.approx(retention, abs=1e-6)
        assert truth.label_signal.adjusted_r2 == pytest.approx(world.r2, abs=1e-6) == r2


def test_ntps_is_as_near_as_may_be_to_what_was_asked_for(base):
    for seed in range(5):
        low, middle, high = (
            float(
                solved(known.population(base, 0.5, ntps, 1, 0.3, rng(seed)).moments, base)
                .orders["descending"]
                .ntps[K - 1]
            )
            for ntps in (0, 0.4, 1)
        )
        assert low < middle < high and abs(middle - 0.4) <= min(0.4 - low, high - 0.4)
    with pytest.raises(UserError, match="cannot hold"):
        known.population(base, 0.5, 0.5, 3, 0.3, rng())


def test_more_signal_than_classes_can_have_is_what_they_can(base):
    assert known.top_mean(2) == pytest.approx(1 / math.sqrt(math.pi)) and known.most(2) == pytest.approx(
        2 / math.pi
    )
    assert known.population(base, 0.5, 0.5, 2, 0.9, rng()).r2 == known.most(2)


@pytest.mark.parametrize("targets", [1, 2])
def test_samples_have_the_populations_moments(base, targets):
    world = known.population(base, 0.4, 0.5, targets, 0.3, rng())
    n = 400_000
    by_rows, *_ = known.draw_states(world, n, rng(1), 8.0 if targets == 1 else 1e9)
    for found in (known.draw(world, n, rng(2)), by_rows):
        for name in ("mean_second_moment", "mean_label_moment", "mean_state"):
            wanted, value = getattr(world.moments, name), getattr(found, name)
            assert float((value - wanted).norm() / wanted.norm()) < 0.02, name
        assert float(found.label_mean.sub(world.moments.label_mean).abs().max()) < 0.01
        assert found.label_second_moment == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("n", [30, 90])
def test_sums_of_squares_are_distributed_as_those_of_rows(base, n):
    world = known.population(base, 0.4, 0.5, 2, 0.5, rng())
    draw, values = rng(3), {"moments": [], "rows": []}
    for _ in range(250):
        rows, *_ = known.draw_states(world, n, draw, 1e9)
        for kind, one in (("moments", known.draw(world, n, draw)), ("rows", rows)):
            layer = solved(one, base)
            energies = layer.orders["descending"].centred_spans.energies(layer.label_signal.T)
            corner = float(one.centred.M.diagonal()[-1])
            values[kind].append((layer.label_signal.explained, float(energies[:K].sum()), corner))
    for a, b in zip(zip(*values["moments"]), zip(*values["rows"])):
        assert stats.ks_2samp(a, b).pvalue > 0.01


def test_fewer_rows_than_dimensions_have_as_low_a_rank(base):
    world = known.population(base, 0.4, 0.5, 1, 0.5, rng())
    assert int(torch.linalg.matrix_rank(known.draw(world, 9, rng()).centred.M)) == 8


def test_parts_add_up(base):
    world = known.population(base, 0.4, 0.5, 1, 0.5, rng())
    sizes, draw = (40, 60), rng(4)
    parts, rows = zip(
        *((one, more) for size in sizes for one, *more in [known.draw_states(world, size, draw, 9.0)])
    )
    whole = reduce(LayerMoments.joined, parts)
    states, y = (torch.cat(both) for both in zip(*rows))
    torch.testing.assert_close(whole.mean_second_moment, states.mT @ states / 100)
    torch.testing.assert_close(whole.mean_label_moment, states.mT @ y / 100)
    torch.testing.assert_close(whole.without(parts[0]).mean_state, parts[1].mean_state)
    torch.testing.assert_close(whole.prefix_next_moment, base.moments.prefix_next_moment)
    assert whole.text_count == 100


def test_drawn_prefixes_scatter_about_the_populations(base):
    world = known.population(base, 0.4, 0.5, 1, 0.5, rng())
    some = known.draw(world, 100, rng())
    m = base.moments
    for rows, distance in ((100, 0.5), (200_000, 0.01)):
        found = known.with_prefixes(known.replace(some, text_count=rows), world, 5.0, rng(1))
        for name in ("prefix_second_moment", "prefix_next_moment"):
            wanted = getattr(m, name)
            assert float((getattr(found, name) - wanted).norm() / wanted.norm()) < distance


def test_permuted_labels_are_as_those_of_rows(base):
    world = known.population(base, 0.4, 0.5, 2, 0.5, rng())
    moments, states, y = known.draw_states(world, 200, rng(5), 1e9)
    drawn = known.with_permutations(moments, 2000, rng(6)).permuted.flatten(1)
    order = rng(7)
    real = torch.stack([(states.mT @ y[order.permutation(200)] / 200).flatten() for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), real.mean(0), rtol=0.02, atol=0.02)
    assert float((torch.cov(drawn.mT) - torch.cov(real.mT)).norm() / torch.cov(real.mT).norm()) < 0.15


@pytest.mark.parametrize(("targets", "r2"), [(1, 0.6), (2, 0.5)])
def test_corrected_retention_is_unbiased_and_its_error_covers(base, targets, r2):
    """As the bars of docs/estimators.md, at d = 20: bias, and how many of the 90 % intervals hold the truth."""
    draw, errors, inside = rng(8), [], []
    for _ in range(300):
        retention = draw.uniform(0.1, 0.9)
        world = known.population(base, retention, 0.5, targets, r2, draw)
        layer = solved(known.draw(world, 160, draw), base)
        errors.append(float(layer.orders["descending"].corrected[K - 1]) - retention)
        reach = stats.norm.isf(0.05) * layer.label_signal.retained_error(
            torch.linalg.qr(layer.label_signal.white.F @ base.auto.vectors[:, :K])[0].mT
            @ layer.label_signal.T
        )
        inside.append(abs(errors[-1]) <= reach)
    assert abs(np.mean(errors)) < 0.01 and 0.84 < np.mean(inside) < 0.96


# --- the report ------------------------------------------------------------------------------------------------------


def test_every_estimator_is_judged(base):
    names = {}
    for cell in (
        Cell(6, 1, 0.6, partitions=5),
        Cell(6, 2, 0.6, "drawn", partitions=5),
        Cell(6, 1, 0.6, freedom=6.0),
    ):
        table = judged(cell, [trial(base, cell, rng(seed)) for seed in range(3)])
        names[cell] = set(table["estimator"])
        assert table["value"].notna().all() and (table["trials"] == 3).all()
    jackknife, cross, tails = names.values()
    assert "retention_corrected, jackknife" in jackknife and "conditioned_ntps cv_1se" in cross
    assert "retention_corrected_unequal" in tails and "ntps" in tails & cross & jackknife


def test_the_judgement_by_hand():
    values = [0.2, 0.5, 0.5, math.nan]
    trials = [
        [Estimate("ntps", truth, 0.0), Estimate("x", truth, value, 0.15)]
        for truth, value in zip((0.1, 0.3, 0.6, 0.9), values)
    ]
    row = judged(Cell(2, 1, 0.5), trials).set_index("estimator").loc["x"]
    assert row["bias"] == pytest.approx(0.2 / 3) and row["rmse"] == pytest.approx(math.sqrt(0.06 / 3))
    assert row["coverage"] == pytest.approx(2 / 3) and row["refused"] == 1
    assert row["rank"] == row["rank_ntps"] == pytest.approx(stats.spearmanr([1, 2, 3], [1, 2.5, 2.5])[0])


def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    world = tiny_world(tmp_path)
    flags = world_flags(world, tmp_path / "out")
    assert cli.run(cache.main, [*flags, "--splits", "train", "--label_permutations", "0"]) == 0
    (file,) = (tmp_path / "out").glob("moments/*/*/train.safetensors")
    command = ["--moments", str(file), "--layer", "1", "--docs", str(tmp_path), "--trials", "0.1"]
    first, second = Cell(4, 1, 0.6), Cell(8, 1, 0.6)
    monkeypatch.setattr(estimators, "cells", lambda: {first: 30})
    assert cli.run(estimators.main, command) == 0
    one = pd.read_csv(tmp_path / "estimators.csv")
    monkeypatch.setattr(estimators, "cells", lambda: {first: 30, second: 30})
    assert cli.run(estimators.main, command) == 0
    both = pd.read_csv(tmp_path / "estimators.csv")
    pd.testing.assert_frame_equal(both[: len(one)], one)
    assert set(both["ratio"]) == {4, 8} and len(both) == 2 * len(one)
    assert (tmp_path / "estimators.png").exists() and "| - |" in (tmp_path / "estimators.md").read_text()
    assert cli.run(estimators.main, [*command[:3], "9"]) == 1
    assert "give one of them as --layer" in capsys.readouterr().err


def test_the_page_is_what_the_table_says():
    docs = Path(estimators.__file__).parent.parent / "docs"
    table = pd.read_csv(docs / "estimators.csv")
    assert (docs / "estimators.md").read_text(encoding="utf-8") == estimators.page(table)
