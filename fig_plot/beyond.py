"""Figures beyond the paper: where the correlation lies, scores over kv against their controls, accuracy against MSE."""

import math
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fig_plot.figures import (
    ACROSS,
    DESCENDING,
    LINES,
    STYLE,
    Curves,
    Pair,
    best_layers,
    caption,
    curve_files,
    gain,
    headed,
    load_curves,
    missing_panel,
    model_order,
    number_list,
    numbered,
    panels_of,
)
from fig_plot.paper import AXES, NAMES, NOTHING, commands, gaps, missing_numbers, rank_figure, why_empty
from fig_plot.relations import (
    CHOSEN,
    INTERVAL,
    LEAST,
    PUBLISHED,
    SCORES,
    Read,
    Relation,
    correlation,
    rank_correlations,
    score_grid,
)
from ntps import results
from ntps.results.tables import PAIR

# --- layer x fraction ----------------------------------------------------------------------------------------------


def correlation_map(folder: str | Path, target: str = "probe_accuracy", score: str = "ntps") -> Figure:
    """For each model, Spearman's rho over the data sets of score and target at every layer and share of directions."""
    read = Read(folder, "fig2_accuracy")
    folder = read.folder
    found, measured = read.candidates(score), read.target(target)
    direction = results.TARGETS[target][0]
    models = sorted(measured["model"].unique(), key=model_order)
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = panels_of(models, height=1.9)
        images = []
        for place, (model, (axes,)) in enumerate(zip(models, panels)):
            texts = measured[measured["model"] == model]
            grid = score_grid(found[found["model"] == model], list(texts["dataset"]))
            rho, n = rank_correlations(grid, direction * texts["y"].to_numpy())
            if np.isnan(rho).all() or (grid.columns.get_level_values(0) < 0).any():
                headed(axes, model)
                axes.set(ylabel="" if place % ACROSS else "layer")
                missing_panel(axes, why_no_map(grid, texts, target, n))
                continue
            images.append(rho_panel(axes, pd.Series(rho, grid.columns).unstack()))
            best = grid.columns[int(np.nanargmax(rho))]
            note = f"largest {np.nanmax(rho):.2f}: layer {best[0]:.0f}, {best[1]:.0%}; n = {n}"
            headed(axes, model, note)
            axes.set(xlabel="kv / rank of P0", ylabel="" if place % ACROSS else "layer")
        if images:
            figure.colorbar(
                images[0],
                ax=figure.axes,
                location="right",
                shrink=0.6,
                aspect=30,
                pad=0.02,
                label="Spearman's ρ",
            )
        if not models:
            missing_panel(figure.subplots(), NOTHING.format(commands("ntps")))
        reversed_ = " (reversed: positive where a higher score goes with less of it)" if direction < 0 else ""
        caption(
            figure,
            f"Spearman's correlation over n data sets of {SCORES[score]} with {results.TARGETS[target][1]}{reversed_}. Cross: the largest, "
            "which the paper's rule takes; hatched: no value.",
        )
    return figure


def rho_panel(axes: Axes, table: pd.DataFrame) -> AxesImage:
    """rho by layer (rows) and fraction (columns)."""
    missing_panel(axes)
    steps = table.columns.to_numpy()
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.05
    extent = (steps[0] - half, steps[-1] + half, -0.5, len(table) - 0.5)
    image = axes.imshow(
        table.to_numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto", origin="lower", extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    row, column = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
    axes.plot(steps[column], row, "x", color="0", markersize=4, markeredgewidth=1)
    ticks = np.unique(np.linspace(0, len(table) - 1, min(5, len(table))).astype(int))
    axes.set_yticks(ticks, [f"{table.index[t]:.0f}" for t in ticks])
    axes.set_xticks([t for t in (0.1, 0.5, 0.9) if extent[0] <= t <= extent[1]])
    return image


def why_no_map(grid: pd.DataFrame, texts: pd.DataFrame, target: str, n: int) -> str:
    if (grid.columns.get_level_values(0) < 0).any():
        return "the published values tell no layer and no kv"
    if grid.isna().all(axis=None):
        return f"no scores: run {commands('ntps')}"
    if texts["y"].isna().all():
        return f"no {NAMES[target]}: run {commands(target)}"
    return f"a score and the {NAMES[target]} are there for {n} data sets: a correlation takes {LEAST}"


# --- score over kv -------------------------------------------------------------------------------------------------


def kv_figure(folder: str | Path) -> Figure:
    """For each model two panels, a line a data set: NTPS over kv with chance, and NTPS minus shuffled labels."""
    folder = Path(folder)
    files, best = curve_files(folder), best_layers(folder)
    pairs = Read(folder).pairs
    models, datasets = sorted(set(pairs["model"]), key=model_order), sorted(set(pairs["dataset"]))
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = panels_of(models, share=2)
        for model, (left, right) in zip(models, panels):
            gone: list[int] = []
            for number, dataset in enumerate(datasets, 1):
                pair: Pair = model, dataset
                curves = load_curves(files[pair]) if pair in files else {}
                if not len(curves) or best.get(pair) not in curves["layers"]:
                    gone.append(number)
                    continue
                place = curves["layers"].tolist().index(best[pair])
                kv_lines(left, right, curves, place, number, len(datasets))
            dress(left, right, model, gone)
        if not models:
            missing_panel(figure.subplots(), NOTHING.format(commands("ntps")))
        caption(
            figure,
            number_list(datasets),
            "At each pair's best layer (lowest cross-validated error of the ridge probe on train, so chosen by the labels and not "
            "by the score). Dotted: chance, kv over the number of directions. Right: NTPS minus its mean over shuffled labels, thick "
            "where NTPS is above every shuffle.",
        )
    return figure


def kv_lines(left: Axes, right: Axes, curves: Curves, place: int, number: int, count: int) -> None:
    """One data set's line in both panels, its number at a place of its own along the line."""
    values = curves["ntps"][place, DESCENDING]
    values = values[: int(np.isfinite(values).sum())]
    share = np.arange(1, len(values) + 1) / len(values)
    mark = int(np.clip(round(number / (count + 1) * len(values)), 1, len(values))) - 1
    color = f"C{(number - 1) % 8}"
    difference = gain(curves)[place][: len(values)]
    for axes, line in ((left, values), (right, difference)):
        if np.isfinite(line).any():
            axes.plot(
                share, line, linestyle="-" if number <= 8 else "--", linewidth=0.8, color=color, zorder=2
            )
            numbered(axes, share[mark], line[mark], number, color)
    if np.isfinite(difference).any():
        above = values > curves["null"][place, DESCENDING].max(axis=0)[: len(values)] + 1e-12
        right.plot(share, np.where(above, difference, math.nan), linestyle="-", color=color, linewidth=2.4)


def dress(left: Axes, right: Axes, model: str, gone: list[int]) -> None:
    left.set_title(f"{model}: NTPS", parse_math=False)
    right.set_title("minus shuffled labels")
    if not left.lines:
        for axes in (left, right):
            missing_panel(axes, f"no scores of a best layer: run {commands('ntps')}")
        return
    left.plot([0, 1], [0, 1], **LINES["chance"])
    left.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xlabel="kv / rank of P0")
    if gone:
        left.text(
            0.98,
            0.02,
            f"missing: {' '.join(map(str, gone))}",
            transform=left.transAxes,
            ha="right",
            fontsize=5,
        )
    if not right.lines:
        missing_panel(right, "no shuffled labels: run cache.py with --label_permutations 20 --overwrite")
        return
    right.axhline(0, color="0", linestyle=":", linewidth=1)
    right.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="kv / rank of P0")


# --- values against values -----------------------------------------------------------------------------------------


def retention_figure(folder: str | Path, score: str = "retention") -> Figure:
    """For each model, retention at kv = d/10 and the best layer against the linear probe's accuracy there."""
    read = Read(folder, "fig2_accuracy")
    target = read.first_measured("probe_accuracy", "probe_train_accuracy")
    points = read.target(target).merge(read.headline(score), "left", PAIR)
    points["scored"] = points["x"].notna()
    found = Relation(points, score, target)
    return value_figure(found, f"{SCORES[score]} at kv = d/10", read.folder, BEST)


def accuracy_mse_figure(folder: str | Path) -> Figure:
    """For each model, the rank of the linear probe's accuracy against that of its MSE: do they order texts alike?"""
    reads = {metric: Read(folder, f"fig2_{metric}") for metric in ("accuracy", "mse")}
    names = {m: read.first_measured(f"probe_{m}", f"probe_train_{m}") for m, read in reads.items()}
    mse = reads["mse"].target(names["mse"]).rename(columns={"y": "x"})
    points = mse.assign(x=-mse["x"]).merge(reads["accuracy"].target(names["accuracy"]), "outer", PAIR)
    points["scored"] = points["x"].notna()
    rho = {
        str(model): correlation(own["x"].to_numpy(), own["y"].to_numpy())
        for model, own in points.groupby("model")
    }
    told = PUBLISHED in reads["accuracy"].rules
    where = CHOSEN[PUBLISHED] if told else "Both of the probe at the best layer."
    note = f"{where} MSE is the mean over texts and classes, so it falls as classes are added."
    found = Relation(points, names["mse"], names["accuracy"], note, rho, dict.fromkeys(rho, ""))
    return rank_figure(found, reads["accuracy"].folder)


BEST = "At each pair's best layer (lowest cross-validated error of the ridge probe on train)."


def value_figure(found: Relation, xlabel: str, folder: Path, note: str) -> Figure:
    """A panel a model, value against value, a number for each data set."""
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = panels_of(found.models)
        for place, (model, (axes,)) in enumerate(zip(found.models, panels)):
            own = found.of(model)
            axes.set(xlabel=xlabel, ylabel="" if place % ACROSS else AXES[found.target][0])
            if own.isna().any(axis=1).all():
                headed(axes, model)
                missing_panel(axes, why_empty(found, model))
                continue
            rho = correlation(own["x"].to_numpy(), own["y"].to_numpy())
            headed(axes, model, str(rho), missing_numbers(found, model))
            for number, (x, y) in enumerate(zip(own["x"], own["y"]), 1):
                if math.isfinite(x) and math.isfinite(y):
                    axes.plot(x, y, linestyle="", marker="")  # for the limits
                    numbered(axes, x, y, number)
            axes.margins(0.12)
        if not found.models:
            missing_panel(figure.subplots(), NOTHING.format(commands("ntps")))
        caption(figure, number_list(found.datasets), note, INTERVAL, *gaps(found, folder))
    return figure
