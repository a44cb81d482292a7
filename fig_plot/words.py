"""Figure 1: words in the planes of the two leading directions of U and of V."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, missing_panel, styled
from fig_plot.point_labels import label, place_labels
from fig_plot.tables import Pair, model_order
from ntps.results.tables import read_tables
from ntps.scores import words
from ntps.system import provenance

# keeps the line out of the letters
BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 0.2, "alpha": 0.8}
MARKERS = "osD^vP*X"
TITLES = {"U": "perception: U, what the labels need", "V": "autoregression: V, what the next token needs"}
NO_WORDS = "no words: run python alignment_vis.py --models MODEL --datasets DATASET"
CAPTION = (
    "A word's state is its mean over tokens, special tokens included. Dashed: the line that divides {groups} "
    "(linear discriminant analysis, equal priors). Unit: root mean square of the training texts (published values: "
    "the authors' unit and sign)."
)


def load_words(folder: str | Path) -> dict[Pair, pd.DataFrame]:
    """The words of every pair in FOLDER/words, by (model, dataset), with --between in the table's attrs.

    Of an import of the published figures, those in FOLDER/fig1.
    """
    folder = own if (own := Path(folder) / "fig1").is_dir() else Path(folder)
    table = read_tables(folder, "words", ["space", "group", "word", "x", "y"])
    pairs = {(str(m), str(d)): rows for (m, d), rows in table.groupby(["model", "dataset"], sort=False)}  # type: ignore[misc]
    for (model, dataset), rows in pairs.items():
        about = folder / "words" / model / f"{dataset}.json"
        if about.exists():  # the groups that alignment_vis.py divided
            rows.attrs["between"] = provenance.read(about, "words")["identity"].get("between", ())
    return {pair: pairs[pair] for pair in sorted(pairs, key=lambda p: (model_order(p[0]), p[1]))}


@styled
def word_figure(tables: Mapping[Pair, pd.DataFrame], between: Sequence[str] = ()) -> Figure:
    """Both planes of each pair, with the line that divides the groups `between`.

    Default: those of the table's attrs, as `load_words` sets them, and otherwise its first two.
    """
    figure = Figure(figsize=(WIDTH, 0.9 + 3.1 * max(1, len(tables))))
    panels = figure.subplots(max(1, len(tables)), 2, squeeze=False)
    divided = [pair_panels(row, *pair, table, between) for row, (pair, table) in zip(panels, tables.items())]
    if not tables:
        for axes in panels[0]:
            missing_panel(axes, NO_WORDS)
    caption(figure, CAPTION.format(groups="; ".join(dict.fromkeys(divided)) or "two groups"))
    place_labels(figure)
    return figure


def pair_panels(
    row: Sequence[Axes], model: str, dataset: str, table: pd.DataFrame, between: Sequence[str]
) -> str:
    """Both planes of a pair; returns the groups that the line divides, in words."""
    groups = list(dict.fromkeys(table["group"]))
    chosen = list(between or table.attrs.get("between") or groups[:2])
    layer = table["layer"].iloc[0] if "layer" in table else None
    where = f"{model}, {dataset}" + ("" if layer is None or pd.isna(layer) else f", layer {layer:.0f}")
    for axes, space in zip(row, words.SPACES):
        axes.set_title(f"{where}\n{TITLES[space]}", parse_math=False)
        word_panel(axes, table[table["space"] == space].dropna(subset=["x", "y"]), groups, chosen)
        axes.set(xlabel=f"{space}, first direction", ylabel=f"{space}, second direction")
    return " and ".join(map(str, chosen))


def word_panel(axes: Axes, points: pd.DataFrame, groups: Sequence[str], between: Sequence[str]) -> None:
    """Points of one plane, a marker and a colour for each group, and the dividing line."""
    for number, group in enumerate(groups):
        own, color = points[points["group"] == group], f"C{number % 8}"
        axes.plot(own["x"], own["y"], MARKERS[number % len(MARKERS)], markersize=4, color=color, zorder=4)
        label(axes, own["word"], own["x"], own["y"], color=color, fontsize=6, bbox=BLANK)
    axes.margins(0.2)
    legend = axes.legend(
        axes.lines[: len(groups)], [" "] * len(groups), loc="upper center", bbox_to_anchor=(0.5, -0.12),
        ncols=max(1, min(4, len(groups))), fontsize=6,
    )  # fmt: skip
    # afterwards: as a label, a name in _ would be dropped
    for text, group in zip(legend.get_texts(), groups):
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
