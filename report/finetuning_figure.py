"""The figures of docs/finetuning.md: gains by data set, held-out error against cost, and gain against corrected retention."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, styled

TEXT = (
    "Left: LoRA's accuracy on test less the probe's; bars are two standard errors, of test rows and of seeds. Right: root "
    "mean square error on groups of data sets that are left out. Dashed: the mean gain; dotted: the gains' own standard error."
)

RETENTION = (
    "LoRA's gain over the probe against corrected retention, by data set; bars are two standard errors, of test rows. "
    "Circles: {}, where retention was found; squares: {}, where it was tested. Line: least squares on the circles, those of one source averaged."
)


@styled
def retention_figure(halves: Mapping[str, pd.DataFrame]) -> Figure:
    """halves: report.gain_confirmation's tables, by name, the discovery half first."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes, marks = figure.subplots(), ("o", "s")
    for place, (half, table) in enumerate(halves.items()):
        x, y = table["retention_corrected"].to_numpy(float), 100 * table["lora_gain"].to_numpy(float)
        axes.errorbar(
            x, y, 200 * table["test_error"], fmt=marks[place], markersize=3.5, color=f"C{place}", elinewidth=0.5, label=half,
            markerfacecolor=f"C{place}" if place else "white",
        )  # fmt: skip
        for name, across, up in zip(table["dataset"], x, y):
            axes.annotate(name, (across, up), (3, 2), textcoords="offset points", fontsize=5)
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
    return figure


@styled
def finetuning_figure(table: pd.DataFrame, judged: pd.DataFrame, floor: Mapping[str, float]) -> Figure:
    """table, judged, floor: of report.finetuning."""
    figure = Figure(figsize=(WIDTH, 2.8))
    left, right = figure.subplots(1, 2)
    shown = table.sort_values("lora_gain")
    error = (shown["test_error"] ** 2 + shown["seeds_error"].fillna(0) ** 2) ** 0.5
    left.errorbar(100 * shown["lora_gain"], shown["dataset"], xerr=200 * error, fmt="o", markersize=3)
    left.axvline(0, color="0.6", linewidth=0.6)
    left.set_xlabel("gain by LoRA over the probe, points")
    right.plot(judged["passes"], 100 * judged["rmse"], "o", markersize=3)
    labels(right, judged)
    right.axhline(100 * judged["rmse"].iloc[0], color="0.4", linestyle="--", linewidth=0.6)
    right.axhline(100 * floor["both"], color="0.4", linestyle=":", linewidth=0.8)
    right.set(
        xlabel="cost, forward passes over the train rows", ylabel="held-out error, points", ylim=(0, None)
    )
    right.margins(x=0.25)
    caption(figure, TEXT)
    return figure


def labels(axes: Axes, judged: pd.DataFrame) -> None:
    """Names beside the points, moved up where they would lie on one another."""
    gap, placed = 3.5 * float(judged["rmse"].max()), list[tuple[float, float]]()  # in points of accuracy
    for name, cost, error in judged.sort_values("rmse")[["predictor", "passes", "rmse"]].itertuples(
        index=False
    ):
        height = max([100 * error, *(other + gap for x, other in placed if abs(x - cost) < 1.5)])
        placed.append((cost, height))
        axes.text(cost + 0.15, height, name.split(",")[0].replace("_", " "), fontsize=5, va="center")
