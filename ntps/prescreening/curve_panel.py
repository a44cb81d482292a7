"""The look of every figure of the project, and the panel that the page and the figures share: scores over kv/d at one layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

STYLE = Path(__file__).with_name("ntps.mplstyle")
DESCENDING = 0  # place of the paper's order in the curves
GREY, PALE = "0.45", "#f6ec9a"  # bands of shuffled labels and of chance, which differ in lightness too
LINES: dict[str, dict[str, Any]] = {
    "retention_corrected": {"label": "corrected retention", "color": "C1", "linestyle": "-", "linewidth": 1.6},
    "retention_corrected_pca": {
        "label": "of principal components", "color": "C2", "linestyle": "-.", "linewidth": 1.0,
    },
    "ntps": {"label": "NTPS", "color": "C0", "linestyle": "-", "linewidth": 1.2},
    "retention": {
        "label": "retention", "color": "C1", "linestyle": "-", "linewidth": 0.7, "marker": "o",
        "markersize": 2.2, "markevery": 0.12,
    },
    "null": {"label": "permutation null (median, range)", "color": "0.3", "linestyle": "--", "linewidth": 0.9},
    "chance": {"label": "chance (± 2 std)", "color": "0", "linestyle": ":", "linewidth": 1.0},
    "tenth": {"label": "kv = d/10", "color": "0", "linestyle": "-", "linewidth": 0.4},
}  # fmt: skip


def corrected_curves(rows: Any) -> Any:
    """A frame of corrected retention, and of principal components, over kv/d from that of one layer; empty for older tables."""
    own = rows[(rows["order"] == "descending") & (rows["rule"] == "task_rank")].sort_values("kv")
    names = ["retention_corrected", "retention_corrected_pca"]
    return own.reindex(columns=["chance", *names]).dropna().astype(float).set_index("chance")


def legend_of(corrected: bool) -> list[Line2D]:
    """Of a panel with corrected retention, or of one with retention as in the paper."""
    absent = {"retention"} if corrected else {"retention_corrected", "retention_corrected_pca"}
    return [
        Line2D([], [], **(look | {"markevery": None})) for name, look in LINES.items() if name not in absent
    ]


def curve_panel(axes: Axes, curves: Mapping[str, np.ndarray], row: Any, corrected: Any) -> None:
    """Corrected retention (retention, without any), NTPS, shuffled labels and chance over kv/d at one layer.

    curves: ntps and retention (layers, orders, kv), null (layers, orders, R, kv), layers (layers,), as K_sweep.py keeps
    them. row: the columns layer, kv, chance and chance_std of that layer at kv = d/10. corrected: of `corrected_curves`.
    """
    place = curves["layers"].tolist().index(row["layer"])
    share = np.arange(1, curves["ntps"].shape[-1] + 1) * row["chance"] / row["kv"]
    whole, tenth = np.linspace(0, 1, 201), row["chance"]
    # chance_std^2 is proportional to kv (d - kv), so one row gives it for every kv.
    spread = row["chance_std"] * np.sqrt(whole * (1 - whole) / (tenth * (1 - tenth))) if tenth < 1 else 0
    axes.fill_between(whole, whole - 2 * spread, whole + 2 * spread, color=PALE, linewidth=0)
    axes.plot(whole, whole, **LINES["chance"])
    null = curves["null"][place, DESCENDING] if "null" in curves else np.empty((0, len(share)))
    if len(null):
        axes.fill_between(share, null.min(0), null.max(0), color=GREY, alpha=0.25, linewidth=0)
        axes.plot(share, np.median(null, 0), zorder=3, **LINES["null"])  # over NTPS, which often hides it
    for name in corrected:
        axes.plot(corrected.index, corrected[name], **LINES[str(name)])
    if corrected.empty:
        axes.plot(share, curves["retention"][place, DESCENDING], **LINES["retention"])
    axes.plot(share, curves["ntps"][place, DESCENDING], **LINES["ntps"])
    axes.axvline(tenth, zorder=0, **LINES["tenth"])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
