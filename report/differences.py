"""docs/differences.md: what rows, tolerance, layer, kv, pooling and quantisation make of the scores, from committed tables.

python -m report.differences        # from those of report/evidence.py and report/pooling.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from scipy.stats import sem

from ntps.evaluation.correlation import spearman
from ntps.results.tables import PAIR, in_papers_order
from ntps.run import cli
from ntps.system import atomic_files
from report import pages
from report.confirmation import rows_of
from report.evidence import ALL_LINEAR, FOLDER, with_accuracy
from report.tables import real
from report.words import markdown, number

BINS = (0, 1, 2, 4, 8, 16, 32)  # rows a dimension
DEPTHS = (0, 0.25, 0.5, 0.75, 1)  # of the model
ORIGINAL = "smollm2-135m"  # whose poolings and copies are compared
AGAIN = {
    "ntps": "NTPS", "retention_corrected": "corrected retention", "gcv_skill": "cross-validated skill", "accuracy": "probe's accuracy",
}  # fmt: skip
NOT_RUN = "Not run yet."
ERRORS = {name: f"{name}_se" for name in ("ntps", "retention_corrected")}
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # kv / d


def main(folder: str = str(FOLDER), docs: str = "docs") -> int:
    """Write the page.

    Args:
        folder: where the tables are
        docs: the folder of the page
    """
    place, path = Path(folder), Path(docs) / "differences.md"
    best = real(rows_of(place))
    best = best[best["which"] == "best"]
    tables = {
        "rows": by_rows(real(pd.read_csv(place / "rows.csv"))),
        "tolerance": by_tolerance(real(pd.read_parquet(place / "conditioned.parquet")), best),
        "layer": by_layer(place),
        "kv": by_kv(real(pd.read_parquet(place / "sweep.parquet")), best),
    }
    parts = {
        **in_short(tables),
        **{name: markdown(table) for name, table in tables.items()},
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

    def between(table: str, column: str) -> str:
        known = tables[table][tables[table][column] != "-"]
        ordered = known.sort_values(column, key=lambda values: values.str.replace("−", "-").astype(float))
        ends = ordered.groupby("model", sort=False)[column].agg(["first", "last"])
        return ", ".join(
            f"{ends['first'][model]} to {ends['last'][model]} ({model})" for model in sorted(ends.index)
        )

    return {
        "few": few["n/d"], "few_off": few[off], "many": many["n/d"], "many_off": many[off],
        "rho_lift": between("tolerance", "ρ of its lift"),
        "layer_ntps": between("layer", "ρ of NTPS"),
        "layer_corrected": between("layer", "ρ of corrected retention"),
        "layer_pca": between("layer", "ρ of PCA's"),
        "kv_ntps": between("kv", "ρ of NTPS with accuracy"),
        "kv_retention": between("kv", "ρ of retention"),
    }  # fmt: skip


def rho(table: pd.DataFrame, score: str, target: str = "accuracy") -> str:
    both = table[[score, target]].dropna().to_numpy(float)
    return number(float(spearman(*both.T))) if len(both) > 5 else "-"


def mean(table: pd.DataFrame, column: str, form: str = ".3f") -> str:
    values = table[column].dropna()
    return f"{values.mean():{form}}".replace("-", "−") if len(values) else "-"


def by_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs and layers by n/d, and how far a score is from its own value of all rows."""
    keys = [*PAIR, "which"]
    whole = rows.loc[
        rows.groupby(keys)["partitions"].idxmax(), [*keys, "ntps", "retention_corrected", "ridge_test_skill"]
    ]
    fewer = rows.merge(whole, "left", keys, suffixes=("", "_whole"))
    fewer = fewer[fewer["partitions"] < fewer["partitions"].max()]
    for name in ("ntps", "retention_corrected", "ridge_test_skill"):
        fewer[f"{name}_gap"] = fewer[name] - fewer[f"{name}_whole"]
    fewer["far"], fewer["far_corrected"] = fewer["ntps_gap"].abs(), fewer["retention_corrected_gap"].abs()

    def lines() -> Iterator[dict[str, str]]:
        for low, high in zip(BINS, (*BINS[1:], float("inf"))):
            part = fewer[(fewer["n_over_d"] > low) & (fewer["n_over_d"] <= high)]
            if len(part):
                yield {
                    "n/d": f"{low} to {high:g}", "cases": f"{len(part)}", "NTPS": mean(part, "ntps"),
                    "off its value of all rows": mean(part, "far"), "corrected retention": mean(part, "retention_corrected"),
                    "off": mean(part, "far_corrected"), "signal share": mean(part, "signal_share", ".2f"),
                    "ridge probe's skill, less": mean(part, "ridge_test_skill_gap"),
                }  # fmt: skip

    return pd.DataFrame(lines())


def by_tolerance(conditioned: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    table = conditioned.merge(best[[*PAIR, "layer", "accuracy"]], on=[*PAIR, "layer"])
    same = table[(table["choice"] == "grid") & (table["rtol"] == table["prefix_rtol"])]
    choices = [(f"{tau:.0e}", same[same["rtol"] == tau]) for tau in sorted(same["rtol"].unique())]
    choices += [(choice, table[table["choice"] == choice]) for choice in ("cv", "cv_1se")]

    def lines() -> Iterator[dict[str, str]]:
        for name, part in choices:
            for model, own in part.groupby("model", sort=False):
                significant = own["conditioned_p_value"].dropna() <= 0.05
                yield {
                    "tolerance of M and P0": name, "model": str(model), "data sets": f"{len(own)}",
                    "NTPS": mean(own, "conditioned_ntps"), "null": mean(own, "conditioned_null_mean"),
                    "PCA": mean(own, "conditioned_ntps_pca"), "significant": f"{significant.sum()} of {len(significant)}",
                    "ρ of NTPS with accuracy": rho(own, "conditioned_ntps"), "ρ of its lift": rho(own, "conditioned_lift"),
                    "ρ of the null alone": rho(own, "conditioned_null_mean"),
                }  # fmt: skip

    return pd.DataFrame(lines())


def by_layer(place: Path) -> pd.DataFrame:
    table = real(with_accuracy(place))
    deepest = table.groupby(PAIR)["layer"].transform("max")

    def lines() -> Iterator[dict[str, str]]:
        for depth in DEPTHS:
            for model, own in table[table["layer"] == (depth * deepest).round()].groupby("model", sort=False):
                yield {
                    "depth": f"{depth:g}", "model": str(model), "probe's accuracy": mean(own, "accuracy"),
                    "NTPS": mean(own, "ntps"), "its lift": mean(own, "null_lift"),
                    "corrected retention": mean(own, "retention_corrected"), "PCA's": mean(own, "retention_corrected_pca"),
                    "ρ of NTPS": rho(own, "ntps"), "ρ of corrected retention": rho(own, "retention_corrected"),
                    "ρ of PCA's": rho(own, "retention_corrected_pca"),
                }  # fmt: skip

    return pd.DataFrame(lines())


def by_kv(sweep: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    table = sweep.merge(best[[*PAIR, "layer", "accuracy"]], on=[*PAIR, "layer"])
    table = table[in_papers_order(table)]

    def lines() -> Iterator[dict[str, str]]:
        for fraction in FRACTIONS:
            for model, own in table[(table["fraction"] - fraction).abs() < 1e-4].groupby("model", sort=False):
                yield {
                    "kv / d": f"{fraction:g}", "model": str(model), "NTPS": mean(own, "ntps"),
                    "retention": mean(own, "retention"), "ρ of NTPS with accuracy": rho(own, "ntps"),
                    "ρ of retention": rho(own, "retention"),
                }  # fmt: skip

    return pd.DataFrame(lines())


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
    both = both.assign(more=both["accuracy_all"] - both["accuracy"], error=sum(errors) ** 0.5)

    def lines() -> Iterator[dict[str, str]]:
        for _, row in both.iterrows():
            yield {
                "model": row["model"], "data set": row["dataset"], "seed": f"{row['seed']}", "probe": f"{row['accuracy_probe']:.3f}",
                "attention alone": f"{row['accuracy']:.3f}", "all linear modules": f"{row['accuracy_all']:.3f}",
                "more": f"{row['more']:+.3f} ± {row['error']:.3f}".replace("-", "−"),
                "best step": f"{row['step']} and {row['step_all']}", "settled": "yes" if row["settled_all"] else "no",
            }  # fmt: skip

    return markdown(pd.DataFrame(lines()))


def final_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run's line of the test split, by pair and seed."""
    return runs[runs["final"] & (runs["split"] == "test")].set_index([*PAIR, "seed"])


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

    def less(own: pd.DataFrame, name: str) -> str:
        if own is original:
            return "-"
        change = (own.set_index("dataset")[name] - first[name]).dropna().to_numpy(float)
        return f"{change.mean():+.3f} ± {sem(change):.3f}".replace("-", "−") if len(change) > 1 else "-"

    def known(own: pd.DataFrame, name: str) -> str:
        count = own[name].notna().sum()
        return mean(own, name) + (f" ({count})" if count < len(own) else "")

    def lines() -> Iterator[dict[str, str]]:
        for name, own in ways.items():
            yield {
                kind: name.rsplit("-", 1)[0] if "bit-" in name else name, "data sets": f"{len(own)}",
                "probe's accuracy": mean(own, "probe_accuracy"), "accuracy, less the first's": less(own, "probe_accuracy"),
                "ridge probe's skill": mean(own, "ridge_test_skill"), "NTPS": mean(own, "ntps"), "NTPS, less the first's": less(own, "ntps"),
                "its lift": mean(own, "null_lift"), "corrected retention": known(own, "retention_corrected"),
                "retention, less the first's": less(own, "retention_corrected"),
                "ρ of NTPS with accuracy": rho(own.rename(columns={"probe_accuracy": "accuracy"}), "ntps"),
            }  # fmt: skip

    return markdown(pd.DataFrame(lines()))


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
