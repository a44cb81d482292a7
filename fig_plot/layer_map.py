"""Where the correlation lies: Spearman's rho of score and target at every layer and share of directions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fig_plot.labels import DIRECTIONS, LABELS, MEANINGS, NOTHING, commands
from fig_plot.panels import headed, missing_panel, panel_figure, styled
from fig_plot.relations import LEAST, SIGN, Read, rank_correlations, score_grid
from fig_plot.tables import model_order

NO_LAYERS = "the published values come without layer and kv"


def layer_maps(folder: str | Path) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of corrected retention and of principal components, of retention where there are none, and of NTPS."""
    shares = Read(folder, "fig2_accuracy").known("retention_corrected", "retention_corrected_pca")
    for score in (*(shares or ["retention"]), "ntps"):
        yield f"layer_map_{score}", layer_map(folder, score=score)


@styled
def layer_map(folder: str | Path, target: str = "probe_accuracy", score: str = "ntps") -> Figure:
    """For each model, Spearman's rho over the data sets of score and target at every layer and share of directions."""
    read = Read(folder, "fig2_accuracy")
    candidates, measured = read.candidates(score), read.target(target)
    models, images = sorted(measured["model"].unique(), key=model_order), []
    remedy = f"a correlation takes {LEAST}: run {commands('ntps')} and {commands(target)}"

    def draw(model: str, axes: Axes) -> None:
        own = measured[measured["model"] == model]
        grid = score_grid(candidates[candidates["model"] == model], list(own["dataset"]))
        rho, n = rank_correlations(grid, DIRECTIONS[target] * own["y"].to_numpy())
        axes.set(ylabel="layer")
        published = bool((grid.columns.get_level_values(0) < 0).any())
        if np.isnan(rho).all() or published:
            headed(axes, model)
            missing_panel(axes, NO_LAYERS if published else f"{n} data sets have both values, {remedy}")
            return
        images.append(rho_panel(axes, pd.Series(rho, grid.columns).unstack()))
        best: Any = grid.columns[int(np.nanargmax(rho))]
        headed(axes, model, f"largest {np.nanmax(rho):.2f}: layer {best[0]:.0f}, {best[1]:.0%}; n = {n}")
        axes.set(xlabel="kv / rank of P0")

    text = (
        f"Spearman's correlation over n data sets of {LABELS[score]} with {MEANINGS[target]}. {SIGN} Cross: the largest, which "
        "the paper's rule takes; hatched: no value."
    )
    figure = panel_figure(models, draw, text, nothing=NOTHING, height=1.9)
    if images:
        figure.colorbar(images[0], ax=figure.axes, shrink=0.6, aspect=30, pad=0.02, label="Spearman's ρ")
    return figure


def rho_panel(axes: Axes, table: pd.DataFrame) -> AxesImage:
    """rho by layer (rows) and fraction (columns), from -1 (red) over 0 (white) to 1 (blue)."""
    missing_panel(axes)  # shows where nothing covers it
    steps = table.columns.to_numpy()
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.05
    extent = (steps[0] - half, steps[-1] + half, -0.5, len(table) - 0.5)
    image = axes.imshow(
        table.to_numpy(), cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    row, column = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
    axes.plot(steps[column], row, "x", color="0", markersize=4, markeredgewidth=1)
    ticks = np.unique(np.linspace(0, len(table) - 1, min(5, len(table))).astype(int))
    axes.set_yticks(ticks, [f"{table.index[t]:.0f}" for t in ticks])
    axes.set_xticks([t for t in (0.1, 0.5, 0.9) if extent[0] <= t <= extent[1]])
    return image
