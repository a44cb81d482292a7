"""Figures from a results folder: what is read, one function a panel, and the figure of the demo.

    from fig_plot.figures import demo_figure, save
    save(demo_figure("results/demo"), "results/demo/summary")

A pair is (model, dataset), named as the files are. Missing values and missing pairs are hatched, never left out.
"""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from safetensors.numpy import load_file

from ntps.errors import UserError
from ntps.results.tables import best_rows, read_tables
from ntps.system import storage

Pair = tuple[str, str]
Curves = Mapping[str, np.ndarray]

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
STYLE = Path(__file__).with_name("ntps.mplstyle")
WIDTH = 7.2  # inches: a page's text
ACROSS = 4  # panels side by side where each belongs to a model
COLUMNS = 5  # panels side by side at most: more, and the names of the data sets overlap
DESCENDING = 0  # place of the paper's order in the curves
GREY, PALE = "0.45", "#f6ec9a"  # bands of shuffled labels and of chance, told apart without colour too
USED = (
    "layer order rule fraction kv ntps chance chance_std null_mean null_std p_value retention retention_null "
    "rank_unstable n_texts"
).split()  # columns of the scores that a figure or the summary reads
LINES: dict[str, dict[str, Any]] = {
    "ntps": {"label": "NTPS", "color": "C0", "linestyle": "-", "linewidth": 1.6},
    "retention": {
        "label": "retention", "color": "C1", "linestyle": "-", "linewidth": 0.7, "marker": "o",
        "markersize": 2.2, "markevery": 0.12,
    },
    "null": {"label": "shuffled labels (mean, range)", "color": "0.3", "linestyle": "--", "linewidth": 0.9},
    "chance": {"label": "chance (± 2 std)", "color": "0", "linestyle": ":", "linewidth": 1.0},
    "tenth": {"label": "kv = d/10", "color": "0", "linestyle": "-", "linewidth": 0.4},
}  # fmt: skip


# --- results -------------------------------------------------------------------------------------------------------


def load_scores(folder: str | Path) -> pd.DataFrame:
    """Every row of FOLDER/ntps/MODEL/DATASET.csv; UserError with the commands that make them if there is none."""
    table = read_tables(folder, "ntps", USED)
    if table.empty:
        raise UserError(f"no scores in {folder}: {remedy(folder)}")
    return table


def best_layers(folder: str | Path) -> dict[Pair, int]:
    """The layer whose ridge probe has the lowest generalized cross-validation error, of each pair that has one."""
    best = best_rows(folder)
    return dict(zip(zip(best["model"], best["dataset"]), best["layer"].astype(int)))


def curve_files(folder: str | Path) -> dict[Pair, Path]:
    """The file of curves of each pair that has one."""
    end = ".curves.safetensors"
    paths = sorted((Path(folder) / "ntps").glob(f"*/*{end}"))
    return {(path.parent.name, path.name.removesuffix(end)): path for path in paths}


def load_curves(path: Path) -> Curves:
    """One pair over every kv: ntps, retention (layer, order, kv), null (layer, order, R, kv), layers (layer,)."""
    storage.read_provenance(path, "scores")  # refuses a file that is cut short or not ours
    return load_file(path)


def remedy(folder: str | Path, model: str = "MODEL", dataset: str = "DATASET") -> str:
    """The commands that make the results of a pair."""
    flags = f"--models {model} --datasets {dataset} --output {folder}"
    return f"run python cache.py {flags} and then python K_sweep.py {flags}"


def at_tenth(scores: pd.DataFrame) -> pd.DataFrame:
    """The headline's rows: ku = rank of the labels, kv = d/10, the paper's order."""
    rows = (scores["order"] == "descending") & (scores["rule"] == "task_rank") & scores["fraction"].isna()
    return scores[rows]


def gain(curves: Curves) -> np.ndarray:
    """NTPS minus its mean over shuffled labels, (layer, kv): what the labels add. All NaN without shuffles."""
    ntps, null = curves["ntps"][:, DESCENDING], curves.get("null")
    return ntps - null[:, DESCENDING].mean(1) if null is not None and null.shape[2] else ntps * math.nan


def model_order(name: str) -> tuple[str, float, str]:
    """Sorts models by family and then by size, where the name tells one (qwen2-0.5b before qwen2-7b)."""
    found = re.match(r"(.*?)(\d+(?:\.\d+)?)([mb])\b", name, re.IGNORECASE)
    if not found:
        return name, 0.0, name
    return found[1], float(found[2]) * (1e3 if found[3].lower() == "b" else 1), name


# --- panels --------------------------------------------------------------------------------------------------------


def curve_panel(axes: Axes, curves: Curves, row: pd.Series) -> None:
    """NTPS, retention, shuffled labels and chance over kv/d at one layer; row: that layer's row at kv = d/10."""
    place = curves["layers"].tolist().index(row["layer"])
    share = np.arange(1, curves["ntps"].shape[-1] + 1) * row["chance"] / row["kv"]
    whole, tenth = np.linspace(0, 1, 201), row["chance"]
    # chance_std^2 is proportional to kv (d - kv), so one row gives it for every kv.
    spread = row["chance_std"] * np.sqrt(whole * (1 - whole) / (tenth * (1 - tenth))) if tenth < 1 else 0
    axes.fill_between(whole, whole - 2 * spread, whole + 2 * spread, color=PALE, linewidth=0)
    axes.plot(whole, whole, **LINES["chance"])
    null = curves["null"][place, DESCENDING] if "null" in curves else np.empty((0, len(share)))
    if len(null):
        axes.fill_between(share, null.min(0), null.max(0), color=GREY, alpha=0.25, linewidth=0)
        axes.plot(share, null.mean(0), zorder=3, **LINES["null"])  # over NTPS, which often hides it
    axes.plot(share, curves["retention"][place, DESCENDING], **LINES["retention"])
    axes.plot(share, curves["ntps"][place, DESCENDING], **LINES["ntps"])
    axes.axvline(tenth, zorder=0, **LINES["tenth"])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def map_panel(axes: Axes, values: np.ndarray, layers: np.ndarray, d: float, limit: float) -> AxesImage:
    """values (layer, kv) from -limit (blue, dark) over 0 (grey) to limit (yellow, light); what is NaN is hatched."""
    missing_panel(axes)  # shows where nothing covers it
    image = axes.imshow(
        values, cmap="cividis", vmin=-limit, vmax=limit, aspect="auto", origin="lower",
        extent=(0, values.shape[1] / d, -0.5, len(layers) - 0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.5, len(layers) - 0.5), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    names = {float(place): str(layer) for place, layer in enumerate(layers)}
    axes.yaxis.set_major_formatter(lambda y, _: names.get(y, ""))
    return image


def missing_panel(axes: Axes, text: str = "") -> None:
    """A hatched panel that says what is missing and how to make it."""
    axes.patch.set(facecolor="0.93", edgecolor="0.7", hatch="//////", linewidth=0)
    axes.set(xticks=[], yticks=[])
    if text:
        shown = axes.text(0.5, 0.5, textwrap.fill(text, 24), ha="center", va="center", fontsize=5, parse_math=False,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 2}, transform=axes.transAxes)  # fmt: skip
        shown.set_in_layout(False)  # a long text must not squeeze the panels


def panels_of(models: Sequence[str], height: float = 2.2, share: int = 1) -> tuple[Figure, list[list[Axes]]]:
    """A figure with `share` panels side by side for each model, four panels in a row at most."""
    across = min(max(1, len(models)), ACROSS // share)
    rows = math.ceil(max(1, len(models)) / across)
    figure = Figure(figsize=(max(3.6, min(WIDTH, 1.85 * across * share)), 0.1 + height * rows))
    grid = figure.add_gridspec(rows, across * share)
    places = (divmod(number, across) for number in range(len(models)))
    return figure, [[figure.add_subplot(grid[r, c * share + k]) for k in range(share)] for r, c in places]


def headed(axes: Axes, name: str, *lines: str) -> None:
    """A panel's name above it, and below the name smaller lines."""
    small = [line for line in lines if line]
    axes.set_title(name, pad=3 + 7.5 * len(small), parse_math=False)
    axes.annotate("\n".join(small), (0.5, 1), (0, 3), xycoords="axes fraction", ha="center", fontsize=5.5,
                  textcoords="offset points", parse_math=False)  # fmt: skip


def caption(figure: Figure, *paragraphs: str) -> None:
    """Text below a figure, as wide as it is; the figure grows by what the text takes."""
    letters = int(figure.get_figwidth() * 21)
    text = "\n".join(textwrap.fill(paragraph, letters) for paragraph in paragraphs if paragraph)
    figure.set_figheight(figure.get_figheight() + 0.11 * (1 + text.count("\n")) + 0.05)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6, parse_math=False)


def numbered(axes: Axes, x: float, y: float, number: int, color: str = "C0") -> None:
    """A data set's number in a small disc: told apart without colour."""
    disc = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": color, "linewidth": 0.7}
    axes.text(x, y, str(number), ha="center", va="center", fontsize=4.5, color="0", bbox=disc, zorder=4)


def number_list(datasets: Sequence[str]) -> str:
    """What the numbers stand for."""
    return "Data sets: " + ", ".join(f"{number}\xa0{name}" for number, name in enumerate(datasets, 1)) + "."


# --- the figure of the demo ----------------------------------------------------------------------------------------


def demo_figure(folder: str | Path) -> Figure:
    """For each model x data set: scores over kv at the best layer, and below it layer x kv, NTPS minus shuffled.

    The map shows the difference to shuffled labels, not the lift over chance: shuffled labels alone can score
    far above chance, and the difference is what the labels themselves add.
    """
    scores, files, best = at_tenth(load_scores(folder)), curve_files(folder), best_layers(folder)
    models, datasets = sorted(set(scores["model"])), sorted(set(scores["dataset"]))
    found = {(row["model"], row["dataset"], row["layer"]): row for _, row in scores.iterrows()}
    gains = {pair: gain(load_curves(path)) for pair, path in files.items()}  # curves of one pair at a time
    limit = max((float(np.abs(g[np.isfinite(g)]).max(initial=0)) for g in gains.values()), default=0) or 1.0
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, panels = pair_grid(models, datasets)
        images = []
        for pair, (above, below) in panels.items():
            row = found.get((*pair, best.get(pair)))
            curves = load_curves(files[pair]) if pair in files else {}
            if row is not None and row["layer"] in curves.get("layers", ()):
                above.set_title(f"{pair[1]}\nbest layer {row['layer']}", parse_math=False)
                images += pair_panels(above, below, curves, row, gains[pair], limit)
            else:
                above.set_title(pair[1], parse_math=False)
                missing_panel(above, f"no complete results: {remedy(folder, *pair)}")
                missing_panel(below)
        if images:
            figure.colorbar(
                images[0], ax=figure.axes, location="bottom", shrink=0.5, aspect=45, pad=0.015,
                label="NTPS minus its mean over shuffled labels (hatched: no value)",
            )  # fmt: skip
    return figure


def pair_grid(models: list[str], datasets: list[str]) -> tuple[Figure, dict[Pair, tuple[Axes, Axes]]]:
    """A figure with the legend of LINES and two empty panels for each pair, one above the other."""
    bands = math.ceil(len(datasets) / COLUMNS)  # rows of data sets for each model
    columns = math.ceil(len(datasets) / bands)
    rows = 2 * bands * len(models)
    figure = Figure(figsize=(min(WIDTH, max(3.6, 2.4 * columns)), 0.8 + 1.7 * rows))
    grid = figure.add_gridspec(rows, columns, height_ratios=[1.15, 1] * (rows // 2))
    panels = {}
    for (place, model), (number, dataset) in product(enumerate(models), enumerate(datasets)):
        band, column = divmod(number, columns)
        first = 2 * (place * bands + band)
        above, below = (figure.add_subplot(grid[first + part, column]) for part in (0, 1))
        panels[model, dataset] = above, below
        if column == 0:
            above.set_ylabel("score")
            below.set_ylabel("layer")
        if number == 0:
            above.annotate(model, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points",
                           fontweight="bold", fontsize=8, parse_math=False)  # fmt: skip
    shown = [Line2D([], [], **(style | {"markevery": None})) for style in LINES.values()]
    figure.legend(handles=shown, loc="outside upper center", ncols={1: 2, 2: 3}.get(columns, 5))
    return figure, panels


def pair_panels(
    above: Axes, below: Axes, curves: Curves, row: pd.Series, values: np.ndarray, limit: float
) -> list[AxesImage]:
    """Both panels of a pair at the layer of `row`; returns the map's image, or none without shuffled labels."""
    curve_panel(above, curves, row)
    if not np.isfinite(values).any():
        missing_panel(below, "no shuffled labels: run cache.py with --label_permutations 20 --overwrite")
        return []
    above.tick_params(labelbottom=False)
    layers = curves["layers"]
    image = map_panel(below, values, layers, row["kv"] / row["chance"], limit)
    below.set_xlabel("kv / d")
    below.axvline(row["chance"], **LINES["tenth"])
    below.plot(1.02, layers.tolist().index(row["layer"]), "<", color="0", markersize=3.5, clip_on=False,
               transform=below.get_yaxis_transform())  # fmt: skip
    return [image]


def save(figure: Figure, path: str | Path, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write PATH.png (200 dots an inch) and PATH.pdf, or those of `kinds`, each whole or not at all, the same bytes for the same results."""
    path, made = Path(path), []
    with matplotlib.style.context(STYLE, after_reset=True):
        for kind in kinds:
            target = path.with_name(f"{path.name}.{kind}")
            about = {"CreationDate": None} if kind == "pdf" else None
            with storage.written(target) as temporary:
                figure.savefig(temporary, format=kind, metadata=about)
            made.append(target)
    return made
