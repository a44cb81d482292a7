"""The figure of the preregistered test: each score against probe accuracy over the data sets, a row a model."""

import pandas as pd
from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, number_list, numbered_points, styled

SHOWN = {
    "conditioned_lift": "conditioned NTPS above its null",
    "retention_corrected": "corrected retention",
    "retention_corrected_pca": "corrected retention, PCA",
}
TEXT = (
    "At each model's best layer (by GCV on train) and kv = d/10. ρ is Spearman's, over the data sets of the confirmation half; "
    "p after Holm's correction. A score that is refused has no point. Bars: one standard error, of accuracy binomial (test rows), of "
    "corrected retention in closed form (train rows; for directions that do not depend on them); some are shorter than their dot. "
    "The tables have none of the other two scores."
)


@styled
def confirmation_figure(rows: pd.DataFrame, readings: pd.DataFrame, halves: dict[str, list[str]]) -> Figure:
    """rows: of report.confirmation; readings: its table."""
    tested = readings[(readings["layer"] == "best") & (readings["target"] == "accuracy")]
    half = "confirmation" if (tested["half"] == "confirmation").any() else "discovery"
    tested, datasets = tested[tested["half"] == half], sorted(halves[half])
    models = list(dict.fromkeys(tested["model"]))
    figure = Figure(figsize=(WIDTH, 2.1 * len(models) + 0.6))
    for line, model in zip(figure.subplots(len(models), len(SHOWN), squeeze=False, sharey="row"), models):
        points = (
            rows[(rows["which"] == "best") & (rows["model"] == model)].set_index("dataset").reindex(datasets)
        )
        for axes, (score, label) in zip(line, SHOWN.items()):
            found = tested[(tested["model"] == model) & (tested["score"] == score)].iloc[0]
            left_out = str(found["left_out"]).split()
            shown = with_errors(points, score)
            numbered_points(axes, shown[~shown.index.isin(left_out)].reindex(datasets))
            p = "" if pd.isna(found["p_holm"]) else f", p {found['p_holm']:.2g}"  # a control is not tested
            axes.set_title(f"ρ {found['rho']:.2f}{p}, n {found['n']}")
            axes.set_xlabel(label)
        line[0].set_ylabel(f"{model}\nprobe accuracy on test")
    caption(figure, number_list(datasets), TEXT)
    return figure


def with_errors(points: pd.DataFrame, score: str) -> pd.DataFrame:
    """x: the score, y: accuracy; x_error: the score's standard error, where it has a column; y_error: the binomial one of the test rows."""
    accuracy = points["accuracy"]
    return pd.DataFrame({
        "x": points[score], "y": accuracy, "x_error": points.get(f"{score}_se"),
        "y_error": (accuracy * (1 - accuracy) / points["test_rows"]) ** 0.5,
    })  # fmt: skip
