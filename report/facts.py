"""Everything that the report says in numbers, by name: a function for each subject. Figure 1: report/published.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, sem, t

from fig_plot.relations import correlation
from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, LEVEL, Draws, spearman, verdicts
from ntps.results.tables import PAIR, at_tenth, lowest_error, two_sided
from ntps.system import provenance
from report.evidence import FOLDER, halves, with_accuracy
from report.tables import MODEL, RANDOM, Facts, Tables, by_dataset, of_model, one, real
from report.words import (
    Columns,
    interval,
    markdown,
    marked,
    p_text,
    p_values,
    rho,
    tenths,
    three,
    two,
    whole,
    written,
)

Z = float(norm.ppf((1 + LEVEL) / 2))
SEEN = {
    "holds": "is seen here",
    "reversed": "is reversed here",
    "not significant": "is not seen here",
    "not measurable": "cannot be measured here",
}


# --- parts of tables -------------------------------------------------------------------------------------------------


def related(table: pd.DataFrame, x: str, y: str, groups: pd.Series[str]) -> str:
    """Spearman's rho of two columns over the groups' means."""
    means = table.groupby(groups)[[x, y]].mean()
    return str(correlation(means[x].to_numpy(), means[y].to_numpy())).replace("-", "−")


def with_null(row: Any, score: str) -> str:
    """A score, its permutation null, and p."""
    if score == "ntps":
        null, p = f"{three(row['null_mean'])} ± {three(row['null_std'])}", row["p_value"]
    else:
        null, p = three(row["retention_null"]), row["retention_p_value"]
    return f"{three(row[score])} ({null}; p {p:.2f})"


def add_nulls(table: pd.DataFrame) -> pd.DataFrame:
    """The table with both scores as `with_null` writes them, in ntps_text and retention_text."""
    rows = [row for _, row in table.iterrows()]
    ntps, retention = ([with_null(row, score) for row in rows] for score in ("ntps", "retention"))
    return table.assign(ntps_text=ntps, retention_text=retention)


NULLS: Columns = {
    "NTPS (permutation null; p)": ("ntps_text", str),
    "retention (permutation null; p)": ("retention_text", str),
}
ACCURACIES: Columns = {
    "classes": ("classes", whole),
    "tokens": ("tokens_per_text", tenths),
    "majority": ("majority", three),
    "probe, best layer": ("probe_accuracy", three),
    "head, last layer": ("linear_accuracy", three),
    "LoRA": ("lora_accuracy", three),
    "gain": ("lora_gain", three),
    "gain over the head": ("lora_gain_linear", three),
    "from scratch": ("scratch_accuracy", three),
}
SCORES: Columns = {
    "n/d": ("n_over_d", tenths),
    "layer": ("layer", whole),
    **NULLS,
    "its error": ("retention_se", three),
    "held-out skill of the probe": ("heldout_skill_full", three),
}
COMPARED = {"ntps": "NTPS", "retention": "retention", "heldout_skill_full": "held-out skill", "probe_accuracy": "probe accuracy"}  # fmt: skip
SIZES: Columns = {
    "texts": ("n_texts", whole),
    "n/d": ("n_over_d", two),
    **NULLS,
    "adjusted retention": ("retention_adjusted", three),
}


# --- scores and accuracies --------------------------------------------------------------------------------------------


def correlations(tables: Tables) -> Facts:
    """NTPS with every target: TARGET.fixed, .p, .reading, .seen ...; chosen: .itself, .itself_p, .heldout, .heldout_reading, .gap."""
    fixed, choices = tables.selection["fixed"], tables.selection["choices"]
    facts: Facts = {}
    for target in fixed["target"].unique():
        row, choice = one(fixed, score="ntps", target=target), one(choices, procedure="ntps", target=target)
        verdict = str(row["reading"])
        values = {
            "fixed": rho(row), "p": p_values(row["p"], row["p_holm"]), "reading": verdict, "seen": SEEN[verdict.split(":")[0]],
            "groups": whole(row["n_groups"]), "scores": str((fixed["target"] == target).sum()), "critical": two(row["critical"]), "reliability": two(row["reliability"]),
            "itself": two(choice["itself"]), "itself_p": two(choice["itself_p"]), "heldout": two(choice["heldout"]),
            "heldout_p": p_values(choice["heldout_p"], choice["heldout_p_holm"]),
            "heldout_reading": str(choice["reading"]), "gap": two(choice["gap"]),
        }  # fmt: skip
        facts |= {f"{target}.{name}": value for name, value in values.items()}
    return facts


def datasets(tables: Tables) -> Facts:
    """The two tables of data sets, and on how many of them a score is significantly above its permutation null."""
    pairs = by_dataset(tables.pairs)
    best = add_nulls(by_dataset(tables.best).loc[pairs.index])
    last = tables.last.assign(accuracy=pairs["probe_accuracy"])
    commonsense = best.loc["commonsense_pypi"]
    permutations = used(tables, "scores", "ntps")["train"]["label_permutations"]
    return {
        "table.accuracies": written(pairs, ACCURACIES),
        "table.scores": written(best, SCORES),
        "datasets": str(len(pairs)),
        "ntps.with_null": related(best, "ntps", "null_mean", pairs["group"]),
        "ntps.last": related(last, "ntps", "accuracy", pairs["group"]),
        **against_null(best, permutations),
        "ntps.below": str((best["ntps"] < best["null_mean"]).sum()),
        "ntps.below_p": p_text(together(best, pairs["group"], permutations)),
        "ntps.range": f"{three(best['ntps'].min())} to {three(best['ntps'].max())}",
        "chance": three(best["chance"].median()),
        "gain.over_probe": three(pairs["lora_gain"].mean()),
        "gain.over_head": three(pairs["lora_gain_linear"].mean()),
        "commonsense.scores": f"NTPS {with_null(commonsense, 'ntps')}, retention {with_null(commonsense, 'retention')}",
        "commonsense.skill": three(commonsense["heldout_skill_full"]),
    }


def against_null(best: pd.DataFrame, permutations: int) -> Facts:
    """On how many data sets scores are significantly above their permutation null, and NTPS below all of it.

    Tables made before p became two-sided have one that is small above the null, and 1 below all of it.
    """
    sides = two_sided(best)
    if sides.nunique() > 1:
        raise UserError(
            "p is one-sided in some tables and two-sided in others: run K_sweep.py again with --overwrite"
        )
    least = (2 if sides.all() else 1) / (permutations + 1)
    below = np.isclose(best["p_value"], least if sides.all() else 1) & (best["ntps"] < best["null_mean"])
    text = (
        f"a p beside a score's own permutation null is of {permutations} permutations, {least:.2g} at least"
    )
    if not sides.all():
        text = f"only a p beside a score's own permutation null is one-sided, of {permutations} permutations: 1 is below all of them"

    def above(score: str, p: str, null: str) -> str:
        return str(((best[p] <= ALPHA) & (best[score] > best[null])).sum())

    return {
        "null.p": text,
        "null.sided": "two-sided" if sides.all() else "one-sided",
        "ntps.significant": above("ntps", "p_value", "null_mean"),
        "ntps.below_all": str(below.sum()),
        "ntps.by_chance": f"{len(best) * ALPHA / (2 if sides.all() else 1):.1f}",
        "retention.significant": above("retention", "retention_p_value", "retention_null"),
    }


def together(best: pd.DataFrame, groups: pd.Series[str], permutations: int) -> float:
    """Two-sided p of Stouffer's z: is NTPS on one side of its null? A z a data set by Student's t of a new draw beside R, means over groups."""
    t_values = (best["ntps"] - best["null_mean"]) / best["null_std"] / math.sqrt(1 + 1 / permutations)
    z = pd.Series(norm.ppf(t.cdf(t_values, permutations - 1)), best.index).groupby(groups).mean()
    return float(2 * norm.sf(abs(z.sum()) / math.sqrt(len(z))))


def compared(tables: Tables) -> Facts:
    """How each score orders the data sets by probe accuracy and by gain: fixed beforehand, and chosen on other data sets."""
    facts: Facts = {}
    columns: dict[str, dict[str, str]] = {}
    for target, name in (("probe_accuracy", "probe accuracy"), ("lora_gain", "LoRA's gain")):
        fixed, choices, comparisons = (t[t["target"] == target] for t in tables.selection.values())
        by_rho = fixed.sort_values("rho", ascending=False).set_index("score", drop=False)
        chosen = choices.set_index("procedure")
        at_fixed = {str(score): rho(row) for score, row in by_rho.iterrows()}
        out = {str(score): two(value) for score, value in chosen["heldout"].items()}
        for what, texts, table in (("fixed beforehand", at_fixed, by_rho), ("held out", out, chosen)):
            columns[f"{name}: {what}"] = {s: marked(text, table["reading"][s]) for s, text in texts.items()}
        facts |= {f"{target}.{score}": text for score, text in at_fixed.items()}
        facts |= {f"{target}.{score}.p_holm": f"{p:.2g}" for score, p in by_rho["p_holm"].items()}
        facts |= {f"{target}.{score}.heldout": text for score, text in out.items()}
        better = comparisons["reading"][comparisons["reading"].str.endswith("is better")].str.removesuffix(
            " is better"
        )
        facts[f"{target}.better"] = ", ".join(better[better != "ntps"]) or "none"
        held = chosen["heldout"].drop("any")
        facts[f"{target}.best"] = f"{held.idxmax()} ({two(held.max())})"
    table = pd.DataFrame(columns).fillna("-")
    order = list(columns["probe accuracy: fixed beforehand"])
    table = table.loc[order + [name for name in table.index if name not in order]]
    return facts | {"table.compared": markdown(table.reset_index(names="score"))}


def released(tables: Tables) -> Facts:
    """What the released code's choices change, where the same data sets show it."""
    pairs, table = of_model(tables.pairs), of_model(tables.scores)
    fixed = of_model(pd.read_csv(tables.folder / "selection_released" / "fixed.csv"))
    facts = {f"released.{t}": rho(one(fixed, target=t, score="ntps")) for t in fixed["target"].unique()}
    choices = of_model(pd.read_csv(tables.folder / "selection_released" / "choices.csv"))
    for target in choices["target"].unique():
        chosen = one(choices, target=target, procedure="ntps")
        facts[f"released.searched.{target}"] = (
            f"{two(chosen['itself'])} (p {two(chosen['itself_p'])} once the search is counted)"
        )
        facts[f"released.heldout.{target}"] = two(chosen["heldout"])

    def from_label_free(order: str, rule: str) -> str:
        rows = table[(table["order"] == order) & (table["rule"] == rule)]
        return f"{(rows['ntps'] - rows['label_free']).abs().median():.1e}"

    return facts | {
        "released.label_free": from_label_free("released", "fraction"),
        "released.label_free_ours": from_label_free("descending", "task_rank"),
        "released.perfect": str((pairs["probe_train_accuracy"] >= 0.99).sum()),
        "released.train": three(pairs["probe_train_accuracy"].mean()),
        "released.test": three(pairs["probe_accuracy"].mean()),
    }


def checked(tables: Tables) -> Facts:
    """On other data sets: a choice made on these, null_lift at the embeddings, with the best layer's probe; what orders models within a data set;
    and what GCV's layer costs."""
    every = real(with_accuracy(FOLDER))
    best = lowest_error(every)[[*PAIR, "accuracy"]]
    half = halves()["confirmation"]
    first = every.loc[(every["layer"] == 0) & every["dataset"].isin(half), [*PAIR, "null_lift"]].merge(
        best, on=PAIR
    )
    said = {
        model: two(float(spearman(*rows[["null_lift", "accuracy"]].to_numpy(float).T)))
        for model, rows in first.groupby("model")
    }
    layers = every.groupby(PAIR)["accuracy"]
    found = best.set_index(PAIR)["accuracy"]
    last = every.loc[every.groupby(PAIR)["layer"].idxmax()].set_index(PAIR)["accuracy"]
    models = pd.read_csv(FOLDER / "which_judged.csv").query("layer == 'best' and adapters == 'left out'")
    orders = models.set_index("score")  # of report/which_model.py
    over_last = 100 * (found - last)
    own, pairs = at_tenth(tables.scores), by_dataset(tables.pairs)
    own = by_dataset(own[own["layer"] == 0]).assign(accuracy=pairs["probe_accuracy"])
    return {
        "checked.embeddings": ", ".join(f"{value} ({model!s})" for model, value in said.items()),
        "checked.here": related(own, "null_lift", "accuracy", pairs["group"]),
        "models.ntps": two(float(orders["rho"]["ntps"])),
        "models.skill": two(float(orders["rho"]["gcv_skill"])),
        "models.p": two(float(orders["rho less gcv_skill_p_holm"]["ntps"])),
        "layer.pairs": str(len(found)),
        "layer.loss": f"{100 * (layers.max() - found).mean():.1f}",
        "layer.most": f"{100 * (layers.max() - found).max():.1f}",
        "layer.over_last": f"{over_last.mean():.1f} ± {sem(over_last.groupby('dataset').mean()):.1f}",
        "layer.below": str((over_last < 0).sum()),
        "models.first": "significantly"
        if orders["regret_p_holm"]["gcv_skill"] <= ALPHA
        and orders["regret"]["gcv_skill"] < orders["regret"]["chance"]
        else "not significantly",
        "all.datasets": str(found.index.get_level_values("dataset").nunique()),
        "all.ntps": on_all_rows(every),
    }


def on_all_rows(every: pd.DataFrame) -> str:
    """NTPS with the probe's accuracy at each model's best layer, over the groups of all data sets."""
    facts = pd.read_csv(FOLDER / "facts.csv")[[*PAIR, "group"]]
    best = lowest_error(every).merge(facts, on=PAIR)
    said = (
        f"{related(rows, 'ntps', 'accuracy', rows['group']).removeprefix('ρ = ').split(', n')[0]} ({model})"
        for model, rows in best.groupby("model", sort=False)
    )
    return " and ".join(said)


def gains(tables: Tables) -> Facts:
    """The calibration of the gain."""
    fit = json.loads((tables.folder / "gain.json").read_text(encoding="utf-8"))["fit"]
    errors = {name: three(error) for name, error in fit["errors_of_baselines"].items()}
    return {
        "gain.held_out": three(fit["held_out_error"]),
        "gain.mean": errors["mean gain"],
        "gain.p": two(fit["p"]),
        "gain.errors": ", ".join(f"{name} {error}" for name, error in errors.items()),
        "gain.usable": "usable" if fit["usable"] else "not usable",
        "gain.why": fit["why"] or "it beats the mean gain",
    }


# --- controls ---------------------------------------------------------------------------------------------------------


def random_model(tables: Tables) -> Facts:
    """Trained against random weights, each at its own best layer, on the data sets that have both."""
    best = tables.best.merge(tables.pairs[[*PAIR, "probe_accuracy"]], "left", PAIR)
    other = by_dataset(best, RANDOM)
    own = by_dataset(best).loc[other.index]
    both = own.join(other, rsuffix="_random")
    columns: Columns = {
        f"{name}: {what}": (column + end, three)
        for column, name in COMPARED.items()
        for what, end in (("trained", ""), ("random", "_random"))
    }
    facts = {
        f"random.{column}": f"{(own[column] > other[column]).sum()} of {len(other)}" for column in COMPARED
    }
    return facts | {"table.random": written(both, columns), "random.datasets": str(len(other))}


def sizes(tables: Tables) -> Facts:
    """Scores of the same data sets, read in different numbers of texts, at the layer that is best with the reference number."""
    layers = by_dataset(tables.best)["layer"]
    others = [tables.below(path.name) for path in sorted(tables.folder.glob("texts-*"))]
    tenths = [of_model(at_tenth(here.scores)) for here in (tables, *others)]
    varied = set(pd.concat(tenths[1:])["dataset"])
    table = pd.concat(tenths)
    table = table[table["dataset"].isin(varied) & (table["layer"] == table["dataset"].map(layers))]
    table = table.sort_values(["dataset", "n_texts"])
    facts = {"table.sizes": written(add_nulls(table.set_index("dataset")), SIZES)}
    for name, part in table.groupby("dataset"):
        ends = part.iloc[[0, -1]]
        few, many = (f"{three(ntps)} with {n:.0f} texts" for ntps, n in zip(ends["ntps"], ends["n_texts"]))
        facts[f"sizes.{name}"] = f"{few} and {many}"
    return facts


def bounds(tables: Tables) -> Facts:
    """How often lower <= excess <= upper, and how far apart they are."""
    table = tables.scores.dropna(subset=["excess", "excess_lower", "excess_upper"])
    slack = 1e-9 * table["excess_upper"].abs()
    inside = table["excess"].between(table["excess_lower"] - slack, table["excess_upper"] + slack)
    tight = table.dropna(subset=["excess_lower_tight", "excess_upper_tight"])
    tight = tight.query("excess_lower_tight > 0 and excess_lower > 0")
    return {
        "bounds.inside": f"{inside.sum()} of {len(table)}",
        "bounds.width": f"{(tight['excess_upper'] / tight['excess_lower']).median():.1e}",
        "bounds.tight_width": f"{(tight['excess_upper_tight'] / tight['excess_lower_tight']).median():.1e}",
        "bounds.upper": whole((tight["excess_upper"] / tight["excess"]).median()),
    }


def label_length(tables: Tables) -> Facts:
    """The ranges over data sets of the share of ||U||^2 in the half of the directions with the least variance; what labels add."""
    table = pd.read_csv(tables.folder / "label_length.csv").set_index("dataset")
    best, groups = by_dataset(tables.best), by_dataset(tables.pairs)["group"]
    null, gap = best["retention_null"], best["ntps"] - best["null_mean"]
    facts = {
        f"length.{name}": f"{table[name].min():.0%} to {table[name].max():.0%}"
        for name in ("labels", "shuffled")
    }
    apart = pd.DataFrame({"length": table["labels"] - table["shuffled"], "ntps": gap})
    facts["length.rho"] = related(apart, "length", "ntps", groups)
    for name, added, kept in zip(table.index, table["added"], table["added_kept"]):
        facts[f"added.{name}"], facts[f"kept.{name}"] = three(added), f"{kept:.0%}"
        facts[f"kept.shuffled.{name}"] = f"{null[name]:.0%}"
    clear = table[table["added"] > table.loc["privacyqa", "added"]]["added_kept"]
    return facts | {
        "kept.others": f"{clear.min():.0%} to {clear.max():.0%}",
        "kept.datasets": str(len(clear)),
    }


def run_again(tables: Tables) -> Facts:
    """Differences between two runs of the same data sets, beside the standard errors."""
    both = tables.best.merge(tables.below("rerun").best, "inner", PAIR, suffixes=("", "_again"))

    def twice(score: str) -> list[str]:
        parts = zip(both[score], both[f"{score}_again"], both[f"{score}_se"])
        return [
            f"{three(first)} and {three(second)} (error {three(error)})" for first, second, error in parts
        ]

    apart = [(both[score] - both[f"{score}_again"]).abs() for score in ("ntps", "retention")]
    table = {
        "data set": both["dataset"],
        "layer": [f"{one:.0f} and {two:.0f}" for one, two in zip(both["layer"], both["layer_again"])],
        "NTPS": twice("ntps"),
        "retention": twice("retention"),
        "largest difference": [f"{max(gaps):.0e}" for gaps in zip(*apart)],
    }
    return {"table.rerun": markdown(pd.DataFrame(table))}


def lora_again(tables: Tables) -> Facts:
    """LoRA's accuracies by seed, in another run and in another precision."""

    def accuracies(run: str) -> dict[str, list[float]]:
        table = tables.below(run).final_tests("lora_finetuning")
        return {str(name): list(own) for name, own in table.groupby("dataset")["accuracy"]}

    first, again, exact = map(accuracies, ("", "rerun", "float32"))
    seeds = {
        "data set": list(first),
        "LoRA, by seed": [", ".join(map(three, values)) for values in first.values()],
        "again": [", ".join(map(three, again.get(name, []))) or "-" for name in first],
    }
    variances = [np.var(values, ddof=1) for values in first.values() if len(values) > 1]
    precise = [f"{n}: {three(v[0])} in float32, {three(first[n][0])} in bfloat16" for n, v in exact.items()]
    return {
        "table.seeds": markdown(pd.DataFrame(seeds)),
        "seeds.error": three(math.sqrt(np.mean(variances))) if variances else "-",
        "precision": "; ".join(precise),
    }


# --- training ---------------------------------------------------------------------------------------------------------


def mean_differences(changes: pd.DataFrame, groups: pd.Series[str]) -> Iterator[tuple[str, str, float]]:
    """The mean of each column over independent groups of data sets with its interval, its verdict by sign flips and p after Holm."""
    values, draws = changes.groupby(groups).mean().to_numpy().T, Draws()
    n, means = values.shape[1], values.mean(-1)
    ends = draws.interval(lambda at: values[:, at].mean(-1), n)
    tests = draws.tests([values], lambda x, axis: x.mean(axis), "samples", 2**n)
    for mean, low, high, shown, p in zip(means, *ends, verdicts(n, means, tests, *ends), tests.holm):
        yield f"{mean:+.3f}".replace("-", "−") + interval(low, high), shown, float(p)


def after_lora(tables: Tables) -> Facts:
    """Before and after, at each one's best layer and at the last layer."""
    adapted, groups = tables.below("after_lora"), by_dataset(tables.pairs)["group"]
    after = adapted.best.set_index("dataset")
    before = by_dataset(tables.best).loc[after.index]
    last, last_before = adapted.last.loc[after.index], tables.last.loc[after.index]
    changes = {f"after.{n}": after[n] - before[n] for n in ("ntps", "retention", "null_lift", "gcv_skill")}
    changes |= {f"after.last.{n}": last[n] - last_before[n] for n in ("ntps", "retention", "null_lift")}
    facts: Facts = {}
    means = mean_differences(pd.DataFrame(changes), groups)
    for (name, change), (facts[name], facts[f"{name}.reading"], _) in zip(changes.items(), means):
        facts[f"{name}.up"] = f"{(change > 0).sum()} of {len(change)}"

    def arrows(column: str, write: Callable[[Any], str] = three) -> list[str]:
        return [f"{write(a)} → {write(b)}" for a, b in zip(before[column], after[column])]

    columns = {
        "data set": after.index,
        "NTPS": arrows("ntps"),
        "retention": arrows("retention"),
        "probe's skill": arrows("gcv_skill"),
        "permutation null of NTPS": arrows("null_mean"),
        "layer": arrows("layer", str),
        "NTPS, last layer": [f"{three(a)} → {three(b)}" for a, b in zip(last_before["ntps"], last["ntps"])],
    }
    return facts | {"table.after": markdown(pd.DataFrame(columns))}


def from_scratch(tables: Tables) -> Facts:
    """The probe and the head against training from scratch, each difference judged by its standard error."""
    pairs = of_model(tables.pairs).dropna(subset=["scratch_accuracy"])
    n = tables.final_tests("from_scratch").groupby("dataset")["n"].max()
    rows, outcomes = [], []
    for _, pair in pairs.iterrows():
        row = {"data set": pair["dataset"], "from scratch": three(pair["scratch_accuracy"])}
        for name, column in (("probe", "probe_accuracy"), ("head", "linear_accuracy")):
            outcome = beats(pair[column], pair["scratch_accuracy"], n[pair["dataset"]])
            row[name] = f"{three(pair[column])} ({outcome})"
            outcomes.append(f"{name} {outcome}")
        rows.append(row)
    counts = pd.Series(outcomes, dtype=str).value_counts()
    return {
        "table.scratch": markdown(pd.DataFrame(rows)),
        "scratch.outcomes": "; ".join(f"the {name} on {count}" for name, count in sorted(counts.items())),
        "scratch.datasets": str(len(pairs)),
    }


def beats(accuracy: float, scratch: float, n: int) -> str:
    """Whether an accuracy is above another, both of n test texts: by the binomial error of their difference."""
    error = math.sqrt(sum(p * (1 - p) for p in (accuracy, scratch)) / n)
    z = (accuracy - scratch) / max(error, 1e-9)
    return "beats it" if z > Z else "loses" if z < -Z else "matches"


def used(tables: Tables, kind: str, table: str) -> dict[str, Any]:
    """What a run used, from the provenance of its table."""
    return provenance.read(tables.folder / table / MODEL / "trec6.json", kind)["identity"]


def settings(tables: Tables) -> Facts:
    """What the runs used."""
    methods = ("lora_finetuning", "from_scratch")
    lora, scratch = (used(tables, "accuracy", f"accuracy/{method}") for method in methods)
    scores = used(tables, "scores", "ntps")["train"]
    seeds = tables.final_tests("lora_finetuning").groupby("dataset")["seed"].nunique()
    facts = {
        "limit": str(lora["limit"]), "max_length": str(lora["max_length"]), "lora.dtype": lora["dtype"],
        "permutations": str(scores["label_permutations"]), "partitions": str(scores["partitions"]),
        "lora.seeds": " to ".join(map(str, sorted({seeds.min(), seeds.max()}))), "scratch.seeds": str(len(scratch["seeds"])),
    }  # fmt: skip
    for name in ("max_steps", "batch_size", "learning_rate", "lora_dropout"):
        facts[f"lora.{name}"] = f"{lora['settings'][name]:g}"
    for name in ("max_steps", "batch_size"):
        facts[f"scratch.{name}"] = f"{scratch['settings'][name]:g}"
    return facts
