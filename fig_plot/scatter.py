"""Data sets as points, a panel a model: figures 2 and 3 of the paper, retention, and the probe's accuracy against its MSE.

from fig_plot import scatter
for name, figure in scatter.figure2("results"): ...
"""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fig_plot.labels import LABELS, NOTHING, RECOMMENDED, commands, rank_label, scripts
from fig_plot.panels import headed, missing_panel, number_list, numbered_points, panel_figure
from fig_plot.relations import CHOSEN, INTERVAL, LEAST, PUBLISHED, Read, Relation, paired, relation

BEST = "At kv = d/10 and each pair's best layer (lowest cross-validated error of the ridge probe on train)."


def figure2(folder: str | Path, score: str = "ntps") -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each metric and rule: rank of the score against rank of the linear probe's accuracy or mse.

    The probe is scored on test; on train, as published, where there is nothing else.
    """
    for metric in ("accuracy", "mse"):
        yield from by_rule(f"fig2_{metric}", *probe(folder, metric), score)


def figure3(folder: str | Path, score: str = "ntps") -> Iterator[tuple[str, Figure]]:
    """(name, figure) for each rule: rank of the score against rank of what LoRA adds to the linear head's accuracy."""
    yield from by_rule("fig3", Read(folder, "fig3"), "lora_gain_linear", score)


def retention(folder: str | Path) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of each recommended score, without any of retention, at kv = d/10 and the best layer: for each model
    against the linear probe's accuracy there."""
    read, target = probe(folder, "accuracy")
    for score in read.known(*RECOMMENDED) or ["retention"]:
        points = paired(read.headline(score), read.target(target), score, target, BEST)
        yield score, scatter_figure(points, ranked=False)


def accuracy_mse(folder: str | Path) -> Figure:
    """For each model, the rank of the linear probe's accuracy against that of its MSE: do they order data sets alike?"""
    (read, target), (other, error) = (probe(folder, metric) for metric in ("accuracy", "mse"))
    mse = other.target(error).rename(columns={"y": "x"})
    where = CHOSEN[PUBLISHED] if PUBLISHED in read.rules else "Both of the probe at the best layer."
    note = f"{where} MSE is the mean over rows and classes, so it falls as classes are added."
    return scatter_figure(paired(mse.assign(x=-mse["x"]), read.target(target), error, target, note))


def probe(folder: str | Path, metric: str) -> tuple[Read, str]:
    """Results with the linear probe's accuracy or mse, and its name: on test, on train where nothing else is measured."""
    read, names = Read(folder, f"fig2_{metric}"), (f"probe_{metric}", f"probe_train_{metric}")
    return read, next((name for name in names if read.pairs[name].notna().any()), names[0])


def by_rule(name: str, read: Read, target: str, score: str) -> Iterator[tuple[str, Figure]]:
    for rule in read.rules:
        yield f"{name}_{rule.replace(' ', '_')}", scatter_figure(relation(read, target, rule, score))


def scatter_figure(points: Relation, ranked: bool = True) -> Figure:
    """A panel a model: rank against rank or value against value, a number for each data set, rho with its interval and n."""
    across, up = (rank_label(name) if ranked else LABELS[name] for name in (points.score, points.target))

    def draw(model: str, axes: Axes) -> None:
        own = points.ranks(model) if ranked else points.of(model)[["x", "y"]]
        gone = own.isna().any(axis=1)
        axes.set(xlabel=across, ylabel=up)
        if gone.all():
            headed(axes, model)
            missing_panel(axes, why_empty(points, model))
            return
        numbers = " ".join(str(number) for number, missing in enumerate(gone, 1) if missing)
        missing = f"missing: {numbers}" if numbers else ""
        headed(axes, model, str(points.rho[model]), points.taken.get(model, ""), missing)
        numbered_points(axes, own)
        if ranked:
            rank_axes(axes, int((~gone).sum()))

    text = (number_list(points.datasets), points.caption, INTERVAL, *gaps(points))
    return panel_figure(points.models, draw, *text, nothing=NOTHING)


def rank_axes(axes: Axes, n: int) -> None:
    """Limits and ticks of n ranks, and the line of equal ones."""
    axes.plot([1, n], [1, n], color="0.7", linewidth=0.5, linestyle="-", zorder=0)
    axes.set(xlim=(0.2, n + 0.8), ylim=(0.2, n + 0.8))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def why_empty(points: Relation, model: str) -> str:
    """What a panel without any point says."""
    lacking, everything = points.lacking(model), set(points.datasets)
    parts = [
        f"no {LABELS[name]}: run {commands(name)}"
        for name, gone in lacking.items()
        if set(gone) == everything
    ]
    if not parts and set().union(*lacking.values()) >= everything:
        parts = [f"no data set has both {' and '.join(LABELS[name] for name in lacking)}"]
    return "; ".join(parts) or f"too few data sets: to choose takes {LEAST}, held out {LEAST + 1}"


def gaps(points: Relation) -> Iterator[str]:
    """For the caption: how much is missing, and the scripts that make it."""
    for name in (points.score, points.target):
        if count := sum(len(points.lacking(model)[name]) for model in points.models):
            yield missing_line(name, count)


def missing_line(name: str, count: int) -> str:
    made = ", ".join(script.split()[0] for script in scripts(name))  # a caption holds no commands
    return f"Missing: {LABELS[name]} of {count} pairs ({made})."
