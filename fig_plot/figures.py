"""The look of every figure, and what they are put together from: panels, captions, files.

Missing values and missing pairs are hatched, never dropped.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.tables import DESCENDING, Curves
from ntps.system import storage

# --- lines, shared with other pictures of the project --------------------------------------------------------------

STYLE = Path(__file__).with_name("ntps.mplstyle")
GREY, PALE = "0.45", "#f6ec9a"  # bands of shuffled labels and of chance, distinct without colour too
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


def curve_panel(axes: Axes, curves: Curves, row: pd.Series) -> None:
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


# --- panels --------------------------------------------------------------------------------------------------------

WIDTH = 7.2  # inches: a page's text
ACROSS = 4  # panels side by side where each belongs to a model
styled = matplotlib.style.context(STYLE, after_reset=True)  # @styled: a function that makes a figure


def missing_panel(axes: Axes, text: str = "") -> None:
    """A hatched panel that says what is missing and how to make it."""
    axes.patch.set(facecolor="0.93", edgecolor="0.7", hatch="//////", linewidth=0)
    axes.set(xticks=[], yticks=[])
    if text:
        shown = axes.text(0.5, 0.5, textwrap.fill(text, 24), ha="center", va="center", fontsize=5, parse_math=False,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 2}, transform=axes.transAxes)  # fmt: skip
        shown.set_in_layout(False)  # a long text must not squeeze the panels


@styled
def panel_figure(
    names: Sequence[str],
    draw: Callable[..., None],
    *text: str,
    nothing: str,
    height: float = 2.2,
    share: int = 1,
) -> Figure:
    """`share` panels for each name, ACROSS in a row at most, which draw(name, *panels) fills, and text below.

    An axis of values is labelled in the first column alone; without any name one panel says `nothing`.
    """
    across = min(max(1, len(names)), ACROSS // share)
    rows = math.ceil(max(1, len(names)) / across)
    figure = Figure(figsize=(max(3.6, min(WIDTH, 1.85 * across * share)), 0.1 + height * rows))
    grid = figure.add_gridspec(rows, across * share)
    for place, name in enumerate(names):
        row, column = divmod(place, across)
        panels = [figure.add_subplot(grid[row, column * share + k]) for k in range(share)]
        draw(name, *panels)
        if column:
            panels[0].set_ylabel("")
    if not names:
        missing_panel(figure.subplots(), nothing)
    caption(figure, *text)
    return figure


def headed(axes: Axes, name: str, *lines: str) -> None:
    """A panel's name above it, and below the name smaller lines."""
    small = [line for line in lines if line]
    axes.set_title(name, pad=3 + 7.5 * len(small), parse_math=False)
    axes.annotate("\n".join(small), (0.5, 1), (0, 3), xycoords="axes fraction", ha="center", fontsize=5.5,
                  textcoords="offset points", parse_math=False)  # fmt: skip


def caption(figure: Figure, *paragraphs: str) -> None:
    """Text below a figure, as wide as it is; the figure grows by what the text takes."""
    letters = int(figure.get_figwidth() * 21)
    text = "\n".join(textwrap.fill(paragraph, letters) for paragraph in paragraphs if paragraph)
    figure.set_figheight(figure.get_figheight() + 0.11 * (1 + text.count("\n")) + 0.05)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6, parse_math=False)


def numbered(axes: Axes, x: float, y: float, number: int, color: str = "C0") -> None:
    """A data set's number in a small disc: readable without colour."""
    disc = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": color, "linewidth": 0.7}
    axes.text(x, y, str(number), ha="center", va="center", fontsize=4.5, color="0", bbox=disc, zorder=4)


def numbered_points(axes: Axes, points: pd.DataFrame) -> None:
    """The columns x and y, a row's number where both are known."""
    for number, (x, y) in enumerate(points[["x", "y"]].to_numpy(float), 1):
        if math.isfinite(x + y):
            axes.plot(x, y, linestyle="", marker="")  # for the limits
            numbered(axes, x, y, number)
    axes.margins(0.12)


def number_list(datasets: Sequence[str]) -> str:
    """What the numbers stand for."""
    return "Data sets: " + ", ".join(f"{number}\xa0{name}" for number, name in enumerate(datasets, 1)) + "."


@styled
def save(figure: Figure, path: str | Path, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write PATH.png (200 dots an inch) and PATH.pdf, or those of `kinds`: whole or not at all, the same bytes for the same results."""
    made = [Path(f"{path}.{kind}") for kind in kinds]
    for target, kind in zip(made, kinds):
        with storage.written(target) as temporary:
            figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return made
