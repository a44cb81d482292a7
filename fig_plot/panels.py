"""What every figure is put together from: panels, captions, files.

Missing values and missing pairs are hatched, never dropped.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.spatial.distance import cdist

from ntps.prescreening.curve_panel import STYLE
from ntps.system import atomic_files

WIDTH = 7.2  # inches: a page's text
ACROSS = 4  # panels side by side where each belongs to a model
CORNER = 0.05  # of a panel: how far across and up from its point a number's middle is, about
HALO = [withStroke(linewidth=1.2, foreground="white")]  # around letters that may lie on a line
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
    names: Sequence[str], draw: Callable[..., None], *text: str, nothing: str, height: float = 2.2
) -> Figure:
    """A panel for each name, ACROSS in a row at most, which draw(name, axes) fills, and text below.

    An axis of values is labelled in the first column alone; without any name one panel says `nothing`.
    """
    across = min(max(1, len(names)), ACROSS)
    rows = math.ceil(max(1, len(names)) / across)
    figure = Figure(figsize=(max(3.6, min(WIDTH, 1.85 * across)), 0.1 + height * rows))
    grid = figure.add_gridspec(rows, across)
    for place, name in enumerate(names):
        axes = figure.add_subplot(grid[divmod(place, across)])
        draw(name, axes)
        if place % across:
            axes.set_ylabel("")
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


def numbered_points(axes: Axes, points: pd.DataFrame) -> None:
    """The columns x and y, where both are known a dot with its row's number beside it; bars of x_error and y_error where there are
    such columns."""
    table = points.reindex(columns=["x", "y", "x_error", "y_error"]).to_numpy(float)
    rows = np.flatnonzero(np.isfinite(table[:, :2]).all(axis=1))
    places, errors = table[rows, :2], np.nan_to_num(table[rows, 2:])
    (x, y), (across, up) = places.T, errors.T
    axes.errorbar(
        x, y, up, across, fmt="o", color="C0", markersize=2.5, ecolor="0.6", elinewidth=0.6
    )  # fmt: skip
    axes.margins(0.12)
    axes.autoscale_view()
    for row, place, (right, above) in zip(rows, places, free_corners(axes, places, errors)):
        axes.annotate(
            str(row + 1), place, (1.5 * right, 1.5 * above), textcoords="offset points", ha="left" if right > 0 else "right",
            va="bottom" if above > 0 else "top", fontsize=5, color="0", path_effects=HALO,
        )  # fmt: skip


def free_corners(axes: Axes, places: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
    """For each point the corner of it where its number goes, (1, 1) being above on its right: the one farthest from points and numbers
    (its own point is as near to each), and of such the one farthest from all bars."""
    along = np.linspace(-1, 1, 41)[:, None, None] * errors * np.eye(2)[:, None, None]  # across, then up
    bars = axes.transLimits.transform((places + along).reshape(-1, 2))
    taken = points = axes.transLimits.transform(places)
    corners, chosen = np.array([(1, 1), (-1, 1), (1, -1), (-1, -1)]), []
    for point in points:
        spots = point + CORNER * corners
        near, crossed = (cdist(spots, there).min(axis=1).round(6) for there in (taken, bars))
        best = np.lexsort((-crossed, -near))[0]
        chosen.append(corners[best])
        taken = np.vstack([taken, spots[best]])
    return chosen


def number_list(datasets: Sequence[str]) -> str:
    """What the numbers stand for."""
    return "Data sets: " + ", ".join(f"{number}\xa0{name}" for number, name in enumerate(datasets, 1)) + "."


@styled
def save(figure: Figure, path: str | Path, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write PATH.png (200 dots an inch) and PATH.pdf, or those of `kinds`: whole or not at all, the same bytes for the same results."""
    made = [Path(f"{path}.{kind}") for kind in kinds]
    for target, kind in zip(made, kinds):
        with atomic_files.written(target) as temporary:
            figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return made
