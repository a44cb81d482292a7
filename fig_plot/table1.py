"""Table 1 of the paper: a linear head on the frozen model against training from scratch."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fig_plot.labels import NOTHING
from fig_plot.panels import ACROSS, panel_figure, styled
from fig_plot.relations import Read
from fig_plot.scatter import missing_line
from fig_plot.tables import model_order

TEXT = (
    "Test accuracy, mean over seeds: a linear head on the frozen model's last layer, and the same architecture trained from "
    "random weights."
)
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch_accuracy": ("from scratch", {"marker": "o", "markerfacecolor": "white", "color": "C1"}),
    "linear_accuracy": ("linear probe on the frozen model", {"marker": "o", "color": "C0"}),
}


def table1(folder: str | Path) -> pd.DataFrame:
    """Test accuracy of linear_training and from_scratch: a row a data set, columns (model, method); NaN: missing."""
    pairs = Read(folder).pairs.set_index(["dataset", "model"])[list(ENDS)].astype(float)
    pairs = pairs[pairs.notna().any(axis=1)].rename(
        columns={name: label for name, (label, _) in ENDS.items()}
    )
    models = sorted(pairs.index.unique("model"), key=model_order)
    columns = pd.MultiIndex.from_product([models, [label for label, _ in ENDS.values()]])
    wide = {(model, label): pairs[label].xs(model, level="model") for model, label in columns}
    return pd.DataFrame(wide, index=sorted(pairs.index.unique("dataset")), columns=columns)


@styled
def figure(folder: str | Path) -> Figure:
    """The same as lines from one accuracy to the other."""
    table = table1(folder)
    models = list(dict.fromkeys(table.columns.get_level_values(0)))

    def draw(model: str, axes: Axes) -> None:
        axes.set_title(model, parse_math=False)
        for row, values in enumerate(table[model].to_numpy()):
            axes.plot(values, [row, row], color="0.6", linewidth=0.8, linestyle="-", zorder=1)
            for value, (_, style) in zip(values, ENDS.values()):
                axes.plot(value, row, linestyle="", markersize=3.5, zorder=2, **style)
            gone = [style["color"] for value, (_, style) in zip(values, ENDS.values()) if math.isnan(value)]
            for number, color in enumerate(gone):
                axes.plot(-0.15 + 0.08 * number, row, "x", color=color, markersize=3.5)
        named = models.index(model) % ACROSS == 0
        axes.set_yticks(range(len(table)), table.index if named else [], parse_math=False)
        axes.set(xticks=[0, 0.5, 1], xlim=(-0.2, 1.02), ylim=(len(table) - 0.5, -0.5), xlabel="test accuracy")
        axes.grid(axis="y", color="0.9", linewidth=0.4, linestyle="-")

    missing = {
        name: sum(table[model, label].isna().sum() for model in models) for name, (label, _) in ENDS.items()
    }
    text = [missing_line(name, count) for name, count in missing.items() if count]
    made = panel_figure(models, draw, TEXT, *text, nothing=NOTHING, height=max(1.4, 0.75 + 0.14 * len(table)))
    shown = [*ENDS.values(), ("missing, in its colour", {"marker": "x", "color": "0"})]
    handles = [Line2D([], [], linestyle="", markersize=3.5, label=label, **style) for label, style in shown]
    made.legend(handles=handles, loc="outside upper center", ncols=3 if len(models) > 1 else 1)
    return made
