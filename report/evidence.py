"""The tables of `make evidence` in one file a kind, to commit and to read.

    python -m report.evidence results/evidence-run        # adds its finished pairs to results/evidence, in place of older ones

best.csv has a row a pair and layer, K_sweep.py's columns at kv = d/10 with those of whole layers and of conditioned NTPS at
the tolerances of cross-validation; conditioned.parquet NTPS at every tolerance, to five decimals, without what follows from the other
columns; sweep.parquet NTPS and retention at every order, rule and fraction; probes.csv what the logistic and the ridge probe reach
on test, by layer; head.csv the accuracies of linear_training.py, lora.csv those of lora_finetuning.py, short.csv of its runs of 100
steps, all_linear.csv of those that adapt all linear modules, hits.csv which test rows LoRA and probe have right (report/hits.py); finetune_probe.csv the gradient kernel's, kernel_variants.csv
that of parts of its features; rows.csv what fewer rows give (report/rows.py); facts.csv rows, classes, the hashes of weights and rows,
date and versions.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ntps.errors import UserError
from ntps.results.tables import PAIR, at_tenth, load_pairs, read_tables
from ntps.run import cli
from ntps.system import atomic_files, locks, provenance

FOLDER = Path("results/evidence")
HALVES = Path("configs/experiments/halves.json")
KEY = [*PAIR, "layer"]
SWEEP = [*KEY, "order", "rule", "fraction", "ku", "kv", "ntps", "retention"]
FACTS = [*PAIR, *"group n_texts classes majority tokens_per_text n_over_d best_layer headroom".split()]
WAIT = 600  # seconds for another that adds its pairs
ALL_LINEAR = "all_linear.csv"
DERIVED = ["conditioned_chance", "conditioned_ntps_minus_pca"]
PROBES = ("logistic_regression", "ridge")


def main(results: str, output: str = str(FOLDER)) -> int:
    """Add the finished pairs of a results folder.

    Args:
        results: the folder of `make evidence`
        output: the folder of the tables
    """
    with locks.locked(Path(output) / ".evidence.lock", wait=WAIT):
        add(tables(Path(results), Path(output)), Path(output))
    return 0


def add(found: dict[str, pd.DataFrame], output: Path) -> None:
    """Tables by file name into the folder, in place of what it holds of the same pairs."""
    for name, table in found.items():
        if table.empty:
            continue
        path = output / name
        read, write = (pd.read_parquet, to_parquet) if path.suffix == ".parquet" else (read_csv, to_csv)
        older = read(path) if path.exists() else table[:0]
        here = pairs_of(table)
        older = older[~among(older, here)]
        whole = pd.concat([part for part in (older, table) if len(part)])
        write(whole.sort_values(PAIR, kind="stable", ignore_index=True), path)
        print(f"wrote {path}: {len(here)} pairs new, {len(whole[PAIR].drop_duplicates())} in all")


def among(table: pd.DataFrame, pairs: set[tuple]) -> pd.Series:
    """Which rows are of these pairs."""
    return pd.Series([pair in pairs for pair in map(tuple, table[PAIR].to_numpy())], table.index, dtype=bool)


def halves() -> dict[str, list[str]]:
    """Data sets of the discovery and of the confirmation half."""
    return dict(json.loads(HALVES.read_text(encoding="utf-8")))


def read_csv(path: Path) -> pd.DataFrame:
    """`right` of hits.csv is digits, and no number."""
    return pd.read_csv(path, dtype={"right": str})


def to_csv(table: pd.DataFrame, path: Path) -> None:
    atomic_files.write_text(path, table.to_csv(index=False, float_format="%.7g"))


def write_or_remove(table: pd.DataFrame | None, path: Path) -> None:
    """None: an older table goes."""
    if table is None:
        path.unlink(missing_ok=True)
    else:
        to_csv(table, path)


def to_parquet(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.written(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd", compression_level=19)


def tables(folder: Path, output: Path) -> dict[str, pd.DataFrame]:
    """By file name: of the pairs that have been trained on, the last step of `make evidence`.

    Tables of `make finetuning` may join those that the output has of a pair from an earlier folder; so may further seeds.
    """
    head, path = read_tables(folder, "accuracy/linear_training"), output / "head.csv"
    done, earlier = pairs_of(head), pairs_of(read_csv(path) if path.exists() else head[:0])
    check_same_runs(folder, output, earlier - done)
    later = {name: table for name, table in fine_tuned(folder).items() if among(table, done | earlier).any()}
    if not done and not later:
        raise UserError(
            f"{folder} has no finished pairs, those with accuracy/linear_training: run make evidence"
        )
    found = first_tables(folder, head, done) if done else {}
    for name, table in later.items():
        found[name] = with_seeds(table[among(table, done | earlier)], output / name, earlier - done)
    return found


def with_seeds(table: pd.DataFrame, path: Path, pairs: set[tuple]) -> pd.DataFrame:
    """With the earlier file's rows of these pairs and of seeds that the table lacks."""
    if "seed" not in table or not path.exists():
        return table
    older = read_csv(path)
    older = older[among(older, pairs & pairs_of(table))]
    there = set(map(tuple, table[[*PAIR, "seed"]].to_numpy()))
    older = older[[key not in there for key in map(tuple, older[[*PAIR, "seed"]].to_numpy())]]
    return pd.concat([older, table]) if len(older) else table


def check_same_runs(folder: Path, output: Path, earlier: set[tuple]) -> None:
    """UserError where LoRA was trained from other weights or rows than the output's tables of the pair are of."""
    facts = pd.read_csv(output / "facts.csv").set_index(PAIR) if earlier else pd.DataFrame()
    for model, dataset in sorted(earlier):
        path = folder / "accuracy/lora_finetuning" / model / f"{dataset}.json"
        if not path.exists():
            continue
        identity = provenance.read(path)["identity"]
        hashes = identity["data"]["texts_sha256"]
        now = [identity["model"]["weights"], hashes["train"], hashes["test"]]
        then = list(facts.loc[(model, dataset), ["weights", "train_sha256", "test_sha256"]])
        if now != then:
            raise UserError(
                f"{path} is of other weights or rows than {output} has of {model} x {dataset}: run make evidence again"
            )


def pairs_of(table: pd.DataFrame) -> set[tuple]:
    return set(map(tuple, table[PAIR].to_numpy()))


def fine_tuned(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of `make finetuning`."""
    return {
        "lora.csv": read_tables(folder, "accuracy/lora_finetuning"),
        "finetune_probe.csv": read_tables(folder, "finetune_probe"),
        "kernel_variants.csv": read_tables(folder, "kernel_variants"),
        ALL_LINEAR: read_tables(folder / "all-linear", "accuracy/lora_finetuning"),
        "short.csv": read_tables(folder / "short", "accuracy/lora_finetuning"),
        "hits.csv": read_hits(folder),
    }


def first_tables(folder: Path, head: pd.DataFrame, done: set[tuple]) -> dict[str, pd.DataFrame]:
    """The tables of `make evidence`."""

    def of_done(table: pd.DataFrame) -> pd.DataFrame:
        return table[among(table, done)]

    scores, layers, conditioned = map(of_done, score_tables(folder, SWEEP))
    probes = of_done(read_tables(folder, "accuracy/linear_sklearn", ["split", "probe"]))
    probes = probes[(probes["split"] == "test") & probes["probe"].isin(PROBES)].dropna(axis=1, how="all")
    values = [
        name
        for name in conditioned.select_dtypes("float").columns.astype(str)
        if name.startswith("conditioned_")
    ]
    sweep = scores[SWEEP].astype({name: "float32" for name in ("fraction", "ntps", "retention")})
    return {
        "best.csv": whole_rows(scores, layers, conditioned),
        "conditioned.parquet": conditioned.round(dict.fromkeys(values, 5)).drop(columns=DERIVED),
        "probes.csv": probes,
        "head.csv": head,
        "rows.csv": of_done(read_tables(folder, "rows")),
        "facts.csv": with_provenance(folder, of_done(load_pairs(folder)[FACTS])),
        "sweep.parquet": sweep,
    }


def score_tables(folder: Path, columns: Sequence[str] = KEY) -> list[pd.DataFrame]:
    """K_sweep.py's of subspaces, of whole layers and of tolerances; UserError for those without these columns, of an earlier version."""
    needed = {"ntps": columns, "scores": KEY, "conditioned": [*KEY, "choice", "kv"]}
    return [read_tables(folder, kind, columns[len(PAIR) :]) for kind, columns in needed.items()]


def whole_rows(scores: pd.DataFrame, layers: pd.DataFrame, conditioned: pd.DataFrame) -> pd.DataFrame:
    """A row a pair and layer: the scores at kv = d/10, of whole layers, and conditioned at the tolerances of cross-validation."""
    cv = conditioned[conditioned["choice"] == "cv"].drop(columns=["choice", "kv"])
    table = at_tenth(scores).drop(columns=["order", "rule", "fraction"]).astype({"layer": "int64"})
    of_layers = layers.drop(columns="n_texts").dropna(subset="layer").astype({"layer": "int64"})
    return table.merge(of_layers, "left", KEY).merge(cv.astype({"layer": "int64"}), "left", KEY)


def read_hits(folder: Path) -> pd.DataFrame:
    """FOLDER/hits of report/hits.py."""
    paths = sorted((folder / "hits").glob("*/*.csv"))
    return pd.concat([pd.DataFrame(columns=PAIR), *map(read_csv, paths)], ignore_index=True)


def groups_of(folder: Path) -> pd.Series:
    """By data set: its group, of those that share rows or questions."""
    return pd.read_csv(folder / "facts.csv").drop_duplicates("dataset").set_index("dataset")["group"]


def with_accuracy(folder: Path) -> pd.DataFrame:
    """best.csv with the logistic probe's test accuracy at each layer, and the number of test rows."""
    best, probes = (pd.read_csv(folder / f"{name}.csv") for name in ("best", "probes"))
    probes = probes[probes["probe"] == PROBES[0]].rename(columns={"n": "test_rows"})
    return best.merge(probes[[*KEY, "accuracy", "test_rows"]], "left", KEY)


def final_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """The line of each run that has its final accuracy on test."""
    return runs[runs["final"] & (runs["split"] == "test")]


def with_provenance(folder: Path, pairs: pd.DataFrame) -> pd.DataFrame:
    found = []
    for model, dataset in pairs[PAIR].itertuples(index=False):
        about = provenance.read(folder / "ntps" / model / f"{dataset}.json", "scores")
        train, test = (about["identity"][split] for split in ("train", "test"))
        found.append({
            "weights": train["model"]["weights"], "train_sha256": train["data"]["texts_sha256"],
            "test_sha256": test["data"]["texts_sha256"], "limit": train["limit"], "max_length": train["max_length"],
            "dtype": train["dtype"], "date": about["record"]["moments"]["date"],
            "versions": " ".join(f"{name} {version}" for name, version in about["record"]["versions"].items()),
        })  # fmt: skip
    return pairs.reset_index(drop=True).join(pd.DataFrame(found))


if __name__ == "__main__":
    sys.exit(cli.run(main))
