"""The figure of the summary: for each pair, scores over kv at the best layer, and below it layer x kv."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from fig_plot import tables
from fig_plot.labels import NO_SHUFFLES
from fig_plot.panels import WIDTH, missing_panel, styled
from fig_plot.tables import Curves, Pair
from ntps.prescreening.curve_panel import LINES, corrected_curves, curve_panel, legend_of
from ntps.results.tables import at_tenth, best_layers

COLUMNS = 5  # panels side by side at most: more, and the names of the data sets overlap


@styled
def demo_figure(folder: str | Path) -> Figure:
    """For each model x data set: scores over kv at the best layer, and below it layer x kv, NTPS minus shuffled.

    The map shows the difference to shuffled labels, not the lift over chance: shuffled labels alone can score
    far above chance, and the difference is what the labels themselves add.
    """
    every, files, best = tables.score_rows(folder), tables.curve_files(folder), best_layers(folder)
    scores = at_tenth(every)
    at_best = every[[best.get((m, d)) == x for m, d, x in every[["model", "dataset", "layer"]].to_numpy()]]
    corrected = {pair: corrected_curves(own) for pair, own in at_best.groupby(["model", "dataset"])}
    models, datasets = sorted(set(scores["model"])), sorted(set(scores["dataset"]))
    rows = {(row["model"], row["dataset"], row["layer"]): row for _, row in scores.iterrows()}
    # curves of one pair at a time
    gains = {pair: tables.gain(tables.load_curves(path)) for pair, path in files.items()}
    limit = max((float(np.abs(g[np.isfinite(g)]).max(initial=0)) for g in gains.values()), default=0) or 1.0
    figure, panels = pair_grid(models, datasets, any(len(lines) for lines in corrected.values()))
    images = []
    for pair, (above, below) in panels.items():
        row = rows.get((*pair, best.get(pair)))
        curves = tables.load_curves(files[pair]) if pair in files else {}
        if row is not None and row["layer"] in curves.get("layers", ()):
            above.set_title(f"{pair[1]}\nbest layer {row['layer']}", parse_math=False)
            images += pair_panels(above, below, curves, row, corrected[pair], gains[pair], limit)
        else:
            above.set_title(pair[1], parse_math=False)
            missing_panel(above, "no complete results of cache.py and K_sweep.py")
            missing_panel(below)
    if images:
        label = "NTPS minus the mean of its permutation null (hatched: no value)"
        figure.colorbar(
            images[0], ax=figure.axes, location="bottom", shrink=0.5, aspect=45, pad=0.015, label=label
        )
    return figure


def pair_grid(
    models: list[str], datasets: list[str], corrected: bool
) -> tuple[Figure, dict[Pair, tuple[Axes, Axes]]]:
    """A figure with the legend of LINES and two empty panels for each pair, one above the other."""
    bands = math.ceil(len(datasets) / COLUMNS)  # rows of data sets for each model
    columns = math.ceil(len(datasets) / bands)
    rows = 2 * bands * len(models)
    figure = Figure(figsize=(min(WIDTH, max(3.6, 2.4 * columns)), 0.8 + 1.7 * rows))
    grid = figure.add_gridspec(rows, columns, height_ratios=[1.15, 1] * (rows // 2))
    panels = {}
    for (place, model), (number, dataset) in product(enumerate(models), enumerate(datasets)):
        band, column = divmod(number, columns)
        first = 2 * (place * bands + band)
        above, below = (figure.add_subplot(grid[first + part, column]) for part in (0, 1))
        panels[model, dataset] = above, below
        if column == 0:
            above.set_ylabel("score")
            below.set_ylabel("layer")
        if number == 0:
            above.annotate(model, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points",
                           fontweight="bold", fontsize=8, parse_math=False)  # fmt: skip
    handles = legend_of(corrected)
    figure.legend(handles=handles, loc="outside upper center", ncols={1: 2, 2: 3}.get(columns, 5) - corrected)
    return figure, panels


def pair_panels(
    above: Axes,
    below: Axes,
    curves: Curves,
    row: pd.Series,
    corrected: pd.DataFrame,
    values: np.ndarray,
    limit: float,
) -> list[AxesImage]:
    """Both panels of a pair at the layer of `row`; returns the map's image, or none without shuffled labels."""
    curve_panel(above, curves, row, corrected)
    if not np.isfinite(values).any():
        missing_panel(below, NO_SHUFFLES)
        return []
    above.tick_params(labelbottom=False)
    layers = curves["layers"]
    image = map_panel(below, values, layers, row["kv"] / row["chance"], limit)
    below.set_xlabel("kv / d")
    below.axvline(row["chance"], **LINES["tenth"])
    below.plot(1.02, layers.tolist().index(row["layer"]), "<", color="0", markersize=3.5, clip_on=False,
               transform=below.get_yaxis_transform())  # fmt: skip
    return [image]


def map_panel(axes: Axes, values: np.ndarray, layers: np.ndarray, d: float, limit: float) -> AxesImage:
    """values (layer, kv) from -limit (red) over 0 (white) to limit (blue); what is NaN is hatched."""
    missing_panel(axes)  # shows where nothing covers it
    image = axes.imshow(
        values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower",
        extent=(0, values.shape[1] / d, -0.5, len(layers) - 0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.5, len(layers) - 0.5), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    names = {float(place): str(layer) for place, layer in enumerate(layers)}
    axes.yaxis.set_major_formatter(lambda y, _: names.get(y, ""))
    return image
