"""docs/reproduction.md, its figure, and the same few sentences in README.md, from the tables of results/mini.

    python -m fig_plot.reproduction
    python -m fig_plot.reproduction --published results/released     # first: statistics of an import of the published values

Every number comes from a table: reproduction.template.md holds the words, and {{name}} in it is an entry of `facts`.
The first lines of the report, between <!-- short --> and <!-- /short -->, are put between the same marks in README.md.
A verdict is that of the 90 % interval: *holds* if all of it lies on the claim's side of 0, *reversed* if on the other,
*cannot tell* otherwise.
"""

import json
import math
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from fig_plot.figures import at_tenth, load_scores, save
from fig_plot.relations import correlation
from fig_plot.reproduction_figure import report_figure
from ntps import cli, results, storage
from ntps.errors import UserError
from ntps.rank_statistics import LEVEL, percentile_interval, resamples
from ntps.results import PAIR, read_tables
from ntps.selection_tables import reading
from ntps.words import SPACES, right_side

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = Path(__file__).with_name("reproduction.template.md")
MODEL, RANDOM = "smollm2-135m", "smollm2-135m-random"
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
        write_published(Path(published), tables.with_name("published"))
        return 0
    known, page = facts(tables), Path(docs) / "reproduction.md"
    text = filled(TEMPLATE.read_text(encoding="utf-8"), known)
    storage.write_text(page, text)
    pictures = save(report_figure(tables), page.with_suffix(""))
    pictures[1].unlink()  # the page shows the PNG
    readme = ROOT / "README.md"
    storage.write_text(readme, with_short(readme.read_text(encoding="utf-8"), text))
    print(f"wrote {page}, {pictures[0]} and the short version in {readme.name}")
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


def facts(folder: Path) -> Facts:
    """Everything that the report says in numbers, by name."""
    parts = [
        correlations(folder),
        texts(folder),
        best_scores(folder),
        random_model(folder),
        after_lora(folder),
    ]
    parts += [
        from_scratch(folder),
        sizes(folder),
        bounds(folder),
        words(folder),
        released(folder),
        gains(folder),
    ]
    parts += [
        label_length(folder),
        repeated(folder),
        settings(folder),
        published(folder.with_name("published")),
    ]
    return {name: value for part in parts for name, value in part.items()}


# --- words for numbers ---------------------------------------------------------------------------------------------


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of strings."""
    head = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [*head, *table.itertuples(index=False)])


def three(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]".replace("-", "−")


def rho(row: "pd.Series[float]") -> str:
    return f"{row['rho']:.2f}".replace("-", "−") + interval(row["low"], row["high"])


def held_out(row: "pd.Series[float]") -> str:
    return f"{row['heldout']:.2f}".replace("-", "−") + interval(row["heldout_low"], row["heldout_high"])


def one(table: pd.DataFrame, **where: str) -> "pd.Series[float]":
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise UserError(f"{len(table)} rows with {where}, not one: run ntps.selection again")
    return table.iloc[0]


def at_best(folder: Path) -> pd.DataFrame:
    """K_sweep.py's rows at kv = d/10 and each pair's best layer, with those of the layer's other scores."""
    layer = results.lowest_error(read_tables(folder, "scores", ["layer", "gcv_error"]))
    return layer.merge(at_tenth(load_scores(folder)), "left", [*PAIR, "layer"], suffixes=("", "_"))


def with_null(row: Any, score: str) -> str:
    """A score, what shuffled labels give, and p."""
    if score == "ntps":
        null, p = f"{three(row['null_mean'])} ± {three(row['null_std'])}", row["p_value"]
    else:
        null, p = three(row["retention_null"]), row["retention_p_value"]
    return f"{three(row[score])} ({null}; p {p:.2f})"


# --- the parts -----------------------------------------------------------------------------------------------------


def correlations(folder: Path) -> Facts:
    """TARGET.fixed, .p, .itself, .heldout, .reading, .heldout_reading of NTPS for every target."""
    fixed, choices = (pd.read_csv(folder / "selection" / f"{name}.csv") for name in ("fixed", "choices"))
    found: Facts = {}
    for target in fixed["target"].unique():
        here = {"model": MODEL, "target": target}
        row, choice = one(fixed, score="ntps", **here), one(choices, procedure="ntps", **here)
        found |= {
            f"{target}.fixed": rho(row), f"{target}.p": f"{row['p']:.2f}", f"{target}.reading": str(row["reading"]),
            f"{target}.itself": f"{choice['itself']:.2f}", f"{target}.itself_p": f"{choice['itself_p']:.2f}",
            f"{target}.heldout": held_out(choice), f"{target}.heldout_reading": str(choice["reading"]),
            f"{target}.seen": SEEN[str(row["reading"]).split(":")[0]], f"{target}.gap": f"{choice['gap']:.2f}", f"{target}.groups": f"{row['n_groups']:.0f}",
        }  # fmt: skip
    return found


def texts(folder: Path) -> Facts:
    """The two tables of texts, and in how many of them a score is told from shuffled labels."""
    pairs = results.load_pairs(folder)
    pairs = pairs[pairs["model"] == MODEL].set_index("dataset")
    best = at_best(folder)
    best = best[best["model"] == MODEL].set_index("dataset").loc[pairs.index]
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
    means = best.groupby(pairs["group"])[["ntps", "null_mean"]].mean()
    last = (
        at_tenth(load_scores(folder)).query("model == @MODEL and layer == layer.max()").set_index("dataset")
    )
    last = last.assign(accuracy=pairs["probe_accuracy"]).groupby(pairs["group"])[["ntps", "accuracy"]].mean()
    return {
        "ntps.with_null": str(correlation(means["ntps"].to_numpy(), means["null_mean"].to_numpy())),
        "ntps.last": str(correlation(last["ntps"].to_numpy(), last["accuracy"].to_numpy())),
        "table.accuracies": markdown(accuracies), "table.texts": markdown(scores), "texts": str(len(pairs)),
        "ntps.told": str(int((best["p_value"] <= 0.05).sum())),
        "retention.told": str(int((best["retention_p_value"] <= 0.05).sum())),
        "ntps.below": str(int((best["ntps"] < best["null_mean"]).sum())),
        "chance": three(best["chance"].median()), "ntps.range": f"{three(best['ntps'].min())} to {three(best['ntps'].max())}",
        "gain.over_probe": three(pairs["lora_gain"].mean()), "gain.over_head": three(pairs["lora_gain_linear"].mean()),
        "lora.beats_probe": str(int((pairs["lora_gain"] > 0).sum())),
        "lora.beats_head": str(int((pairs["lora_gain_linear"] > 0).sum())),
        "commonsense.scores": ", ".join(
            f"{name} {with_null(best.loc['commonsense_pypi'], score)}" for name, score in (("NTPS", "ntps"), ("retention", "retention"))
        ),
        "commonsense.skill": three(best.loc["commonsense_pypi", "heldout_skill_full"]),
    }  # fmt: skip


def best_scores(folder: Path) -> Facts:
    """How each score orders the texts by probe accuracy and by gain: at the fixed place, and chosen on other texts."""
    fixed, choices, compared = (pd.read_csv(folder / "selection" / f"{name}.csv") for name in ("fixed", "choices", "comparisons"))  # fmt: skip
    found: Facts = {}
    columns: dict[str, dict[str, str]] = {}
    for target, name in (("probe_accuracy", "probe accuracy"), ("lora_gain", "LoRA's gain")):
        here = fixed[(fixed["model"] == MODEL) & (fixed["target"] == target)].sort_values(
            "rho", ascending=False
        )
        chosen = choices[(choices["model"] == MODEL) & (choices["target"] == target)].set_index("procedure")
        columns[f"{name}: fixed place"] = {row["score"]: rho(row) for _, row in here.iterrows()}
        columns[f"{name}: held out"] = {str(score): held_out(row) for score, row in chosen.iterrows()}
        rows = compared[
            (compared["model"] == MODEL) & (compared["target"] == target) & (compared["basis"] == "fixed")
        ]
        better = rows[rows["reading"].str.endswith("is better")]["reading"].str.removesuffix(" is better")
        found |= {f"{target}.{score}": text for score, text in columns[f"{name}: fixed place"].items()}
        found |= {f"{target}.{score}.heldout": text for score, text in columns[f"{name}: held out"].items()}
        found[f"{target}.better"] = ", ".join(better[better != "ntps"]) or "none"
        held = chosen.drop(index=["any", "nested"], errors="ignore")["heldout"]
        found[f"{target}.best"] = f"{held.idxmax()} ({held.max():.2f})"
    table = pd.DataFrame(columns).fillna("-")
    order = [name for name in columns["probe accuracy: fixed place"] if name in table.index]
    table = table.loc[order + [name for name in table.index if name not in order]]
    return found | {"table.scores": markdown(table.reset_index(names="score"))}


def random_model(folder: Path) -> Facts:
    """Trained against random weights, each at its own best layer, on the texts that have both."""
    best, pairs = at_best(folder), results.load_pairs(folder)
    best = best.merge(pairs[[*PAIR, "probe_accuracy"]], "left", PAIR)
    own, other = (best[best["model"] == model].set_index("dataset") for model in (MODEL, RANDOM))
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


def mean_difference(change: "pd.Series[float]", groups: "pd.Series[str]") -> tuple[str, str]:
    """A mean over independent groups of texts with its bootstrap interval, and the verdict."""
    values = change.dropna().groupby(groups).mean().to_numpy()
    drawn = resamples(len(values), 2000, 42) @ values / len(values)
    low, high = percentile_interval(float(values.mean()), drawn, len(values))
    return f"{values.mean():+.3f}".replace("-", "−") + interval(low, high), reading(len(values), low, high)


def after_lora(folder: Path) -> Facts:
    """Before and after, at each one's best layer and at the last layer."""
    before, after = at_best(folder), at_best(folder / "after_lora")
    rows = {
        name: at_tenth(load_scores(place))
        for name, place in (("before", folder), ("after", folder / "after_lora"))
    }
    last = {
        name: table[table["layer"] == table["layer"].max()].set_index("dataset")
        for name, table in rows.items()
    }
    last["before"] = last["before"][last["before"]["model"] == MODEL]
    before = before[before["model"] == MODEL].set_index("dataset")
    after = after.set_index("dataset")
    before = before.loc[after.index]
    table, found = pd.DataFrame({"text": after.index}), {}
    pairs = results.load_pairs(folder)
    groups = pairs[pairs["model"] == MODEL].set_index("dataset")["group"]
    for score in ("ntps", "retention", "null_lift", "retention_adjusted", "gcv_skill"):
        for place, one_before, one_after in (
            ("after", before, after),
            ("after.last", last["before"], last["after"]),
        ):
            if score in one_after:
                change = (one_after[score] - one_before[score]).dropna()
                name = f"{place}.{score}"
                found[name], found[f"{name}.reading"] = mean_difference(change, groups)
                found[f"{name}.up"] = f"{(change > 0).sum()} of {len(change)}"
    for score, name in (("ntps", "NTPS"), ("retention", "retention"), ("gcv_skill", "probe's skill")):
        table[name] = [f"{three(a)} → {three(b)}" for a, b in zip(before[score], after[score])]
    table["shuffled NTPS"] = [
        f"{three(a)} → {three(b)}" for a, b in zip(before["null_mean"], after["null_mean"])
    ]
    table["layer"] = [f"{a:.0f} → {b:.0f}" for a, b in zip(before["layer"], after["layer"])]
    table["NTPS, last layer"] = [
        f"{three(last['before'].loc[name, 'ntps'])} → {three(last['after'].loc[name, 'ntps'])}"
        for name in after.index
    ]
    return found | {"table.after": markdown(table)}


def from_scratch(folder: Path) -> Facts:
    """The probe and the head against training from scratch, each difference with its standard error."""
    pairs = results.load_pairs(folder)
    pairs = pairs[(pairs["model"] == MODEL) & pairs["scratch_accuracy"].notna()]
    n = read_tables(folder, "accuracy/from_scratch").query("split == 'test'").groupby("dataset")["n"].max()
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


def sizes(folder: Path) -> Facts:
    """Scores of the same texts, read in different numbers, at the layer that is best with the reference number."""
    best = at_best(folder)
    best = best[best["model"] == MODEL].set_index("dataset")
    parts = [at_best_of(place, best["layer"]) for place in (folder, *sorted(folder.glob("texts-*")))]
    others = set(pd.concat(parts[1:])["dataset"])
    table = pd.concat(parts)
    table = table[table["dataset"].isin(others)].sort_values(["dataset", "n_texts"])
    rows = [
        {"text": row["dataset"], "texts": f"{row['n_texts']:.0f}", "n/d": f"{row['n_over_d']:.2f}", "NTPS (shuffled; p)": with_null(row, "ntps"),
         "retention (shuffled; p)": with_null(row, "retention"), "adjusted retention": three(row["retention_adjusted"])}
        for _, row in table.iterrows()
    ]  # fmt: skip
    found = {"table.sizes": markdown(pd.DataFrame(rows))}
    for name, part in table.groupby("dataset"):
        low, high = part.iloc[0], part.iloc[-1]
        found[f"sizes.{name}"] = (
            f"{three(low['ntps'])} with {low['n_texts']:.0f} texts and {three(high['ntps'])} with {high['n_texts']:.0f}"
        )
    return found


def at_best_of(folder: Path, layers: "pd.Series[int]") -> pd.DataFrame:
    table = at_tenth(load_scores(folder))
    table = table[(table["model"] == MODEL) & table["dataset"].isin(layers.index)]
    return table[table["layer"] == table["dataset"].map(layers)]


def bounds(folder: Path) -> Facts:
    """How often lower <= excess <= upper, and how far apart they are."""
    table = load_scores(folder).dropna(subset=["excess", "excess_lower", "excess_upper"])
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


def words(folder: Path) -> Facts:
    """Words of figure 1 on their side of the line in each plane, with the share of relabellings that do as well."""
    found: Facts = {}
    for (_, dataset), table in read_tables(folder, "words").groupby(PAIR):
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


def released(folder: Path) -> Facts:
    """What the released code's choices change, where the same texts show it."""
    pairs = results.load_pairs(folder)
    pairs = pairs[pairs["model"] == MODEL]
    fixed = pd.read_csv(folder / "selection_released" / "fixed.csv")
    table = load_scores(folder)
    rows = table[(table["model"] == MODEL) & (table["order"] == "released") & (table["rule"] == "fraction")]
    ours = table[
        (table["model"] == MODEL) & (table["order"] == "descending") & (table["rule"] == "task_rank")
    ]
    found = {
        f"released.{target}": rho(one(fixed, model=MODEL, target=target, score="ntps"))
        for target in fixed["target"].unique()
    }
    return found | {
        "released.label_free": f"{(rows['ntps'] - rows['label_free']).abs().median():.1e}",
        "released.label_free_ours": f"{(ours['ntps'] - ours['label_free']).abs().median():.1e}",
        "released.perfect": str(int((pairs["probe_train_accuracy"] >= 0.99).sum())),
        "released.train": f"{pairs['probe_train_accuracy'].mean():.3f}",
        "released.test": f"{pairs['probe_accuracy'].mean():.3f}",
    }  # fmt: skip


def gains(folder: Path) -> Facts:
    """The calibration of the gain."""
    fit = json.loads((folder / "gain.json").read_text(encoding="utf-8"))["fit"]
    errors = "".join(f", {name} {error:.3f}" for name, error in fit["errors_of_baselines"].items())
    return {
        "gain.held_out": f"{fit['held_out_error']:.3f}", "gain.mean": f"{fit['errors_of_baselines']['mean gain']:.3f}",
        "gain.predictors": " + ".join(fit["predictors"]), "gain.p": f"{fit['p']:.2f}", "gain.errors": errors.removeprefix(", "),
        "gain.usable": "usable" if fit["usable"] else "not usable", "gain.why": fit["why"] or "it beats the mean gain",
    }  # fmt: skip


def label_length(folder: Path) -> Facts:
    """The ranges over texts of the share of ||U||^2 in the half of the directions with the least variance."""
    table = pd.read_csv(folder / "label_length.csv")
    return {
        f"length.{name}": f"{table[name].min():.0%} to {table[name].max():.0%}"
        for name in ("labels", "shuffled")
    }


def repeated(folder: Path) -> Facts:
    """Differences between two runs of the same texts, beside the error bars; other seeds and precision of LoRA."""
    again, first = at_best(folder / "rerun"), at_best(folder)
    both = first.merge(again, "inner", PAIR, suffixes=("", "_again"))
    rows = [
        {"text": row["dataset"], "layer": f"{row['layer']:.0f} and {row['layer_again']:.0f}",
         **{name: f"{three(row[column])} and {three(row[f'{column}_again'])} (error {three(row[f'{column}_se'])})"
            for name, column in (("NTPS", "ntps"), ("retention", "retention"))},
         "largest difference": f"{abs(row['ntps'] - row['ntps_again']):.0e}"}
        for _, row in both.iterrows()
    ]  # fmt: skip
    found = {name: final_lora(folder / name) for name in ("", "rerun", "float32")}
    seeds = [
        {"text": name, "the run's seed": three(found[""][name][0]), "again, by seed": ", ".join(map(three, again)),
         "standard deviation": three(np.std(again, ddof=1))}
        for name, again in found["rerun"].items()
    ]  # fmt: skip
    precise = [
        f"{name}: {three(exact[0])} in float32, {three(found[''][name][0])} in bfloat16"
        for name, exact in found["float32"].items()
    ]
    return {
        "table.rerun": markdown(pd.DataFrame(rows)),
        "table.seeds": markdown(pd.DataFrame(seeds)),
        "precision": "; ".join(precise),
    }


def final_lora(folder: Path) -> dict[str, list[float]]:
    """LoRA's final test accuracies of each text, by seed."""
    table = read_tables(folder, "accuracy/lora_finetuning")
    table = table[(table["split"] == "test") & table["final"].astype(bool)]
    return {str(name): list(part["accuracy"]) for name, part in table.groupby("dataset")}


def settings(folder: Path) -> Facts:
    """What the runs used, from the provenance of their tables."""
    about = storage.read_provenance(
        folder / "accuracy" / "lora_finetuning" / MODEL / "trec6.json", "accuracy"
    )
    used, train = about["identity"], about["identity"]["settings"]
    names = ("max_steps", "batch_size", "learning_rate", "rank", "lora_dropout", "start_layer")
    found = {f"lora.{name}": f"{train[name]:g}" for name in names}
    about = storage.read_provenance(folder / "accuracy" / "from_scratch" / MODEL / "trec6.json", "accuracy")
    scratch = about["identity"]["settings"]
    found |= {
        f"scratch.{name}": f"{scratch[name]:g}" for name in ("max_steps", "batch_size", "learning_rate")
    }
    scores = storage.read_provenance(folder / "ntps" / MODEL / "trec6.json", "scores")["identity"]["train"]
    return found | {
        "limit": str(used["limit"]), "max_length": str(used["max_length"]), "lora.dtype": used["dtype"],
        "permutations": str(scores["label_permutations"]), "partitions": str(scores["partitions"]),
        "lora.seeds": str(len(used["seeds"])),
    }  # fmt: skip


# --- published values ----------------------------------------------------------------------------------------------


def published(folder: Path) -> Facts:
    """The statistics that `write_published` left."""
    found: Facts = {}
    for name, target in PUBLISHED.items():
        table = pd.read_csv(folder / f"{name}.csv")
        row = one(table, target=target, score="ntps", model="mean of 8 models")
        alone = table[
            (table["target"] == target) & (table["score"] == "ntps") & (table["model"] != row["model"])
        ]
        found[f"published.{target}"] = rho(row)
        found[f"published.{target}.reading"] = str(row["reading"])
        found[f"published.{target}.models"] = f"{(alone['reading'] == 'holds').sum()} of {len(alone)}"
    told = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return found | {f"published.{name}": value for name, value in told.items()}


def write_published(source: Path, target: Path) -> None:
    """Correlations, gain errors and sides of words of an import; the published values themselves are not written."""
    for name in PUBLISHED:
        storage.write_text(
            target / f"{name}.csv", (source / name / "selection" / "fixed.csv").read_text(encoding="utf-8")
        )
    fit = json.loads((source / "fig3" / "gain.json").read_text(encoding="utf-8"))["fit"]
    told = {
        "gain.held_out": f"{fit['held_out_error']:.3f}",
        "gain.mean": f"{fit['errors_of_baselines']['mean gain']:.3f}",
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
