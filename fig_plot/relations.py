"""A score against a measurement, model by model: the rule that takes layer and k, and the rank correlation.

Four rules take the layer and the share of the autoregressive directions (kv), for each model by itself:
    as the paper    those whose rank correlation over these very data sets is largest
    fixed           the last layer and one given share
    held out        for each data set those that are best on the others, and its rank there (ntps/evaluation/held_out.py)
    published       of published values, which come without layer and k
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fig_plot.labels import DIRECTIONS
from fig_plot.tables import model_order
from ntps import results
from ntps.evaluation.correlation import LEVEL, Draws, spearman
from ntps.evaluation.held_out import judge
from ntps.results.tables import PAIR, POINT, in_papers_order

PAPER, FIXED, HELD_OUT, PUBLISHED = "as the paper", "fixed", "held out", "published"
FRACTION = 0.1  # of the fixed rule, unless another is given
LEAST = 3  # data sets that a correlation takes
CHOSEN = {  # rule -> what the caption says of it
    PAPER: "Layer and kv chosen as in the paper: for each model those with the largest ρ on these same data sets, so ρ is "
    "too high.",
    FIXED: "Layer and kv fixed beforehand: the last layer, kv = {fraction:.0%} of the rank of P0.",
    HELD_OUT: "Layer and kv held out: for each data set those with the largest ρ on the others; its place on the axis is its "
    "rank among them there.",
    PUBLISHED: "Values as published; the authors' layer and k are unknown, and differ from figure to figure.",
}
SIGN = "Signed so that a positive ρ is what the paper claims of NTPS."
INTERVAL = f"ρ: Spearman's, with its {LEVEL:.0%} BCa bootstrap interval over the n data sets (six or more; none after a choice or of a perfect order)."


@dataclass(frozen=True)
class Correlation:
    """rho and its interval over n data sets; NaN for fewer than three, or where one side is constant."""

    rho: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.rho):
            return f"n = {self.n}: no ρ"
        around = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"ρ = {self.rho:.2f}{around}, n = {self.n}"


def correlation(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Spearman's rho over the pairs that are whole, with its interval."""
    whole = np.isfinite(x) & np.isfinite(y)
    n = int(whole.sum())
    if n < LEAST:
        return without_interval(math.nan, n)
    x, y = x[whole], y[whole]
    low, high = map(float, Draws().interval(lambda at: spearman(x[at], y[at]), n))
    return Correlation(float(spearman(x, y)), low, high, n)


@dataclass(frozen=True)
class Relation:
    """Points of one figure: model, dataset, x (score), y (target), scored (is there a score?); missing values NaN.

    Data sets that share their texts are one point, the mean of theirs, and count once: `dataset` is their group.
    """

    points: pd.DataFrame
    score: str
    target: str
    caption: str
    rho: dict[str, Correlation]  # positive: as the paper claims
    taken: dict[str, str] = field(default_factory=dict)  # model -> layer and kv, in words

    @property
    def models(self) -> list[str]:
        return sorted(self.points["model"].unique(), key=model_order)

    @property
    def datasets(self) -> list[str]:
        return sorted(self.points["dataset"].unique())

    def of(self, model: str) -> pd.DataFrame:
        """The model's x, y and scored, a row for every data set of the figure."""
        own = self.points[self.points["model"] == model].set_index("dataset")
        return own[["x", "y", "scored"]].reindex(self.datasets)

    def ranks(self, model: str) -> pd.DataFrame:
        """Ranks for values, 1 the lowest; the target's are reversed where less of it goes with a higher score."""
        own = self.of(model)[["x", "y"]]
        own[own.isna().any(axis=1)] = math.nan
        return own.assign(y=own["y"] * DIRECTIONS[self.target]).rank()

    def lacking(self, model: str) -> dict[str, list[str]]:
        """The data sets without a score, and those without the target."""
        own = self.of(model)
        scored, measured = own["scored"].eq(True), own["y"].notna()
        return {self.score: list(own.index[~scored]), self.target: list(own.index[~measured])}


# --- reading -------------------------------------------------------------------------------------------------------


class Read:
    """A results folder's scores and measurements, each read once; FOLDER/FIGURE where published values are there.

    A folder without any gives empty tables: the figures say what is missing.
    """

    def __init__(self, folder: str | Path, figure: str = ""):
        own = Path(folder) / figure
        self.folder = own if own.is_dir() else Path(folder)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """ntps.results.load_scores."""
        if self.holds("ntps", "scores"):
            return results.load_scores(self.folder)
        return pd.DataFrame(columns=[*PAIR, *POINT, "score", "value"])

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """ntps.results.load_pairs."""
        if self.holds("ntps", "scores", *(f"accuracy/{method}" for method in results.METHODS)):
            return results.load_pairs(self.folder)
        return pd.DataFrame(columns=[*PAIR, "group", *results.TARGETS])

    def holds(self, *kinds: str) -> bool:
        return any(path for kind in kinds for path in (self.folder / kind).glob("*/*.csv"))

    def target(self, name: str) -> pd.DataFrame:
        """model, dataset, y: one measurement of every model and group of data sets."""
        return self.grouped(self.pairs[[*PAIR, name]].rename(columns={name: "y"}), [], "y")

    def grouped(self, table: pd.DataFrame, more: list[str], value: str) -> pd.DataFrame:
        """Means over the data sets of a group, for which `dataset` then stands."""
        groups = dict(zip(self.pairs["dataset"], self.pairs["group"]))
        table = table.assign(dataset=table["dataset"].map(groups)).astype({value: float})
        return table.groupby([*PAIR, *more], dropna=False)[value].mean().reset_index()

    def known(self, *names: str) -> list[str]:
        """The scores of these that any pair has."""
        there = set(self.scores.dropna(subset="value")["score"])
        return [name for name in names if name in there]

    def candidates(self, score: str) -> pd.DataFrame:
        """model, dataset, layer, fraction, value: the paper's order and task_rank, or what there is if that is not."""
        long = self.scores[self.scores["score"] == score]
        ours = in_papers_order(long)
        if ours.any():
            long = long[ours & long["fraction"].notna()]
        return self.grouped(long[[*PAIR, "layer", "fraction", "value"]], ["layer", "fraction"], "value")

    def headline(self, score: str) -> pd.DataFrame:
        """model, dataset, x: the score at kv = d/10 and the best layer, the paper's order."""
        long = self.scores[self.scores["score"] == score]
        if not (long["order"] == "descending").any():
            return self.target("probe_mse")[:0].rename(columns={"y": "x"})
        table = results.headline(results.at_points(long), self.pairs)
        return self.grouped(table.rename(columns={score: "x"}), [], "x")

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that the scores allow: published ones come without a layer."""
        candidates = self.candidates("ntps")
        unknown = len(candidates) and candidates["layer"].isna().all()
        return (PUBLISHED,) if unknown else (PAPER, FIXED, HELD_OUT)


def relation(read: Read, target: str, rule: str, score: str = "ntps", fraction: float = FRACTION) -> Relation:
    """The points of a score against a target of ntps.results.TARGETS, with layer and kv by a rule."""
    candidates, measured = read.candidates(score), read.target(target)
    parts, taken, rho = [measured.assign(x=math.nan, scored=False)[:0]], {}, {}
    for name, own in measured.groupby("model"):
        model = str(name)
        grid = score_grid(candidates[candidates["model"] == model], list(own["dataset"]))
        y = DIRECTIONS[target] * own["y"].to_numpy()
        x, taken[model], rho[model] = RULES[rule](grid, y, fraction)
        parts.append(own.assign(x=x, scored=grid.notna().any(axis=1).to_numpy()))
    text = f"{CHOSEN[rule].format(fraction=fraction)} {SIGN}"
    return Relation(pd.concat(parts, ignore_index=True), score, target, text, rho, taken)


def paired(x: pd.DataFrame, y: pd.DataFrame, score: str, target: str, text: str) -> Relation:
    """The relation of two tables of values (model, dataset, x or y) that stand at one layer and kv."""
    points = x.merge(y, "outer", PAIR)
    points["scored"] = points["x"].notna()
    rho = {
        str(m): correlation(own["x"].to_numpy(), own["y"].to_numpy()) for m, own in points.groupby("model")
    }
    return Relation(points, score, target, text, rho)


def score_grid(candidates: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Values by data set (rows) and (layer, fraction) (columns), in order; an unknown layer or fraction is -1."""
    known = candidates.astype({"layer": float, "fraction": float, "value": float})
    known = known.fillna({"layer": -1, "fraction": -1})
    grid = known.pivot_table("value", "dataset", ["layer", "fraction"], aggfunc="first")
    return grid.reindex(list(datasets))


# --- the rules: (data sets x candidates, target where more is better) -> x, layer and kv in words, rho -------------

Taken = tuple[np.ndarray, str, Correlation]


def whole_block(grid: pd.DataFrame, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a target and any score, the columns that have all of these rows, and their values (columns, rows).

    A column that lacks one of them is no candidate: it would be judged on fewer.
    """
    values = grid.to_numpy(float)
    rows = np.flatnonzero(np.isfinite(y) & np.isfinite(values).any(axis=1))
    columns = np.flatnonzero(np.isfinite(values[rows]).all(axis=0))
    return rows, columns, values[np.ix_(rows, columns)].T


def as_paper(grid: pd.DataFrame, y: np.ndarray, _: float) -> Taken:
    rows, columns, values = whole_block(grid, y)
    if len(rows) < LEAST or not len(columns):
        return untaken(grid, len(rows))
    judged = judge(values, y[rows])
    column = int(columns[judged.chosen])
    rho = without_interval(judged.itself, len(rows))
    return grid.iloc[:, column].to_numpy(), in_words(*grid.columns[column]), rho


def held_out(grid: pd.DataFrame, y: np.ndarray, _: float) -> Taken:
    """x is the share of the other data sets that lie below, at the layer and kv that are best on those."""
    rows, columns, values = whole_block(grid, y)
    if len(rows) <= LEAST or not len(columns):
        return untaken(grid, len(rows))
    judged = judge(values, y[rows])
    x = np.full(len(y), math.nan)
    x[rows] = judged.share
    taken = sorted({grid.columns[columns[column]] for column in judged.fold})
    layers = [int(layer) for layer, _ in taken]
    note = (
        f"{len(taken)} choices, layers {layers[0]} to {layers[-1]}" if len(taken) > 1 else in_words(*taken[0])
    )
    return x, note, without_interval(judged.heldout, len(rows))


def fixed(grid: pd.DataFrame, y: np.ndarray, fraction: float) -> Taken:
    layers, fractions = (grid.columns.get_level_values(level).to_numpy(float) for level in (0, 1))
    columns = np.flatnonzero((layers == layers.max(initial=-1)) & np.isclose(fractions, fraction))
    return at_column(grid, y, int(columns[0])) if len(columns) else untaken(grid, 0)


def published(grid: pd.DataFrame, y: np.ndarray, _: float) -> Taken:
    return at_column(grid, y, 0) if grid.shape[1] == 1 else untaken(grid, 0)


def at_column(grid: pd.DataFrame, y: np.ndarray, column: int) -> Taken:
    x = grid.iloc[:, column].to_numpy()
    return x, in_words(*grid.columns[column]), correlation(x, y)


def untaken(grid: pd.DataFrame, n: int) -> Taken:
    return np.full(len(grid), math.nan), "", without_interval(math.nan, n)


def without_interval(rho: float | np.ndarray, n: int) -> Correlation:
    """Of too few data sets (rho NaN), or after a choice: an interval that counts it is not known."""
    return Correlation(float(rho), math.nan, math.nan, n)


def in_words(layer: float, fraction: float) -> str:
    return "" if layer < 0 else f"layer {layer:.0f}, kv {fraction:.0%}"


RULES: dict[str, Callable[[pd.DataFrame, np.ndarray, float], Taken]] = {
    PAPER: as_paper,
    FIXED: fixed,
    HELD_OUT: held_out,
    PUBLISHED: published,
}


def rank_correlations(grid: pd.DataFrame, y: np.ndarray) -> tuple[np.ndarray, int]:
    """Spearman's rho with y of every column, over the n data sets that have y and any score; n. NaN as above."""
    rows, columns, values = whole_block(grid, y)
    rho = np.full(grid.shape[1], math.nan)
    if len(rows) >= LEAST and len(columns):
        rho[columns] = spearman(values, y[rows])
    return rho, len(rows)
