"""Figure 1 from tables of words: which groups the line divides, few groups, and every group in the legend."""

import numpy as np
import pandas as pd
import pytest

from fig_plot.words import load_words, word_figure
from ntps.scores.words import dividing_line
from ntps.system import atomic_files, provenance

PLACES = {"_first": (0, 0), "Joy": (3, 1), "Sad": (0, 5)}


def write(folder, dataset, groups, between=None):
    draw = np.random.default_rng(4)
    rows = [
        {"layer": 1, "space": space, "group": name, "word": f"{name}{k}", "x": x, "y": y}
        for space in "UV"
        for name in groups
        for k, (x, y) in enumerate(draw.normal(PLACES[name], size=(3, 2)))
    ]
    path = folder / f"words/m/{dataset}.csv"
    atomic_files.write_text(path, pd.DataFrame(rows).to_csv(index=False))
    if between:
        about = provenance.of("words", {"between": between})
        atomic_files.write_text(path.with_suffix(".json"), atomic_files.to_json(about))


def dashed(axes):
    return [line.get_xydata() for line in axes.lines if line.get_linestyle() == "--"]


def test_the_line_divides_the_requested_groups(tmp_path):
    write(tmp_path, "a_pair", PLACES, ["Joy", "Sad"])
    write(tmp_path, "bare", PLACES)
    tables = load_words(tmp_path)
    figure = word_figure(tables)
    for number, (dataset, pair) in enumerate({"a_pair": ("Joy", "Sad"), "bare": ("_first", "Joy")}.items()):
        table = tables["m", dataset]
        for axes, space in zip(figure.axes[2 * number :], "UV"):
            own = table[table["space"] == space]
            w, b = dividing_line(*(own.loc[own["group"] == name, ["x", "y"]].to_numpy() for name in pair))
            (line,) = dashed(axes)
            np.testing.assert_allclose(line @ w, b, atol=1e-9 * np.abs(line).max())
            assert [text.get_text() for text in axes.get_legend().get_texts()] == list(PLACES)
    assert "Joy and Sad; _first and Joy" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("groups, between", [(["Joy"], None), (["Joy"], ["Joy", "Sad"]), (["Joy"], ["Joy"])])
def test_a_table_with_one_group_has_no_line(tmp_path, groups, between):
    write(tmp_path, "one", groups, between)
    figure = word_figure(load_words(tmp_path))
    assert not any(map(dashed, figure.axes))
