"""The report's figure: NTPS against probe accuracy and against LoRA's gain, and how well every score orders the data sets."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fig_plot.labels import SCORES
from fig_plot.panels import WIDTH, caption, number_list, numbered_points, styled
from fig_plot.relations import Correlation, Read
from ntps.results.tables import PAIR
from report.tables import Tables, of_model, one

TARGETS = {"probe_accuracy": "probe accuracy", "lora_gain": "LoRA's gain (reversed)"}
AXES = {
    "probe_accuracy": "probe accuracy on test, best layer",
    "lora_gain": "LoRA minus probe accuracy (reversed)",
}
TEXT = (
    "Every ρ is Spearman's, over the data sets, and signed so that a positive one is what the paper "
    "claims: a higher NTPS goes with a higher probe accuracy and with a smaller gain, whose axis is reversed. Left, middle: NTPS "
    "with layer and k fixed beforehand (by GCV on train; kv = d/10), and the 90 % interval; bars: one standard error (NTPS: over partitions; "
    "accuracies: binomial; of a gain at most), some of them shorter than their dot. Right: held out, for each data set "
    "layer and k are those that are best on the others; filled: significant after Holm's correction (p ≤ .05)."
)


@styled
def report_figure(folder: Path) -> Figure:
    """Two scatter plots over the data sets and one panel of held-out rank correlations."""
    read, errors = Read(folder), standard_errors(Tables(folder))
    ntps, datasets = read.headline("ntps"), sorted(set(of_model(read.pairs)["group"]))
    tables = Tables(folder).selection
    figure = Figure(figsize=(WIDTH, 2.6))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    for axes, target in ((left, "probe_accuracy"), (middle, "lora_gain")):
        points = of_model(ntps.merge(read.target(target), "inner", PAIR)).set_index("dataset")
        shown = (
            points.reindex(datasets)
            .join(errors["ntps"].rename("x_error"))
            .join(errors[target].rename("y_error"))
        )
        scatter(axes, target, shown, one(tables["fixed"], score="ntps", target=target))
    forest(right, tables["choices"])
    caption(figure, number_list(datasets), TEXT)
    return figure


def scatter(axes: Axes, target: str, points: pd.DataFrame, fixed: pd.Series, model: str = "") -> None:
    """NTPS against a target, with standard errors: `points` of numbered_points, `fixed` the row of ntps.selection's table."""
    if target == "lora_gain":
        axes.invert_yaxis()
        axes.axhline(0, color="0.6", linewidth=0.5, zorder=0)
    numbered_points(axes, points)
    rho, low, high, n = fixed[["rho", "low", "high", "n_groups"]]
    title = str(Correlation(rho, low, high, int(n)))
    axes.set_title(f"{model}: {title}" if model else title, parse_math=False)
    axes.set(xlabel="NTPS", ylabel=AXES[target])


def binomial_errors(accuracies: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    """Standard errors of the probe's accuracy and, at most, of LoRA's gain over it, of so many test rows."""
    probe, lora = (
        accuracies[name] * (1 - accuracies[name]) / rows for name in ("probe_accuracy", "lora_accuracy")
    )
    return pd.DataFrame({"probe_accuracy": probe**0.5, "lora_gain": (probe + lora) ** 0.5})


def standard_errors(tables: Tables) -> pd.DataFrame:
    """By group of data sets, the mean of its data sets': of NTPS, of the probe's accuracy and of LoRA's gain over it."""
    best, pairs = (of_model(table).set_index("dataset") for table in (tables.best, tables.pairs))
    rows = tables.final_tests("lora_finetuning").groupby("dataset")["n"].first()
    errors = binomial_errors(pairs, rows).assign(ntps=best["ntps_se"])
    return errors.groupby(pairs["group"]).mean()


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
