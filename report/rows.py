"""What more rows bring: scores from a half, a quarter, ... of the train rows, by the partitions of one pass.

    python cache.py --models gemma3-270m --datasets trec6 --partitions 10
    python K_sweep.py --models gemma3-270m --datasets trec6
    python -m report.rows results --models gemma3-270m --datasets trec6

Writes RESULTS/rows/MODEL/DATASET.csv: at the best layer (of all rows) and the last one, for the first 1, 2, 3, 5, 7 and all
partitions, the columns of K_sweep.py's tables at kv = d/10 that SHOWN names. With fewer rows than dimensions
NTPS is the sample's; partitions have no permuted labels, so that there is no null here.
"""

import sys
from collections.abc import Iterator, Sequence

import pandas as pd

from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.moments.pair import Pair, partition_files
from ntps.results.tables import best_layers
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.registry import EVERY, SUBSPACE_SCORES
from ntps.system import atomic_files

SHARES = (1, 2, 3, 5, 7)  # partitions, besides all of them
SHOWN = (
    "n_texts n_over_d ntps retention retention_corrected retention_corrected_se "
    "retention_corrected_pca retention_corrected_minus_pca corrected_refusal signal_share adjusted_r2 gcv_skill ridge_test_skill"
).split()


def main(results: str, models: list[str], datasets: list[str]) -> int:
    """Score the first partitions of a pair.

    Args:
        results: the folder that cache.py wrote partitions to and K_sweep.py its tables
        models: names of the models
        datasets: names of the data sets
    """

    def work(model: str, dataset: str) -> None:
        pair = Pair.of(model, dataset, results)
        table, path = pd.DataFrame(rows_of(pair)), pair.table("rows")
        atomic_files.write_text(path, table.to_csv(index=False, float_format="%.7g"))
        print(f"wrote {path}: {len(table)} rows")

    return cli.for_each_pair(models, datasets, work)


def rows_of(pair: Pair) -> Iterator[dict[str, object]]:
    whole, test = pair.train_moments(), pair.test_moments()
    parts, best = partition_files(whole), best_layers(pair.output).get((pair.model, pair.dataset))
    if not parts or best is None:
        lacking = (
            "scores: run K_sweep.py" if parts else "partitions: run cache.py --partitions 10 --overwrite"
        )
        raise UserError(f"{whole.path} has no {lacking} first")
    for which, layer in (("best", best), ("last", whole.layers[-1])):
        place = whole.layers.index(layer)
        held_out = test.of_states(place) if test else None
        for count, moments in growing(whole, parts, place):
            scored = Layer(moments, held_out)
            point = next(point for point in scored.points("descending") if point.is_tenth)
            values = {
                name: EVERY[name].value(point if EVERY[name] in SUBSPACE_SCORES else scored) for name in SHOWN
            }
            yield {"which": which, "layer": layer, "partitions": count, "kv": point.kv} | values


def growing(
    whole: MomentsFile, parts: Sequence[MomentsFile], place: int
) -> Iterator[tuple[int, LayerMoments]]:
    """The moments of the first partitions, all of them first: each is the one before without its last parts."""
    moments, count = whole.averages(place), len(parts)
    for wanted in sorted({len(parts), *(share for share in SHARES if share < len(parts))}, reverse=True):
        for part in parts[wanted:count]:
            moments = moments.without(part.averages(place))
        count = wanted
        yield count, moments


if __name__ == "__main__":
    sys.exit(cli.run(main))
