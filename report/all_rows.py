"""The paper's correlations on all rows of 25 data sets, with settled LoRA: the tests of ntps.selection on results/evidence.

Layer (lowest gcv_error) and kv = d/10 are fixed beforehand, or chosen on the other data sets. NTPS's correlation with the probe's
accuracy had been read before it was tested, so that nothing here is a confirmation: that is docs/confirmation.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd

from ntps.accuracies.registry import TARGETS
from ntps.evaluation.correlation import ALPHA, Draws
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
from report.evidence import FOLDER
from report.facts import SEEN, mean_differences, related
from report.tables import MODEL, Facts, Tables, of_model, one, real
from report.words import interval, markdown, marked, p_values, rho, two

SECOND = "gemma3-270m"
SCORES = (*SUBSPACE, *LAYER)
ERROR, SIZE, NULL = "ntps_se", "n_over_d", "null_mean"
PROBES = ("probe_accuracy", "linear_accuracy")  # which may predict what LoRA adds
GAINS = ("lora_gain", "lora_gain_linear")  # over each of these
JUDGED = ("probe_accuracy", "probe_mse", *GAINS)


# --- what was measured -----------------------------------------------------------------------------------------------


@cache
def measured(folder: Path = FOLDER) -> pd.DataFrame:
    """A row a pair of trained models: scores at the best layer and the targets that are known, LoRA's a mean over seeds."""
    rows = real(rows_of(folder).query("which == 'best'"))
    rows = rows.merge(pd.read_csv(folder / "facts.csv")[[*PAIR, "group"]], on=PAIR)
    for name in SCORES:
        rows[name] = rows[name].where(defined(rows, name))
    for file, name in (("head", "linear_accuracy"), ("lora", "lora_accuracy")):
        runs = pd.read_csv(folder / f"{file}.csv")
        tests = runs[runs["final"] & (runs["split"] == "test")].groupby(PAIR)["accuracy"].mean()
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
    for model, pairs in measured(folder).groupby("model", sort=False):
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
def tested(folder: Path = FOLDER) -> dict[str, pd.DataFrame]:
    """ntps.selection's tables: of scores fixed beforehand, of NTPS after a choice, and of it with the rows a dimension held constant."""
    asked, draws = list(questions(folder)), Draws()
    own = [replace(q, fixed=q.fixed.loc[[OWN]]) for q in asked if q.target == JUDGED[0]]
    made = {
        "fixed": fixed_tables(asked, draws),
        "choices": choice_tables(asked, draws),
        "partial": partial_tables(own, draws),
    }
    return {name: pd.concat(list(parts), ignore_index=True) for name, parts in made.items()}


# --- in words --------------------------------------------------------------------------------------------------------


def facts(_: Tables) -> Facts:
    """rows.MODEL.TARGET: the verdict's cell; rows.MODEL.TARGET.SCORE and .null: controls; and the table of scores."""
    table = tested()["fixed"]
    found: Facts = {}
    for (model, target), of_target in table.groupby(["model", "target"]):
        name = f"rows.{model}.{target}"
        found |= {f"{name}.{score}": rho(row) for score, row in of_target.set_index("score").iterrows()}
        row = one(of_target, score=OWN)
        found |= {
            f"{name}.verdict": str(row["reading"]), f"{name}.critical": two(row["critical"]),
            f"{name}.reliability": two(row["reliability"]), f"{name}.groups": str(row["n_groups"]),
            f"{name}.scores": str(len(of_target)), name: cell(row, one(tested()["choices"], model=str(model), target=str(target))),
        }  # fmt: skip
    of_claim = table[(table["target"] == "probe_accuracy") & (table["score"] == OWN)]
    return (
        found
        | seen(of_claim)
        | beside()
        | against_null()
        | {"table.rows": scores_table(table)}
        | settled_lora()
    )


def seen(claim: pd.DataFrame) -> Facts:
    """The verdict on the paper's central claim, of each model's reading."""
    said = {
        SEEN[row["reading"].split(":")[0]] for _, row in claim.iterrows() if row["model"] in (MODEL, SECOND)
    }
    return {"rows.seen": said.pop() if len(said) == 1 else "hangs on the model here"}


def cell(fixed: pd.Series, chosen: pd.Series) -> str:
    """What the table of claims says of one model and target."""
    held_out = f"held out {two(chosen['heldout'])}, {p_values(chosen['heldout_p'], chosen['heldout_p_holm']).split(',')[0]}"
    return f"{rho(fixed)}, {p_values(fixed['p'], fixed['p_holm'])}: **{fixed['reading']}**; {held_out}: {chosen['reading']}"


def beside() -> Facts:
    """What NTPS's null does with the targets, and what the rows a dimension do with NTPS."""
    found, pairs = {"rows.datasets": str(measured()["dataset"].nunique())}, measured()
    for model, rows in pairs.groupby("model"):
        for target in JUDGED:
            known = rows.dropna(subset=target)
            signed = known.assign(target=TARGETS[target].direction * known[target])
            found[f"rows.{model}.{target}.null"] = bare(related(signed, NULL, "target", signed["group"]))
        found[f"rows.{model}.null"] = bare(related(rows, OWN, NULL, rows["group"]))
        found[f"rows.{model}.sizes"] = bare(related(rows, OWN, SIZE, rows["group"]))
        given = one(tested()["partial"], model=str(model))
        found[f"rows.{model}.given_sizes"] = two(given["partial"]) + interval(given["low"], given["high"])
        found[f"rows.{model}.trained"] = str(rows["lora_gain"].notna().sum())
    return found


def bare(text: str) -> str:
    """A correlation without its name and the number of groups."""
    return text.removeprefix("ρ = ").split(", n")[0]


def against_null() -> Facts:
    """On how many data sets NTPS is significantly above and below its label-permutation null (two-sided)."""
    found: Facts = {}
    for model, rows in measured().groupby("model"):
        significant, above = rows["p_value"] <= ALPHA, rows[OWN] > rows[NULL]
        found[f"rows.{model}.above"] = str((significant & above).sum())
        found[f"rows.{model}.below"] = str((significant & ~above).sum())
        found[f"rows.{model}.chance"] = f"{len(rows) * ALPHA / 2:.1f}"
    return found


def scores_table(table: pd.DataFrame) -> str:
    """Every score's correlation with probe accuracy and with LoRA's gain, on each model; a star where it is significant."""
    columns = {}
    for target, name in (("probe_accuracy", "probe accuracy"), ("lora_gain", "LoRA's gain")):
        for model in (MODEL, SECOND):
            part = table[(table["target"] == target) & (table["model"] == model)].set_index("score")
            columns[f"{name}: {model}"] = {s: marked(rho(row), row["reading"]) for s, row in part.iterrows()}
    order = one_model(table).sort_values("rho", ascending=False)["score"]
    frame = pd.DataFrame(columns).fillna("-")
    rest = [name for name in frame.index if name not in set(order)]
    return markdown(frame.loc[[*order, *rest]].reset_index(names="score"))


def one_model(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["target"] == "probe_accuracy") & (table["model"] == MODEL)]


def settled_lora() -> Facts:
    """What settled LoRA changes of NTPS on its own data set's train rows: docs/which-model.md's scores, with and without adapter."""
    table = pd.read_csv(FOLDER / "which.csv").set_index(["which", "dataset"])
    own = table[table["adapter"] == table.index.get_level_values("dataset")]
    before = table[table["adapter"] == "no adapter"].loc[own.index]
    kinds = [(which, score) for which in ("best", "last") for score in (OWN, "null_lift")]
    changes = pd.DataFrame({kind: (own[kind[1]] - before[kind[1]])[kind[0]] for kind in kinds})
    means = mean_differences(changes, own["group"]["best"])
    found = {"settled.datasets": str(len(changes))}
    for (which, score), (text, verdict) in zip(kinds, means):
        change = changes[which, score]
        name = f"settled.{which}.{score}"
        found |= {name: f"{text} ({(change > 0).sum()} of {len(change)} up)", f"{name}.verdict": verdict}
    return found
