"""A results folder as two tidy tables: every score in long form, and what was measured of each pair.

What is missing is NaN. A pair is named by its path. The scores of a pair that share (order, rule, fraction or kv)
are comparable between data sets; kv without a fraction is the headline's kv = d/10.
"""

import contextlib
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from ntps.accuracies import registry
from ntps.errors import UserError
from ntps.scores.registry import (
    CONDITIONED_COLUMNS,
    CONDITIONED_SCORES,
    LAYER_SCORES,
    SUBSPACE_SCORES,
    candidates,
)
from ntps.system import provenance

PAIR = ["model", "dataset"]
POINT = ["layer", "order", "rule", "fraction", "kv"]  # where in a pair a score was taken
# score: +1 if a higher value promises labels that a linear probe reads well, -1 if a lower one does
SUBSPACE, LAYER = candidates(SUBSPACE_SCORES) | candidates(CONDITIONED_SCORES), candidates(LAYER_SCORES)
ON_TEST = candidates(on_test=True)  # on request only: measured on test labels, as the accuracies are
DIRECTION = SUBSPACE | LAYER | ON_TEST
METRICS = {target.metric for target in registry.TARGETS.values()}
NUMBERS = {"layer", "fraction", "kv", "seed", "step", *DIRECTION, *METRICS}  # columns that hold nothing else
# what scores are judged against: (+1 if more is a better readable task, -1 if less is; what it is, in words)
TARGETS = {name: (target.direction, target.meaning) for name, target in registry.TARGETS.items()}
METHODS = tuple(method.name for method in registry.METHODS)
CURVES = ".curves.safetensors"  # ending of a pair's file of curves over kv
HALF = 0.5  # the signal share below which NTPS describes the sample
COVARIATES = {
    "classes": "number of classes",
    "majority": "share of the largest class among the train rows",
    "tokens_per_text": "mean length of the train rows in tokens",
    "n_over_d": "train rows per dimension",
}


def read_tables(folder: str | Path, kind: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """All FOLDER/KIND/MODEL/DATASET.csv below each other; the pair's names are those of the path.

    UserError for one that is cut short or not a table, lacks a column that is needed, or has texts among its numbers.
    """
    tables = [pd.DataFrame(columns=list(dict.fromkeys([*PAIR, *needed])))]
    for path in sorted((Path(folder) / kind).glob("*/[!.]*.csv")):
        tables.append(read_table(path, needed).assign(model=path.parent.name, dataset=path.stem))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def read_table(path: Path, needed: Sequence[str] = ()) -> pd.DataFrame:
    """One table KIND/MODEL/DATASET.csv. UserError as above."""
    scripts = {"words": "alignment_vis", **dict.fromkeys(("ntps", "scores", "conditioned"), "K_sweep")}
    script = scripts.get(path.parts[-3], path.parts[-3])
    try:
        words: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}  # null and NA are words
        table = pd.read_csv(path, **(words if path.parts[-3] == "words" else {}))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run {script}.py with --overwrite") from None
    if lacking := [name for name in needed if name not in table]:
        raise UserError(f"{path} has no column {', '.join(lacking)}: run {script}.py with --overwrite")
    if texts := [name for name in NUMBERS.intersection(table) if not is_numeric_dtype(table[name])]:
        said = f"{path} has something else than numbers in column {', '.join(sorted(texts))}"
        raise UserError(f"{said}: run {script}.py with --overwrite")
    return table


def load_scores(folder: str | Path, columns: Sequence[str] = tuple(DIRECTION)) -> pd.DataFrame:
    """Every score of every pair (or other columns of their tables): model, dataset, layer, order, rule, fraction, kv, score, value.

    Scores of a whole layer (OUTPUT/scores) have no order, rule, fraction and kv. UserError if FOLDER has no scores.
    """
    subspace, layer = read_tables(folder, "ntps"), read_tables(folder, "scores")
    if subspace.empty and layer.empty:
        raise UserError(f"no scores in {folder}: run cache.py and K_sweep.py with --output {folder}")
    conditioned = read_tables(folder, "conditioned", CONDITIONED_COLUMNS[len(PAIR) :])
    chosen = conditioned[conditioned["choice"] == "cv"]
    chosen = chosen.assign(order="descending", rule="task_rank", fraction=math.nan)
    parts = []
    for table in (subspace, layer, *([chosen] if len(chosen) else [])):
        point = [name for name in PAIR + POINT if name in table]
        names = [name for name in columns if name in table]
        parts.append(table[point + names].melt(point, names, "score", "value"))
    long = pd.concat([part.astype({"score": "str"}) for part in parts], ignore_index=True)
    return long.reindex(columns=[*PAIR, *POINT, "score", "value"])


def load_pairs(folder: str | Path, groups: Sequence[str] = ()) -> pd.DataFrame:
    """One row a model x data set that has a score or an accuracy.

    group: data sets that share it have their texts from one source and count once; `groups` joins further ones,
    each a list such as "sst2,rotten_tomatoes". Columns: n_texts, the names of COVARIATES, best_layer (lowest gcv_error of
    the ridge probe on train; the only layer, where there is one), headroom, and the names of TARGETS.
    Accuracies are means over seeds; an mse is of classes, whose labels have one unit.
    """
    subspace, layers = read_tables(folder, "ntps"), read_tables(folder, "scores")
    methods = {name: read_tables(folder, f"accuracy/{name}") for name in METHODS}
    names = pd.concat([table[PAIR] for table in (subspace, layers, *methods.values())])
    pairs = names.drop_duplicates().sort_values(PAIR).reset_index(drop=True)
    if pairs.empty:
        raise UserError(f"no scores and no accuracies in {folder}")
    facts = [pair_facts(Path(folder), *pair) for pair in pairs.itertuples(index=False)]
    pairs = pairs.join(pd.DataFrame(facts))
    pairs["group"] = join_groups(pairs["dataset"], pairs.pop("source"), groups)
    pairs = pairs.merge(sizes(subspace), "left", PAIR)
    pairs = pairs.merge(best_layer_and_headroom(layers, methods["linear_sklearn"]), "left", PAIR)
    for name, measured in accuracies(methods, pairs).items():
        pairs = pairs.merge(measured.rename(name).reset_index(), "left", PAIR)
    for name in ("probe_mse", "probe_train_mse"):  # numbers have units of their own
        pairs[name] = pairs[name].mask(pairs["numeric"])
    for name, target in registry.TARGETS.items():
        if target.of:
            pairs[name] = pairs[target.of] - pairs[target.minus]
    columns = [*PAIR, "group", "n_texts", *COVARIATES, "best_layer", "headroom", *TARGETS]
    return pairs.reindex(columns=columns)


def in_papers_order(table: pd.DataFrame) -> pd.Series:
    """Which rows are of U_r and the leading directions of V."""
    return (table["order"] == "descending") & (table["rule"] == "task_rank")


def at_tenth(scores: pd.DataFrame) -> pd.DataFrame:
    """The headline's rows: ku = rank of the labels, kv = d/10, the paper's order."""
    return scores[in_papers_order(scores) & scores["fraction"].isna()]


def two_sided(headlines: pd.DataFrame) -> pd.Series:
    """Which of `at_tenth`'s rows have two-sided p-values: those with corrected scores, or a refusal. Older tables have one-sided
    ones, small above the null and 1 below all of it."""
    return headlines.reindex(columns=["retention_corrected", "corrected_refusal"]).notna().any(axis=1)


def at_points(long: pd.DataFrame, order: str = "descending", rule: str = "task_rank") -> pd.DataFrame:
    """Scores of one order and rule and those of whole layers, with the column k: a fraction, d/10 or nothing."""
    of_layer, requested = long["order"].isna(), (long["order"] == order) & (long["rule"] == rule)
    if not requested.any() and not of_layer.all():
        kinds = long[["order", "rule"]].dropna().drop_duplicates().agg(" ".join, axis=1)
        raise UserError(f"no scores of --order {order} --rule {rule}; there are: {', '.join(kinds)}")
    long = long[of_layer | requested].copy()
    long["k"] = [
        f"{share:.2f}" if share == share else "d/10" if kv == kv else ""  # NaN differs from itself
        for share, kv in zip(long["fraction"], long["kv"])
    ]
    return long


def headline(long: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """model, dataset and a column a score: its value at the pair's best layer and kv = d/10, fixed beforehand.

    long: of `at_points`. Where there is no d/10 (rule fraction) fraction 0.1 stands for it; where there is no layer
    and no k (published values), what there is.
    """
    known = set(long["k"])
    k = next((k for k in ("d/10", "0.10") if k in known), "")
    rows = long.merge(pairs[[*PAIR, "best_layer"]], on=PAIR)
    rows = rows[((rows["layer"] == rows["best_layer"]) | rows["layer"].isna()) & rows["k"].isin([k, ""])]
    table = rows.pivot_table("value", PAIR, "score", "mean").reset_index().rename_axis(columns=None)
    return table.reindex(columns=[*PAIR, *sorted(set(long["score"]))])


def only(table: pd.DataFrame, **requested: Sequence[str]) -> pd.DataFrame:
    """Rows of the names given for each column, or all."""
    for column, names in requested.items():
        there = set(table[column])
        if missing := [name for name in names if name not in there]:
            known = " ".join(sorted(there))
            raise UserError(f"--{column}s {' '.join(missing)}: not in the results; there are {known}")
        table = table[table[column].isin(names)] if names else table
    return table


def provenances(folder: Path, model: str, dataset: str) -> dict[str, dict[str, Any]]:
    """What stands beside the tables of a pair, by their kind: K_sweep.py's first, then the trainers'."""
    kinds = ("ntps", *(f"accuracy/{method}" for method in METHODS))
    files = {kind: folder / kind / model / f"{dataset}.json" for kind in kinds}
    return {kind: provenance.read(file) for kind, file in files.items() if file.exists()}


def pair_facts(folder: Path, model: str, dataset: str) -> dict[str, Any]:
    """source, classes, majority, tokens_per_text and whether labels are numbers, from the provenance beside the scores.

    A warning where tables of the pair are of other rows or weights than the first: its row is of several runs.
    """
    about = provenances(folder, model, dataset)
    if "ntps" in about:
        with contextlib.suppress(UserError):  # none there, or one that cannot be read: it is not used here
            about["moments"] = provenance.read(folder / "moments" / model / dataset / "train.safetensors")
    runs = {kind: run for kind, found in about.items() if (run := run_of(found["identity"]))}
    for kind, run in runs.items():
        first, known = next(iter(runs.items()))
        if unlike := ", ".join(name for name in run if name in known and run[name] != known[name]):
            said = f"{kind} is of another run than {first} ({unlike}), values of both are set side by side: make the older one again, with --overwrite"
            warnings.warn(f"{model} x {dataset}: {said}", stacklevel=2)
    classes = runs.get("ntps", {}).get("classes")
    record = about.get("ntps", {}).get("record", {}).get("moments", {})
    counts, rows = record.get("class_counts"), record.get("texts")
    several = record.get("data", {}).get("description", {}).get("target") == "multilabel"
    of = (rows if several else sum(counts)) if counts else None  # rows
    return {
        "source": source_of(record.get("data", {})),
        "classes": len(classes or []) or math.nan,
        "tokens_per_text": record["tokens"] / rows if rows else math.nan,
        "majority": max(counts) / of if of and classes and len(classes) > 1 else math.nan,
        "numeric": classes == [],
    }


def run_of(identity: dict[str, Any]) -> dict[str, Any]:
    """What tables that are set side by side must share; nothing where it is not recorded (published values)."""
    train = identity.get("train", identity)
    if not (data := train.get("data")):
        return {}
    texts = data.get("texts_sha256")
    own = {"texts": texts.get("train") if isinstance(texts, dict) else texts}
    own |= {"weights": (train.get("model") or {}).get("weights")}
    return {name: (train | data).get(name) for name in ("limit", "max_length", "classes")} | {
        name: value for name, value in own.items() if value
    }


def source_of(data: dict[str, Any]) -> str | None:
    """What decides whether two data sets are the same texts: the files they are read from."""
    source, used = data.get("source") or {}, data.get("description") or {}
    if "package" in source:
        return json.dumps([source["package"], used.get("file")])
    if source.get("sha256"):  # of files on this disk
        return json.dumps(sorted(source["sha256"].values()))
    return json.dumps([source["id"], source.get("config")]) if "id" in source else None


def join_groups(datasets: pd.Series, sources: pd.Series, groups: Iterable[str]) -> list[str]:
    """The group of each row, named by its data sets: those of one source, and those that `groups` joins."""
    together = {name: {name} for name in datasets}
    same = [set(datasets[sources == source]) for source in sources.dropna().unique()]
    for names in same + [{name.strip() for name in group.split(",")} for group in groups]:
        if unknown := names - set(together):
            there = ", ".join(sorted(together))
            raise UserError(f"--groups: no data set {', '.join(sorted(unknown))}; there are {there}")
        union = set().union(*(together[name] for name in names))
        together |= dict.fromkeys(union, union)
    return [",".join(sorted(together[name])) for name in datasets]


def sizes(table: pd.DataFrame) -> pd.DataFrame:
    """n_texts and n_over_d of each pair; d = kv / chance."""
    table = table.reindex(columns=[*PAIR, "n_texts", "kv", "chance"])
    table["n_over_d"] = table["n_texts"] * table["chance"] / table["kv"]
    return table.groupby(PAIR, as_index=False)[["n_texts", "n_over_d"]].first()


def best_layer_and_headroom(scores: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """best_layer and headroom of each pair: by gcv_error, from K_sweep.py's table or else linear_sklearn.py's."""
    wanted = [*PAIR, "layer", "gcv_error", "headroom"]
    tables = [table.reindex(columns=wanted).dropna(subset=["gcv_error"]) for table in (scores, probes)]
    there = [table for table in tables if len(table)] or tables  # an empty column would make layers floats
    best = pd.concat(map(lowest_error, there)).drop_duplicates(PAIR)
    return best.rename(columns={"layer": "best_layer"})[[*PAIR, "best_layer", "headroom"]]


def lowest_error(table: pd.DataFrame) -> pd.DataFrame:
    """The row of each pair's best layer, as ntps/scores/best_layer.py defines it."""
    return table.sort_values("gcv_error", kind="stable").drop_duplicates(PAIR)


def best_rows(folder: str | Path) -> pd.DataFrame:
    """K_sweep.py's row of each pair's best layer, from FOLDER/scores."""
    table = read_tables(folder, "scores", ["layer", "gcv_error"])
    return lowest_error(table.dropna(subset=["layer", "gcv_error"]))


def best_layers(folder: str | Path) -> dict[tuple[str, str], int]:
    """K_sweep.py's best layer of each pair that has one."""
    best = best_rows(folder)
    return dict(zip(zip(best["model"], best["dataset"]), best["layer"].astype(int)))


def accuracies(methods: dict[str, pd.DataFrame], pairs: pd.DataFrame) -> dict[str, pd.Series]:
    """Each measured target by pair, mean over seeds; gains, which are differences of two, are none of them."""
    best, means = pairs[[*PAIR, "best_layer"]], {}
    columns = [*PAIR, "layer", "probe", "split", "final", "accuracy", "mse"]
    for method in registry.METHODS:
        table = methods[method.name].reindex(columns=columns).merge(best, "left", PAIR)
        # a table that has no layers is of one (the published values)
        at_best = (table["layer"] == table["best_layer"]) | table["layer"].isna()
        final = table["final"] == True  # noqa: E712  (empty columns are of no type)
        for target in method.targets:
            if not target.of:
                chosen = (table["probe"] == target.probe) & at_best if target.probe else final
                rows = table[chosen & (table["split"] == target.split)]
                means[target.name] = rows.groupby(PAIR)[target.metric].mean()
    return means
