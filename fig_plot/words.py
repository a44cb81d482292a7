"""Figure 1: words in the planes of the two leading directions of U and of V."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from fig_plot.figures import STYLE, WIDTH, Pair, caption, missing_panel, model_order
from ntps.results.tables import read_tables
from ntps.scores import words
from ntps.system import storage

BLANK = {
    "facecolor": "white",
    "edgecolor": "none",
    "pad": 0.2,
    "alpha": 0.8,
}  # keeps the line out of the letters
MARKERS = "osD^vP*X"
TITLES = {"U": "perception: U, what the labels need", "V": "autoregression: V, what the next token needs"}


def load_words(folder: str | Path) -> dict[Pair, pd.DataFrame]:
    """The words of every pair in FOLDER/words, by (model, dataset), with --between in the table's attrs.

    Of an import of the published figures, those in FOLDER/fig1.
    """
    folder = own if (own := Path(folder) / "fig1").is_dir() else Path(folder)
    table = read_tables(folder, "words", ["space", "group", "word", "x", "y"])
    pairs = {(str(m), str(d)): rows for (m, d), rows in table.groupby(["model", "dataset"], sort=False)}  # type: ignore[misc]
    for (model, dataset), rows in pairs.items():
        about = folder / "words" / model / f"{dataset}.json"
        if about.exists():  # the groups that alignment_vis.py was asked to divide
            rows.attrs["between"] = storage.read_provenance(about, "words")["identity"].get("between", ())
    return {pair: pairs[pair] for pair in sorted(pairs, key=lambda p: (model_order(p[0]), p[1]))}


def word_figure(tables: Mapping[Pair, pd.DataFrame], between: Sequence[str] = ()) -> Figure:
    """Both planes of each pair, with the line that divides the groups `between`.

    Default: those of the table's attrs, as `load_words` sets them, and otherwise its first two.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, 0.9 + 3.1 * max(1, len(tables))))
        FigureCanvasAgg(figure)  # labels are placed by their size, which takes a renderer
        panels = figure.subplots(max(1, len(tables)), 2, squeeze=False)
        divided = []
        for row, (pair, table) in zip(panels, tables.items()):
            groups = list(dict.fromkeys(table["group"]))
            chosen = list(between or table.attrs.get("between") or groups[:2])
            divided.append(" and ".join(map(str, chosen)))
            layer = table["layer"].iloc[0] if "layer" in table else None
            where = f"{pair[0]}, {pair[1]}" + (
                "" if layer is None or pd.isna(layer) else f", layer {layer:.0f}"
            )
            for axes, space in zip(row, words.SPACES):
                axes.set_title(f"{where}\n{TITLES[space]}", parse_math=False)
                points = table[table["space"] == space].dropna(subset=["x", "y"])
                word_panel(axes, points, groups, chosen)
                axes.set(xlabel=f"{space}, first direction", ylabel=f"{space}, second direction")
        if not tables:
            for axes in panels[0]:
                missing_panel(axes, "no words: run python alignment_vis.py --models MODEL --datasets DATASET")
        caption(figure, CAPTION.format(groups="; ".join(dict.fromkeys(divided)) or "two groups"))
        figure.draw_without_rendering()  # settles the layout, on which the labels' places depend
        for axes in panels.flat:
            place_labels(axes)
    return figure


CAPTION = (
    "A word's state is its mean over tokens, special tokens included. Dashed: the line that divides {groups} "
    "(linear discriminant analysis, equal priors). Unit: root mean square of the training texts (published values: "
    "the authors' unit and sign)."
)


def word_panel(axes: Axes, points: pd.DataFrame, groups: Sequence[str], between: Sequence[str]) -> None:
    """Points of one plane, a marker and a colour for each group, and the dividing line."""
    for number, group in enumerate(groups):
        own = points[points["group"] == group]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(own["x"], own["y"], marker, markersize=4, color=f"C{number % 8}", zorder=4)
        for x, y, word in zip(own["x"], own["y"], own["word"]):
            axes.annotate(
                str(word),
                (x, y),
                (0, 0),
                textcoords="offset points",
                color=f"C{number % 8}",
                fontsize=6,
                parse_math=False,
                bbox=BLANK,
            )
    axes.margins(0.2)
    legend = axes.legend(
        axes.lines[: len(groups)], [" "] * len(groups), loc="upper center", bbox_to_anchor=(0.5, -0.12),
        ncols=max(1, min(4, len(groups))), fontsize=6,
    )  # fmt: skip
    for text, group in zip(
        legend.get_texts(), groups
    ):  # afterwards: as a label, a name in _ would be left out
        text.set(text=group, parse_math=False)
    ends = [points.loc[points["group"] == name, ["x", "y"]].to_numpy() for name in between]
    if len(ends) == 2 and all(map(len, ends)):
        draw_line(axes, *words.dividing_line(*ends))


def draw_line(axes: Axes, w: np.ndarray, b: float) -> None:
    """The line w x = b across the panel, whose limits stay."""
    if not w.any():
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    centre = b * w / (w @ w)
    along = np.array([-w[1], w[0]]) / np.hypot(*w)
    reach = 2 * (abs(left) + abs(right) + abs(low) + abs(high) + np.abs(centre).max())
    ends = np.stack([centre - reach * along, centre + reach * along])
    axes.plot(*ends.T, color="0.3", linestyle="--", linewidth=0.8, zorder=0)
    axes.set(xlim=(left, right), ylim=(low, high))


def place_labels(axes: Axes) -> None:
    """Move each word to the first free place around its point: inside the panel, on no word and no point."""
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    if not labels:
        return
    canvas: Any = axes.figure.canvas
    renderer = canvas.get_renderer()
    points = axes.transData.transform([text.xy for text in labels])
    inside = axes.get_window_extent(renderer)
    scale = axes.figure.dpi / 72
    taken = [(x - 3 * scale, y - 3 * scale, x + 3 * scale, y + 3 * scale) for x, y in points]
    for text, (x, y) in zip(labels, points):
        extent = text.get_window_extent(renderer)
        width, height = extent.width, extent.height
        best = None
        for distance, angle in product((5, 11, 18, 26, 36, 48), np.arange(0, 2 * np.pi, np.pi / 8)):
            dx, dy = distance * scale * np.cos(angle), distance * scale * np.sin(angle)
            left = x + dx - width * (1 - np.cos(angle)) / 2
            low = y + dy - height * (1 - np.sin(angle)) / 2
            box = (left, low, left + width, low + height)
            outside = box[0] < inside.x0 or box[1] < inside.y0 or box[2] > inside.x1 or box[3] > inside.y1
            hits = sum(overlap(box, other) for other in taken)
            if best is None or (outside, hits) < best[0]:
                best = ((outside, hits), box, distance)
            if not outside and not hits:
                break
        assert best is not None
        _, box, distance = best
        taken.append(box)
        text.set_position(((box[0] - x) / scale, (box[1] - y) / scale))
        if distance > 5:  # a thin line tells whose it is
            nearest = np.clip((x, y), box[:2], box[2:])
            ends = axes.transData.inverted().transform([(x, y), nearest])
            axes.plot(*ends.T, color="0.6", linewidth=0.4, linestyle="-", zorder=0.5)


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
