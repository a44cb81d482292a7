"""The report's figure: NTPS against probe accuracy and against LoRA's gain, and how well every score orders the texts."""

import math
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.figures import STYLE, WIDTH, caption, number_list, numbered
from fig_plot.relations import Correlation, Read
from ntps import results
from ntps.results.tables import PAIR

MODEL = "smollm2-135m"
SHOWN = {  # in the order of the right panel, from above
    "ntps": "NTPS", "null_lift": "NTPS above shuffled", "retention": "retention", "retention_adjusted": "adjusted retention",
    "h_score": "H-score", "logme": "LogME", "rankme": "RankMe", "gcv_skill": "ridge probe, cross-validated",
}  # fmt: skip
TARGETS = {"probe_accuracy": "probe accuracy", "lora_gain": "LoRA's gain (reversed)"}


def report_figure(folder: Path) -> Figure:
    """Two scatter plots over the texts and one panel of held-out rank correlations with their intervals."""
    read = Read(folder)
    scores, datasets = read.headline("ntps"), sorted(set(read.pairs[read.pairs["model"] == MODEL]["group"]))
    choices, fixed = (pd.read_csv(folder / "selection" / f"{name}.csv") for name in ("choices", "fixed"))
    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, 2.6))
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        for axes, target in ((left, "probe_accuracy"), (middle, "lora_gain")):
            points = scores.merge(read.target(target), "inner", PAIR)
            scatter(axes, points[points["model"] == MODEL].set_index("dataset"), datasets)
            axes.set_title(str(as_drawn(fixed, target)), parse_math=False)
        left.set_ylabel("probe accuracy on test, best layer")
        middle.set_ylabel("LoRA's accuracy minus the probe's")
        middle.axhline(0, color="0.6", linewidth=0.5, zorder=0)
        forest(right, choices[choices["model"] == MODEL])
        caption(
            figure,
            number_list(datasets),
            "Left, middle: NTPS at kv = d/10 and the best layer (lowest cross-validated error of the ridge probe on train); the paper "
            "expects a positive ρ on the left and a negative one in the middle. Right: "
            "Spearman's ρ over the texts with 90 % intervals; for each text, layer and k are those that are best on the others.",
        )
    return figure


def scatter(axes: Axes, points: pd.DataFrame, datasets: list[str]) -> None:
    for number, name in enumerate(datasets, 1):
        x, y = points[["x", "y"]].reindex([name]).to_numpy(float)[0]
        if math.isfinite(x + y):
            axes.plot(x, y, linestyle="", marker="")  # for the limits
            numbered(axes, x, y, number)
    axes.margins(0.12)
    axes.set_xlabel("NTPS")


def as_drawn(fixed: pd.DataFrame, target: str) -> Correlation:
    """The report's correlation of NTPS with a target, signed as the points lie and not as the paper claims."""
    rows = fixed[(fixed["model"] == MODEL) & (fixed["score"] == "ntps") & (fixed["target"] == target)]
    ((rho, low, high, n),) = rows[["rho", "low", "high", "n_groups"]].to_numpy(float)
    sign, _ = results.TARGETS[target]
    low, high = sorted((sign * low, sign * high))
    return Correlation(sign * rho, low, high, int(n))


def forest(axes: Axes, choices: pd.DataFrame) -> None:
    """One line a score and target."""
    for place, (target, name) in enumerate(TARGETS.items()):
        rows = choices[choices["target"] == target].set_index("procedure").reindex(list(SHOWN))
        for line, (low, value, high) in enumerate(
            rows.reindex(columns=["heldout_low", "heldout", "heldout_high"]).to_numpy(float)
        ):
            y = -line + 0.16 - 0.32 * place
            axes.plot([low, high], [y, y], linestyle="-", color=f"C{place}", linewidth=0.8)
            axes.plot(
                value, y, "os"[place], color=f"C{place}", markersize=3.5, label=name if line == 0 else None
            )
    axes.axvline(0, color="0.6", linewidth=0.5, zorder=0)
    axes.set_yticks([-line for line in range(len(SHOWN))], list(SHOWN.values()))
    axes.set(xlim=(-1.05, 1.05), xlabel="held-out ρ", ylim=(0.6 - len(SHOWN), 0.6))
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.17), ncols=2, fontsize=6, handlelength=1)
