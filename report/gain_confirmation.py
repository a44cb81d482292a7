"""The preregistered test of docs/finetuning.md: does corrected retention, alone, predict LoRA's gain on the confirmation half?

The plan was committed (PLAN) before LoRA was trained on a data set of that half; it is made once, when all of them are there.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ntps.evaluation.correlation import ALPHA, Array, Draws, Positions
from ntps.evaluation.gain import Points, designs, held_out, mean_square, points
from report.confirmation import LEAST, defined
from report.evidence import to_csv
from report.facts import markdown, points_of, three

PLAN = "74b813d"
TABLE = "gain_confirmation.csv"
GAIN, SCORE = "lora_gain", "retention_corrected"


@dataclass(frozen=True)
class Outcome:
    """Errors are roots of mean squares over left-out data sets, in accuracy; slope: gain per unit of retention, over all."""

    data_sets: int
    rmse_of_mean: float
    rmse: float
    p: float
    slope: float
    verdict: str
    rmse_of_discovery: float  # of the line through the other half: not part of the test
    plan: str = PLAN


def judged(table: pd.DataFrame, discovery: pd.DataFrame, draws: Draws) -> Outcome | None:
    """Tables: report.finetuning.measured, of each half. None where fewer than LEAST data sets have a retention.

    p: one-sided, of a held-out error as small when the gains change places among the data sets.
    """
    known = table[defined(table, SCORE)]
    if len(known) < LEAST:
        return None
    found, _ = points(known, [SCORE], GAIN)
    design = designs(found)[(SCORE,)]

    def accuracy(at: Positions) -> Array:
        gains = found.gain[:, np.atleast_2d(at)].transpose(1, 0, 2)
        less = -mean_square(held_out(design, gains, found.across))[:, None]
        return less[0] if at.ndim == 1 else less

    p = float(draws.permuted(accuracy, len(found.groups), "greater").p[0])
    own, mean = error(found, design), error(found, design[..., :1])
    slope = float(line(found)[1])
    confirmed = own < mean and p <= ALPHA and slope < 0
    return Outcome(
        len(found.groups), mean, own, p, slope, "confirmed" if confirmed else "not confirmed",
        math.sqrt(np.square(from_discovery(found, discovery) - found.gain).mean()),
    )  # fmt: skip


def error(found: Points, design: Array) -> float:
    return math.sqrt(mean_square(held_out(design, found.gain[None], found.across))[0])


def line(found: Points) -> Array:
    """(2,): intercept and slope over all points."""
    return np.linalg.lstsq(designs(found)[(SCORE,)][0], found.gain[0])[0]


def from_discovery(found: Points, discovery: pd.DataFrame) -> Array:
    """(1, G): gains by the line through the groups of the discovery half."""
    older, _ = points(discovery[defined(discovery, SCORE)], [SCORE], GAIN)
    return designs(found)[(SCORE,)] @ line(older)


def write(found: Outcome | None, folder: Path) -> None:
    if found is not None:
        to_csv(pd.DataFrame([asdict(found)]), folder / TABLE)


def read(folder: Path) -> Outcome | None:
    path = folder / TABLE
    return Outcome(*pd.read_csv(path).iloc[0]) if path.exists() else None


# --- the section of the page ---------------------------------------------------------------------------------------


def result(table: pd.DataFrame, found: Outcome | None, planned: int) -> str:
    """What the test says, and what it was made of; only how many data sets are trained while some are missing."""
    if len(table) < planned:
        return f"**Not made yet**: LoRA has been trained on {len(table)} of the {planned} data sets."
    if found is None:
        return f"**Not measurable**: corrected retention is defined on fewer than {LEAST} data sets."
    p, slope = three(found.p), f"{found.slope:.2f}".replace("-", "−")
    return (
        f"**{found.verdict.capitalize()}.** Over {found.data_sets} data sets the held-out error of corrected retention is {points_of(found.rmse)} points, that of the mean gain "
        f"{points_of(found.rmse_of_mean)} (p {p}); slope {slope}, that is {points_of(found.slope / 10)} points a tenth of retention. The line through the discovery half, "
        f"carried over as it is, is off by {points_of(found.rmse_of_discovery)} points (not part of the test). Plan: `{found.plan}`.\n\n"
        f"![Gain against corrected retention on both halves](finetuning-retention.png)\n\n{gains_table(table)}"
    )  # fmt: skip


def headline(table: pd.DataFrame, found: Outcome | None) -> str:
    """A sentence for the top of the page; nothing before the test is made."""
    if found is None:
        return ""
    above, gain = int((table[GAIN] > 0).sum()), table[GAIN].mean()
    return (
        f" Tested alone on {found.data_sets} further data sets, as fixed beforehand, that is **{found.verdict}** (off by {points_of(found.rmse)} points, "
        f"the mean gain by {points_of(found.rmse_of_mean)}; p {three(found.p)}). There LoRA is above the probe on {above} of {len(table)}, by {points_of(gain)} points on average."
    )


def gains_table(table: pd.DataFrame) -> str:
    return markdown(pd.DataFrame([
        {
            "data set": row["dataset"], "probe": three(row["probe_accuracy"]), "LoRA": three(row["lora_accuracy"]), "gain": three(row[GAIN]),
            "error: test rows": three(row["test_error"]), "corrected retention": three(row[SCORE]), "passes": f"{row['lora_passes']:.0f}",
            "best step": f"{row['steps']:.0f}", "settled": f"{row['settled']:.0%}",
        }
        for row in table.sort_values(GAIN).to_dict("records")
    ]))  # fmt: skip
