"""The report's figure: NTPS against probe accuracy and against LoRA's gain, on all rows, a row of panels a model."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, number_list, numbered_points, styled
from fig_plot.relations import Correlation
from ntps.evaluation.selection_tables import OWN
from ntps.results.tables import PAIR
from report.all_rows import ERROR, MODELS, measured, tested
from report.evidence import FOLDER
from report.tables import of_model, one, real

TARGETS = {
    "probe_accuracy": "probe accuracy on test, best layer",
    "lora_gain": "LoRA minus probe accuracy (reversed)",
}
TEXT = (
    "All rows of the data sets. Every ρ is Spearman's with its 90 % interval, signed so that a positive one is what the paper claims: a higher NTPS "
    "goes with a higher probe accuracy and with a smaller gain by settled LoRA, whose axis is reversed. Layer and k are fixed beforehand (by GCV "
    "on train; kv = d/10). Bars: one standard error (NTPS: over partitions; accuracies: binomial, of a gain from test rows alone and at most)."
)


@styled
def all_rows_figure() -> Figure:
    """Two scatter plots over the data sets for each of two models."""
    rows = with_errors(real(measured(FOLDER)), FOLDER)
    groups = sorted(set(rows["group"]))
    figure = Figure(figsize=(WIDTH, 5))
    for line, model in zip(figure.subplots(2, 2), MODELS):
        own = of_model(rows, model)
        for axes, (target, label) in zip(line, TARGETS.items()):
            known = own.dropna(subset=target)
            means = known.groupby("group")[[OWN, ERROR, target, f"{target}_error"]].mean()
            if target == "lora_gain":
                axes.invert_yaxis()
                axes.axhline(0, color="0.6", linewidth=0.5, zorder=0)
            numbered_points(axes, means.set_axis(["x", "x_error", "y", "y_error"], axis=1).reindex(groups))
            row = one(tested(FOLDER)["fixed"], model=model, target=target, score=OWN)
            found = Correlation(row["rho"], row["low"], row["high"], int(row["n_groups"]))
            axes.set_title(f"{model}: {found}", parse_math=False)
            axes.set(xlabel="NTPS", ylabel=label)
    caption(figure, number_list(groups), TEXT)
    return figure


def with_errors(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """With the binomial standard errors of the probe's accuracy and of LoRA's gain over it."""
    probes = pd.read_csv(folder / "probes.csv").drop_duplicates(PAIR)[[*PAIR, "n"]]
    rows = rows.merge(probes, "left", PAIR)
    variance = {
        name: rows[name] * (1 - rows[name]) / rows["n"] for name in ("probe_accuracy", "lora_accuracy")
    }
    return rows.assign(
        probe_accuracy_error=variance["probe_accuracy"] ** 0.5, lora_gain_error=sum(variance.values()) ** 0.5
    )
