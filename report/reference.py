"""configs/reference.json, which prescreen's page compares with: held-out skill on the data sets of committed results.

python -m report.reference --folders results/mini
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.errors import UserError
from ntps.results.tables import PAIR, best_rows
from ntps.run import cli
from ntps.system import atomic_files

MODEL = "smollm2-135m"


def reference(folders: Sequence[str]) -> dict[str, Any]:
    """Of MODEL at each data set's best layer, by cross-validation on train: the ridge probe's skill on test rows.

    A data set that several folders have is that of the first.
    """
    best = pd.concat([best_rows(folder) for folder in folders]).drop_duplicates(PAIR)
    if "ridge_test_skill" not in best:
        raise UserError(f"{' '.join(folders)}: no scores of whole layers (scores/): run K_sweep.py there")
    best = best[best["model"] == MODEL].dropna(subset=["ridge_test_skill"]).set_index("dataset")
    least, most = best["n_texts"].min(), best["n_texts"].max()
    skills = best["ridge_test_skill"].round(4).sort_index().to_dict()
    return {
        "format": "ntps reference 1",
        "model": MODEL,
        "rows": f"{least} to {most}",
        "heldout_skill": skills,
    }


def main(folders: Sequence[str] = ("results/mini",), output: str = "configs/reference.json") -> int:
    """Write the reference.

    Args:
        folders: results folders
        output: the file
    """
    atomic_files.write_text(Path(output), atomic_files.to_json(reference(folders)))
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
