"""The page's pictures: skill over layers, and scores over the share of directions kept at one layer."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntps.prescreening.measure import Measured, tenth

STYLE = Path(__file__).with_name("ntps.mplstyle")
DESCENDING = 0  # place of the paper's order in the curves
GREY, PALE = "0.45", "#f6ec9a"  # bands of shuffled labels and of chance, which differ in lightness too
LINES: dict[str, dict[str, Any]] = {
    "ntps": {"label": "NTPS", "color": "C0", "linestyle": "-", "linewidth": 1.6},
    "retention": {
        "label": "retention", "color": "C1", "linestyle": "-", "linewidth": 0.7, "marker": "o",
        "markersize": 2.2, "markevery": 0.12,
    },
    "null": {"label": "shuffled labels (mean, range)", "color": "0.3", "linestyle": "--", "linewidth": 0.9},
    "chance": {"label": "chance (± 2 std)", "color": "0", "linestyle": ":", "linewidth": 1.0},
    "tenth": {"label": "kv = d/10", "color": "0", "linestyle": "-", "linewidth": 0.4},
}  # fmt: skip


def curve_panel(axes: Axes, curves: Mapping[str, np.ndarray], row: pd.Series) -> None:
    """NTPS, retention, shuffled labels and chance over kv/d at one layer; row: that layer's row at kv = d/10."""
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
        axes.plot(share, null.mean(0), zorder=3, **LINES["null"])  # over NTPS, which often hides it
    axes.plot(share, curves["retention"][place, DESCENDING], **LINES["retention"])
    axes.plot(share, curves["ntps"][place, DESCENDING], **LINES["ntps"])
    axes.axvline(tenth, zorder=0, **LINES["tenth"])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def layers_picture(ranked: Sequence[Measured]) -> Figure:
    """Cross-validated skill of every layer's probe over relative depth, one line a model, its best layer marked."""
    figure = Figure(figsize=(4.2, 2.6))
    axes = figure.add_subplot()
    for row in (one.row for one in ranked):
        skills, best = row["layer_skills"], row["layer"]
        depth = np.array(list(skills)) / max(*skills, 1)
        (line,) = axes.plot(depth, [*skills.values()], label=row["model"], marker=".", markersize=2.5)
        axes.plot(best / max(*skills, 1), skills[best], "o", color=line.get_color(), markersize=5)
    low = min(min(one.row["layer_skills"].values()) for one in ranked)
    axes.set(
        xlim=(-0.01, 1.01),
        xlabel="depth (0 = embeddings, 1 = last layer)",
        ylabel="cross-validated skill on train",
    )
    axes.set_ylim(max(low, -0.5) - 0.02, None)
    axes.axhline(0, color="0.5", linewidth=0.5)
    for text in axes.legend(loc="best").get_texts():
        text.set_parse_math(False)
    return figure


def curves_picture(one: Measured) -> Figure:
    """NTPS, retention, shuffled labels and chance over the share of directions kept, at a model's best layer."""
    scores, layer = one.scores, one.row["layer"]
    curves = {name: getattr(scores, name).cpu().numpy()[None] for name in ("ntps", "retention", "null")}
    figure = Figure(figsize=(3.8, 2.9))
    axes = figure.add_subplot()
    curve_panel(axes, curves | {"layers": np.array([layer])}, pd.Series(tenth(scores) | {"layer": layer}))
    axes.set_title(f"{one.row['model']}, layer {layer}", parse_math=False)
    axes.set(xlabel="kv / d: share of the directions kept", ylabel="score")
    handles = [Line2D([], [], **(style | {"markevery": None})) for style in LINES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def svg_base64(figure: Figure) -> str:
    """SVG for a data URL, letters as shapes so that it looks the same everywhere, the same bytes for the same values."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ntps"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return base64.b64encode(file.getvalue()).decode()


def draw(ranked: Sequence[Measured]) -> tuple[str, list[str]]:
    """The picture of all models' layers, and one of each model's curves, as `svg_base64` gives them."""
    with matplotlib.style.context(STYLE, after_reset=True):
        return svg_base64(layers_picture(ranked)), [svg_base64(curves_picture(one)) for one in ranked]
