"""The preregistered test of docs/finetuning.md: does corrected retention, alone, predict LoRA's gain on the confirmation half?

The plan was committed (PLAN) before LoRA was trained on a data set of that half; the test is made when all of them are there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import pearsonr

from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, LEVEL, Array, Draws
from ntps.evaluation.gain import Points, design, points
from report import gains
from report.confirmation import LEAST, defined
from report.evidence import FOLDER, write_or_remove
from report.gains import GAIN
from report.words import markdown, p_text, points_of, three, two

PLAN = "74b813d"
TABLE = "gain_confirmation.csv"
SCORE = "retention_corrected"
POWER = {
    13: 0.72,
    8: 0.47,
}  # by groups, of the rule at a correlation of .67: simulated in tests/test_gain_confirmation.py


@dataclass(frozen=True)
class Outcome:
    """Errors are roots of mean squares over left-out groups, in accuracy; slope: gain per unit of retention, over all."""

    groups: int
    rmse_of_mean: float
    rmse: float
    p: float
    slope: float
    # not part of the test:
    rmse_of_discovery: float  # of the line through the other half
    r: float  # Pearson's correlation
    r_low: float  # and its interval, Fisher's z
    r_high: float
    reliability: float  # of the gains, as far as test rows go: 1 - mean squared standard error / variance
    plan: str = PLAN

    @property
    def missed(self) -> list[str]:
        """The conditions of the plan that do not hold."""
        conditions = {
            "its error is not below that of the mean gain": self.rmse < self.rmse_of_mean,
            f"p is above {ALPHA:g}": self.p <= ALPHA,
            "a lower retention goes with a smaller gain": self.slope < 0,
        }
        return [words for words, holds in conditions.items() if not holds]

    @property
    def verdict(self) -> str:
        return "not confirmed" if self.missed else "confirmed"


def complete(table: pd.DataFrame, planned: Sequence[str]) -> bool:
    """Whether all data sets are trained; UserError where a trained one has no probe."""
    lacking = table.loc[table["probe_accuracy"].isna(), "dataset"].tolist()
    if lacking:
        raise UserError(
            f"{', '.join(lacking)}: LoRA is trained, and there is no probe: run make evidence, report.evidence"
        )
    return set(table["dataset"]) == set(planned)


def judged(table: pd.DataFrame, discovery: pd.DataFrame, draws: Draws) -> Outcome | None:
    """`gains.judged` of the score, and what is said beside it; None where fewer than LEAST groups have a retention.

    Tables: `gains.measured`, of each half.
    """
    known = table[defined(table, SCORE)]
    if known["group"].nunique() < LEAST:
        return None
    found, _ = points(known, [SCORE], GAIN)
    (test,) = gains.judged(found, {SCORE: gains.fit(SCORE)}, draws).to_dict("records")
    carried = design(found, [SCORE]) @ line(points(discovery[defined(discovery, SCORE)], [SCORE], GAIN)[0])
    r = pearsonr(found.x[0, :, 0], found.gain[0])
    low, high = r.confidence_interval(LEVEL)
    return Outcome(
        test["groups"], test["rmse_of_mean"], test["rmse"], test["p"], float(line(found)[1]), gains.root_mean_square(carried - found.gain),
        float(r.statistic), float(low), float(high), reliability(known["test_error"], known[GAIN]),
    )  # fmt: skip


def reliability(errors: pd.Series, gain: pd.Series) -> float:
    """The share of the gains' variance that is not the mean square of their standard errors."""
    return 1 - float(np.square(errors).mean()) / float(gain.var())


def line(found: Points) -> Array:
    """(2,): intercept and slope over all points."""
    return np.linalg.lstsq(design(found, [SCORE])[0], found.gain[0])[0]


def write(found: Outcome | None, folder: Path) -> None:
    write_or_remove(None if found is None else pd.DataFrame([asdict(found)]), folder / TABLE)


def read(folder: Path) -> Outcome | None:
    path = folder / TABLE
    if not path.exists():
        return None
    (row,) = pd.read_csv(path, dtype={"plan": str}).to_dict("records")
    return Outcome(**{str(name): value for name, value in row.items()})


def fact(_: object) -> dict[str, str]:
    """For report/reproduction.py."""
    found = read(FOLDER)
    return {"gain.tested": "not tested yet" if found is None else found.verdict}


# --- the page ------------------------------------------------------------------------------------------------------


def result(table: pd.DataFrame, found: Outcome | None, planned: Sequence[str]) -> str:
    """What the test says, and what it was made of; only how many data sets are trained while some are missing."""
    if not complete(table, planned):
        return f"**Not made yet**: LoRA has been trained on {len(table)} of the {len(planned)} data sets."
    if found is None:
        return f"**Not measurable**: corrected retention is defined on fewer than {LEAST} data sets."
    refused = table.loc[~defined(table, SCORE), "dataset"].tolist()
    why = f": {', and '.join(found.missed)}" if found.missed else ""
    return (
        f"**{found.verdict.capitalize()}**{why}. Over {found.groups} groups of data sets the held-out error of corrected retention is {points_of(found.rmse)} points, that of the "
        f"mean gain {points_of(found.rmse_of_mean)} (p {p_text(found.p)}); slope {two(found.slope)}, that is {points_of(found.slope / 10)} points for a tenth more retention"
        f"{'; refused on ' + ', '.join(refused) if refused else ''}. The line through the discovery half, carried over as it is, is off by {points_of(found.rmse_of_discovery)} points "
        f"(not part of the test). Plan: `{found.plan}`.\n\n"
        f"Also not part of it: gain and retention correlate at {two(found.r)} [{two(found.r_low)}, {two(found.r_high)}] (Pearson, {LEVEL:.0%} by Fisher's z). Several of these data sets "
        f"have few test rows: as far as these go, the gains have a reliability of {two(found.reliability)}.\n\n"
        "![Gain against corrected retention on both halves](finetuning-retention.png)\n\n"
        "*Passes*: of the training alone. These trainings went through short rows by the formula of attention, most of the discovery half did not.\n\n"
        f"{gains_table(table)}"
    )  # fmt: skip


def headline(table: pd.DataFrame, found: Outcome | None) -> str:
    """A sentence for the top of the page; nothing before the test is made."""
    if found is None:
        return ""
    return (
        f"**On {len(table)} further data sets corrected retention, tested alone as fixed beforehand, is {found.verdict} as a predictor** (off by {points_of(found.rmse)} points, "
        f"the mean gain by {points_of(found.rmse_of_mean)}; p {p_text(found.p)}). There LoRA is above the probe on {int((table[GAIN] > 0).sum())} of {len(table)}, "
        f"by {points_of(table[GAIN].mean())} points on average ({points_of(table[GAIN].min())} to {points_of(table[GAIN].max())}), in {table['lora_passes'].min():.0f} to "
        f"{table['lora_passes'].max():.0f} passes."
    )


def gains_table(table: pd.DataFrame) -> str:
    return markdown(pd.DataFrame([
        {
            "data set": row["dataset"], "probe": three(row["probe_accuracy"]), "LoRA": three(row["lora_accuracy"]), "gain": three(row[GAIN]),
            "its error from test rows": f"{three(row['test_error'])}{'' if row['paired_error'] == row['paired_error'] else ' at most'}",
            "corrected retention": three(row[SCORE]), "passes": f"{row['lora_passes']:.0f}",
            "best step": f"{row['steps']:.0f}", "settled": f"{row['settled']:.0%}",
        }
        for row in table.sort_values(GAIN).to_dict("records")
    ]))  # fmt: skip
