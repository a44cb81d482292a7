"""ntps.export: the copy says what the folder says."""

import numpy as np
import pandas as pd
import pytest

from fig_plot import kv_curves, tables
from ntps import results
from ntps.commands import export
from ntps.run import cli
from tests.fake_results import fake_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "whole"
    fake_grid(path, ["m"], ["a", "b", "c"])
    return path


def test_the_copy_reads_as_the_folder_does(folder, tmp_path, capsys):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy")]) == 0
    assert "wrote 18 tables" in capsys.readouterr().out  # 3 x (ntps, scores, 4 methods)
    for load in (results.load_scores, results.load_pairs):
        pd.testing.assert_frame_equal(load(folder), load(tmp_path / "copy"), rtol=1e-6, atol=1e-6)
    assert not list((tmp_path / "copy").rglob("moments"))


def test_curves_of_the_best_layer_and_the_last_are_kept(folder, tmp_path):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy")]) == 0
    whole, part = (tables.load_curves(tables.curve_files(f)["m", "a"]) for f in (folder, tmp_path / "copy"))
    assert part["layers"].tolist() == [2, 3]
    for name in ("ntps", "retention", "excess", "null"):
        np.testing.assert_allclose(part[name], whole[name][2:], rtol=1e-6)
    assert [len(figure.axes) for _, figure in kv_curves.kv_curves(tmp_path / "copy")] == [3, 3, 3]


def test_brief_keeps_the_headline_alone(folder, tmp_path):
    assert cli.run(export.main, [str(folder), str(tmp_path / "copy"), "--brief"]) == 0
    assert not list((tmp_path / "copy").rglob("*.safetensors"))
    found = tables.load_scores(tmp_path / "copy")
    whole = tables.at_tenth(tables.load_scores(folder)).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6, check_dtype=False)


@pytest.mark.parametrize(("target", "told"), [("", "is the folder itself"), ("copy", "no tables in")])
def test_what_cannot_be_copied_is_refused(folder, tmp_path, capsys, target, told):
    source = tmp_path if target else folder
    assert cli.run(export.main, [str(source), str(tmp_path / target if target else folder)]) == 1
    assert told in capsys.readouterr().err
