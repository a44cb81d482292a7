"""The report's figure: NTPS against probe accuracy and against LoRA's gain, and how well every score orders the data sets."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.figures import WIDTH, caption, number_list, numbered_points, styled
from fig_plot.labels import SCORES
from fig_plot.relations import Correlation, Read
from ntps.results.tables import PAIR
from report.tables import Tables, of_model, one

TARGETS = {"probe_accuracy": "probe accuracy", "lora_gain": "LoRA's gain (reversed)"}
TEXT = (
    "Every ρ is Spearman's, over the data sets, and signed so that a positive one is what the paper "
    "claims: a higher NTPS goes with a higher probe accuracy and with a smaller gain, whose axis is reversed. Left, middle: NTPS "
    "with layer and k fixed beforehand (by GCV on train; kv = d/10), and the 90 % interval. Right: held out, for each data set "
    "layer and k are those that are best on the others; filled: significant after Holm's correction (p ≤ .05)."
)


@styled
def report_figure(folder: Path) -> Figure:
    """Two scatter plots over the data sets and one panel of held-out rank correlations."""
    read = Read(folder)
    ntps, datasets = read.headline("ntps"), sorted(set(of_model(read.pairs)["group"]))
    tables = Tables(folder).selection
    figure = Figure(figsize=(WIDTH, 2.6))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    for axes, target in ((left, "probe_accuracy"), (middle, "lora_gain")):
        points = of_model(ntps.merge(read.target(target), "inner", PAIR)).set_index("dataset")
        numbered_points(axes, points.reindex(datasets))
        rho, low, high, n = one(tables["fixed"], score="ntps", target=target)[
            ["rho", "low", "high", "n_groups"]
        ]
        axes.set_title(str(Correlation(rho, low, high, int(n))), parse_math=False)
        axes.set_xlabel("NTPS")
    left.set_ylabel("probe accuracy on test, best layer")
    middle.set_ylabel("LoRA minus probe accuracy (reversed)")
    middle.axhline(0, color="0.6", linewidth=0.5, zorder=0)
    middle.invert_yaxis()
    forest(right, tables["choices"])
    caption(figure, number_list(datasets), TEXT)
    return figure


def forest(axes: Axes, choices: pd.DataFrame) -> None:
    """One line a score and target."""
    for place, (target, name) in enumerate(TARGETS.items()):
        rows = choices[choices["target"] == target].set_index("procedure").reindex(list(SCORES))
        for line, (rho, shown) in enumerate(zip(rows["heldout"], rows["reading"])):
            y, color = -line + 0.16 - 0.32 * place, f"C{place}"
            filled = color if shown in ("holds", "reversed") else "none"
            axes.plot(rho, y, "os"[place], color=color, markerfacecolor=filled, markersize=3.5)
        axes.plot([], [], "os"[place], color=color, markersize=3.5, label=name)
    axes.axvline(0, color="0.6", linewidth=0.5, zorder=0)
    axes.set_yticks([-line for line in range(len(SCORES))], list(SCORES.values()))
    axes.set(xlim=(-1.05, 1.05), xlabel="held-out ρ", ylim=(0.6 - len(SCORES), 0.6))
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.17), ncols=2, fontsize=6, handlelength=1)
