"""Rows of ntps.selection's tables: what scores are worth at a layer and k fixed beforehand, and after a choice.

Models find the same data sets easy, so their correlations are no independent evidence: their mean is taken in every
bootstrap sample and permutation of the groups, which keeps the models of a group together.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ntps.evaluation.correlation import LEAST, LEVEL, Array, Draws, Positions, partial, spearman
from ntps.evaluation.held_out import judge
from ntps.results.tables import TARGETS

CANDIDATE = ["score", "layer", "k"]
OWN = "ntps"  # the score that the others are compared with
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One model and target: columns are independent groups; signs are such that a positive correlation is expected."""

    model: str
    target: str
    y: pd.Series  # (groups,)
    candidates: pd.DataFrame  # (candidates, groups), rows sorted by score
    fixed: pd.DataFrame  # (scores, groups): at the layer and k fixed beforehand
    covariates: pd.DataFrame  # (covariates, groups)
    left_out: list[str]

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def procedures(self) -> dict[str, pd.DataFrame]:
        """What is chosen from: layer and k of each score, and (of several) the score too."""
        parts = {str(name): part for name, part in self.candidates.groupby(level="score")}
        return parts | ({"any": self.candidates} if len(parts) > 1 else {})


def together(questions: list[Question]) -> Iterator[tuple[Row, list[Question]]]:
    """Each question alone and, target by target, those of all models where these have the same groups."""
    for target in dict.fromkeys(q.target for q in questions):
        same = [q for q in questions if q.target == target]
        sets = [(q.model, [q]) for q in same]
        if len(same) > 1 and len({tuple(q.y.index) for q in same}) == 1:
            sets.append((f"mean of {len(same)} models", same))
        for model, models in sets:
            yield {"model": model, "target": target, "n_groups": models[0].n}, models


def shared(models: list[Question], names: Callable[[Question], Iterable[str]]) -> list[str]:
    return [name for name in names(models[0]) if all(name in names(q) for q in models)]


def reading(n: int, low: float, high: float) -> str:
    """What an interval shows."""
    if math.isnan(low):
        return f"cannot tell: {n} groups" if n < LEAST else "cannot tell: undefined"
    return "holds" if low > 0 else "reversed" if high < 0 else "cannot tell"


# --- layer and k fixed beforehand ----------------------------------------------------------------------------------


def fixed_rho(models: list[Question], score: str) -> Callable[[Positions, Positions], Array]:
    """Mean over models of the score's correlation with the target, each at positions of the groups."""
    pairs = [(q.fixed.loc[score].to_numpy(float), q.y.to_numpy(float)) for q in models]
    return lambda of_x, of_y: np.mean([spearman(x[of_x], y[of_y]) for x, y in pairs], axis=0)


def fixed_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """One row a model, target and score, and the means over models of the scores that all have."""
    for head, models in together(questions):
        for score in shared(models, lambda q: q.fixed.index):
            yield head | {"score": score} | fixed_row(fixed_rho(models, score), models[0].n, draws)


def fixed_row(rho: Callable[[Positions, Positions], Array], n: int, draws: Draws) -> Row:
    groups = np.arange(n)
    low, high = draws.interval(lambda at: rho(at, at), n)
    p = float(draws.p_value(lambda at: rho(groups, at), n))
    row = {"rho": float(rho(groups, groups)), "low": low, "high": high, "p": p}
    return row | {"reading": reading(n, low, high)}


def partial_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """Correlation of each fixed score with the target, one covariate held constant, with its interval."""
    for q in questions:
        head = {"model": q.model, "target": q.target, "n_groups": q.n}
        for covariate, held in q.covariates.dropna().iterrows():
            for score, values in q.fixed.iterrows():
                x, y, z = (part.to_numpy(float) for part in (values, q.y, held))
                yield head | {"score": score, "covariate": covariate} | partial_row(x, y, z, draws)


def partial_row(x: Array, y: Array, z: Array, draws: Draws) -> Row:
    low, high = draws.interval(lambda at: partial(x[at], y[at], z[at]), len(x), held=1)
    return {"rho": float(spearman(x, y)), "partial": float(partial(x, y, z)), "low": low, "high": high}


def comparison_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """NTPS minus each other score, both fixed beforehand, on the same groups."""
    for head, models in together(questions):
        names = shared(models, lambda q: q.fixed.index)
        for score in names if OWN in names else ():
            if score != OWN:
                yield head | {"basis": "fixed", "other": score} | comparison_row(models, score, draws)


def comparison_row(models: list[Question], score: str, draws: Draws) -> Row:
    own, other, n = fixed_rho(models, OWN), fixed_rho(models, score), models[0].n
    low, high = draws.interval(lambda at: own(at, at) - other(at, at), n)
    rho, rho_other = (float(of(np.arange(n), np.arange(n))) for of in (own, other))
    shown = reading(n, low, high)
    shown = {"holds": f"{OWN} is better", "reversed": f"{score} is better"}.get(shown, shown)
    row: Row = {OWN: rho, "rho_other": rho_other, "difference": rho - rho_other}
    return row | {"low": low, "high": high, "reading": shown}


# --- after a choice ------------------------------------------------------------------------------------------------


def choice_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """One row a model, target and procedure; also the mean over models of the procedures that all have."""
    for head, models in together(questions):
        if all(len(q.candidates) == 1 for q in models):
            continue  # published values: one place, chosen in no known way
        for procedure in shared(models, lambda q: q.procedures):
            yield head | {"procedure": procedure} | choice_row(models, procedure, draws)


def choice_row(models: list[Question], procedure: str, draws: Draws) -> Row:
    """The correlation on itself and the held-out one. p: the whole choice is repeated in every permutation."""
    tables, n = [q.procedures[procedure] for q in models], models[0].n
    pairs = [(table.to_numpy(float), q.y.to_numpy(float)) for table, q in zip(tables, models)]

    def correlations(at: Positions) -> Array:
        judged = [judge(values, y[at]) for values, y in pairs]
        itself, heldout = (np.mean([getattr(j, of) for j in judged], axis=0) for of in ("itself", "heldout"))
        return np.stack([itself, heldout, -heldout], -1)

    itself, heldout, _ = correlations(np.arange(n)).tolist()
    itself_p, heldout_p, reversed_p = draws.p_value(correlations, n).tolist()
    place = tables[0].index[judge(*pairs[0]).chosen] if len(models) == 1 else ("", "", "")
    row: Row = {"itself": itself, "itself_p": itself_p, "heldout": heldout, "heldout_p": heldout_p}
    row |= {"gap": itself - heldout, "reading": reading_of_p(n, heldout_p, reversed_p)}
    return dict(zip(CANDIDATE, place)) | row


def reading_of_p(n: int, p: float, reversed_p: float) -> str:
    """What a one-sided test and its reverse show, each at the share that an interval leaves on one side."""
    if n < LEAST or math.isnan(p):
        return reading(n, math.nan, math.nan)
    level = (1 - LEVEL) / 2
    return "holds" if p <= level else "reversed" if reversed_p <= level else "cannot tell"


def fold_rows(questions: list[Question], _: Draws) -> Iterator[Row]:
    """One row a procedure and group: the candidate chosen without it, and the share of the others it is put above."""
    for q in questions:
        value = TARGETS[q.target][0] * q.y
        for procedure, table in q.procedures.items():
            judged = judge(table.to_numpy(float), q.y.to_numpy(float))
            for group, fold, share in zip(q.y.index, judged.fold, judged.share):
                head = {"model": q.model, "target": q.target, "procedure": procedure, "group": group}
                yield head | dict(zip(CANDIDATE, table.index[fold])) | {"share": share, "value": value[group]}


TABLES = {
    "choices": choice_rows,
    "folds": fold_rows,
    "fixed": fixed_rows,
    "partial": partial_rows,
    "comparisons": comparison_rows,
}
