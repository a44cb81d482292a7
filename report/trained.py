"""What training makes of the scores: a model beside its own architecture with random weights, over all data sets.

Scores and statistics were fixed before those of SmolLM2's random weights were read on the discovery half, and for Gemma before
its random weights were scored at all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntps.evaluation.correlation import ALPHA, Array, Draws, Positions, holm, spearman
from ntps.results.tables import lowest_error
from report import second_model
from report.confirmation import defined, rows_of, sign_p
from report.evidence import groups_of, halves, with_accuracy
from report.tables import CONTROL, MODEL
from report.words import interval, markdown, number, p_text, two

MODELS = {"SmolLM2-135M": MODEL, second_model.NAME: second_model.MODEL}
SCORES = {
    "ntps": "NTPS", "null_lift": "its lift above its null", "conditioned_lift": "conditioned NTPS's lift", "retention_corrected": "corrected retention",
    "retention_corrected_pca": "that of principal components", "retention_corrected_minus_pca": "corrected retention less that", "gcv_skill": "cross-validated skill",
}  # fmt: skip
COUNTED = ("retention_corrected", "retention_corrected_pca", "retention_corrected_minus_pca", "gcv_skill")
EMBEDDINGS = 0  # the layer


def sections(folder: Path) -> dict[str, Any]:
    """By model, trained: the table, or of how many data sets there is something to compare. Of complete ones, training: its
    lines by score; equal_layers: lines of another table; embeddings: on how many data sets they are the best layer, trained and random."""
    both = {name: side_by_side(folder, model) for name, model in MODELS.items()}
    found = {name: lines_of(table) for name, table in both.items()}
    complete = {name: lines for name, lines in found.items() if not isinstance(lines, str)}
    tables = {name: markdown(pd.DataFrame(list(lines.values()))) for name, lines in complete.items()}
    cells = {name: at_equal_layers(folder, MODELS[name]) for name in complete}
    return {
        "trained": found | tables, "training": complete, "agreed": agreed(list(cells.values())), "clear": {name: clear_layers(own) for name, own in cells.items()},
        "equal_layers": {name: in_lines(own) for name, own in cells.items()},
        "embeddings": {name: at_the_embeddings(both[name]) for name in complete},
    }  # fmt: skip


def lines_of(both: pd.DataFrame) -> dict[str, dict[str, str]] | str:
    """The table's lines by score, or of how many data sets there is something to compare."""
    planned = [*halves()["discovery"], *halves()["confirmation"]]
    if lacking := [name for name in planned if name not in set(both["dataset"])]:
        there = len(planned) - len(lacking)
        return f"**Not complete**: {there} of the {len(planned)} data sets are scored with random weights."
    lines = {score: compared(both, score) for score in SCORES}
    p = holm(np.array([sign_p(gaps(both, score)) for score in COUNTED]))
    for score, adjusted in zip(COUNTED, p):
        lines[score]["higher when trained"] += f" (p {p_text(adjusted)})"
    return lines


def side_by_side(folder: Path, model: str = MODEL) -> pd.DataFrame:
    """A row a data set that both are scored on, each at its own best layer; columns of random weights end in CONTROL."""
    rows = rows_of(folder)
    return joined(rows[rows["which"] == "best"], folder, model)


def joined(rows: pd.DataFrame, folder: Path, model: str) -> pd.DataFrame:
    """The same of any rows, one a pair."""

    def scores(name: str) -> pd.DataFrame:
        own = rows[rows["model"] == name].set_index("dataset")
        known = {score: own[score].where(defined(own, score)) for score in SCORES}
        return own[["layer", "accuracy"]].assign(**known)

    both = (
        scores(model).join(scores(model + CONTROL).add_suffix(CONTROL), how="inner").join(groups_of(folder))
    )
    return both.reset_index()


# layer of both: of each score of COUNTED but skill, the gaps and p
Cells = dict[str, list[tuple[Array, float]]]


def at_equal_layers(folder: Path, model: str) -> Cells:
    """Cells at the same layers of both, p by sign tests after Holm's correction over all."""
    rows = with_accuracy(folder)
    rows = rows[rows["model"].isin([model, model + CONTROL])]
    own, last = lowest_error(rows[rows["model"] == model]), rows["layer"].max()
    best = rows["dataset"].map(own.set_index("dataset")["layer"])
    places = {
        "the embeddings": EMBEDDINGS, "half of the depth": last // 2, "the trained model's best": best, "the last": last,
    }  # fmt: skip
    tables = [joined(rows[rows["layer"] == layer], folder, model) for layer in places.values()]
    apart = [gaps(both, score) for both in tables for score in COUNTED[:3]]
    cells = zip(apart, holm(np.array([sign_p(own) for own in apart])).tolist())
    return {name: [next(cells) for _ in COUNTED[:3]] for name in places}


def in_lines(cells: Cells) -> list[dict[str, str]]:
    """A line a layer: how often retention is higher when trained, by how much on average, and p."""
    return [
        {"layer of both": layer} | {SCORES[score]: difference(*cell) for score, cell in zip(COUNTED, own)}
        for layer, own in cells.items()
    ]


def direction(apart: Array, p: float) -> int:
    """1 where significantly more gaps are above 0 than below, -1 where fewer, else 0."""
    return int(np.sign(np.sign(apart).sum())) if p <= ALPHA else 0


def clear_layers(cells: Cells) -> list[str]:
    """At which layers the last of the scores differs significantly, and how often which way."""
    return [
        f"{difference(*own[-1]).split(',')[0]} at {layer} (p {p_text(own[-1][1])})"
        for layer, own in cells.items() if direction(*own[-1])
    ]  # fmt: skip


def agreed(models: Sequence[Cells]) -> dict[str, list[str]]:
    """higher, lower: the layers at which the last of the scores is significantly so with trained weights, on every model of several."""
    layers = models[0] if len(models) > 1 else {}
    ways = {layer: {direction(*cells[layer][-1]) for cells in models} for layer in layers}
    return {
        name: [layer for layer in layers if ways[layer] == {way}]
        for name, way in (("higher", 1), ("lower", -1))
    }


def difference(apart: Array, p: float) -> str:
    higher, lower = (apart > 0).sum(), (apart < 0).sum()
    count = f"higher on {higher}" if higher >= lower else f"lower on {lower}"
    return f"{count} of {len(apart)}, {number(float(apart.mean()))} on average (p {p_text(p)})"


def at_the_embeddings(both: pd.DataFrame) -> dict[str, int]:
    """On how many data sets they are the layer, with trained weights and with random ones, and how many there are."""
    trained, random = (int((both[f"layer{end}"] == EMBEDDINGS).sum()) for end in ("", CONTROL))
    return {"trained": trained, "random": random, "count": len(both)}


def compared(both: pd.DataFrame, score: str) -> dict[str, str]:
    """A line of the table: over groups of data sets that have the score with both, means over the data sets of one source."""
    own, accuracy, control, its_accuracy = values_of(both, score)

    def difference(at: Positions) -> Array:
        return spearman(own[at], accuracy[at]) - spearman(control[at], its_accuracy[at])

    n, everything = len(own), np.arange(len(own))
    low, high = map(float, Draws().interval(difference, n))
    return {
        "score": SCORES[score], "groups": f"{n}", "ρ, trained": number(float(spearman(own, accuracy))),
        "ρ, random": number(float(spearman(control, its_accuracy))),
        "difference": f"{number(float(difference(everything)))}{interval(low, high)}",
        "mean, trained": two(own.mean()), "mean, random": two(control.mean()),
        "higher when trained": f"{(own > control).sum()} of {n}",
    }  # fmt: skip


def values_of(both: pd.DataFrame, score: str) -> Array:
    """(4, groups): score and accuracy when trained, and with random weights."""
    names = [score, "accuracy", score + CONTROL, f"accuracy{CONTROL}"]
    return both.dropna(subset=names).groupby("group")[names].mean().to_numpy(float).T


def gaps(both: pd.DataFrame, score: str) -> Array:
    """(groups,): the score when trained less that with random weights."""
    own, _, control, _ = values_of(both, score)
    return own - control
