"""Scores from moments: NTPS for every layer, ku and kv, with chance, permutation null, excess loss and retention.

    python K_sweep.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python K_sweep.py --models smollm2-135m --datasets trec6 --output results --device cuda

Reads OUTPUT/moments/MODEL/DATASET/train.safetensors (where they are there, test for held-out scores and partitions
for error bars). Writes OUTPUT/ntps/MODEL/DATASET.csv, .curves.safetensors and .json, and one row a layer, with the
scores that others proposed, in OUTPUT/scores/MODEL/DATASET.csv; NTPS with the smallest directions of M and P0 left out, at each
pair of tolerances, in OUTPUT/conditioned/MODEL/DATASET.csv. docs/columns.md explains every column.
"""

import sys
from dataclasses import dataclass

from ntps.flags import Scoring
from ntps.run import cli


@dataclass(kw_only=True)
class Flags(Scoring):
    """Score every model x data set whose moments are in OUTPUT."""


def main(flags: Flags) -> int:
    from ntps.moments.pair import Pair  # after the flags: these imports take seconds
    from ntps.results.scoring import score_pair, solver_device

    device = solver_device(flags.device)

    def work(model: str, dataset: str) -> None:
        score_pair(Pair.of(model, dataset, flags.output, flags.adapter, not flags.no_verify), flags, device)

    return cli.for_each_pair(flags.models, flags.datasets, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
