"""The preregistered test of docs/confirmation.md, from the tables of report/evidence.py; writes the page's result.

    python -m report.confirmation        # results/evidence/confirmation.csv, docs/confirmation.md and confirmation.png

The discovery half is judged in the same way, for comparison: the hypothesis is from it, so that its p-values prove nothing.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fig_plot.panels import save
from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, Draws, holm, ordered, spearman
from ntps.evaluation.paired import mcnemar
from ntps.results.tables import PAIR, lowest_error
from ntps.run import cli
from ntps.system import atomic_files
from report import baselines, evidence, pages
from report.confirmation_figure import confirmation_figure
from report.evidence import FOLDER, to_csv, with_accuracy
from report.tables import CONTROL, real
from report.words import Columns, markdown, number, p_text, written

HYPOTHESIS = "76abd5a"  # the commit that fixed it: docs/confirmation.md without its result
SCORES = ("conditioned_lift", "retention_corrected", "retention_corrected_pca")
# the last two were not fixed beforehand
CONTROLS = ("ntps", "null_lift", "retention_corrected_random", "gcv_skill")
LAYERS = ("best", "last")
TARGETS = ("accuracy", "accuracy above majority")
LEAST_SETS = 8  # data sets of a reading
PAGE = Path("docs/confirmation.md")
SIMULATED = Path("docs/estimators.csv")
# corrected retention less that of principal components; rows a dimension from which on its bias is small
GAP, MANY_ROWS = "retention_corrected_minus_pca", 4


def main(folder: str = str(FOLDER)) -> int:
    """Run the test.

    Args:
        folder: where the tables are
    """
    rows = rows_of(Path(folder))
    halves = evidence.halves()
    readings = [
        reading
        for half in ("confirmation", "discovery")
        for model, table in rows[rows["dataset"].isin(halves[half])].groupby("model", sort=False)
        if set(halves[half]) <= set(table["dataset"])
        for reading in judged(half, str(model), table)
    ]
    if not readings:
        raise UserError(f"{folder} has no model with all data sets of a half: run make evidence")
    table = pd.DataFrame(readings).assign(hypothesis=HYPOTHESIS)
    to_csv(table, Path(folder) / "confirmation.csv")
    save(confirmation_figure(rows, table, halves), PAGE.with_suffix(""), ["png"])
    text = PAGE.read_text(encoding="utf-8").split("## Result\n")[0]
    atomic_files.write_text(PAGE, f"{text}## Result\n\n{result(rows, table, halves)}")
    print(
        table[table["target"] == "accuracy"].drop(columns=["hypothesis", "left_out"]).to_string(index=False)
    )
    return 0


def rows_of(folder: Path) -> pd.DataFrame:
    """A row a pair and layer (best: lowest gcv_error; last), with the probe's test accuracy there."""
    majority = pd.read_csv(folder / "facts.csv")[[*PAIR, "majority"]]
    table = with_accuracy(folder).merge(majority, "left", PAIR)
    table["accuracy above majority"] = table["accuracy"] - table["majority"]
    return best_and_last(table)


def best_and_last(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each pair's best layer and of its last one, named so in `which`."""
    chosen = lowest_error(table).sort_index(), table.loc[table.groupby(PAIR)["layer"].idxmax()]
    return pd.concat([part.assign(which=which) for which, part in zip(LAYERS, chosen)], ignore_index=True)


def defined(rows: pd.DataFrame, score: str) -> pd.Series:
    """Whether a row's score has a part in the reading."""
    there = rows[score].notna()
    if score.startswith("retention_corrected"):
        return there & rows["corrected_refusal"].isna()
    if score == "conditioned_lift":
        return there & (rows["conditioned_rank_prefix"] >= rows["kv"])
    return there


def judged(half: str, model: str, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The six readings, in which Holm counts those that are not measurable too; then the controls, without a verdict, as are
    all readings of random weights."""
    tests = [reading(half, model, rows, layer, score) for layer in LAYERS for score in SCORES]
    adjusted = holm(np.nan_to_num([test["p"] for test in tests], nan=1.0))
    for test, p in zip(tests, adjusted):
        yield test | ({} if model.endswith(CONTROL) else {"p_holm": p, "verdict": verdict(test, p)})
    for target in TARGETS:
        for layer in LAYERS:
            for score in (*SCORES, *CONTROLS) if target != TARGETS[0] else CONTROLS:
                yield reading(half, model, rows, layer, score, target)


def reading(
    half: str, model: str, rows: pd.DataFrame, layer: str, score: str, target: str = TARGETS[0]
) -> dict[str, Any]:
    """Spearman's correlation of a score with a target over the data sets of one half, at one layer of one model.

    p: two-sided, by permutation of the data sets; NaN with fewer than LEAST_SETS. left_out: data sets where the score is refused.
    """
    here = rows[rows["which"] == layer]
    kept = here[defined(here, score)]
    rho = p = float("nan")
    if len(kept) >= LEAST_SETS:
        x, y = kept[score].to_numpy(float), kept[target].to_numpy(float)
        statistic = ordered([(x[None], y)])
        rho, p = float(statistic(np.arange(len(y)))[0]), float(Draws().permuted(statistic, len(y)).p[0])
    return {
        "half": half, "model": model, "layer": layer, "score": score, "target": target, "n": len(kept), "rho": rho, "p": p,
        "p_holm": float("nan"), "verdict": "", "left_out": " ".join(sorted(set(here["dataset"]) - set(kept["dataset"]))),
    }  # fmt: skip


def verdict(test: Mapping[str, Any], p: float) -> str:
    if test["n"] < LEAST_SETS:
        return "not measurable"
    if p > ALPHA:
        return "not confirmed"
    return "confirmed" if test["rho"] > 0 else "reversed"


# --- the page ------------------------------------------------------------------------------------------------------


READINGS: Columns = {
    "layer": ("layer", str), "score": ("score", str), "data sets": ("n", str), "ρ with accuracy": ("rho", number), "p": ("p", p_text),
    "after Holm": ("p_holm", p_text), "verdict": ("verdict", "**{}**".format), "refused on": ("left_out", lambda names: names or "-"),
}  # fmt: skip


def result(rows: pd.DataFrame, table: pd.DataFrame, halves: dict[str, list[str]]) -> str:
    """The page's last part."""
    tested = table[table["half"] == "confirmation"]
    first = tested[(tested["layer"] == "best") & (tested["target"] == TARGETS[0])]
    trained, control = real(first), first[first["model"].str.endswith(CONTROL)]
    above = real(tested[(tested["layer"] == "best") & (tested["target"] == TARGETS[1])])
    whole = trained[trained["score"] == SCORES[0]]
    every = tested[tested["verdict"] != ""]  # of all models together
    every = every.assign(p_holm=holm(every["p"].fillna(1.0).to_numpy(float)))
    return pages.filled("confirmation", {
        "measured": not tested.empty, "folder": FOLDER, "hypothesis": HYPOTHESIS, "picture": PAGE.with_suffix(".png").name,
        "whole": whole.to_dict("records"),
        "holds": bool((whole["verdict"] == "confirmed").any() and (whole["rho"] > 0).all()),
        "gap_bias": gap_bias(), "many_rows": MANY_ROWS,
        "less": [sign_test(rows, halves["confirmation"], model) for model in trained["model"].unique()],
        "probe": trained[trained["score"] == CONTROLS[-1]].to_dict("records"),
        "probe_above": above[above["score"] == CONTROLS[-1]].to_dict("records"),
        "directions": trained[trained["score"] == CONTROLS[-2]].to_dict("records"),
        "afterwards": [afterwards(rows, halves["confirmation"], model) for model in trained["model"].unique()],
        "beside_random": [beside_random(rows, model, layer) for model in trained["model"].unique() for layer in LAYERS],
        "least": every.sort_values("p_holm").iloc[0].to_dict(), "size": len(halves["confirmation"]),
        "random": {model: own.to_dict("records") for model, own in control.groupby("model", sort=False)},
        "embeddings": {model: embeddings(rows, halves["confirmation"], str(model)) for model in control["model"].unique()},
        "readings": written(real(tested[tested["verdict"] != ""]).set_index("model"), READINGS, "model"),
        "controls": controls_table(table),
    })  # fmt: skip


def sign_test(rows: pd.DataFrame, datasets: list[str], model: str) -> dict[str, Any]:
    """On how many data sets next-token directions keep less of the label signal than principal components."""
    here = at_best(rows, datasets, model)
    here = here[defined(here, SCORES[1])].dropna(subset=GAP)
    many = here[here["n_over_d"] >= MANY_ROWS]
    found: dict[str, Any] = {"model": model, "median": float(here[GAP].median())}
    for prefix, gaps in (("", here[GAP]), ("many_", many[GAP])):
        found |= {
            f"{prefix}lower": int((gaps < 0).sum()),
            f"{prefix}count": len(gaps),
            f"{prefix}p": sign_p(gaps),
        }
    return found


def gap_bias() -> dict[float, float]:
    """By rows a dimension: the bias of GAP where its directions are estimated from the same rows, of docs/estimators.csv."""
    table = pd.read_csv(SIMULATED)
    table = table[(table["directions"] == "drawn") & (table["estimator"] == GAP)].sort_values("ratio")
    return dict(zip(table["ratio"], table["bias"]))


def beside_random(rows: pd.DataFrame, model: str, layer: str) -> dict[str, Any]:
    """On how many data sets next-token directions keep more of the label signal than as many random ones, and the means of both."""
    here = rows[(rows["model"] == model) & (rows["which"] == layer) & defined(rows, SCORES[1])]
    own, random = here[SCORES[1]], here["retention_corrected_random"]
    return {
        "model": model, "layer": layer, "above": int((own > random).sum()), "count": len(here), "own": own.mean(), "random": random.mean(),
    }  # fmt: skip


def sign_p(gaps: Any) -> float:
    """Two-sided, of the sign test; 1 where all are 0."""
    return mcnemar(gaps > 0, gaps < 0)


def at_best(rows: pd.DataFrame, datasets: list[str], model: str) -> pd.DataFrame:
    return rows[(rows["which"] == "best") & (rows["model"] == model) & rows["dataset"].isin(datasets)]


def afterwards(rows: pd.DataFrame, datasets: list[str], model: str) -> dict[str, Any]:
    """What the tolerances of cross-validation left of P0, and correlations with the number of rows and with what words alone reach."""
    here = at_best(rows, datasets, model).merge(baselines.of_words()[["dataset", "words"]], "left", "dataset")
    lift = here[defined(here, SCORES[0])]
    whole = here["conditioned_rank_prefix"] >= here["rank_prefix"] - 1
    return {
        "model": model, "whole": int(whole.sum()), "count": len(here),
        "rows": float(spearman(*lift[[SCORES[0], "n_texts"]].to_numpy(float).T)),
        "words": float(spearman(*here[["words", "accuracy"]].to_numpy(float).T)),
    }  # fmt: skip


def embeddings(rows: pd.DataFrame, datasets: list[str], model: str) -> str:
    """On how many data sets the best layer is that of the embeddings."""
    here = at_best(rows, datasets, model)
    return f"{(here['layer'] == 0).sum()} of {len(here)}"


def controls_table(table: pd.DataFrame) -> str:
    """Each ρ, with the number of data sets where it is of fewer than others of its row."""
    keys = ["half", "model", "layer", "target"]
    known = table.dropna(subset="rho")
    most = known.groupby(keys)["n"].transform("max")
    said = [
        number(rho) + ("" if n == of else f" ({n})") for rho, n, of in zip(known["rho"], known["n"], most)
    ]
    wide = known.assign(said=said).pivot_table("said", keys, "score", aggfunc="first", sort=False)
    wide = wide.reindex(columns=[*SCORES, *CONTROLS]).fillna(number(float("nan")))
    return markdown(wide.reset_index())


if __name__ == "__main__":
    sys.exit(cli.run(main))
