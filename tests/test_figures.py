"""The summary's table, figure and page, from small made-up results in the real format."""

import math
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fig_plot import panels, summary
from fig_plot.summary_figure import demo_figure
from ntps.run import cli
from ntps.scores.registry import CONDITIONED_COLUMNS
from ntps.system import array_files, atomic_files, provenance

D = 40


def fake_pair(
    folder, model, dataset, layers=4, permutations=5, seed=0, null=True, recommended=False, signal=0.7
):
    """Write the files that K_sweep.py writes for a pair; recommended: with the columns that older results lack."""
    draw = np.random.default_rng(seed)
    share = np.arange(1, D + 1) / D
    curve = np.sort(draw.uniform(0, 1, (layers, 2, D)), axis=-1)
    arrays = {"layers": np.arange(layers), "ntps": curve, "retention": curve**0.5, "excess": 1 - curve}
    arrays["null"] = np.sort(draw.uniform(0, 1, (layers, 2, permutations if null else 0, D)), axis=-1)
    about = provenance.of("scores", {}, moments={"model": {"note": "a made-up model"}})
    base = folder / "ntps" / model / f"{dataset}.csv"
    array_files.write(base.with_suffix(".curves.safetensors"), arrays, about)
    rows = []
    for layer in range(layers):
        for fraction, kv in [(math.nan, D // 10), *[(j / 20, j * 2) for j in range(1, 20)]]:
            shuffled = arrays["null"][layer, 0, :, kv - 1]
            rows.append({
                "model": model, "dataset": dataset, "layer": layer, "order": "descending", "rule": "task_rank",
                "fraction": fraction, "ku": 3, "kv": kv, "ntps": curve[layer, 0, kv - 1], "chance": share[kv - 1],
                "chance_std": 0.02, "retention": curve[layer, 0, kv - 1] ** 0.5, "retention_null": 0.1,
                "n_texts": 30 if dataset == "few" else 200, "rank_unstable": False,
                "null_mean": shuffled.mean() if null else math.nan,
                "null_std": shuffled.std(ddof=1) if null else math.nan, "p_value": 0.5 if null else math.nan,
            })  # fmt: skip
    table, pair = pd.DataFrame(rows), {"model": model, "dataset": dataset, "layer": range(layers)}
    errors = pd.DataFrame(pair | {"gcv_error": [3, 2, 1, 2][:layers]})
    if recommended:
        table = table.assign(
            retention_corrected=0.9 * table["retention"], retention_corrected_pca=table["chance"] ** 0.2
        )
        table["retention_corrected_minus_pca"] = (
            table["retention_corrected"] - table["retention_corrected_pca"]
        )
        table = table.assign(
            retention_corrected_se=0.02, retention_corrected_minus_pca_se=0.01, corrected_refusal=math.nan
        )
        errors["signal_share"] = signal
        places = [
            ("cv", 2e-3, 1e-2),
            ("cv_1se", 2e-3, 1e-2),
            *(("grid", *both) for both in product((1e-12, 1e-3), repeat=2)),
        ]
        conditioned = [
            pd.DataFrame(pair | {"choice": choice, "rtol": rtol, "prefix_rtol": prefix_rtol, "kv": D // 10,
                                 "conditioned_lift": draw.uniform(-0.1, 0.5, layers), "conditioned_p_value": 0.01})
            for choice, rtol, prefix_rtol in places
        ]  # fmt: skip
        path = folder / "conditioned" / model / f"{dataset}.csv"
        atomic_files.write_text(
            path, pd.concat(conditioned).reindex(columns=CONDITIONED_COLUMNS).to_csv(index=False)
        )
    atomic_files.write_text(base, table.to_csv(index=False))
    atomic_files.write_text(base.with_suffix(".json"), atomic_files.to_json(about))
    atomic_files.write_text(folder / "scores" / model / f"{dataset}.csv", errors.to_csv(index=False))
    return arrays


def test_the_tables_numbers_are_those_of_the_files(tmp_path, capsys):
    arrays = fake_pair(tmp_path, "m", "text")
    fake_pair(tmp_path, "m", "few", seed=1)
    assert cli.run(summary.main, [str(tmp_path)]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.split()[:2] == ["m", "text"])
    kv = D // 10
    cells = line.split()
    assert cells[2] == "2"  # the lowest gcv_error
    assert cells[3] == f"{arrays['ntps'][2, 0, kv - 1]:.3f}" and cells[4] == "0.100"
    null = arrays["null"][2, 0, :, kv - 1]
    assert cells[5:8] == [f"{null.mean():.3f}", "±", f"{null.std(ddof=1):.3f}"]
    assert cells[9] == f"{arrays['retention'][2, 0, kv - 1]:.3f}" and cells[-1] == "5.0"
    assert next(line for line in out.splitlines() if line.split()[:2] == ["m", "few"]).endswith("0.8!")
    page = (tmp_path / "summary.md").read_text()
    assert (
        "corrected" not in out and "p is one-sided" in out and "at this number of rows" in out
    )  # results of an earlier version
    assert "| m | text | 2 |" in page and "(summary.png)" in page and "a made-up model" in page
    assert (tmp_path / "summary.png").stat().st_size > 10_000
    assert (tmp_path / "summary.pdf").read_bytes().startswith(b"%PDF")


def test_results_without_the_papers_order_are_one_error(tmp_path, capsys):
    fake_pair(tmp_path, "m", "text")
    path = tmp_path / "ntps/m/text.csv"
    pd.read_csv(path).assign(order="released").to_csv(path, index=False)
    assert cli.run(summary.main, [str(tmp_path)]) == 1
    assert "no scores at kv = d/10 in descending order: run python K_sweep.py" in capsys.readouterr().err


def test_recommended_scores_come_first_with_warnings(tmp_path, capsys):
    arrays = fake_pair(tmp_path, "m", "text", recommended=True)
    fake_pair(tmp_path, "m", "noisy", seed=1, recommended=True, signal=0.3)
    fake_pair(tmp_path, "m", "older", seed=2)
    path = tmp_path / "ntps/m/noisy.csv"
    pd.read_csv(path).assign(retention_corrected=math.nan, corrected_refusal="no signal").to_csv(
        path, index=False
    )
    assert cli.run(summary.main, [str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.split(summary.AS_PAPER)
    rows = {line.split()[1]: line.split() for line in first.splitlines() if line.startswith("m ")}
    share = 0.9 * arrays["retention"][2, 0, D // 10 - 1]
    conditioned = (
        pd.read_csv(tmp_path / "conditioned/m/text.csv").query("choice == 'cv' and layer == 2").iloc[0]
    )
    assert rows["text"][2:] == [
        "2", f"{share:.3f}", "±", "0.020", f"{share - 0.1**0.2:.3f}", "±", "0.010",
        f"{conditioned['conditioned_lift']:.3f}", "0.010", "0.700", "5.0",
    ]  # fmt: skip
    assert rows["noisy"][3] == "-" and rows["noisy"][-2:] == ["0.300", "5.0!"] and rows["older"][3] == "-"
    assert "no corrected retention of m x noisy: no signal" in second
    warning = "at this number of rows NTPS describes the sample (1 of 3 pairs)"
    assert warning in second and "earlier version" not in second
    page = (tmp_path / "summary.md").read_text()
    assert page.index("corrected retention") < page.index(summary.AS_PAPER) < page.index(warning)
    lines = {line.get_label(): line.get_ydata() for line in demo_figure(tmp_path).axes[4].lines}
    assert lines["corrected retention"][1] == pytest.approx(share) and "retention" not in lines


@pytest.mark.parametrize("models, datasets", [(1, 1), (1, 2), (2, 5), (2, 8)])
def test_figures_of_all_sizes(tmp_path, models, datasets):
    for model in range(models):
        for dataset in range(datasets):
            fake_pair(tmp_path, f"model{model}", f"data{dataset}", seed=dataset)
    figure = demo_figure(tmp_path)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 2 * models * datasets + 1  # and the colour bar


def test_missing_cells_missing_pairs_and_no_shuffles_are_shown_as_missing(tmp_path, capsys):
    fake_pair(tmp_path, "m", "whole")
    fake_pair(tmp_path, "m", "no_shuffles", null=False)
    fake_pair(tmp_path, "other", "whole")
    arrays = fake_pair(tmp_path, "m", "holes")
    arrays["ntps"][2, :, 10:] = math.nan
    path = tmp_path / "ntps" / "m" / "holes.curves.safetensors"
    array_files.write(path, arrays, provenance.read(path))
    (tmp_path / "scores" / "other" / "whole.csv").unlink()  # no best layer
    assert cli.run(summary.main, [str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "K_sweep.py" in next(line for line in out.splitlines() if line.startswith("other"))
    assert "nan" not in out.lower()
    assert len([line for line in out.splitlines() if line.startswith("other")]) == 3  # pairs never run, too
    texts = [text.get_text() for axes in demo_figure(tmp_path).axes for text in axes.texts]
    assert sum("no complete results" in text for text in texts) == 3
    assert sum("no permuted labels" in text for text in texts) == 1


def test_panels_draw_the_best_layer_and_the_difference_to_shuffled_labels(tmp_path):
    arrays = fake_pair(tmp_path, "m", "text")
    above, below = demo_figure(tmp_path).axes[:2]
    lines = {line.get_label(): line for line in above.lines}
    for label, expected in {
        "NTPS": arrays["ntps"][2, 0],
        "retention": arrays["retention"][2, 0],
        "permutation null (median, range)": np.median(arrays["null"][2, 0], 0),
    }.items():
        np.testing.assert_allclose(lines[label].get_xdata(), np.arange(1, D + 1) / D)
        np.testing.assert_allclose(lines[label].get_ydata(), expected)
    image = below.images[0]
    np.testing.assert_allclose(image.get_array(), arrays["ntps"][:, 0] - np.median(arrays["null"][:, 0], 1))
    low, high = image.get_clim()
    assert low == -high and high == np.abs(image.get_array()).max()
    assert image.get_extent() == [0, 1, -0.5, 3.5]


def test_curves_of_other_layers_than_the_table_are_not_drawn(tmp_path):
    arrays = fake_pair(tmp_path, "m", "text")
    path = tmp_path / "ntps" / "m" / "text.curves.safetensors"
    about = provenance.read(path)
    array_files.write(path, arrays | {"layers": np.array([0, 1, 7, 8])}, about)
    above = demo_figure(tmp_path).axes[0]
    assert not above.lines
    assert any("no complete results" in text.get_text() for text in above.texts)


@pytest.mark.parametrize("name", ["ntps/m/text.curves.safetensors", "ntps/m/text.csv", "ntps/m/text.json"])
def test_a_file_cut_short_is_one_clear_error(tmp_path, capsys, name):
    fake_pair(tmp_path, "m", "text")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:20])
    assert cli.run(summary.main, [str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and path.name in error


def test_the_same_results_give_the_same_bytes(tmp_path):
    fake_pair(tmp_path, "m", "a$b$c_1^2")  # no formula
    first, second = (panels.save(demo_figure(tmp_path), tmp_path / name) for name in ("one", "two"))
    for left, right in zip(first, second, strict=True):
        assert left.read_bytes() == right.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.p*")) == ["one.pdf", "one.png", "two.pdf", "two.png"]


def numbered(table):
    """A panel of numbered points, drawn: its axes and the renderer."""
    axes = Figure(figsize=(2.4, 2.1)).subplots()
    panels.numbered_points(axes, table)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    return axes, canvas.get_renderer()


def test_points_have_their_rows_number_and_the_bars_that_are_known():
    table = pd.DataFrame(
        {"x": [0.1, 0.5, math.nan, 0.9], "y": [0.2, 0.8, 0.5, 0.1], "x_error": [0.05, math.nan, 1, 0.1]}
    )
    axes, _ = numbered(table)
    assert {text.get_text(): text.xy for text in axes.texts} == {
        "1": (0.1, 0.2),
        "2": (0.5, 0.8),
        "4": (0.9, 0.1),
    }
    across, up = (np.ptp(bars.get_segments(), axis=1) for bars in axes.containers[0][2])
    np.testing.assert_allclose(across, [[0.1, 0], [0, 0], [0.2, 0]])
    assert not up.any()
    nothing, _ = numbered(table.assign(y=math.nan))
    assert not nothing.texts


def test_numbers_of_near_points_lie_on_no_other_number_and_no_other_point():
    """Two all but in one place, two one above the other, a corner of the panel."""
    x, y = [0.5, 0.503, 0.2, 0.2, 1, 0], [0.9, 0.903, 0.3, 0.35, 1, 0]
    axes, renderer = numbered(pd.DataFrame({"x": x, "y": y, "y_error": 0.02}))
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    dots = axes.transData.transform(np.column_stack([x, y]))
    assert len(boxes) == 6 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_names_are_escaped_in_the_page(tmp_path):
    fake_pair(tmp_path, "m", "a|b <script>")
    assert cli.run(summary.main, [str(tmp_path)]) == 0
    page = (tmp_path / "summary.md").read_text()
    assert "a\\|b &lt;script&gt;" in page and "<script>" not in page


def test_an_empty_folder_says_which_commands_fill_it(tmp_path, capsys):
    assert cli.run(summary.main, [str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "cache.py" in error and "K_sweep.py" in error and "Traceback" not in error
