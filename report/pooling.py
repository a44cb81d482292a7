"""What pooling brings: the same rows from results folders below one, which differ in cache.py's --pooling.

    for how in mean last mean_without_first; do
        for script in "cache.py --pooling $how" K_sweep.py linear_sklearn.py; do
            python $script --config configs/experiments/mini.yaml --output results/pooling/$how
        done
    done
    python -m report.pooling results/pooling

Writes a row for every pooling and pair, at the best layer under that pooling and kv = d/10, and prints the means over the
pairs that all folders have.
"""

import sys
from pathlib import Path

import pandas as pd

from ntps.errors import UserError
from ntps.results.tables import PAIR
from ntps.run import cli
from ntps.system import atomic_files, provenance
from report.tables import Tables

SHOWN = "layer gcv_skill ridge_test_skill probe_accuracy ntps null_lift p_value retention retention_corrected".split()


def main(results: str, output: str | None = None) -> int:
    """Compare poolings.

    Args:
        results: the folder of the results folders, one for each pooling
        output: the table (default: RESULTS/pooling.csv)
    """
    folders = sorted(path.parent for path in Path(results).glob("*/ntps"))
    if not folders:
        raise UserError(
            f"{results} has no results folders: run cache.py with --output {results}/mean, and so on"
        )
    table = pd.concat(map(of_folder, folders))
    for pair, rows in table.groupby(PAIR):
        for other in rows["train"]:
            what = f"{' x '.join(map(str, pair))}: the folders below {results} differ in more than pooling"
            provenance.check_same(what, rows["train"].iloc[0], other)
    table = table[["pooling", *PAIR, *SHOWN]]
    shared = table[table.groupby(PAIR)["pooling"].transform("nunique") == table["pooling"].nunique()]
    print(shared.groupby(["model", "pooling"])[SHOWN].mean().to_string(float_format="{:.3f}".format))
    path = Path(output or f"{results}/pooling.csv")
    atomic_files.write_text(path, table.to_csv(index=False, float_format="%.5f"))
    print(
        f"wrote {path}: {len(table)} rows, {len(shared[PAIR].drop_duplicates())} pairs in all of {len(folders)} folders"
    )
    return 0


def of_folder(folder: Path) -> pd.DataFrame:
    """A row a pair, with its pooling, and as `train` the rest of the train moments' identity."""
    tables = Tables(folder)
    table = tables.best.merge(tables.pairs[[*PAIR, "probe_accuracy"]], on=PAIR)
    files = (
        folder / "ntps" / model / f"{dataset}.json"
        for model, dataset in zip(table["model"], table["dataset"])
    )
    train = [provenance.UNSAID | provenance.read(file, "scores")["identity"]["train"] for file in files]
    return table.assign(pooling=[one.pop("pooling") for one in train], train=train)


if __name__ == "__main__":
    sys.exit(cli.run(main))
