"""The figures of docs/finetuning.md: gains by data set, held-out error against cost, and gain against corrected retention."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fig_plot.panels import HALO, WIDTH, caption, styled
from fig_plot.point_labels import label, place_labels

TEXT = (
    "Discovery half. Left: LoRA's accuracy on test less the probe's; bars are two standard errors, of test rows and of seeds. Right: root "
    "mean square error on groups of data sets that are left out. Dashed: the mean gain; dotted: the gains' own standard error."
)

RETENTION = (
    "LoRA's gain over the probe against corrected retention, by data set; bars are two standard errors, of the gain from test rows alone, not "
    "from seeds, of retention in closed form (train rows; for directions that do not depend on them). "
    "Circles: {}, where retention was found; squares: {}, where it was tested. Line: least squares on the circles, those of one source averaged."
)

SHORT = {  # than report.gains' words, of predictors whose column does not say it
    "probe_errors": "1 − accuracy", "gcv_skill": "probe's skill", "skill_slope": "skill's rise", "kernel_gain": "gradient kernel",
    "short_gain": "first 100 steps", "own_gain": "run of 100 steps", "law_gain": "power law of it", "ntps": "NTPS",
}  # fmt: skip


@styled
def retention_figure(halves: Mapping[str, pd.DataFrame]) -> Figure:
    """halves: report.gain_confirmation's tables, by name, the discovery half first."""
    figure = Figure(figsize=(WIDTH, 4.2))
    axes, marks = figure.subplots(), ("o", "s")
    for place, (half, table) in enumerate(halves.items()):
        x, y = table["retention_corrected"].to_numpy(float), 100 * table["lora_gain"].to_numpy(float)
        axes.errorbar(
            x, y, 200 * table["test_error"], 2 * table["retention_corrected_se"], fmt=marks[place], markersize=3.5, color=f"C{place}", elinewidth=0.5, label=half,
            markerfacecolor=f"C{place}" if place else "white", ecolor=(f"C{place}", 0.5),
        )  # fmt: skip
        # lower by half a line: beside a point's bar, not on it
        label(axes, table["dataset"], x, y, color=f"C{place}", fontsize=5, va="center", path_effects=HALO)
    found = next(iter(halves.values())).dropna(subset="retention_corrected")
    known = found.groupby("group")[["retention_corrected", "lora_gain"]].mean()
    ends = np.array(axes.get_xlim())
    slope, intercept = np.polyfit(known["retention_corrected"], known["lora_gain"], 1)
    axes.plot(ends, 100 * (intercept + slope * ends), color="C0", linewidth=0.7)
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.set(
        xlabel="corrected retention at the best layer",
        ylabel="gain by LoRA over the probe, points",
        xlim=ends,
    )
    axes.legend(loc="upper right")
    caption(figure, RETENTION.format(*halves))
    place_labels(figure)
    return figure


@styled
def finetuning_figure(table: pd.DataFrame, judged: pd.DataFrame, floor: Mapping[str, float]) -> Figure:
    """table, judged, floor: of report.gains."""
    figure = Figure(figsize=(WIDTH, 2.8))
    left, right = figure.subplots(1, 2)
    shown = table.sort_values("lora_gain")
    error = (shown["test_error"] ** 2 + shown["seeds_error"].fillna(0) ** 2) ** 0.5
    left.errorbar(100 * shown["lora_gain"], shown["dataset"], xerr=200 * error, fmt="o", markersize=3)
    left.axvline(0, color="0.6", linewidth=0.6)
    left.set_xlabel("gain by LoRA over the probe, points")
    right.plot(judged["passes"], 100 * judged["rmse"], "o", markersize=3)
    names = judged["predictor"].replace(SHORT).str.split(",").str[0].str.replace("_", " ")
    label(right, names, judged["passes"], 100 * judged["rmse"], fontsize=5)
    right.axhline(100 * judged["rmse"].iloc[0], color="0.4", linestyle="--", linewidth=0.6)
    right.axhline(100 * floor["both"], color="0.4", linestyle=":", linewidth=0.8)
    right.set(
        xlabel="cost, forward passes over the train rows", ylabel="held-out error, points", ylim=(0, None)
    )
    right.margins(x=0.25)
    caption(figure, TEXT)
    place_labels(figure)
    return figure
