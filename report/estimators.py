"""docs/estimators.md: what each score says of a population whose value is known, by simulation.

    python -m report.estimators --moments results/mine/moments/smollm2-135m/trec6/train.safetensors   # goes on where it stopped
    python -m report.estimators                                                            # the page and picture, from the table

The states are those of a cached layer (ntps/evaluation/known_truth.py has the model); finished cells are appended to the table.
"""

import math
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from ntps.errors import UserError
from ntps.moments.file import MomentsFile
from ntps.run import cli
from ntps.scores.layer import Layer
from ntps.system import console, storage
from report.estimator_trials import PARTITIONS, Cell, judged, trial

MAIN = (6, 0.3)  # classes and R2
KINDS = ((1, 0.3), (2, 0.6), (1, 0.1), (6, 0.1), (1, 0.6))
CELLS = {
    **{Cell(ratio, *MAIN): 40 for ratio in (2, 8, 32)},
    **{
        Cell(ratio, *MAIN, "drawn", partitions=PARTITIONS): count
        for ratio, count in ((8, 40), (2, 24), (32, 24))
    },
    **{Cell(ratio, *MAIN): 40 for ratio in (1.25, 4, 16, 64)},
    **{Cell(ratio, *kind): 30 for kind in KINDS for ratio in (2, 8, 32)},
    **{Cell(ratio, *MAIN, freedom=5.0): 24 for ratio in (2, 8, 32)},
    **{Cell(ratio, *MAIN, partitions=PARTITIONS): 24 for ratio in (2, 8, 32)},
}  # and how many populations, with a sample each
KEYS = list(asdict(Cell(1, 1, 1)))


def main(moments: str | None = None, layer: int = 16, trials: float = 1.0, docs: str = "docs") -> int:
    """Simulate what is missing in the table, and write the page and its picture.

    Args:
        moments: a train.safetensors of cache.py; without it the page is made from the table
        layer: whose states are the population's
        trials: a share of the usual number
        docs: where estimators.csv, estimators.md and estimators.png go
    """
    table = Path(docs) / "estimators.csv"
    if moments is not None:
        file = MomentsFile(Path(moments))
        if layer not in file.layers:
            raise UserError(f"{moments} has layers {file.layers}: give one of them as --layer")
        simulate(Layer(file.averages(file.layers.index(layer), permuted=False)), table, trials)
    return 0


def simulate(base: Layer, table: Path, share: float) -> None:
    """Append every cell that the table lacks."""
    done = set(pd.read_csv(table)[KEYS].itertuples(index=False, name=None)) if table.exists() else set()
    for cell, count in CELLS.items():
        if (key := tuple(asdict(cell).values())) not in done:
            rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
            rows = judged(cell, [trial(base, cell, rng) for _ in range(max(3, math.ceil(count * share)))])
            old = pd.read_csv(table) if table.exists() else None
            storage.write_text(table, pd.concat([old, rows]).to_csv(index=False, float_format="%.4g"))
            console.say(f"{cell}: done")


if __name__ == "__main__":
    sys.exit(cli.run(main))
