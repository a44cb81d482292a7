"""docs/reproduction.md, its figure, and the same few sentences in README.md, from the tables of results/mini.

    python -m fig_plot.reproduction
    python -m fig_plot.reproduction --published results/released     # first: statistics of an import of the published values

Every number comes from a table: reproduction.template.md holds the words, and {{name}} in it is an entry of `facts`.
The first lines of the report, between <!-- short --> and <!-- /short -->, are put between the same marks in README.md.
A verdict is that of the 90 % interval: *holds* if all of it lies on the claim's side of 0, *reversed* if on the other,
*cannot tell* otherwise.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from fig_plot.figures import ROOT, at_tenth, load_scores, save
from fig_plot.relations import correlation
from fig_plot.reproduction_figure import MODEL, report_figure
from ntps import results
from ntps.errors import UserError
from ntps.evaluation.comparison import reading
from ntps.evaluation.correlation import LEVEL, percentile_interval, resamples
from ntps.results.tables import PAIR, read_tables
from ntps.run import cli
from ntps.scores.words import SPACES, right_side
from ntps.system import storage

TEMPLATE = Path(__file__).with_name("reproduction.template.md")
RANDOM = "smollm2-135m-random"
SHORT = re.compile(r"(<!-- short -->\n).*?(<!-- /short -->)", re.DOTALL)
PUBLISHED = {
    "fig2_accuracy": "probe_train_accuracy",
    "fig2_mse": "probe_train_mse",
    "fig3": "lora_gain_linear",
}
Z = float(norm.ppf((1 + LEVEL) / 2))
SEEN = {"holds": "is seen here", "reversed": "is reversed here", "cannot tell": "is not seen here"}
Facts = dict[str, str]


def main(folder: str = "results/mini", published: str | None = None, docs: str = "docs") -> int:
    """Write the report.

    Args:
        folder: the tables that `make mini` leaves, and those of its controls below it
        published: of fig_plot/import_released.py, with ntps.selection and ntps.gain run on its folders: only write
            their statistics beside FOLDER, into published/
        docs: where reproduction.md and reproduction.png go
    """
    tables = Path(folder)
    if published is not None:
        write_published(Path(published), published_folder(tables))
        return 0
    known, page = facts(tables), Path(docs) / "reproduction.md"
    text = filled(TEMPLATE.read_text(encoding="utf-8"), known)
    storage.write_text(page, text)
    (picture,) = save(report_figure(tables), page.with_suffix(""), ["png"])
    readme = ROOT / "README.md"
    storage.write_text(readme, with_short(readme.read_text(encoding="utf-8"), text))
    print(f"wrote {page}, {picture} and the short version in {readme.name}")
    return 0


def filled(template: str, known: Facts) -> str:
    """The template with every {{name}} replaced; UserError for a name that is not known."""
    if unknown := {name for name in re.findall(r"\{\{(.*?)\}\}", template) if name not in known}:
        raise UserError(f"{TEMPLATE.name}: no fact {', '.join(sorted(unknown))}")
    return re.sub(r"\{\{(.*?)\}\}", lambda found: known[found[1]], template)


def with_short(readme: str, report: str) -> str:
    """README with the report's short version, its links made those of the top folder."""
    short = SHORT.search(report)
    if short is None or not SHORT.search(readme):
        raise UserError("<!-- short --> ... <!-- /short --> is missing in README.md or the template")
    return SHORT.sub(lambda _: short[0].replace("](", "](docs/"), readme)


class Tables:
    """What several parts of the report read, each read once."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every row of K_sweep.py."""
        return load_scores(self.folder)

    @cached_property
    def best(self) -> pd.DataFrame:
        """Its rows at kv = d/10 and each pair's best layer, with the layer's other scores."""
        tenth = at_tenth(self.scores)
        return results.tables.best_rows(self.folder).merge(
            tenth, "left", [*PAIR, "layer"], suffixes=("", "_")
        )

    @cached_property
    def pairs(self) -> pd.DataFrame:
        return results.load_pairs(self.folder)

    @cached_property
    def selection(self) -> dict[str, pd.DataFrame]:
        """ntps.selection's tables of the model."""
        names = ("fixed", "choices", "comparisons")
        return {name: of_model(pd.read_csv(self.folder / "selection" / f"{name}.csv")) for name in names}

    def below(self, name: str) -> Tables:
        return Tables(self.folder / name)


def facts(folder: Path) -> Facts:
    """Everything that the report says in numbers, by name."""
    parts = (
        correlations, texts, best_scores, random_model, after_lora, from_scratch, sizes, bounds, words, released, gains,
        label_length, repeated, settings, published,
    )  # fmt: skip
    tables = Tables(folder)
    return {name: value for part in parts for name, value in part(tables).items()}


def of_model(table: pd.DataFrame, model: str = MODEL) -> pd.DataFrame:
    return table[table["model"] == model]


# --- words for numbers ---------------------------------------------------------------------------------------------


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of strings."""
    head = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [*head, *table.itertuples(index=False)])


def three(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}".replace("-", "−")


def two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{two(low)}, {two(high)}]"


def rho(row: pd.Series[float]) -> str:
    return two(row["rho"]) + interval(row["low"], row["high"])


def held_out(row: pd.Series[float]) -> str:
    return two(row["heldout"]) + interval(row.get("heldout_low", math.nan), row.get("heldout_high", math.nan))


def related(table: pd.DataFrame, x: str, y: str, groups: pd.Series[str]) -> str:
    """Spearman's rho of two columns over the groups' means."""
    means = table.groupby(groups)[[x, y]].mean()
    return str(correlation(means[x].to_numpy(), means[y].to_numpy())).replace("-", "−")


def one(table: pd.DataFrame, **where: str) -> pd.Series[float]:
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise UserError(f"{len(table)} rows with {where}, not one: run ntps.selection again")
    return table.iloc[0]


def with_null(row: Any, score: str) -> str:
    """A score, what shuffled labels give, and p."""
    if score == "ntps":
        null, p = f"{three(row['null_mean'])} ± {three(row['null_std'])}", row["p_value"]
    else:
        null, p = three(row["retention_null"]), row["retention_p_value"]
    return f"{three(row[score])} ({null}; p {p:.2f})"


# --- the parts -----------------------------------------------------------------------------------------------------


def correlations(tables: Tables) -> Facts:
    """NTPS with every target: TARGET.fixed, .p, .reading, .seen; chosen: .itself, .itself_p, .heldout, .heldout_reading, .gap."""
    fixed, choices = tables.selection["fixed"], tables.selection["choices"]
    found: Facts = {}
    for target in fixed["target"].unique():
        row, choice = one(fixed, score="ntps", target=target), one(choices, procedure="ntps", target=target)
        verdict = str(row["reading"])
        values = {
            "fixed": rho(row), "p": two(row["p"]), "reading": verdict, "seen": SEEN[verdict.split(":")[0]],
            "groups": f"{row['n_groups']:.0f}", "itself": two(choice["itself"]), "itself_p": two(choice["itself_p"]),
            "heldout": held_out(choice), "heldout_reading": str(choice["reading"]), "gap": two(choice["gap"]),
        }  # fmt: skip
        found |= {f"{target}.{name}": value for name, value in values.items()}
    return found


def texts(tables: Tables) -> Facts:
    """The two tables of texts, and in how many of them a score is told from shuffled labels."""
    pairs = of_model(tables.pairs).set_index("dataset")
    best = of_model(tables.best).set_index("dataset").loc[pairs.index]
    accuracies = pd.DataFrame(
        {
            "text": pairs.index,
            "classes": [f"{n:.0f}" for n in pairs["classes"]],
            "tokens": [f"{n:.1f}" for n in pairs["tokens_per_text"]],
            "majority": pairs["majority"].map(three),
            "probe, best layer": pairs["probe_accuracy"].map(three),
            "head, last layer": pairs["linear_accuracy"].map(three),
            "LoRA": pairs["lora_accuracy"].map(three),
            "gain": pairs["lora_gain"].map(three),
            "gain over the head": pairs["lora_gain_linear"].map(three),
            "from scratch": pairs["scratch_accuracy"].map(three),
        }
    )
    scores = pd.DataFrame(
        {
            "text": best.index,
            "n/d": [f"{n:.1f}" for n in best["n_over_d"]],
            "layer": [f"{n:.0f}" for n in best["layer"]],
            "NTPS (shuffled; p)": [with_null(row, "ntps") for _, row in best.iterrows()],
            "retention (shuffled; p)": [with_null(row, "retention") for _, row in best.iterrows()],
            "its error": best["retention_se"].map(three),
            "held-out skill of the probe": best["heldout_skill_full"].map(three),
        }
    )
    last = last_layer(tables).assign(accuracy=pairs["probe_accuracy"])
    both = [f"{name} {with_null(best.loc['commonsense_pypi'], score)}" for name, score in (("NTPS", "ntps"), ("retention", "retention"))]  # fmt: skip
    return {
        "ntps.with_null": related(best, "ntps", "null_mean", pairs["group"]),
        "ntps.last": related(last, "ntps", "accuracy", pairs["group"]),
        "table.accuracies": markdown(accuracies), "table.texts": markdown(scores), "texts": str(len(pairs)),
        "ntps.told": str(int((best["p_value"] <= 0.05).sum())),
        "retention.told": str(int((best["retention_p_value"] <= 0.05).sum())),
        "ntps.below": str(int((best["ntps"] < best["null_mean"]).sum())),
        "chance": three(best["chance"].median()), "ntps.range": f"{three(best['ntps'].min())} to {three(best['ntps'].max())}",
        "gain.over_probe": three(pairs["lora_gain"].mean()), "gain.over_head": three(pairs["lora_gain_linear"].mean()),
        "commonsense.scores": ", ".join(both),
        "commonsense.skill": three(best.loc["commonsense_pypi", "heldout_skill_full"]),
    }  # fmt: skip


def best_scores(tables: Tables) -> Facts:
    """How each score orders the texts by probe accuracy and by gain: at the fixed place, and chosen on other texts."""
    found: Facts = {}
    columns: dict[str, dict[str, str]] = {}
    for target, name in (("probe_accuracy", "probe accuracy"), ("lora_gain", "LoRA's gain")):
        fixed, choices, compared = (table[table["target"] == target] for table in tables.selection.values())
        chosen = choices.set_index("procedure")
        place, out = f"{name}: fixed place", f"{name}: held out"
        columns[place] = {
            row["score"]: rho(row) for _, row in fixed.sort_values("rho", ascending=False).iterrows()
        }
        columns[out] = {str(score): held_out(row) for score, row in chosen.iterrows()}
        found |= {f"{target}.{score}": text for score, text in columns[place].items()}
        found |= {f"{target}.{score}.heldout": text for score, text in columns[out].items()}
        says = compared[compared["basis"] == "fixed"]["reading"]
        better = says[says.str.endswith("is better")].str.removesuffix(" is better")
        found[f"{target}.better"] = ", ".join(better[better != "ntps"]) or "none"
        held = chosen.drop(index=["any", "nested"], errors="ignore")["heldout"]
        found[f"{target}.best"] = f"{held.idxmax()} ({two(held.max())})"
    table = pd.DataFrame(columns).fillna("-")
    order = [name for name in columns["probe accuracy: fixed place"] if name in table.index]
    table = table.loc[order + [name for name in table.index if name not in order]]
    return found | {"table.scores": markdown(table.reset_index(names="score"))}


def random_model(tables: Tables) -> Facts:
    """Trained against random weights, each at its own best layer, on the texts that have both."""
    best = tables.best.merge(tables.pairs[[*PAIR, "probe_accuracy"]], "left", PAIR)
    own, other = (of_model(best, model).set_index("dataset") for model in (MODEL, RANDOM))
    own = own.loc[other.index]
    names = {
        "ntps": "NTPS",
        "retention": "retention",
        "heldout_skill_full": "held-out skill",
        "probe_accuracy": "probe accuracy",
    }
    table = pd.DataFrame({"text": other.index})
    for column, name in names.items():
        table[f"{name}: trained"] = list(own[column].map(three))
        table[f"{name}: random"] = list(other[column].map(three))
    found = {f"random.{column}": f"{(own[column] > other[column]).sum()} of {len(other)}" for column in names}
    return found | {"table.random": markdown(table), "random.texts": str(len(other))}


def mean_difference(change: pd.Series[float], groups: pd.Series[str]) -> tuple[str, str]:
    """A mean over independent groups of texts with its bootstrap interval, and the verdict."""
    values = change.dropna().groupby(groups).mean().to_numpy()
    drawn = values[resamples(len(values), 2000, 42)].mean(1)
    low, high = percentile_interval(float(values.mean()), drawn, len(values))
    return f"{values.mean():+.3f}".replace("-", "−") + interval(low, high), reading(len(values), low, high)


def last_layer(tables: Tables) -> pd.DataFrame:
    """K_sweep.py's rows at kv = d/10 and the last layer, by text; of the model, or of those with its adapters."""
    table = at_tenth(tables.scores)
    table = table[(table["layer"] == table["layer"].max()) & (table["model"] != RANDOM)]
    return table.set_index("dataset")


def after_lora(tables: Tables) -> Facts:
    """Before and after, at each one's best layer and at the last layer."""
    adapted = tables.below("after_lora")
    after = adapted.best.set_index("dataset")
    before = of_model(tables.best).set_index("dataset").loc[after.index]
    last = last_layer(adapted).loc[after.index]
    last_before = last_layer(tables).loc[after.index]
    groups = of_model(tables.pairs).set_index("dataset")["group"]
    changes = {
        f"after.{name}": after[name] - before[name]
        for name in ("ntps", "retention", "null_lift", "gcv_skill")
    }
    changes |= {
        f"after.last.{name}": last[name] - last_before[name] for name in ("ntps", "retention", "null_lift")
    }
    found: Facts = {}
    for name, change in changes.items():
        found[name], found[f"{name}.reading"] = mean_difference(change, groups)
        found[f"{name}.up"] = f"{(change > 0).sum()} of {len(change)}"

    def arrows(
        first: pd.Series[float], second: pd.Series[float], say: Callable[[Any], str] = three
    ) -> list[str]:
        return [f"{say(a)} → {say(b)}" for a, b in zip(first, second)]

    columns = {
        "text": after.index,
        "NTPS": arrows(before["ntps"], after["ntps"]),
        "retention": arrows(before["retention"], after["retention"]),
        "probe's skill": arrows(before["gcv_skill"], after["gcv_skill"]),
        "shuffled NTPS": arrows(before["null_mean"], after["null_mean"]),
        "layer": arrows(before["layer"], after["layer"], str),
        "NTPS, last layer": arrows(last_before["ntps"], last["ntps"]),
    }
    return found | {"table.after": markdown(pd.DataFrame(columns))}


def from_scratch(tables: Tables) -> Facts:
    """The probe and the head against training from scratch, each difference with its standard error."""
    pairs = of_model(tables.pairs).dropna(subset=["scratch_accuracy"])
    n = final_tests(tables, "from_scratch").groupby("dataset")["n"].max()
    rows, said = [], []
    for _, pair in pairs.iterrows():
        row = {"text": pair["dataset"], "from scratch": three(pair["scratch_accuracy"])}
        for name, column in (("probe", "probe_accuracy"), ("head", "linear_accuracy")):
            both = pair[column], pair["scratch_accuracy"]
            error = math.sqrt(sum(p * (1 - p) for p in both) / n[pair["dataset"]])
            z = (both[0] - both[1]) / max(error, 1e-9)
            says = "beats it" if z > Z else "loses" if z < -Z else "matches"
            row[name] = f"{three(both[0])} ({says})"
            said.append(f"{name} {says}")
        rows.append(row)
    counts = pd.Series(said, dtype=str).value_counts()
    told = "; ".join(f"the {name} on {count}" for name, count in sorted(counts.items()))
    return {
        "table.scratch": markdown(pd.DataFrame(rows)),
        "scratch.told": told,
        "scratch.texts": str(len(pairs)),
    }


def sizes(tables: Tables) -> Facts:
    """Scores of the same texts, read in different numbers, at the layer that is best with the reference number."""
    layers = of_model(tables.best).set_index("dataset")["layer"]
    others = [tables.below(path.name) for path in sorted(tables.folder.glob("texts-*"))]
    tenths = [of_model(at_tenth(here.scores)) for here in (tables, *others)]
    varied = set(pd.concat(tenths[1:])["dataset"])
    table = pd.concat(tenths)
    table = table[table["dataset"].isin(varied) & (table["layer"] == table["dataset"].map(layers))]
    table = table.sort_values(["dataset", "n_texts"])
    rows = [
        {"text": row["dataset"], "texts": f"{row['n_texts']:.0f}", "n/d": two(row["n_over_d"]), "NTPS (shuffled; p)": with_null(row, "ntps"),
         "retention (shuffled; p)": with_null(row, "retention"), "adjusted retention": three(row["retention_adjusted"])}
        for _, row in table.iterrows()
    ]  # fmt: skip
    found = {"table.sizes": markdown(pd.DataFrame(rows))}
    for name, part in table.groupby("dataset"):
        few, many = (
            f"{three(row['ntps'])} with {row['n_texts']:.0f}" for _, row in part.iloc[[0, -1]].iterrows()
        )
        found[f"sizes.{name}"] = f"{few} texts and {many}"
    return found


def bounds(tables: Tables) -> Facts:
    """How often lower <= excess <= upper, and how far apart they are."""
    table = tables.scores.dropna(subset=["excess", "excess_lower", "excess_upper"])
    slack = 1e-9 * table["excess_upper"].abs()
    inside = (table["excess"] >= table["excess_lower"] - slack) & (
        table["excess"] <= table["excess_upper"] + slack
    )
    tight = table.dropna(subset=["excess_lower_tight", "excess_upper_tight"]).query(
        "excess_lower_tight > 0 and excess_lower > 0"
    )
    return {
        "bounds.inside": f"{inside.sum()} of {len(table)}",
        "bounds.width": f"{(tight['excess_upper'] / tight['excess_lower']).median():.1e}",
        "bounds.tight_width": f"{(tight['excess_upper_tight'] / tight['excess_lower_tight']).median():.1e}",
        "bounds.upper": f"{(tight['excess_upper'] / tight['excess']).median():.0f}",
    }


def words(tables: Tables) -> Facts:
    """Words of figure 1 on their side of the line in each plane, with the share of relabellings that do as well."""
    found: Facts = {}
    for (_, dataset), table in read_tables(tables.folder, "words").groupby(PAIR):
        found |= {f"words.{dataset}.{space}": text for space, text in sides(table).items()}
    return found


def sides(table: pd.DataFrame) -> dict[str, str]:
    found = {}
    for space in SPACES:
        part = table[(table["space"] == space) & table["group"].isin(list(dict.fromkeys(table["group"]))[:2])]
        points, first = part[["x", "y"]].to_numpy(), (part["group"] == part["group"].iloc[0]).to_numpy()
        right = right_side(points[first], points[~first])
        ways = [
            np.isin(np.arange(len(points)), pick)
            for pick in combinations(range(len(points)), int(first.sum()))
        ]
        p = np.mean([right_side(points[way], points[~way]) >= right for way in ways])
        found[space] = f"{right} of {len(points)} (p {p:.2f})"
    return found


def released(tables: Tables) -> Facts:
    """What the released code's choices change, where the same texts show it."""
    pairs, table = of_model(tables.pairs), of_model(tables.scores)
    fixed = of_model(pd.read_csv(tables.folder / "selection_released" / "fixed.csv"))
    found = {
        f"released.{target}": rho(one(fixed, target=target, score="ntps"))
        for target in fixed["target"].unique()
    }

    def from_label_free(order: str, rule: str) -> str:
        rows = table[(table["order"] == order) & (table["rule"] == rule)]
        return f"{(rows['ntps'] - rows['label_free']).abs().median():.1e}"

    return found | {
        "released.label_free": from_label_free("released", "fraction"),
        "released.label_free_ours": from_label_free("descending", "task_rank"),
        "released.perfect": str(int((pairs["probe_train_accuracy"] >= 0.99).sum())),
        "released.train": three(pairs["probe_train_accuracy"].mean()),
        "released.test": three(pairs["probe_accuracy"].mean()),
    }


def gains(tables: Tables) -> Facts:
    """The calibration of the gain."""
    fit = json.loads((tables.folder / "gain.json").read_text(encoding="utf-8"))["fit"]
    errors = {name: three(error) for name, error in fit["errors_of_baselines"].items()}
    return {
        "gain.held_out": three(fit["held_out_error"]), "gain.mean": errors["mean gain"], "gain.p": two(fit["p"]),
        "gain.errors": ", ".join(f"{name} {error}" for name, error in errors.items()),
        "gain.usable": "usable" if fit["usable"] else "not usable", "gain.why": fit["why"] or "it beats the mean gain",
    }  # fmt: skip


def label_length(tables: Tables) -> Facts:
    """The ranges over texts of the share of ||U||^2 in the half of the directions with the least variance; what labels add."""
    table = pd.read_csv(tables.folder / "label_length.csv").set_index("dataset")
    null = of_model(tables.best).set_index("dataset")["retention_null"]
    found = {
        f"length.{name}": f"{table[name].min():.0%} to {table[name].max():.0%}"
        for name in ("labels", "shuffled")
    }
    for name, added, kept in zip(table.index, table["added"], table["added_kept"]):
        found[f"added.{name}"], found[f"kept.{name}"] = three(added), f"{kept:.0%}"
        found[f"kept.shuffled.{name}"] = f"{null[name]:.0%}"
    clear = table[table["added"] > table.loc["privacyqa", "added"]]["added_kept"]
    return found | {"kept.others": f"{clear.min():.0%} to {clear.max():.0%}", "kept.texts": str(len(clear))}


def repeated(tables: Tables) -> Facts:
    """Differences between two runs of the same texts, beside the error bars; other seeds and precision of LoRA."""
    both = tables.best.merge(tables.below("rerun").best, "inner", PAIR, suffixes=("", "_again"))
    rows = [
        {"text": row["dataset"], "layer": f"{row['layer']:.0f} and {row['layer_again']:.0f}",
         **{name: f"{three(row[column])} and {three(row[f'{column}_again'])} (error {three(row[f'{column}_se'])})"
            for name, column in (("NTPS", "ntps"), ("retention", "retention"))},
         "largest difference": f"{abs(row['ntps'] - row['ntps_again']):.0e}"}
        for _, row in both.iterrows()
    ]  # fmt: skip
    found = {
        name: final_tests(tables.below(name), "lora_finetuning")
        .groupby("dataset")["accuracy"]
        .apply(list)
        .to_dict()
        for name in ("", "rerun", "float32")
    }
    seeds = [
        {"text": name, "LoRA, by seed": ", ".join(map(three, first)),
         "again": ", ".join(map(three, found["rerun"].get(name, []))) or "-"}
        for name, first in found[""].items()
    ]  # fmt: skip
    variances = [np.var(first, ddof=1) for first in found[""].values() if len(first) > 1]
    precise = [
        f"{name}: {three(exact[0])} in float32, {three(found[''][name][0])} in bfloat16"
        for name, exact in found["float32"].items()
    ]
    return {
        "table.rerun": markdown(pd.DataFrame(rows)),
        "table.seeds": markdown(pd.DataFrame(seeds)),
        "seeds.error": three(math.sqrt(np.mean(variances))) if variances else "-",
        "precision": "; ".join(precise),
    }


def final_tests(tables: Tables, method: str) -> pd.DataFrame:
    """The rows of a trainer's final accuracies on test."""
    table = read_tables(tables.folder, f"accuracy/{method}")
    return table[(table["split"] == "test") & table["final"].astype(bool)]


def settings(tables: Tables) -> Facts:
    """What the runs used, from the provenance of their tables."""

    def used(kind: str, table: str) -> dict[str, Any]:
        return storage.read_provenance(tables.folder / table / MODEL / "trec6.json", kind)["identity"]

    lora, scratch = (used("accuracy", f"accuracy/{method}") for method in ("lora_finetuning", "from_scratch"))
    scores = used("scores", "ntps")["train"]
    found = {
        f"lora.{name}": f"{lora['settings'][name]:g}"
        for name in ("max_steps", "batch_size", "learning_rate", "lora_dropout")
    }
    found |= {f"scratch.{name}": f"{scratch['settings'][name]:g}" for name in ("max_steps", "batch_size")}
    seeds = final_tests(tables, "lora_finetuning").groupby("dataset")["seed"].nunique()
    counts = sorted({seeds.min(), seeds.max()})
    return found | {
        "limit": str(lora["limit"]), "max_length": str(lora["max_length"]), "lora.dtype": lora["dtype"],
        "permutations": str(scores["label_permutations"]), "partitions": str(scores["partitions"]),
        "lora.seeds": " to ".join(map(str, counts)), "scratch.seeds": str(len(scratch["seeds"])),
    }  # fmt: skip


# --- published values ----------------------------------------------------------------------------------------------


def published(tables: Tables) -> Facts:
    """The statistics that `write_published` left."""
    folder, found = published_folder(tables.folder), Facts()
    for name, target in PUBLISHED.items():
        table = pd.read_csv(folder / f"{name}.csv")
        table = table[(table["target"] == target) & (table["score"] == "ntps")]
        together = table["model"].str.startswith("mean of")
        row, alone = one(table[together]), table[~together]["reading"]
        values = {
            "": rho(row),
            ".reading": str(row["reading"]),
            ".models": f"{(alone == 'holds').sum()} of {len(alone)}",
        }
        found |= {f"published.{target}{name}": value for name, value in values.items()}
    told = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return found | {f"published.{name}": value for name, value in told.items()}


def published_folder(folder: Path) -> Path:
    return folder.with_name("published")


def write_published(source: Path, target: Path) -> None:
    """Correlations, gain errors and sides of words of an import; the published values themselves are not written."""
    for name in PUBLISHED:
        storage.write_text(
            target / f"{name}.csv", (source / name / "selection" / "fixed.csv").read_text(encoding="utf-8")
        )
    fit = json.loads((source / "fig3" / "gain.json").read_text(encoding="utf-8"))["fit"]
    told = {
        "gain.held_out": three(fit["held_out_error"]),
        "gain.mean": three(fit["errors_of_baselines"]["mean gain"]),
    }
    told |= {f"words.{space}": text for space, text in sides(read_tables(source / "fig1", "words")).items()}
    pairs = results.load_pairs(source / "fig3")
    told["gain.negative"] = (
        f"{(pairs['lora_gain_linear'] < 0).sum()} of {pairs['lora_gain_linear'].notna().sum()}"
    )
    storage.write_text(target / "statistics.json", storage.to_json(told))
    print(f"wrote {target}: {', '.join(f'{name}.csv' for name in PUBLISHED)}, statistics.json")


if __name__ == "__main__":
    sys.exit(cli.run(main))
