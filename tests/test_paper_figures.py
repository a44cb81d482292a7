"""Figures of a results folder: the three rules that choose layer and kv, ranks, what is missing, and both sizes."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from fig_plot import registry, scatter
from fig_plot.kv_curves import kv_curves
from fig_plot.labels import RECOMMENDED
from fig_plot.layer_map import layer_map, layer_maps
from fig_plot.relations import (
    FIXED,
    HELD_OUT,
    PAPER,
    Read,
    correlation,
    rank_correlations,
    relation,
    score_grid,
)
from fig_plot.table1 import table1
from fig_plot.tables import model_order, sample_warning
from fig_plot.tolerances import tolerances
from tests.fake_results import COUNTS, fake_grid
from tests.test_figures import fake_pair

MODELS = ["qwen2-1.5b", "qwen2-0.5b"]
TEXTS = ["imdb", "sst2", "trec6", "sms_spam", "amazon3", "nyt3", "icd10"]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    return folder, fake_grid(folder, MODELS, TEXTS)


def values_of(folder, model, column="ntps"):
    """{(layer, fraction): {dataset: value}} straight from the tables."""
    found = {}
    for text in TEXTS:
        for row in (
            pd.read_csv(folder / "ntps" / model / f"{text}.csv").dropna(subset="fraction").to_dict("records")
        ):
            found.setdefault((row["layer"], row["fraction"]), {})[text] = row[column]
    return found


def texts_of(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_as_the_paper_takes_the_largest_correlation(grid):
    folder, quality = grid
    found = relation(Read(folder), "probe_accuracy", PAPER)
    for model in MODELS:
        y = [quality[model, text] for text in TEXTS]
        every = {
            place: spearmanr([cells[t] for t in TEXTS], y)[0]
            for place, cells in values_of(folder, model).items()
        }
        assert found.rho[model].rho == pytest.approx(max(every.values()), abs=1e-4)
        layer, fraction = next(
            place
            for place, rho in every.items()
            if f"layer {place[0]}, kv {place[1]:.0%}" == found.taken[model]
        )
        assert every[layer, fraction] == pytest.approx(max(every.values()), abs=1e-4)
        own = found.of(model)
        assert own["x"].to_dict() == values_of(folder, model)[layer, fraction]
        assert own["y"].to_dict() == {text: quality[model, text] for text in TEXTS}


def test_fixed_is_the_last_layer_at_the_given_fraction(grid):
    folder, quality = grid
    found = relation(Read(folder), "probe_mse", FIXED, fraction=0.35)
    for model in MODELS:
        expected = values_of(folder, model)[3, 0.35]
        assert found.of(model)["x"].to_dict() == expected
        rho = spearmanr([expected[t] for t in TEXTS], [-(1 - quality[model, t]) / 3 for t in TEXTS])[0]
        assert found.rho[model].rho == pytest.approx(rho)
        assert "layer 3, kv 35%" == found.taken[model] and "35%" in found.caption
        ranks = found.ranks(model)  # less error is a higher rank
        assert ranks["y"].idxmax() == max(TEXTS, key=lambda t: quality[model, t])


def test_held_out_never_looks_at_the_data_set_it_places(grid):
    folder, quality = grid
    found = relation(Read(folder), "probe_accuracy", HELD_OUT)
    for model in MODELS:
        cells, shares = values_of(folder, model), {}
        for left_out in TEXTS:
            rest = [text for text in TEXTS if text != left_out]
            y = [quality[model, text] for text in rest]
            every = {
                place: round(spearmanr([own[t] for t in rest], y)[0], 4)
                for place, own in sorted(cells.items())
            }
            best = cells[max(every, key=every.get)]
            shares[left_out] = np.mean([best[t] < best[left_out] for t in rest])
        np.testing.assert_allclose(found.of(model)["x"], [shares[t] for t in sorted(TEXTS)], atol=1e-6)
        y = [quality[model, t] for t in TEXTS]
        assert found.rho[model].rho == pytest.approx(spearmanr([shares[t] for t in TEXTS], y)[0], abs=1e-4)


def test_places_that_lack_a_data_set_are_no_candidates():
    table = pd.DataFrame(
        [
            (t, layer, 0.5, v)
            for layer, own in ((0, [3, 1, 2, 4]), (1, [1, 2, 3]))
            for t, v in zip("abcd", own)
        ],
        columns=["dataset", "layer", "fraction", "value"],
    )
    rho, n = rank_correlations(score_grid(table, list("abcd")), np.array([1.0, 2, 3, 4]))
    assert n == 4 and rho[0] == pytest.approx(0.4) and math.isnan(rho[1])


def test_correlation_is_spearmans_and_undefined_where_it_is():
    x, y = np.array([1, 2, 2, 5, 3, 9.0]), np.array([2, 1, 4, 4, 3, math.nan])
    found = correlation(x, y)
    assert found.rho == pytest.approx(spearmanr(x[:5], y[:5])[0]) and found.n == 5
    assert math.isnan(correlation(x[:2], y[:2]).rho) and "no ρ" in str(correlation(x[:2], y[:2]))
    assert math.isnan(correlation(np.ones(5), np.arange(5.0)).rho)


def test_panels_say_rho_choice_and_reversal(grid):
    folder, _ = grid
    figures = dict(scatter.figure3(folder))
    assert list(figures) == ["fig3_as_the_paper", "fig3_fixed", "fig3_held_out"]
    for name, figure in figures.items():
        assert [axes.get_title() for axes in figure.axes] == ["qwen2-0.5b", "qwen2-1.5b"]
        assert "reversed" in figure.axes[0].get_ylabel()
        assert all("ρ = " in texts_of(axes) and "n = 7" in texts_of(axes) for axes in figure.axes)
        assert {"fixed": "last layer", "paper": "too high", "out": "held out"}[
            name.split("_")[-1]
        ] in figure._supxlabel.get_text()
        numbers = {text.get_text() for text in figure.axes[0].texts}
        assert {"1", "7"} <= numbers and "7\xa0trec6" in figure._supxlabel.get_text()


def test_table1_has_both_accuracies(grid):
    folder, quality = grid
    table = table1(folder)
    assert list(table.columns.get_level_values(0).unique()) == ["qwen2-0.5b", "qwen2-1.5b"]
    assert table.loc["imdb", ("qwen2-0.5b", "linear probe on the frozen model")] == pytest.approx(
        quality["qwen2-0.5b", "imdb"] - 0.05
    )


def test_the_map_shows_the_correlation_at_every_place(grid):
    folder, quality = grid
    figure = layer_map(folder)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (4, 19)
    cells = values_of(folder, "qwen2-0.5b")[2, 0.15]
    rho = spearmanr([cells[t] for t in TEXTS], [quality["qwen2-0.5b", t] for t in TEXTS])[0]
    assert image[2, 2] == pytest.approx(rho)


def test_kv_panels_draw_ntps_and_the_difference_to_shuffled_labels(tmp_path):
    arrays = fake_pair(tmp_path, "m", "text")
    figures = dict(kv_curves(tmp_path))
    assert list(figures) == ["kv_curves_retention", "kv_curves_ntps", "kv_curves_null"]
    (left,), (right,) = figures["kv_curves_ntps"].axes, figures["kv_curves_null"].axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), arrays["ntps"][2, 0])
    row = pd.read_csv(tmp_path / "ntps/m/text.csv").iloc[0]
    at_last = len(arrays["ntps"][2, 0]) * row.chance / row.kv
    np.testing.assert_allclose(left.lines[1].get_xydata(), [(0, 0), (1, at_last)])
    ntps, null = arrays["ntps"][2, 0], arrays["null"][2, 0]
    np.testing.assert_allclose(right.lines[0].get_ydata(), ntps - np.median(null, 0))
    outside = (ntps > null.max(0)) | (ntps < null.min(0))
    np.testing.assert_array_equal(np.isfinite(right.lines[1].get_ydata()), outside)
    low, high = right.get_ylim()
    assert low == -high and high >= np.abs(ntps - np.median(null, 0)).max()


def test_recommended_scores_are_drawn_where_they_are(tmp_path):
    fake_grid(tmp_path, MODELS, TEXTS, recommended=True)
    shares, *_ = kv_curves(tmp_path)
    assert shares[0] == "kv_curves_retention_corrected"
    table = pd.read_csv(tmp_path / f"ntps/{MODELS[1]}/imdb.csv").query("layer == 2").sort_values("kv")
    panel = {axes.get_title(): axes for axes in shares[1].axes}["imdb"]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), table["retention_corrected"])
    np.testing.assert_allclose(panel.lines[1].get_ydata(), table["retention_corrected_pca"])
    assert [name for name, _ in scatter.retention(tmp_path)] == list(RECOMMENDED)
    maps = [f"layer_map_{name}" for name in ("retention_corrected", "retention_corrected_pca", "ntps")]
    assert [name for name, _ in layer_maps(tmp_path)] == maps


def test_lifts_over_tolerances(tmp_path):
    fake_grid(tmp_path, ["m"], ["a", "b"], recommended=True)
    rows = pd.read_csv(tmp_path / "conditioned/m/a.csv").query("layer == 2")
    _, path, significant, chosen = tolerances(tmp_path).axes[0].lines
    diagonal = rows.query("choice == 'grid' and rtol == prefix_rtol")
    np.testing.assert_allclose(path.get_ydata(), diagonal["conditioned_lift"])
    np.testing.assert_allclose(significant.get_ydata(), diagonal["conditioned_lift"])
    np.testing.assert_allclose(chosen.get_ydata(), rows.query("choice == 'cv'")["conditioned_lift"])


def test_a_warning_where_ntps_describes_the_sample(tmp_path):
    fake_pair(tmp_path, "m", "text", recommended=True)
    assert sample_warning(tmp_path) == sample_warning(tmp_path / "nothing") == ""
    fake_pair(tmp_path, "m", "noisy", recommended=True, signal=0.3)
    fake_pair(tmp_path, "m", "few")  # 30 rows for 40 dimensions, and a table without signal_share
    fake_pair(tmp_path, "m", "older")
    warning = sample_warning(tmp_path)
    assert warning.startswith("At this number of rows NTPS describes the sample: for 2 of 4 pairs")


def test_captions_hold_no_commands(tmp_path):
    fake_grid(tmp_path, ["m"], ["a", "b"])
    (tmp_path / "accuracy/linear_sklearn/m/a.csv").unlink()
    for entry in registry.ENTRIES:
        for _, figure in entry.draw(tmp_path):
            text = figure._supxlabel.get_text()
            assert "python" not in text and "--" not in text


def test_missing_values_are_named_with_their_command(tmp_path):
    fake_grid(tmp_path, ["m", "other"], TEXTS)
    for text in TEXTS:
        (tmp_path / f"accuracy/lora_finetuning/other/{text}.csv").unlink()
    (tmp_path / "ntps/m/imdb.csv").unlink()
    table = tmp_path / "ntps/m/sst2.csv"
    pd.read_csv(table).assign(ntps=math.nan).to_csv(table, index=False)
    _, fixed, _ = (figure for _, figure in scatter.figure3(tmp_path))
    first, second = fixed.axes
    assert "n = 5" in texts_of(first) and "missing: 3 6" in texts_of(first)
    assert "lora_finetuning.py" in texts_of(second) and second.patch.get_hatch()
    caption = fixed._supxlabel.get_text().replace("\n", " ")
    assert "Missing: NTPS of 2 pairs (cache.py, K_sweep.py)." in caption and "python" not in caption
    assert "Missing: LoRA gain of 7 pairs (linear_training.py, lora_finetuning.py)." in caption
    assert not any("nan" in texts_of(axes) for axes in fixed.axes)


@pytest.mark.parametrize(
    "models, texts", [(0, 0), (1, 1), (1, 3), pytest.param(8, 12, marks=pytest.mark.slow)]
)
def test_all_figures_at_all_sizes(tmp_path, models, texts):
    fake_grid(tmp_path, [f"m{n}" for n in range(models)], [f"t{n}" for n in range(texts)], scores=models < 8)
    if models == 8:  # scores of some only
        for model, text in (("m0", "t0"), ("m0", "t1"), ("m0", "t2"), ("m1", "t0")):
            fake_pair(tmp_path, model, text)
    drawn = [entry for entry in registry.ENTRIES if entry.name != "fig1"]
    figures = [(entry.name, figure) for entry in drawn for _, figure in entry.draw(tmp_path)]
    drawn_of = Counter(name for name, _ in figures)
    assert {name: drawn_of[name] for name in COUNTS} == COUNTS | {"fig1": 0}
    for name, figure in figures:
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert len(panels) == max(1, texts if name in ("kv_curves", "tolerances") else models)
        figure.draw_without_rendering()
        assert 2 < figure.get_figwidth() <= 7.2 and figure.get_figheight() < 11


def test_models_are_sorted_by_family_and_size():
    names = [
        "qwen2-7b",
        "openelm-1.1b",
        "openelm-270m",
        "llama3-8b",
        "qwen2-0.5b",
        "smollm2-135m-random",
        "smollm2-135m",
    ]
    assert sorted(names, key=model_order) == [
        "llama3-8b", "openelm-270m", "openelm-1.1b", "qwen2-0.5b", "qwen2-7b", "smollm2-135m", "smollm2-135m-random",
    ]  # fmt: skip
