"""The paper's correlations on all rows of 25 data sets, with settled LoRA: the tests of ntps.selection on results/evidence.

Layer (lowest gcv_error) and kv = d/10 are fixed beforehand, or chosen on the other data sets. NTPS's correlation with the probe's
accuracy had been read before it was tested, so that nothing here is a confirmation: that is docs/confirmation.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from fig_plot.relations import correlation
from ntps.accuracies.registry import TARGETS
from ntps.evaluation.correlation import ALPHA, Draws, holm
from ntps.evaluation.selection_tables import (
    CANDIDATE,
    OWN,
    Question,
    choice_tables,
    fixed_tables,
    partial_tables,
)
from ntps.results.tables import DIRECTION, LAYER, PAIR, SUBSPACE, in_papers_order
from report.confirmation import defined, rows_of
from report.evidence import FOLDER, final_tests
from report.facts import SEEN, mean_differences
from report.second_model import MODEL as SECOND
from report.tables import CONTROL, MODEL, Facts, Tables, of_model, one, real
from report.words import interval, markdown, marked, p_text, p_values, rho, two

MODELS = (MODEL, SECOND)
SCORES = (*SUBSPACE, *LAYER)
ERROR, SIZE, NULL, CLASSES = "ntps_se", "n_over_d", "null_mean", "classes"
PROBES = ("probe_accuracy", "linear_accuracy")  # which may predict what LoRA adds
GAINS = ("lora_gain", "lora_gain_linear")  # over each of these
OF_PROBE = ("probe_accuracy", "probe_mse")
JUDGED = (*OF_PROBE, *GAINS)


# --- what was measured -----------------------------------------------------------------------------------------------


@cache
def measured(folder: Path) -> pd.DataFrame:
    """A row a pair: scores at the best layer and the targets that are known, LoRA's a mean over seeds."""
    rows = rows_of(folder).query("which == 'best'")
    rows = rows.merge(pd.read_csv(folder / "facts.csv")[[*PAIR, "group", CLASSES]], on=PAIR)
    for name in SCORES:
        rows[name] = rows[name].where(defined(rows, name))
    for file, name in (("head", "linear_accuracy"), ("lora", "lora_accuracy")):
        tests = final_tests(pd.read_csv(folder / f"{file}.csv")).groupby(PAIR)["accuracy"].mean()
        rows = rows.merge(tests.rename(name).reset_index(), "left", PAIR)
    rows = rows.rename(columns={"accuracy": "probe_accuracy", "ridge_test_mse": "probe_mse"})
    for name, less in zip(GAINS, PROBES):
        rows[name] = rows["lora_accuracy"] - rows[less]
    return rows


def places(folder: Path) -> pd.DataFrame:
    """NTPS of every pair at every layer and share of the directions, in the paper's order."""
    sweep = pd.read_parquet(folder / "sweep.parquet")
    sweep = sweep[in_papers_order(sweep) & sweep["fraction"].notna()]
    return sweep.assign(score=OWN, k=sweep["fraction"].round(2))


def questions(folder: Path) -> Iterator[Question]:
    """A model and target each: values of groups are means over their data sets, signed as ntps.selection does."""
    sweep = places(folder)
    for model, pairs in real(measured(folder)).groupby("model", sort=False):
        for target in JUDGED:
            known = pairs.dropna(subset=target)
            means = known.groupby("group").mean(numeric_only=True)
            fixed = means[list(SCORES)] * pd.Series(DIRECTION)[list(SCORES)]
            if target in GAINS:
                fixed = fixed.join(means[list(PROBES)])
            squares = known.assign(square=known[ERROR] ** 2).groupby("group")["square"]
            at = of_model(sweep, str(model)).merge(known[["dataset", "group"]], on="dataset")
            choices = at.groupby([*CANDIDATE, "group"])[OWN].mean().unstack("group")[means.index].dropna()
            yield Question(
                str(model), target, TARGETS[target].direction * means[target], {OWN: choices}, fixed.T,
                pd.DataFrame({OWN: squares.mean() / squares.size()}).T, means[[SIZE]].T, [],
            )  # fmt: skip


@cache
def tested(folder: Path) -> dict[str, pd.DataFrame]:
    """ntps.selection's tables: of scores fixed beforehand, of NTPS after a choice, and of it with the rows a dimension held constant.

    The choices have NTPS alone: heldout_p_holm is over the models and targets, of which each has one.
    """
    asked, draws = list(questions(folder)), Draws()
    own = [replace(q, fixed=q.fixed.loc[[OWN]]) for q in asked if q.target == JUDGED[0]]
    chosen = pd.concat([table for q in asked for table in choice_tables([q], draws)], ignore_index=True)
    return {
        "fixed": pd.concat(fixed_tables(asked, draws), ignore_index=True),
        "choices": chosen.assign(heldout_p_holm=holm(chosen["heldout_p"].to_numpy())),
        "partial": pd.concat(partial_tables(own, draws), ignore_index=True),
    }


# --- in words --------------------------------------------------------------------------------------------------------


def facts(_: Tables) -> Facts:
    """rows.MODEL.TARGET: the verdict's cell; rows.MODEL.TARGET.SCORE and others: controls; and the table of scores."""
    fixed, pairs = tested(FOLDER)["fixed"], measured(FOLDER)
    of_claim = fixed[(fixed["target"] == JUDGED[0]) & (fixed["score"] == OWN)]
    both = one(of_claim, model="mean of 2 models")
    return {
        **claims(fixed, tested(FOLDER)["choices"]), **seen(of_claim[of_claim["model"].isin(MODELS)]), **controls(pairs), **against_null(real(pairs)),
        **settled_lora(pd.read_csv(FOLDER / "which.csv")),
        "rows.both": f"{rho(both)}, {p_values(both['p'], both['p_holm'])}",
        "rows.width": f"{np.mean(of_claim['high'] - of_claim['low']):.1f}",
        "rows.datasets": str(pairs["dataset"].nunique()),
        "table.rows": scores_table(fixed),
    }  # fmt: skip


def claims(fixed: pd.DataFrame, chosen: pd.DataFrame) -> Facts:
    """What the table of claims and the text say of each model and target."""
    found, claimed = Facts(), published()
    for (model, target), table in fixed[fixed["model"].isin(MODELS)].groupby(["model", "target"]):
        name, row = f"rows.{model}.{target}", one(table, score=OWN)
        found |= {f"{name}.{score}": rho(other) for score, other in table.set_index("score").iterrows()}
        found[f"{name}.expected"] = two(claimed * row["reliability"] ** 0.5)
        found |= {
            name: cell(row, one(chosen, model=str(model), target=str(target))), f"{name}.verdict": str(row["reading"]),
            f"{name}.critical": two(row["critical"]), f"{name}.reliability": two(row["reliability"]),
            f"{name}.groups": str(row["n_groups"]), f"{name}.scores": str(len(table)),
        }  # fmt: skip
    return found


def published() -> float:
    """The published values' correlation of NTPS with the probe's accuracy, a mean over their models."""
    table = pd.read_csv(FOLDER.with_name("published") / "fig2_accuracy.csv")
    means = table[table["model"].str.startswith("mean of")]
    return float(one(means, score=OWN, target="probe_train_accuracy")["rho"])


def cell(fixed: pd.Series, chosen: pd.Series) -> str:
    """NTPS fixed beforehand, with the verdict, and held out, where a choice leaves no interval."""
    p = chosen["heldout_p_holm"]
    held_out = f"held out {two(chosen['heldout'])}, {p_values(chosen['heldout_p'], p)}"
    way = "holds" if chosen["heldout"] > 0 else "reversed"
    return (
        f"{rho(fixed)}, {p_values(fixed['p'], fixed['p_holm'])}: **{fixed['reading']}**; "
        f"{held_out}: {way if p <= ALPHA else 'not significant'}"
    )


def seen(claim: pd.DataFrame) -> Facts:
    """The verdict on the paper's central claim, of each model's reading."""
    said = {SEEN[reading.split(":")[0]] for reading in claim["reading"]}
    return {"rows.seen": said.pop() if len(said) == 1 else "hangs on the model here"}


def controls(pairs: pd.DataFrame) -> Facts:
    """What permuted labels' NTPS, the number of classes and random weights do with the probe's targets, and what NTPS goes with."""
    found: Facts = {}
    for model in MODELS:
        rows, random = of_model(pairs, model), of_model(pairs, model + CONTROL)
        for target in OF_PROBE:
            sign, name = TARGETS[target].direction, f"rows.{model}.{target}"
            found[f"{name}.null"] = goes_with(rows, NULL, target, sign)
            found[f"{name}.classes"] = goes_with(rows, CLASSES, target, sign)
            found[f"{name}.random"] = goes_with(random, OWN, target, sign)
        found[f"rows.{model}.null"] = goes_with(rows, OWN, NULL)
        found[f"rows.{model}.sizes"] = goes_with(rows, OWN, SIZE)
        given = one(tested(FOLDER)["partial"], model=model)
        found[f"rows.{model}.given_sizes"] = two(given["partial"]) + interval(given["low"], given["high"])
        found[f"rows.{model}.trained"] = str(rows["lora_gain"].notna().sum())
    return found


def goes_with(rows: pd.DataFrame, x: str, y: str, sign: int = 1) -> str:
    """Spearman's correlation of two columns over the groups' means, with its interval; sign: of the second."""
    means = rows.groupby("group")[[x, y]].mean()
    found = correlation(means[x].to_numpy(float), sign * means[y].to_numpy(float))
    return two(found.rho) + interval(found.low, found.high)


def against_null(pairs: pd.DataFrame) -> Facts:
    """On how many data sets NTPS is significantly above and below its label-permutation null (two-sided)."""
    found: Facts = {}
    for model, rows in pairs.groupby("model"):
        significant, above = rows["p_value"] <= ALPHA, rows[OWN] > rows[NULL]
        found[f"rows.{model}.above"] = str((significant & above).sum())
        found[f"rows.{model}.below"] = str((significant & ~above).sum())
        found[f"rows.{model}.chance"] = f"{len(rows) * ALPHA / 2:.1f}"
    return found


def scores_table(fixed: pd.DataFrame) -> str:
    """Every score's correlation with probe accuracy and with LoRA's gain, on each model; a star where it is significant."""
    columns = {}
    for target, name in (("probe_accuracy", "probe accuracy"), ("lora_gain", "LoRA's gain")):
        for model in MODELS:
            part = of_model(fixed[fixed["target"] == target], model).sort_values("rho", ascending=False)
            texts = [marked(rho(row), row["reading"]) for _, row in part.iterrows()]
            columns[f"{name}: {model}"] = pd.Series(texts, part["score"])
    table = pd.DataFrame(columns).fillna("-")
    first = list(columns[f"probe accuracy: {MODEL}"].index)
    rest = [name for name in table.index if name not in first]
    return markdown(table.loc[first + rest].reset_index(names="score"))


def settled_lora(which: pd.DataFrame) -> Facts:
    """What settled LoRA changes of NTPS on its own data set's train rows: docs/which-model.md's scores, with and without adapter."""
    table = which.set_index(["which", "dataset"])
    own = table[table["adapter"] == table.index.get_level_values("dataset")]
    before = table[table["adapter"] == "no adapter"].loc[own.index]
    kinds = [(which, score) for which in ("best", "last") for score in (OWN, "null_lift")]
    changes = pd.DataFrame({kind: (own[kind[1]] - before[kind[1]])[kind[0]] for kind in kinds})
    found = {"settled.datasets": str(len(changes))}
    for (layer, score), (text, verdict, p) in zip(kinds, mean_differences(changes, own["group"]["best"])):
        up = f"{(changes[layer, score] > 0).sum()} of {len(changes)} up"
        found |= {
            f"settled.{layer}.{score}": f"{text} ({up}; p {p_text(p)} after Holm)",
            f"settled.{layer}.{score}.verdict": verdict,
        }
    return found
