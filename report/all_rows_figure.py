"""The report's figure: NTPS against probe accuracy and against LoRA's gain, on all rows, a row of panels a model."""

from matplotlib.figure import Figure

from fig_plot.panels import WIDTH, caption, number_list, styled
from ntps.evaluation.selection_tables import OWN
from report.all_rows import ERROR, MODELS, measured, tested
from report.evidence import FOLDER
from report.reproduction_figure import AXES, binomial_errors, scatter
from report.tables import of_model, one, real

TEXT = (
    "All rows of the data sets. Every ρ is Spearman's with its 90 % interval, signed so that a positive one is what the paper claims: a higher NTPS "
    "goes with a higher probe accuracy and with a smaller gain by settled LoRA, whose axis is reversed. Layer and k are fixed beforehand (by GCV "
    "on train; kv = d/10). Bars: one standard error (NTPS: over partitions; accuracies: binomial, of a gain from test rows alone and at most)."
)


@styled
def all_rows_figure() -> Figure:
    """Two scatter plots over the data sets for each of two models."""
    rows = real(measured(FOLDER))
    rows = rows.join(binomial_errors(rows, rows["test_rows"]).add_suffix("_error"))
    groups = sorted(set(rows["group"]))
    figure = Figure(figsize=(WIDTH, 5))
    for line, model in zip(figure.subplots(2, 2), MODELS):
        for axes, target in zip(line, AXES):
            known = of_model(rows, model).dropna(subset=target)
            means = known.groupby("group")[[OWN, ERROR, target, f"{target}_error"]].mean()
            points = means.set_axis(["x", "x_error", "y", "y_error"], axis=1).reindex(groups)
            fixed = one(tested(FOLDER)["fixed"], model=model, target=target, score=OWN)
            scatter(axes, target, points, fixed, model)
    caption(figure, number_list(groups), TEXT)
    return figure
