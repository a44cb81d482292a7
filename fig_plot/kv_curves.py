"""NTPS over kv, data set by data set: against chance, and what the labels add to shuffled ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fig_plot.figures import missing_panel, panel_figure, styled
from fig_plot.labels import NO_SHUFFLES, NOTHING, commands
from fig_plot.relations import Read
from fig_plot.tables import Curves, best_layers, curve_files, gain, load_curves, model_order
from ntps.prescreening.curve_panel import DESCENDING, LINES

TEXT = (
    "At each pair's best layer (lowest cross-validated error of the ridge probe on train, so chosen by the labels and not "
    "by the score). Dotted: chance, kv over the number of directions. Right: NTPS minus its mean over shuffled labels, thick "
    "where NTPS is above every shuffle."
)


@styled
def kv_curves(folder: str | Path) -> Figure:
    """For each data set two panels, a line a model: NTPS over kv with chance, and NTPS minus shuffled labels."""
    files, best, pairs = curve_files(folder), best_layers(folder), Read(folder).pairs
    models = sorted(set(pairs["model"]), key=model_order)
    looks: dict[str, dict[str, Any]] = {
        model: {"color": f"C{k % 8}", "linestyle": "-" if k < 8 else "--"} for k, model in enumerate(models)
    }

    def draw(dataset: str, left: Axes, right: Axes) -> None:
        left.set_title(dataset, parse_math=False)
        right.set_title("minus its permutation null")
        for model, look in looks.items():
            curves = load_curves(files[model, dataset]) if (model, dataset) in files else {}
            if best.get((model, dataset)) in curves.get("layers", ()):
                place = curves["layers"].tolist().index(best[model, dataset])
                draw_lines(left, right, curves, place, look)
        finish(left, right)

    figure = panel_figure(sorted(set(pairs["dataset"])), draw, TEXT, nothing=NOTHING, height=1.35, share=2)
    if models:
        shown = [Line2D([], [], linewidth=0.8, label=model, **look) for model, look in looks.items()]
        figure.legend(handles=shown, loc="outside upper center", ncols=min(4, len(models)))
    return figure


def draw_lines(left: Axes, right: Axes, curves: Curves, place: int, look: dict[str, Any]) -> None:
    """One model's line in both panels."""
    values = curves["ntps"][place, DESCENDING]
    values = values[: int(np.isfinite(values).sum())]
    share = np.arange(1, len(values) + 1) / len(values)
    difference = gain(curves)[place][: len(values)]
    for axes, line in ((left, values), (right, difference)):
        if np.isfinite(line).any():
            axes.plot(share, line, linewidth=0.8, zorder=2, **look)
    if np.isfinite(difference).any():
        above = values > curves["null"][place, DESCENDING].max(axis=0)[: len(values)] + 1e-12
        right.plot(share, np.where(above, difference, math.nan), linewidth=2.4, **look)


def finish(left: Axes, right: Axes) -> None:
    """Axes and chance, or what is missing."""
    axis = {
        "xlim": (0, 1),
        "xticks": [0, 0.5, 1],
        "xticklabels": ["0", "0.5", "1"],
        "xlabel": "kv / rank of P0",
    }
    if not left.lines:
        for axes in (left, right):
            missing_panel(axes, f"no scores of a best layer: run {commands('ntps')}")
        return
    left.plot([0, 1], [0, 1], **LINES["chance"])
    left.set(ylim=(0, 1.02), yticks=[0, 0.5, 1], ylabel="NTPS", **axis)
    if not right.lines:
        missing_panel(right, NO_SHUFFLES)
        return
    right.axhline(0, color="0", linestyle=":", linewidth=1)
    right.set(**axis)
