"""The preregistered test of docs/finetuning.md: does corrected retention, alone, predict LoRA's gain on the confirmation half?

The plan was committed (PLAN) before LoRA was trained on a data set of that half; the test is made when all of them are there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr

from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, LEVEL, Array, Draws
from ntps.evaluation.gain import Points, design, points
from report import gains
from report.confirmation import LEAST_SETS, defined
from report.evidence import FOLDER, write_or_remove
from report.gains import GAIN

PLAN = "74b813d"
TABLE, TABLE_AGAIN = "gain_confirmation.csv", "gain_confirmation_again.csv"
SCORE = "retention_corrected"
# by groups, of the rule at a correlation of .67: simulated in tests/test_gain_confirmation.py
POWER = {13: 0.72, 8: 0.47}
# the columns of TABLE; errors are roots of mean squares over left-out groups, in accuracy
Outcome = dict[str, Any]


def missed(found: Outcome) -> list[str]:
    """The conditions of the plan that do not hold."""
    conditions = {
        "its error is not below that of the mean gain": found["rmse"] < found["rmse_of_mean"],
        f"p is above {ALPHA:g}": found["p"] <= ALPHA,
        "a lower retention goes with a smaller gain": found["slope"] < 0,
    }
    return [words for words, holds in conditions.items() if not holds]


def verdict(found: Outcome) -> str:
    return "not confirmed" if missed(found) else "confirmed"


def complete(table: pd.DataFrame, planned: Sequence[str]) -> bool:
    """Whether all data sets are trained; UserError where a trained one has no probe."""
    lacking = table.loc[table["probe_accuracy"].isna(), "dataset"].tolist()
    if lacking:
        raise UserError(f"{', '.join(lacking)}: LoRA is trained, and there is no probe: run make evidence")
    return set(table["dataset"]) == set(planned)


def judged(table: pd.DataFrame, discovery: pd.DataFrame, draws: Draws) -> Outcome | None:
    """`gains.judged` of the score, and what is said beside it; None where fewer than LEAST_SETS groups have a retention.

    Tables: `gains.measured`, of each half.
    """
    known = table[defined(table, SCORE)]
    if known["group"].nunique() < LEAST_SETS:
        return None
    found, _ = points(known, [SCORE], GAIN)
    (test,) = gains.judged(found, {SCORE: gains.fit(SCORE)}, draws).to_dict("records")
    carried = design(found, [SCORE]) @ line(points(discovery[defined(discovery, SCORE)], [SCORE], GAIN)[0])
    r = pearsonr(found.x[0, :, 0], found.gain[0])
    low, high = r.confidence_interval(LEVEL)
    return {
        **{name: test[name] for name in ("groups", "rmse_of_mean", "rmse", "p")},
        "slope": float(line(found)[1]),  # gain per unit of retention, over all
        # not part of the test:
        "rmse_of_discovery": gains.root_mean_square(carried - found.gain),  # of the line through the other half
        "r": float(r.statistic), "r_low": float(low), "r_high": float(high),  # Pearson's correlation, by Fisher's z
        "reliability": reliability(known["test_error"], known[GAIN]),  # of the gains, as far as test rows go
        "plan": PLAN,
    }  # fmt: skip


def again(folder: Path, discovery: pd.DataFrame, planned: Sequence[str], draws: Draws) -> Outcome | None:
    """`judged` with the second seeds; None until all data sets have one."""
    table = gains.measured(folder, "confirmation", seed=gains.AGAIN)
    return judged(table, discovery, draws) if complete(table, planned) else None


def reliability(errors: pd.Series, gain: pd.Series) -> float:
    """The share of the gains' variance that is not the mean square of their standard errors."""
    return 1 - float(np.square(errors).mean()) / float(gain.var())


def line(found: Points) -> Array:
    """(2,): intercept and slope over all points."""
    return np.linalg.lstsq(design(found, [SCORE])[0], found.gain[0])[0]


def write(found: Outcome | None, path: Path) -> None:
    write_or_remove(None if found is None else pd.DataFrame([found]), path)


def read(path: Path) -> Outcome | None:
    if not path.exists():
        return None
    (row,) = pd.read_csv(path, dtype={"plan": str}).to_dict("records")
    return {str(name): value for name, value in row.items()}


def fact(_: object) -> dict[str, str]:
    """For report/reproduction.py."""
    found = read(FOLDER / TABLE)
    return {"gain.tested": "not tested yet" if found is None else verdict(found)}
