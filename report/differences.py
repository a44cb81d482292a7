"""docs/differences.md: what rows, tolerance, layer, kv, pooling and quantisation make of the scores, from committed tables.

python -m report.differences        # from those of report/evidence.py and report/pooling.py
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
from scipy.stats import sem

from ntps.evaluation.correlation import ALPHA, spearman
from ntps.results.tables import PAIR, in_papers_order
from ntps.run import cli
from ntps.system import atomic_files
from report import pages, trained
from report.confirmation import LAYERS, LEAST_SETS, rows_of
from report.evidence import ALL_LINEAR, FOLDER, final_tests, with_accuracy
from report.gains import WORTH
from report.tables import real
from report.words import Columns, markdown, number, three, written

BINS = (0, 1, 2, 4, 8, 16, 32)  # rows a dimension
# rows a dimension at which data sets are compared, and a factor they may be off
EQUAL, NEAR = (1.3, 2.5, 6), 1.4
DEPTHS = (0, 0.25, 0.5, 0.75, 1)  # of the model
ORIGINAL = "smollm2-135m"  # whose poolings and copies are compared
AGAIN = {
    "ntps": "NTPS", "retention_corrected": "corrected retention", "gcv_skill": "cross-validated skill", "accuracy": "probe's accuracy",
}  # fmt: skip
NOT_RUN = "Not run yet."
Statistic = Callable[[pd.DataFrame], str]  # of a part of a table, as it is written
ERRORS = {name: f"{name}_se" for name in ("ntps", "retention_corrected")}
ALL = 10  # partitions of the train rows
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # kv / d


def main(folder: str = str(FOLDER), docs: str = "docs") -> int:
    """Write the page.

    Args:
        folder: where the tables are
        docs: the folder of the page
    """
    place, path = Path(folder), Path(docs) / "differences.md"
    both = real(rows_of(place))
    best, last = (both[both["which"] == which] for which in LAYERS)
    rows = real(pd.read_csv(place / "rows.csv"))
    conditioned = real(pd.read_parquet(place / "conditioned.parquet"))
    tables = {
        "rows": by_rows(rows),
        "equal": at_equal_rows(rows, both),
        "tolerance": by_tolerance(conditioned, best),
        "tolerance_last": by_tolerance(conditioned, last),
        "layer": by_layer(place),
        "kv": by_kv(real(pd.read_parquet(place / "sweep.parquet")), best),
    }
    parts = {
        **in_short(tables),
        "few_models": of_fewest(rows),
        **{name: markdown(table) for name, table in tables.items()},
        "twice": with_twice_the_rows(rows),
        **trained.sections(place),
        "targets": by_targets(place),
        **pooled(pd.read_csv(place / "pooling.csv")),
        "again": run_again(place),
        "pairs": ", ".join(f"{model} on {count} data sets" for model, count in best["model"].value_counts(sort=False).items()),
    }  # fmt: skip
    atomic_files.write_text(path, pages.filled("differences", parts))
    print(f"wrote {path}")
    return 0


def in_short(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """What the page's first lines take from the tables: of rows two lines, of the others each model's smallest and largest ρ."""
    rows, off = tables["rows"], "off its value of all rows"
    few, many = rows.iloc[0], rows.iloc[len(rows) // 2]

    def between(name: str, column: str, **where: str) -> str:
        table = tables[name]
        for head, value in where.items():
            table = table[table[head] == value]
        return spread(table, column)

    return {
        "equal_best": between("equal", "ρ of NTPS", layer="best"),
        "equal_last": between("equal", "ρ of NTPS", layer="last"),
        "few": few["n/d"], "few_off": few[off], "many": many["n/d"], "many_off": many[off],
        "rho_lift": between("tolerance", "ρ of its lift"),
        "rho_lift_last": between("tolerance_last", "ρ of its lift"),
        "layer_ntps": between("layer", "ρ of NTPS"),
        "layer_corrected": between("layer", "ρ of corrected retention"),
        "layer_pca": between("layer", "ρ of PCA's"),
        "kv_ntps": between("kv", "ρ of NTPS with accuracy"),
        "kv_retention": between("kv", "ρ of retention"),
    }  # fmt: skip


def spread(table: pd.DataFrame, column: str) -> str:
    """Which sign the column's numbers have, and of each model the smallest and the largest."""
    known = table[table[column] != "-"]
    known = known.assign(**{column: known[column].str.partition(" ")[0]})  # without the number of data sets
    known = known.assign(value=known[column].str.replace("−", "-").astype(float)).sort_values("value")
    ends = known.groupby("model")[column].agg(["first", "last"])
    low, high = known["value"].iloc[[0, -1]]
    sign = (
        "above zero throughout"
        if low > 0
        else "below zero throughout"
        if high < 0
        else "on both sides of zero"
    )
    return f"{sign} ({', '.join(f'{model} {first} to {last}' for model, first, last in ends.itertuples())})"


def with_twice_the_rows(rows: pd.DataFrame) -> dict[str, float]:
    """What the ridge probe's skill on test gains from half of the train rows to all, at the layer that is best with all."""
    skill = rows[rows["which"] == "best"].pivot(index=PAIR, columns="partitions", values="ridge_test_skill")
    gain = skill[ALL] - skill[ALL // 2]
    return {
        "median": gain.median(), "least": gain.min(), "most": gain.max(), "count": len(gain), "worth": int((gain > WORTH).sum()),
    }  # fmt: skip


def rho(score: str, target: str = "accuracy") -> Statistic:
    def text(table: pd.DataFrame) -> str:
        both = table[[score, target]].dropna().to_numpy(float)
        found = number(float(spearman(*both.T))) if len(both) >= LEAST_SETS else "-"
        return found if found == "-" or len(both) == len(table) else f"{found} ({len(both)})"

    return text


def mean(column: str, form: str = ".3f") -> Statistic:
    def text(table: pd.DataFrame) -> str:
        values = table[column].dropna()
        return f"{values.mean():{form}}".replace("-", "−") if len(values) else "-"

    return text


def count(table: pd.DataFrame) -> str:
    return str(len(table))


def lines(
    parts: Iterable[tuple[Mapping[str, str], pd.DataFrame]], columns: Mapping[str, Statistic]
) -> pd.DataFrame:
    """A line a part of a table: what it is called, and the columns' statistics of it."""
    return pd.DataFrame(
        [{**called, **{head: of(part) for head, of in columns.items()}} for called, part in parts]
    )


def by_model(
    kind: str, parts: Iterable[tuple[str, pd.DataFrame]]
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Each part's models."""
    for name, part in parts:
        for model, own in part.groupby("model", sort=False):
            yield {kind: name, "model": str(model)}, own


def by_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs and layers by n/d, and how far a score is from its own value of all rows."""
    keys, scores = [*PAIR, "which"], ["ntps", "retention_corrected", "ridge_test_skill"]
    whole = rows.loc[rows.groupby(keys)["partitions"].idxmax(), [*keys, *scores]]
    fewer = rows.merge(whole, "left", keys, suffixes=("", "_whole"))
    fewer = fewer[fewer["partitions"] < fewer["partitions"].max()]
    gaps = {f"{name}_gap": fewer[name] - fewer[f"{name}_whole"] for name in scores}
    fewer = fewer.assign(
        **gaps, far=gaps["ntps_gap"].abs(), far_corrected=gaps["retention_corrected_gap"].abs()
    )
    parts = (
        ({"n/d": f"{low} to {high:g}"}, fewer[(fewer["n_over_d"] > low) & (fewer["n_over_d"] <= high)])
        for low, high in zip(BINS, (*BINS[1:], float("inf")))
    )
    return lines([(called, part) for called, part in parts if len(part)], {
        "cases": count, "NTPS": mean("ntps"), "off its value of all rows": mean("far"), "corrected retention": mean("retention_corrected"),
        "off": mean("far_corrected"), "signal share": mean("signal_share", ".2f"), "ridge probe's skill, less": mean("ridge_test_skill_gap"),
    })  # fmt: skip


def of_fewest(rows: pd.DataFrame) -> str:
    """Of each model, how far NTPS of the fewest rows a dimension is off its value of all rows, at both layers."""

    def off(part: pd.DataFrame, which: str) -> str:
        table = by_rows(part[part["which"] == which])
        return f"{table['off its value of all rows'].iloc[0]} at the {which} layer"

    models = rows.groupby("model")
    return ", ".join(f"{name} {off(part, LAYERS[0])} and {off(part, LAYERS[1])}" for name, part in models)


def at_equal_rows(rows: pd.DataFrame, both: pd.DataFrame) -> pd.DataFrame:
    """Of each pair the part of its rows whose n/d is nearest to one of EQUAL, within NEAR of it; accuracy is that of all rows."""
    table = rows.merge(both[[*PAIR, "which", "accuracy"]], on=[*PAIR, "which"])

    def parts() -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
        for which in LAYERS:
            for target in EQUAL:
                off = (table["n_over_d"] / target).map(math.log).abs()
                near = table.assign(off=off)[(off <= math.log(NEAR)) & (table["which"] == which)]
                nearest = near.sort_values("off", kind="stable").drop_duplicates(PAIR).sort_values(PAIR)
                for model, own in nearest.groupby("model", sort=False):
                    yield {"layer": which, "n/d about": f"{target:g}", "model": str(model)}, own

    return lines(parts(), {
        "data sets": count, "ρ of NTPS": rho("ntps"), "ρ of corrected retention": rho("retention_corrected"),
        "ρ of PCA's": rho("retention_corrected_pca"), "ρ of the ridge probe's skill": rho("gcv_skill"),
    })  # fmt: skip


def by_tolerance(conditioned: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """rows: of one layer of each pair. Where P0 has fewer than d/10 directions left, none lead: these have no part."""
    tenth = rows[[*PAIR, "layer", "accuracy", "kv"]].rename(columns={"kv": "tenth"})
    table = conditioned.merge(tenth, on=[*PAIR, "layer"])
    table = table[table["conditioned_rank_prefix"] >= table["tenth"]]
    same = table[(table["choice"] == "grid") & (table["rtol"] == table["prefix_rtol"])]
    choices = [(f"{tau:.0e}", same[same["rtol"] == tau]) for tau in sorted(same["rtol"].unique())]
    choices += [(choice, table[table["choice"] == choice]) for choice in ("cv", "cv_1se")]

    def significant(own: pd.DataFrame) -> str:
        tested = own.dropna(subset="conditioned_p_value")
        lift = tested.loc[tested["conditioned_p_value"] <= ALPHA, "conditioned_lift"]
        return f"{(lift > 0).sum()} and {(lift < 0).sum()} of {len(tested)}"

    return lines(by_model("tolerance of M and P0", choices), {
        "data sets": count, "NTPS": mean("conditioned_ntps"), "null": mean("conditioned_null_mean"), "PCA": mean("conditioned_ntps_pca"),
        "above and below the null": significant, "ρ of NTPS with accuracy": rho("conditioned_ntps"), "ρ of its lift": rho("conditioned_lift"),
        "ρ of the null alone": rho("conditioned_null_mean"),
    })  # fmt: skip


def by_layer(place: Path) -> pd.DataFrame:
    table = real(with_accuracy(place))
    deepest = table.groupby(PAIR)["layer"].transform("max")
    parts = [(f"{depth:g}", table[table["layer"] == (depth * deepest).round()]) for depth in DEPTHS]
    return lines(by_model("depth", parts), {
        "probe's accuracy": mean("accuracy"), "NTPS": mean("ntps"), "its lift": mean("null_lift"),
        "corrected retention": mean("retention_corrected"), "PCA's": mean("retention_corrected_pca"),
        "ρ of NTPS": rho("ntps"), "ρ of corrected retention": rho("retention_corrected"), "ρ of PCA's": rho("retention_corrected_pca"),
    })  # fmt: skip


def by_kv(sweep: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    table = sweep.merge(best[[*PAIR, "layer", "accuracy"]], on=[*PAIR, "layer"])
    table = table[in_papers_order(table)]
    parts = [(f"{share:g}", table[(table["fraction"] - share).abs() < 1e-4]) for share in FRACTIONS]
    return lines(by_model("kv / d", parts), {
        "NTPS": mean("ntps"), "retention": mean("retention"), "ρ of NTPS with accuracy": rho("ntps"), "ρ of retention": rho("retention"),
    })  # fmt: skip


def by_targets(place: Path) -> str:
    """LoRA of the attention projections and of all linear modules, of the same seed, on the data sets that have both."""
    path = place / ALL_LINEAR
    if not path.exists():
        return NOT_RUN
    attention, every = (final_runs(pd.read_csv(file)) for file in (place / "lora.csv", path))
    both = attention.join(every.add_suffix("_all"), how="inner").reset_index()
    best = rows_of(place)
    both = both.merge(best[best["which"] == "best"][[*PAIR, "accuracy"]], on=PAIR, suffixes=("", "_probe"))
    errors = (both[name] * (1 - both[name]) / both["n"] for name in ("accuracy", "accuracy_all"))
    more, error = both["accuracy_all"] - both["accuracy"], sum(errors) ** 0.5
    both = both.assign(
        more=[f"{gap:+.3f} ± {se:.3f}".replace("-", "−") for gap, se in zip(more, error)],
        steps=[f"{one} and {other}" for one, other in zip(both["step"], both["step_all"])],
        settled=both["settled_all"].map({True: "yes", False: "no"}),
    )
    columns: Columns = {
        "data set": ("dataset", str), "seed": ("seed", str), "probe": ("accuracy_probe", three), "attention alone": ("accuracy", three),
        "all linear modules": ("accuracy_all", three), "more": ("more", str), "best step": ("steps", str), "settled": ("settled", str),
    }  # fmt: skip
    return written(both.set_index("model"), columns, "model")


def final_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run's line of the test split, by pair and seed."""
    return final_tests(runs).set_index([*PAIR, "seed"])


def pooled(table: pd.DataFrame) -> dict[str, str]:
    """ORIGINAL under each pooling, the paper's first, and its copies of few bits under the paper's."""
    as_published, original = table["pooling"] == "mean", table["model"] == ORIGINAL
    poolings = {str(name): part for name, part in table[original].groupby("pooling")}
    copies = {str(name): part for name, part in table[as_published].groupby("model")}
    first, shipped = poolings.pop("mean"), copies.pop(ORIGINAL)
    fewer = {ORIGINAL: shipped} | dict(sorted(copies.items(), reverse=True))
    return {
        "pooling": beside("pooling", {"mean": first} | poolings),
        "bits": beside("weights", fewer) if copies else NOT_RUN,
        "pooled_sets": f"{len(first)}",
    }  # fmt: skip


def beside(kind: str, ways: dict[str, pd.DataFrame]) -> str:
    """Means of each way over the data sets; accuracy and scores also less those of the first way, with their standard error."""
    original = next(iter(ways.values()))
    first = original.set_index("dataset")

    def less(name: str) -> Statistic:
        def text(own: pd.DataFrame) -> str:
            change = (own.set_index("dataset")[name] - first[name]).dropna().to_numpy(float)
            if own is original or len(change) < 2:
                return "-"
            return f"{change.mean():+.3f} ± {sem(change):.3f}".replace("-", "−")

        return text

    def corrected(own: pd.DataFrame) -> str:
        known = own["retention_corrected"].notna().sum()
        return mean("retention_corrected")(own) + (f" ({known})" if known < len(own) else "")

    parts = [({kind: name.rsplit("-", 1)[0] if "bit-" in name else name}, own) for name, own in ways.items()]
    return markdown(lines(parts, {
        "data sets": count, "probe's accuracy": mean("probe_accuracy"), "accuracy, less the first's": less("probe_accuracy"),
        "ridge probe's skill": mean("ridge_test_skill"), "NTPS": mean("ntps"), "NTPS, less the first's": less("ntps"),
        "its lift": mean("null_lift"), "corrected retention": corrected, "retention, less the first's": less("retention_corrected"),
        "ρ of NTPS with accuracy": rho("ntps", "probe_accuracy"),
    }))  # fmt: skip


def run_again(place: Path) -> str:
    """Pairs run once more from nothing, in FOLDER/rerun: the largest difference over the layers, and in standard errors."""
    again_there = place / "rerun" / "lora.csv"
    if not again_there.exists():
        return NOT_RUN
    lora = pd.read_csv(place / "lora.csv"), pd.read_csv(again_there)
    first, again = map(final_runs, lora)
    trained = (again["accuracy"] - first["accuracy"]).abs().groupby(level=PAIR).max().to_dict()
    seeds = first.groupby(level=PAIR)["accuracy"].var().mean() ** 0.5
    kept = [*PAIR, "layer", *AGAIN, *ERRORS.values()]
    own, other = (with_accuracy(folder)[kept] for folder in (place, place / "rerun"))
    both = own.merge(other, on=[*PAIR, "layer"], suffixes=("", "_again"))
    both = both.assign(**{name: (both[f"{name}_again"] - both[name]).abs() for name in AGAIN})
    both = both.assign(in_errors=(both[list(ERRORS)] / both[list(ERRORS.values())].to_numpy()).max(axis=1))

    def lines() -> Iterator[dict[str, str]]:
        for pair, own in both.groupby(PAIR):
            yield {
                "model": str(pair[0]), "data set": str(pair[1]), "layers": f"{len(own)}",
                **{title: f"{own[name].max():.1g}" for name, title in AGAIN.items()},
                "in standard errors": f"{own['in_errors'].max():.1g}", "LoRA's accuracy": f"{trained[pair]:.1g}" if pair in trained else "-",
            }  # fmt: skip

    spread = (
        ""
        if seeds != seeds
        else f"\n\nFor scale: between seeds LoRA's accuracies have a standard deviation of {seeds:.3f}."
    )
    return markdown(pd.DataFrame(lines())) + spread


if __name__ == "__main__":
    sys.exit(cli.run(main))
