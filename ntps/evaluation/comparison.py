"""The tables of ntps.selection: what each question comes to, as it is, resampled and permuted."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ntps.evaluation.choice import Judged, judge
from ntps.evaluation.correlation import (
    LEAST,
    LEAST_CHOSEN,
    Array,
    difference_interval,
    orders,
    p_value,
    partial,
    percentile_interval,
    resamples,
    spearman,
    swap_p_value,
    z_interval,
)
from ntps.results.tables import TARGETS

CANDIDATE = ["score", "layer", "k"]
OWN = "ntps"  # the score that the others are compared with
DRAWN = ("boot", "null", "left")  # of an answer: its resamples, its permutations, and each group left out
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One model and target: columns are independent groups; signs are such that a positive correlation is expected."""

    model: str
    target: str
    y: pd.Series  # (groups,)
    candidates: pd.DataFrame  # (candidates, groups), rows sorted by score
    fixed: pd.DataFrame  # (scores, groups)
    covariates: pd.DataFrame  # (covariates, groups)
    left_out: list[str]

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """First and last + 1 candidate of each score."""
        names = self.candidates.index.get_level_values("score")
        starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
        return {names[a]: (a, b) for a, b in pairwise([*starts, len(names)])}


@dataclass(frozen=True)
class Answer:
    """Observed figures, and the same under each kind of DRAWN: names (P,) or scores (F,) in the last axis."""

    question: Question
    judged: Judged
    boot: Judged | None
    null: Judged
    left: Judged
    fixed: Array  # (F,)
    fixed_boot: Array  # (b, F)
    fixed_null: Array  # (R, F)

    @property
    def procedures(self) -> list[str]:
        return [*self.question.kinds, "any", "nested"][: 1 if len(self.question.kinds) == 1 else None]


def answer(question: Question, count: int, shuffles: int, seed: int) -> Answer:
    """Every figure of a question, with its resamples and permutations."""
    y, n = question.y.to_numpy(float), question.n
    values, fixed = question.candidates.to_numpy(float), question.fixed.to_numpy(float)
    kinds, one = list(question.kinds.values()), np.ones((1, n))
    drawn, shuffled = resamples(n, count, seed), y[orders(n, shuffles, seed)]
    enough = n >= LEAST
    return Answer(
        question,
        judged=judge(values, kinds, y[None], one, np.float64),
        boot=judge(values, kinds, y[None], drawn) if enough else None,
        null=judge(values, kinds, shuffled, one),
        left=judge(values, kinds, y[None], 1 - np.eye(n)),
        fixed=spearman(fixed, y)[0],
        fixed_boot=spearman(fixed, y, drawn),
        fixed_null=spearman(fixed, shuffled),
    )


def together(answers: list[Answer]) -> Iterator[tuple[str, list[Answer]]]:
    """Each answer alone and, target by target, those of all models where these know the same groups.

    Models find the same data sets easy, so their correlations are no independent evidence: their mean is taken in
    every resample and permutation of the groups, which keeps them together.
    """
    for target in dict.fromkeys(a.question.target for a in answers):
        same = [a for a in answers if a.question.target == target]
        for found in same:
            yield found.question.model, [found]
        if len(same) > 1 and len({tuple(a.question.y.index) for a in same}) == 1:
            yield f"mean of {len(same)} models", same


def mean(parts: Sequence[Array]) -> Array:
    return np.mean(np.stack([np.asarray(part, float) for part in parts]), axis=0)


def choice_rows(answers: list[Answer]) -> Iterator[Row]:
    """One row a model, target and procedure; also the mean over models of the procedures that all have."""
    for model, found in together(answers):
        if all(len(a.question.candidates) < 2 for a in found):
            continue  # nothing to choose: tables of published values tell one place, chosen in no known way
        shared = [p for p in found[0].procedures if all(p in a.procedures for a in found)]
        for procedure in shared:
            place = [a.procedures.index(procedure) for a in found]
            yield (
                {"model": model, "target": found[0].question.target, "n_groups": found[0].question.n}
                | {"procedure": procedure}
                | choice_row(found, place)
            )


def procedure_figures(found: list[Answer], place: list[int], kind: str, name: str) -> Array:
    """A figure of the procedure at each answer's place, mean over models; empty where one has no such draws."""
    sources = [getattr(a, kind) for a in found]
    if any(source is None for source in sources):
        return np.array([])
    return mean([getattr(source, name)[:, p] for source, p in zip(sources, place)])


def choice_row(found: list[Answer], place: list[int]) -> Row:
    def across(kind: str, name: str) -> Array:
        return procedure_figures(found, place, kind, name)

    n = found[0].question.n
    itself, heldout = (float(across("judged", name)[0]) for name in ("itself", "heldout"))
    row: Row = dict.fromkeys(["score", "layer", "k"], "")
    if len(found) == 1:
        table = found[0].question.candidates
        row = dict(zip(CANDIDATE, table.index[found[0].judged.chosen[0, place[0]]]))
    low, high = z_interval(heldout, across("boot", "heldout"), n, across("null", "heldout"))
    gap = itself - heldout
    drawn, null, left = (across(kind, "itself") - across(kind, "heldout") for kind in DRAWN)
    gap_low, gap_high = difference_interval(gap, drawn, n, null, left, heldout)
    row |= {"itself": itself, "itself_p": p_value(itself, across("null", "itself"))}
    row |= {"heldout": heldout, "heldout_low": low, "heldout_high": high}
    row |= {"heldout_p": p_value(heldout, across("null", "heldout")), "gap": gap}
    return row | {"gap_low": gap_low, "gap_high": gap_high, "reading": reading(n, low, high)}


def reading(n: int, low: float, high: float) -> str:
    """What an interval allows to say."""
    if math.isnan(low):
        return f"cannot tell: {n} groups" if n < LEAST_CHOSEN else "cannot tell: undefined"
    if low > 0:
        return "holds"
    return "reversed" if high < 0 else "cannot tell"


def fold_rows(found: Answer) -> Iterator[Row]:
    """One row a procedure and group: the candidate chosen without it, and the share of the others it is put above."""
    ask, judged = found.question, found.judged
    for p, procedure in enumerate(found.procedures):
        for i, group in enumerate(ask.y.index):
            chosen = dict(zip(CANDIDATE, ask.candidates.index[judged.fold[0, p, i]]))
            yield {"model": ask.model, "target": ask.target, "procedure": procedure, "group": group} | chosen | {
                "share": float(judged.share[0, p, i]), "value": TARGETS[ask.target][0] * ask.y.iloc[i]
            }  # fmt: skip


def fixed_rows(answers: list[Answer]) -> Iterator[Row]:
    """One row a model, target and score, and the means over models of the scores that all have."""
    for model, found in together(answers):
        for score, values, drawn, null in fixed_figures(found):
            n = found[0].question.n
            low, high = percentile_interval(values, drawn, n)
            yield {"model": model, "target": found[0].question.target, "n_groups": n, "score": score} | {
                "rho": values, "low": low, "high": high, "p": p_value(values, null),
                "reading": reading(n, low, high),
            }  # fmt: skip


def fixed_figures(found: list[Answer]) -> Iterator[tuple[str, float, Array, Array]]:
    """score, observed correlation, resampled ones, permuted ones."""
    shared = [s for s in found[0].question.fixed.index if all(s in a.question.fixed.index for a in found)]
    for score in shared:
        place = [list(a.question.fixed.index).index(score) for a in found]
        observed = mean([a.fixed[p] for a, p in zip(found, place)])
        drawn = mean([a.fixed_boot[:, p] for a, p in zip(found, place)])
        yield score, float(observed), drawn, mean([a.fixed_null[:, p] for a, p in zip(found, place)])


def partial_rows(found: Answer, count: int, seed: int) -> Iterator[Row]:
    """Spearman correlation of each fixed score with the target, one covariate held constant, with its interval."""
    ask, y = found.question, found.question.y.to_numpy(float)
    drawn = resamples(ask.n, count, seed)
    for covariate, z in ask.covariates.dropna().iterrows():
        for score, x in ask.fixed.iterrows():
            score_values, held = x.to_numpy(float), z.to_numpy(float)
            rho = float(partial(score_values, y, held)[0])
            low, high = percentile_interval(rho, partial(score_values, y, held, drawn), ask.n - 1)
            plain = float(spearman(score_values[None], y)[0, 0])
            yield {"model": ask.model, "target": ask.target, "n_groups": ask.n, "score": score} | {
                "covariate": covariate, "rho": plain, "partial": rho, "low": low, "high": high
            }  # fmt: skip


def comparison_rows(answers: list[Answer]) -> Iterator[Row]:
    """NTPS minus another score: at the fixed place, and each with its layer and k chosen on the other groups."""
    for model, found in together(answers):
        n, head = found[0].question.n, {"model": model, "target": found[0].question.target}
        figures = {score: (rho, drawn) for score, rho, drawn, _ in fixed_figures(found)}
        for score in figures if OWN in figures else ():
            if score != OWN:
                (own, own_drawn), (other, other_drawn) = figures[OWN], figures[score]
                low, high = percentile_interval(own - other, own_drawn - other_drawn, n)
                p = swap_p_value(*swapped(found[0].question, score)) if len(found) == 1 else math.nan
                yield head | compared("fixed", score, own, other, low, high, p, n)
        shared = [k for k in found[0].question.kinds if all(k in a.question.kinds for a in found)]
        for score in shared if OWN in shared else ():
            if score != OWN:
                (ours, *of_own), (theirs, *of_other) = (heldout_figures(found, name) for name in (OWN, score))
                drawn, null, left = (one - two for one, two in zip(of_own, of_other))
                own, other = float(ours[0]), float(theirs[0])
                low, high = difference_interval(own - other, drawn, n, null, left, max(own, other))
                yield head | compared("held out", score, own, other, low, high, math.nan, n)


def heldout_figures(found: list[Answer], procedure: str) -> list[Array]:
    """Its held-out correlation: observed, and under each kind of DRAWN."""
    place = [a.procedures.index(procedure) for a in found]
    return [procedure_figures(found, place, kind, "heldout") for kind in ("judged", *DRAWN)]


def swapped(question: Question, score: str) -> tuple[Array, Array, Array]:
    fixed = question.fixed
    return fixed.loc[OWN].to_numpy(float), fixed.loc[score].to_numpy(float), question.y.to_numpy(float)


def compared(
    basis: str, score: str, own: float, other: float, low: float, high: float, p: float, n: int
) -> Row:
    says = reading(n, low, high)
    says = {"holds": f"{OWN} is better", "reversed": f"{score} is better"}.get(says, says)
    row: Row = {"basis": basis, "n_groups": n, "other": score, OWN: own, "rho_other": other}
    return row | {"difference": own - other, "low": low, "high": high, "p": p, "reading": says}
