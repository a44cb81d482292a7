"""Figures from a results folder: what is read, one function a panel, and the figure of the demo.

    from fig_plot.figures import demo_figure, save
    save(demo_figure("results/demo"), "results/demo/summary")

A pair is (model, dataset), named as the files are. Missing values and missing pairs are hatched, never left out.
"""

import math
import textwrap
from collections.abc import Mapping
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
from matplotlib.ticker import FuncFormatter, MaxNLocator
from safetensors.numpy import load_file

from ntps import storage
from ntps.errors import UserError

Pair = tuple[str, str]
Curves = Mapping[str, np.ndarray]

STYLE = Path(__file__).with_name("ntps.mplstyle")
WIDTH = 7.2  # inches: a page's text
COLUMNS = 5  # panels side by side at most: more, and the names of the data sets overlap
DESCENDING = 0  # place of the paper's order in the curves
HATCH = "//////"
GREY = "0.45"
LINES: dict[str, dict[str, Any]] = {
    "ntps": {"label": "NTPS", "color": "C0", "linestyle": "-", "linewidth": 1.6},
    "retention": {
        "label": "retention", "color": "C1", "linestyle": "-", "linewidth": 0.7, "marker": "o",
        "markersize": 2.2, "markevery": 0.12,
    },
    "null": {"label": "NTPS, shuffled labels", "color": GREY, "linestyle": "--", "linewidth": 1.0},
    "chance": {"label": "chance", "color": "0", "linestyle": ":", "linewidth": 1.0},
    "tenth": {"label": "kv = d/10", "color": "0", "linestyle": "-", "linewidth": 0.4},
}  # fmt: skip


# --- results -------------------------------------------------------------------------------------------------------


def load_scores(folder: str | Path) -> pd.DataFrame:
    """Every row of FOLDER/ntps/MODEL/DATASET.csv; UserError with the commands that make them if there is none."""
    table = read_tables(folder, "ntps", ["layer", "order", "rule", "fraction", "kv", "ntps", "chance"])
    if table.empty:
        raise UserError(f"no scores in {folder}: {remedy(folder)}")
    return table


def best_layers(folder: str | Path) -> dict[Pair, int]:
    """The layer whose ridge probe has the lowest generalized cross-validation error, of each pair that has one."""
    table = read_tables(folder, "scores", ["layer", "gcv_error"]).dropna(subset=["layer", "gcv_error"])
    best = table.loc[table.groupby(["model", "dataset"])["gcv_error"].idxmin()]
    return {(row.model, row.dataset): int(row.layer) for row in best.itertuples()}


def load_curves(folder: str | Path) -> dict[Pair, Curves]:
    """Arrays of each pair over every kv: ntps, retention (layer, order, kv), null (layer, order, R, kv), layers."""
    curves = {}
    for path in sorted((Path(folder) / "ntps").glob("*/*.curves.safetensors")):
        storage.read_provenance(path, "scores")  # refuses a file that is cut short or not ours
        curves[path.parent.name, path.name.removesuffix(".curves.safetensors")] = load_file(path)
    return curves


def read_tables(folder: str | Path, kind: str, needed: list[str]) -> pd.DataFrame:
    """All FOLDER/KIND/MODEL/DATASET.csv below each other; the pair's names are those of the path."""
    tables = [pd.DataFrame(columns=["model", "dataset", *needed])]
    for path in sorted((Path(folder) / kind).glob("*/*.csv")):
        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): run K_sweep.py with --overwrite") from None
        if lacking := [name for name in needed if name not in table]:
            raise UserError(f"{path} has no column {', '.join(lacking)}: run K_sweep.py with --overwrite")
        tables.append(table.assign(model=path.parent.name, dataset=path.stem))
    return pd.concat(tables[1:] or tables, ignore_index=True)


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


# --- panels --------------------------------------------------------------------------------------------------------


def curve_panel(axes: Axes, curves: Curves, row: pd.Series) -> None:
    """NTPS, retention, shuffled labels and chance over kv/d at one layer; row: that layer's row at kv = d/10."""
    d = row["kv"] / row["chance"]
    place = curves["layers"].tolist().index(row["layer"])
    share = np.arange(1, curves["ntps"].shape[-1] + 1) / d
    whole = np.linspace(0, 1, 201)
    # chance_std^2 is proportional to kv (d - kv), so one row gives it for every kv.
    tenth = row["chance"]
    spread = row["chance_std"] * np.sqrt(whole * (1 - whole) / (tenth * (1 - tenth))) if tenth < 1 else 0
    axes.fill_between(whole, whole - 2 * spread, whole + 2 * spread, color="0.8", linewidth=0)
    axes.plot(whole, whole, **LINES["chance"])
    null = curves["null"][place, DESCENDING] if "null" in curves else np.empty((0, len(share)))
    if len(null):
        axes.fill_between(share, null.min(0), null.max(0), color=GREY, alpha=0.25, linewidth=0)
        axes.plot(share, null.mean(0), **LINES["null"])
    axes.plot(share, curves["retention"][place, DESCENDING], **LINES["retention"])
    axes.plot(share, curves["ntps"][place, DESCENDING], **LINES["ntps"])
    axes.axvline(tenth, zorder=0, **LINES["tenth"])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def map_panel(axes: Axes, values: np.ndarray, layers: np.ndarray, d: float, limit: float) -> AxesImage:
    """values (layer, kv) in colours centred at 0 that end at +-limit; layers from below; what is NaN is hatched."""
    hatch(axes)
    right = (values.shape[1] + 0.5) / d
    image = axes.imshow(
        values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower",
        extent=(0.5 / d, right, -0.5, len(layers) - 0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.5, len(layers) - 0.5), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: str(layers[int(y)]) if y in range(len(layers)) else "")
    )
    return image


def missing_panel(axes: Axes, text: str) -> None:
    """An empty panel that says what is missing and how to make it."""
    hatch(axes)
    axes.set(xticks=[], yticks=[])
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    lines = textwrap.fill(text, 24)
    axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize=5, bbox=box, parse_math=False,
              transform=axes.transAxes, clip_on=True)  # fmt: skip


def hatch(axes: Axes) -> None:
    axes.patch.set(facecolor="0.93", edgecolor="0.7", hatch=HATCH, linewidth=0)


# --- the figure of the demo ----------------------------------------------------------------------------------------


def demo_figure(folder: str | Path) -> Figure:
    """For each model x data set: scores over kv at the best layer, and below it layer x kv, NTPS minus shuffled.

    The map shows the difference to shuffled labels, not the lift over chance: large states dominate both
    subspaces, so that a score far above chance may owe nothing to the labels.
    """
    scores, curves, best = at_tenth(load_scores(folder)), load_curves(folder), best_layers(folder)
    models, datasets = sorted(set(scores["model"])), sorted(set(scores["dataset"]))
    bands = math.ceil(len(datasets) / COLUMNS)  # rows of data sets for each model
    columns = math.ceil(len(datasets) / bands)
    gains = {pair: gain(arrays) for pair, arrays in curves.items()}
    limit = max((float(np.abs(g[np.isfinite(g)]).max(initial=0)) for g in gains.values()), default=0) or 1.0
    with matplotlib.style.context(STYLE, after_reset=True):
        rows = 2 * bands * len(models)
        figure = Figure(figsize=(min(WIDTH, max(3.6, 2.4 * columns)), 0.8 + 1.7 * rows))
        grid = figure.subplots(rows, columns, squeeze=False, height_ratios=[1.15, 1] * (rows // 2))
        images = []
        for axes in grid.flat:
            axes.set_visible(False)
        for model, (number, dataset) in product(models, enumerate(datasets)):
            band, column = divmod(number, columns)
            first = 2 * (models.index(model) * bands + band)
            above, below = grid[first, column], grid[first + 1, column]
            image = pair_panels(above, below, (model, dataset), folder, scores, curves, best, gains, limit)
            images += [image] if image else []
            if column == 0:
                above.set_ylabel("score")
                below.set_ylabel("layer")
            if number == 0:
                above.annotate(model, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points",
                               fontweight="bold", fontsize=8, parse_math=False)  # fmt: skip
        shown = [Line2D([], [], **(style | {"markevery": None})) for style in LINES.values()]
        figure.legend(handles=shown, loc="outside upper center", ncols=5 if columns > 2 else 3)
        if images:
            bar = figure.colorbar(images[0], ax=list(grid.flat), location="bottom", shrink=0.5, aspect=45)
            bar.set_label("NTPS minus its mean over shuffled labels (hatched: no value)")
    return figure


def pair_panels(
    above: Axes,
    below: Axes,
    pair: Pair,
    folder: str | Path,
    scores: pd.DataFrame,
    curves: Mapping[Pair, Curves],
    best: Mapping[Pair, int],
    gains: Mapping[Pair, np.ndarray],
    limit: float,
) -> AxesImage | None:
    """Both panels of a pair; returns the map's image if there is one."""
    model, dataset = pair
    above.set_visible(True)
    below.set_visible(True)
    rows = scores[(scores["model"] == model) & (scores["dataset"] == dataset)]
    row = rows[rows["layer"] == best.get(pair)]
    above.set_title(f"{dataset}\n" + (f"best layer {best[pair]}" if pair in best else ""), parse_math=False)
    if rows.empty or row.empty or pair not in curves:
        text = f"no complete results: {remedy(folder, model, dataset)}"
        missing_panel(above, text)
        missing_panel(below, "")
        return None
    curve_panel(above, curves[pair], row.iloc[0])
    above.tick_params(labelbottom=False)
    image = None
    below.set_xlabel("kv / d")
    if np.isfinite(gains[pair]).any():
        layers = curves[pair]["layers"]
        image = map_panel(below, gains[pair], layers, row["kv"].iloc[0] / row["chance"].iloc[0], limit)
        below.axvline(row["chance"].iloc[0], **LINES["tenth"])
        below.plot(1.02, layers.tolist().index(best[pair]), "<", color="0", transform=below.get_yaxis_transform(),
                   clip_on=False, markersize=3.5)  # fmt: skip
    else:
        missing_panel(below, "no shuffled labels: run cache.py with --label_permutations 20 --overwrite")
    return image


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write PATH.png (200 dots an inch) and PATH.pdf, each whole or not at all, the same bytes for the same results."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.style.context(STYLE, after_reset=True):
        for kind in ("png", "pdf"):
            target = path.with_name(f"{path.name}.{kind}")
            temporary = storage.temporary_name(target)
            figure.savefig(temporary, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
            storage.replace(temporary, target)
            written.append(target)
    return written
