"""Scores over kv as small multiples: a panel a data set, a line a model, at each pair's best layer and on common axes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fig_plot.labels import LABELS, NO_SHUFFLES, NOTHING, commands
from fig_plot.panels import ACROSS, missing_panel, panel_figure, styled
from fig_plot.relations import Read
from fig_plot.tables import KEY, Pair, curve_files, load_curves, model_order, score_rows
from ntps.prescreening.curve_panel import DESCENDING, LINES
from ntps.results.tables import best_layers, in_papers_order

BEST = (
    "At each pair's best layer (lowest cross-validated error of the ridge probe on train, so chosen by the labels and not "
    "by the score)."
)
SHARES = {  # a share of the label signal, what it is held against, and what that is
    "retention_corrected": (
        "retention_corrected_pca",
        "the same of as many principal components of the states",
    ),
    "retention": ("retention_null", "what shuffled labels keep in expectation"),  # of older tables
}
KV = {"xlabel": "kv / rank of P0", "xlim": (0, 1), "xticks": [0, 0.5, 1], "xticklabels": ["0", "0.5", "1"]}
Look = dict[str, Any]


@dataclass(frozen=True)
class AtBest:
    """One pair at its best layer: rows of its table by kv, and the curves over kv."""

    rows: pd.DataFrame
    ntps: np.ndarray  # (kv,)
    null: np.ndarray  # (R, kv)

    @property
    def share(self) -> np.ndarray:
        """kv / rank P0."""
        return np.arange(1, len(self.ntps) + 1) / len(self.ntps)


def at_best(folder: str | Path) -> Iterator[tuple[Pair, AtBest]]:
    """The pairs that have a best layer, and table and curves of it."""
    files, best = curve_files(folder), best_layers(folder)
    if not files:
        return
    rows = score_rows(folder)
    rows = rows[in_papers_order(rows)].sort_values("kv").set_index(KEY)
    for pair, layer in best.items():
        curves = load_curves(files[pair]) if pair in files else {}
        if (*pair, layer) in rows.index and layer in curves.get("layers", ()):
            place = curves["layers"].tolist().index(layer)
            ntps = curves["ntps"][place, DESCENDING]
            known = int(np.isfinite(ntps).sum())
            null = curves["null"][place, DESCENDING, :, :known] if "null" in curves else np.empty((0, known))
            yield pair, AtBest(rows.loc[[(*pair, layer)]], ntps[:known], null)


def kv_curves(folder: str | Path) -> Iterator[tuple[str, Figure]]:
    """(name, figure): corrected retention beside principal components, NTPS beside chance, NTPS minus shuffled labels."""
    names, found = Read(folder).pairs[["model", "dataset"]], dict(at_best(folder))
    score = next(
        (s for s in SHARES if any(one.rows.get(s, pd.Series()).notna().any() for one in found.values())),
        "retention",
    )
    against, meaning = SHARES[score]
    missing = f"no scores of a best layer: run {commands('ntps')}"

    def shares(axes: Axes, one: AtBest, look: Look) -> None:
        axes.plot(one.rows["chance"], one.rows[score], **look)
        axes.plot(one.rows["chance"], one.rows[against], **(look | {"linestyle": "--", "linewidth": 0.7}))

    def multiples(
        draw: Callable[[Axes, AtBest, Look], None], text: str, label: str, empty: str, **axis: Any
    ) -> Figure:
        return small_multiples(names, found, draw, f"{BEST} {text}", empty, KV | {"ylabel": label} | axis)

    yield f"kv_curves_{score}", multiples(shares, f"Dashed, in the same colour: {meaning}.", LABELS[score], missing,
                                          xlabel="kv / d", ylim=(0, 1.02), yticks=[0, 0.5, 1])  # fmt: skip
    yield "kv_curves_ntps", multiples(ntps, "Dotted: chance, kv over the states' width.", LABELS["ntps"], missing,
                                      ylim=(0, 1.02), yticks=[0, 0.5, 1])  # fmt: skip
    yield "kv_curves_null", multiples(
        difference, "NTPS minus its median over shuffled labels, thick where it is above or below every shuffle.",
        "NTPS minus its null", NO_SHUFFLES,
    )  # fmt: skip


def ntps(axes: Axes, one: AtBest, look: Look) -> None:
    axes.plot(one.share, one.ntps, **look)
    width = (one.rows["kv"] / one.rows["chance"]).iloc[0]
    # kv / d, where the axis has kv / rank of P0
    axes.plot([0, 1], [0, len(one.ntps) / width], **LINES["chance"])


def difference(axes: Axes, one: AtBest, look: Look) -> None:
    if len(one.null):
        less = one.ntps - np.median(one.null, 0)
        outside = (one.ntps > one.null.max(0) + 1e-12) | (one.ntps < one.null.min(0) - 1e-12)
        axes.plot(one.share, less, **look)
        axes.plot(one.share, np.where(outside, less, math.nan), **(look | {"linewidth": 2.2}))
        axes.axhline(0, **LINES["chance"])


@styled
def small_multiples(
    names: pd.DataFrame, found: Mapping[Pair, Any], draw: Callable[[Axes, Any, Look], None], text: str, empty: str,
    axis: dict[str, Any],
) -> Figure:  # fmt: skip
    """A panel for each data set of `names`, all on the axes of `axis`, labelled at the margins only; `empty` where it has no line."""
    models, datasets = sorted(set(names["model"]), key=model_order), sorted(set(names["dataset"]))
    looks: dict[str, Look] = {
        model: {"color": f"C{k % 8}", "linestyle": "-" if k < 8 else ":", "linewidth": 1.0}
        for k, model in enumerate(models)
    }

    def panel(dataset: str, axes: Axes) -> None:
        axes.set_title(dataset, parse_math=False)
        for model, look in looks.items():
            if (model, dataset) in found:
                draw(axes, found[model, dataset], look)
        if not axes.lines:
            missing_panel(axes, empty)

    figure = panel_figure(datasets, panel, text, nothing=NOTHING, height=1.5)
    drawn = [axes for axes in figure.axes if axes.lines]
    if "ylim" not in axis:  # the widest of all, about 0
        values = np.abs([y for axes in drawn for line in axes.lines for y in np.ravel(line.get_ydata())])
        reach = max(values[np.isfinite(values)], default=1)
        axis = axis | {"ylim": (-1.05 * reach, 1.05 * reach)}
    for place, axes in enumerate(figure.axes):
        if axes in drawn:
            left, bottom = place % ACROSS == 0, place + ACROSS >= len(datasets)
            axes.set(**axis | ({} if left else {"ylabel": ""}) | ({} if bottom else {"xlabel": ""}))
            axes.tick_params(labelleft=left, labelbottom=bottom)
    if models:
        shown = [Line2D([], [], label=model, **look) for model, look in looks.items()]
        figure.legend(handles=shown, loc="outside upper center", ncols=min(4, len(models)))
    return figure
