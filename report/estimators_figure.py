"""The picture of docs/estimators.md: error and rank correlation of every estimator against n/d; conditioned NTPS against tolerance."""

import pandas as pd
from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, styled
from report.estimator_trials import TOLERANCES

LINES = {
    "ntps": ("NTPS", "C3", "o-"),
    "null_lift": ("NTPS above its null", "C3", "s--"),
    "retention": ("retention", "C2", "o-"),
    "retention_adjusted": ("retention above its null", "C2", "s--"),
    "retention_corrected": ("corrected retention", "C0", "o-"),
    "retention_corrected_minus_pca": ("its difference to PCA's", "C0", "s--"),
}
TEXT = (
    "Left, middle: six classes, R2 .3, V known; each estimator and its own population value (Spearman). Right: V estimated; conditioned NTPS "
    "and (dashed) its lift, at one tolerance for M and P0, and at those of cross-validation; dotted: the permutation null, which knows no labels. "
    "What it has at cv is due to the tolerances, which differ from sample to sample."
)


@styled
def estimators_figure(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.7))
    left, middle, right = figure.subplots(1, 3)
    known = table[(table["directions"] == "known") & (table["targets"] == 6) & (table["r2"] == 0.3)]
    known = known[(known["partitions"] == 1) & (known["freedom"] > 1e9)].sort_values("ratio")
    for name, (label, color, style) in LINES.items():
        rows = known[known["estimator"] == name]
        left.plot(rows["ratio"], rows["rmse"], style, color=color, markersize=3)
        middle.plot(rows["ratio"], rows["rank"], style, color=color, label=label, markersize=3)
    left.set(xscale="log", yscale="log", xlabel="n/d", ylabel="RMSE")
    middle.set(xscale="log", xlabel="n/d", ylabel="rank correlation")
    for axes in (left, middle):
        axes.set_xticks([2, 8, 32], ["2", "8", "32"])
        axes.minorticks_off()
    left.axhline(0.06, color="0.7", linewidth=0.7, zorder=0)
    places = [*(f"{tau:.0e}" for tau in TOLERANCES), "cv", "cv_1se", "cv of M alone"]
    for color, (ratio, rows) in zip(
        ("C1", "C2", "C4"), table[table["directions"] == "drawn"].groupby("ratio")
    ):
        ranks = rows.set_index("estimator")["rank"]
        for kind, style in (("ntps", "o-"), ("lift", "s--"), ("null", ":")):
            name = f"n/d = {ratio:g}" if kind == "ntps" else ""
            found = [ranks.get(f"conditioned_{kind} {place}") for place in places]
            right.plot(range(len(places)), found, style, color=color, label=name, markersize=3)
    right.axhline(0.8, color="0.7", linewidth=0.7, zorder=0)
    right.set_xticks(range(len(places)), [place.removesuffix(" alone") for place in places], rotation=60)
    right.set(xlabel="tolerance of M and P0", ylabel="rank correlation")
    for axes in (middle, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=5, loc="lower right")
    caption(figure, TEXT)
    return figure
