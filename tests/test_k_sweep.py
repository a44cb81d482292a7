"""K_sweep.py: its table and curves against the scores computed from the moments themselves."""

import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file

import cache
import K_sweep
from ntps.moments.file import MomentsFile
from ntps.results import scoring
from ntps.run import cli
from ntps.scores.peers import h_score, logme, rankme
from ntps.scores.probes import mse, ridge
from ntps.system import array_files, locks, provenance
from tests.tiny import tiny_world, world_flags


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model's moments over a tiny data set, scored; (flags of the pair, output folder)."""
    folder = tiny_world(tmp_path_factory.mktemp("world"), n=90)
    pair = world_flags(folder, folder / "out")
    assert cli.run(cache.main, [*pair, "--label_permutations", "5"]) == 0
    assert cli.run(K_sweep.main, pair) == 0
    return pair, folder / "out"


def one(output: Path, pattern: str) -> Path:
    return next(output.glob(pattern))


def test_the_table_follows_the_contract(world):
    _, output = world
    table = pd.read_csv(one(output, "ntps/*/tiny.csv"))
    contract = "model dataset layer order rule fraction ku kv ntps chance chance_std z lift excess excess_lower excess_upper retention rank_mean rank_prefix rank_unstable n_texts"
    assert list(table.columns[:21]) == contract.split()
    assert set(table.layer) == {0, 1, 2, 3} and set(table.order) == {"descending", "released"}
    counts = table.groupby(["layer", "order", "rule"]).size()
    assert set(counts.xs("task_rank", level="rule")) == {20} and set(counts.xs("fraction", level="rule")) == {
        19
    }
    assert (table.ntps.between(0, 1)).all() and (table.n_texts == 90).all()
    task = table[table.rule == "task_rank"]
    assert (task.ku == 3).all() and (table.excess_lower <= table.excess + 1e-12).all()
    assert (table.excess <= table.excess_upper + 1e-12).all()
    tenth = task[task.fraction.isna()]
    assert len(tenth) == 8 and (tenth.kv == 3).all()
    assert table.groupby(["layer", "order", "kv"]).excess.nunique().max() == 1


def test_rows_agree_with_an_explicit_projector(world):
    _, output = world
    file = MomentsFile(one(output, "moments/*/tiny/train.safetensors"))
    table = pd.read_csv(one(output, "ntps/*/tiny.csv"))
    moments = file.averages(2)
    names = ("mean_second_moment", "mean_label_moment", "prefix_second_moment", "prefix_next_moment")
    M, S, P0, P1 = (getattr(moments, name).numpy() for name in names)

    def top(A, B, count):  # generalized eigenvectors by the textbook
        values, vectors = np.linalg.eig(np.linalg.solve(B, A))
        return vectors.real[:, np.argsort(-values.real)[:count]]

    U = top(S @ S.T, M, 3)
    scale = np.sqrt(np.einsum("ij,ik,kj->j", U, M, U))
    U = U / scale  # M-orthonormal columns
    for kv in (3, 8, 16):
        V = top(P1 @ P1.T, P0, kv)
        P = V @ np.linalg.pinv(V)
        expected = np.linalg.norm(P @ U) ** 2 / np.linalg.norm(U) ** 2
        rows = table[
            (table.layer == 2)
            & (table.order == "descending")
            & (table.rule == "task_rank")
            & (table.kv == kv)
        ]
        assert np.allclose(rows.ntps, expected, atol=1e-5) and len(rows)


def test_curves_hold_every_kv_and_agree_with_the_table(world):
    _, output = world
    arrays = load_file(one(output, "ntps/*/tiny.curves.safetensors"))
    table = pd.read_csv(one(output, "ntps/*/tiny.csv"))
    assert arrays["ntps"].shape == (4, 2, 32) and arrays["null"].shape == (4, 2, 5, 32)
    for row in table[table.rule == "task_rank"].itertuples():
        order = ["descending", "released"].index(row.order)
        for name in ("ntps", "retention", "excess"):
            assert math.isclose(arrays[name][row.layer, order, row.kv - 1], getattr(row, name), abs_tol=1e-12)
        null = arrays["null"][row.layer, order, :, row.kv - 1]
        assert math.isclose(null.mean(), row.null_mean, rel_tol=1e-9)
        reached = [(1 + side.sum()) / 6 for side in (null >= row.ntps - 1e-12, null <= row.ntps + 1e-12)]
        assert math.isclose(min(1, 2 * min(reached)), row.p_value)
    assert (np.diff(arrays["ntps"], axis=-1) >= -1e-12).all()


def test_other_scores_have_one_row_a_layer_and_held_out_figures(world):
    _, output = world
    table = pd.read_csv(one(output, "scores/*/tiny.csv"))
    train = MomentsFile(one(output, "moments/*/tiny/train.safetensors"))
    test = MomentsFile(one(output, "moments/*/tiny/test.safetensors"))
    assert list(table.layer) == [0, 1, 2, 3]
    probe = ridge(train.averages(1))
    assert math.isclose(table.gcv_error[1], probe.gcv_error, rel_tol=1e-9)
    assert math.isclose(table.ridge_test_mse[1], mse(probe, test.averages(1)), rel_tol=1e-9)


def test_other_scores_are_those_of_the_moments(world):
    _, output = world
    table = pd.read_csv(one(output, "scores/*/tiny.csv"))
    train = MomentsFile(one(output, "moments/*/tiny/train.safetensors"))
    assert {"h_score", "logme", "rankme", "headroom", "gcv_skill"} <= set(table.columns)
    for place, row in enumerate(table.itertuples()):
        moments = train.averages(place)
        for name, score in (("h_score", h_score), ("logme", logme), ("rankme", rankme)):
            assert math.isclose(getattr(row, name), score(moments), rel_tol=1e-6)
    assert np.allclose(table.headroom, table.gcv_skill.max() - table.gcv_skill.iloc[-1])
    assert table.gcv_skill.idxmax() == table.gcv_error.idxmin()


def test_held_out_columns_need_test_moments(world, tmp_path):
    pair, output = world
    table = pd.read_csv(one(output, "ntps/*/tiny.csv"))
    assert table.heldout_skill.notna().all() and (table.n_over_d == 90 / 32).all()
    undefined = table.heldout_skill_full <= 0
    assert (table.heldout_retention.isna() == undefined).all()
    defined = table[~undefined]
    assert np.allclose(defined.heldout_retention, defined.heldout_skill / defined.heldout_skill_full)
    again = [*pair[:-1], str(tmp_path)]
    assert cli.run(cache.main, [*again, "--splits", "train"]) == 0 and cli.run(K_sweep.main, again) == 0
    alone = pd.read_csv(one(tmp_path, "ntps/*/tiny.csv"))
    assert alone.heldout_skill.isna().all() and alone.ntps_se.isna().all()


def test_error_bars_come_from_partitions(world, tmp_path, capsys):
    pair, _ = world
    again = [*pair[:-1], str(tmp_path)]
    assert cli.run(cache.main, [*again, "--splits", "train", "--partitions", "3"]) == 0
    assert cli.run(K_sweep.main, again) == 0
    best, beside = (pd.read_csv(one(tmp_path, f"{kind}/*/tiny.csv")) for kind in ("ntps", "scores"))
    chosen = {int(beside.layer[beside.gcv_error.idxmin()]), 3}
    assert set(best[best.retention_se.notna()].layer) == chosen
    assert cli.run(K_sweep.main, [*again, "--error_bars", "all"]) == 1
    assert "error_bars is" in capsys.readouterr().err
    assert cli.run(K_sweep.main, [*again, "--error_bars", "all", "--overwrite"]) == 0
    whole = pd.read_csv(one(tmp_path, "ntps/*/tiny.csv"))
    assert whole.retention_se.notna().all() and (whole.ntps_se.notna() == (whole.rule == "task_rank")).all()
    assert (whole.retention_se >= 0).all() and (whole.retention_se > 0).any()
    again_best = whole.layer.isin(chosen)
    pd.testing.assert_frame_equal(whole[again_best], best[again_best])
    other = [*pair[:-1], str(tmp_path / "other"), "--splits", "train", "--partitions", "3"]
    assert cli.run(cache.main, [*other, "--max_length", "4"]) == 0
    part = one(tmp_path, "moments/*/tiny/train.2-of-3.safetensors")
    part.write_bytes(one(tmp_path, f"other/moments/*/tiny/{part.name}").read_bytes())
    assert cli.run(K_sweep.main, [*again, "--error_bars", "all", "--overwrite"]) == 1
    assert "train.2-of-3.safetensors is no part of" in capsys.readouterr().err
    part.unlink()
    assert cli.run(K_sweep.main, [*again, "--error_bars", "all"]) == 0  # scored before: still there
    assert "already there" in capsys.readouterr().out
    assert cli.run(K_sweep.main, [*again, "--overwrite"]) == 0
    assert "no error bars" in capsys.readouterr().out
    assert pd.read_csv(one(tmp_path, "ntps/*/tiny.csv")).retention_se.isna().all()
    assert cli.run(K_sweep.main, [*again, "--error_bars", "some"]) == 1


def test_it_is_skipped_when_there_and_refused_when_different(world, capsys):
    pair, output = world
    stamp = one(output, "ntps/*/tiny.csv").stat().st_mtime_ns
    assert cli.run(K_sweep.main, pair) == 0 and "already there" in capsys.readouterr().out
    assert cli.run(K_sweep.main, [*pair, "--rtol", "1e-9"]) == 1
    assert "rtol is 1e-12 there, 1e-09 here" in capsys.readouterr().err
    assert one(output, "ntps/*/tiny.csv").stat().st_mtime_ns == stamp


def test_missing_broken_and_prefixless_moments_are_one_error(world, tmp_path, capsys):
    pair, output = world
    assert cli.run(K_sweep.main, [*pair[:-1], str(tmp_path / "none")]) == 1
    assert "cache.py" in capsys.readouterr().err
    model = one(output, "moments/*").name
    folder = tmp_path / "cut" / "moments" / model / "tiny"
    folder.mkdir(parents=True)
    content = one(output, "moments/*/tiny/train.safetensors").read_bytes()
    (folder / "train.safetensors").write_bytes(content[:-8])
    assert cli.run(K_sweep.main, [*pair[:-1], str(tmp_path / "cut")]) == 1
    assert "train.safetensors" in capsys.readouterr().err
    (folder / "train.safetensors").write_bytes(one(output, "moments/*/tiny/test.safetensors").read_bytes())
    assert cli.run(K_sweep.main, [*pair[:-1], str(tmp_path / "cut")]) == 1
    assert "prefix" in capsys.readouterr().err
    for flags in (["--rtol", "2"], ["--device", "cuda:9"]):
        assert cli.run(K_sweep.main, [*pair, *flags]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "cut" / "ntps").exists()


def test_train_and_test_of_different_runs_are_refused(world, tmp_path, capsys):
    pair, _ = world
    again = [*pair[:-1], str(tmp_path)]
    assert cli.run(cache.main, [*again, "--splits", "train"]) == 0
    assert cli.run(cache.main, [*again, "--splits", "test", "--max_length", "4"]) == 0
    assert cli.run(K_sweep.main, again) == 1
    assert "max_length is 64 there, 4 here" in capsys.readouterr().err


def test_states_of_other_rows_are_refused_and_tables_without_states_are_made_again(world, tmp_path, capsys):
    pair = [*world[0][:-1], str(tmp_path)]
    limited = ["--splits", "train", "--limit", "40", "--overwrite"]
    assert cli.run(cache.main, [*pair, "--keep_states", *limited]) == 0
    assert cli.run(cache.main, [*pair, "--splits", "train", "--overwrite"]) == 0
    assert cli.run(K_sweep.main, pair) == 1
    assert "is of another run than the moments" in capsys.readouterr().err
    one(tmp_path, "states/*/tiny/train.safetensors").unlink()
    assert cli.run(K_sweep.main, pair) == 0
    table = one(tmp_path, "ntps/*/tiny.csv")
    assert pd.read_csv(table).retention_corrected_unequal.isna().all()
    assert cli.run(cache.main, [*pair, "--splits", "train", "--keep_states"]) == 0
    assert cli.run(K_sweep.main, pair) == 0
    assert pd.read_csv(table).retention_corrected_unequal.notna().any()
    capsys.readouterr()
    assert cli.run(K_sweep.main, pair) == 0 and "already there" in capsys.readouterr().out


def test_rows_that_we_divided_are_of_one_version_of_their_file(tmp_path, capsys):
    folder = tiny_world(tmp_path, n=90)
    folder = folder / "data"
    whole = folder / "tiny.yaml"
    spec = yaml.safe_load(whole.read_text())
    train = spec["files"]["train"]
    whole.write_text(yaml.safe_dump(spec | {"files": {"train": train}}))
    pair = world_flags(tmp_path, tmp_path / "out")
    assert cli.run(cache.main, pair) == 0 and cli.run(K_sweep.main, pair) == 0
    rows = (folder / train).read_text().splitlines(keepends=True)
    (folder / train).write_text("".join(rows[:1] + rows[2:]))
    assert cli.run(cache.main, [*pair, "--splits", "train", "--overwrite"]) == 0
    assert cli.run(K_sweep.main, [*pair, "--overwrite"]) == 1
    assert "are of two versions of their file: run cache.py on both" in capsys.readouterr().err


def test_one_sweep_at_a_time_works_on_a_pair(world, tmp_path, capsys):
    pair, output = world
    shutil.copytree(output / "moments", tmp_path / "moments")
    again, folder = [*pair[:-1], str(tmp_path)], tmp_path / one(output, "ntps/*").relative_to(output)
    with locks.locked(folder / ".tiny.lock"):
        assert cli.run(K_sweep.main, again) == 1
    assert "another process is working on this" in capsys.readouterr().err
    assert cli.run(K_sweep.main, again) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "tiny.csv",
        "tiny.curves.safetensors",
        "tiny.json",
    ]


def test_a_sweep_killed_while_overwriting_is_not_taken_for_whole(world, tmp_path, monkeypatch):
    pair, _ = world
    again = [*pair[:-1], str(tmp_path)]
    assert cli.run(cache.main, again) == 0 and cli.run(K_sweep.main, again) == 0
    with monkeypatch.context() as broken:
        broken.setattr(array_files, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.run(K_sweep.main, [*again, "--rtol", "1e-3", "--overwrite"]) == 130
    assert not one(tmp_path, "ntps/*/").joinpath("tiny.json").exists()
    assert cli.run(K_sweep.main, again) == 0
    curves = provenance.read(one(tmp_path, "ntps/*/tiny.curves.safetensors"))
    assert curves["identity"]["rtol"] == 1e-12


def test_too_few_texts_are_said(world, tmp_path, capsys):
    pair, _ = world
    again = [*pair[:-1], str(tmp_path)]
    assert cli.run(cache.main, [*again, "--limit", "20"]) == 0 and cli.run(K_sweep.main, again) == 0
    assert "20 rows for 32 dimensions" in capsys.readouterr().out


def test_layers_of_different_rank_are_padded_with_nan():
    class Scores:
        def __init__(self, rank):
            self.rank_prefix = rank
            self.ntps = self.retention = self.excess = torch.ones(2, rank)
            self.null = torch.ones(2, 0, rank)

    arrays = scoring.curves([0, 5], [Scores(3), Scores(5)])
    assert arrays["ntps"].shape == (2, 2, 5) and np.isnan(arrays["ntps"][0, :, 3:]).all()
    assert arrays["null"].shape == (2, 2, 0, 5) and arrays["layers"].tolist() == [0, 5]


def test_without_cuda_the_solve_falls_back_to_the_cpu_and_says_so(world, capsys, monkeypatch):
    pair, output = world
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = one(output, "ntps/*/tiny.csv").read_text()
    assert cli.run(K_sweep.main, [*pair, "--device", "cuda", "--overwrite"]) == 0
    assert "no cuda here" in "".join(capsys.readouterr())
    assert one(output, "ntps/*/tiny.csv").read_text() == before


def test_a_layer_too_large_for_the_device_is_solved_on_the_cpu(capsys):
    tried = []

    def work(place, device):
        tried.append((place, device.type))
        if device.type != "cpu" and place == 1:
            raise torch.OutOfMemoryError("too large")
        return place * 10

    found = scoring.each_layer(work, [0, 4, 8], range(3), torch.device("cuda"), "title")
    assert found == [0, 10, 20]
    assert tried == [(0, "cuda"), (1, "cuda"), (1, "cpu"), (2, "cuda")]
    told = "".join(capsys.readouterr())
    assert "layer 4" in told and "CPU" in told


def test_what_is_missing_is_asked_for_as_it_was_named(world, tmp_path, capsys):
    pair, _ = world
    model, dataset = pair[1], pair[3]
    flags = ["--models", model, "--datasets", dataset, "--output", str(tmp_path / "o p")]
    assert cli.run(K_sweep.main, flags) == 1
    assert f"run python cache.py {shlex.join(flags)}" in capsys.readouterr().err
    assert cli.run(cache.main, [*flags, "--splits", "train", "--shard", "1/2"]) == 0
    assert cli.run(K_sweep.main, flags) == 1
    assert f"python -m ntps.merge '{tmp_path / 'o p'}' adds" in capsys.readouterr().err
