"""Rows of ntps.selection's tables: what scores are worth at a layer and k fixed beforehand, and after a choice.

Models find the same data sets easy, so their correlations are no independent evidence: their mean is taken in every
bootstrap sample and permutation of the groups, which keeps the models of a group together. The scores of one model (or
mean of models) and target are one family of tests: a verdict takes p after Holm's correction.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ntps.evaluation.correlation import (
    Array,
    Draws,
    Positions,
    mean_rho,
    ordered,
    partial,
    spearman,
    verdicts,
)
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
    reliability: pd.Series  # (scores,): share of a fixed score's variance that is not of its standard errors

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


def rows(head: Row, columns: Mapping[str, Iterable[Any]]) -> Iterator[Row]:
    """One row an entry of the columns."""
    for values in zip(*columns.values()):
        yield head | dict(zip(columns, values))


# --- layer and k fixed beforehand ----------------------------------------------------------------------------------


def fixed_values(models: list[Question], names: list[str]) -> list[tuple[Array, Array]]:
    """Scores (m, n) and target (n,) of each model."""
    return [(q.fixed.loc[names].to_numpy(float), q.y.to_numpy(float)) for q in models]


def fixed_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """One row a model, target and score, and the means over models of the scores that all have."""
    for head, models in together(questions):
        n, names = models[0].n, shared(models, lambda q: q.fixed.index)
        pairs = fixed_values(models, names)
        rho, ends = mean_rho(pairs)(np.arange(n)), draws.interval(mean_rho(pairs), n)
        tests = draws.permuted(ordered(pairs), n)
        reliability = np.mean([[q.reliability.get(name, math.nan) for name in names] for q in models], axis=0)
        yield from rows(head, {
            "score": names, "rho": rho, "low": ends[0], "high": ends[1], "p": tests.p, "p_holm": tests.holm,
            "critical": tests.critical, "reliability": reliability,
            "reading": verdicts(n, rho, tests, *ends, reliability),
        })  # fmt: skip


def partial_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """Correlation of each fixed score with the target, one covariate held constant, with its interval."""
    for q in questions:
        head, held = {"model": q.model, "target": q.target, "n_groups": q.n}, q.covariates.dropna()
        x, y, z = (part.to_numpy(float) for part in (q.fixed, q.y, held))

        def given(at: Positions) -> Array:
            """(covariates, scores, ...)"""
            return partial(x[:, at], y[at], z[:, None, at])  # noqa: B023

        rho, values, ends = spearman(x, y), given(np.arange(q.n)), draws.interval(given, q.n, held=1)
        for i, name in enumerate(held.index):
            yield from rows(head | {"covariate": name}, {
                "score": q.fixed.index, "rho": rho, "partial": values[i], "low": ends[0][i], "high": ends[1][i],
            })  # fmt: skip


def comparison_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """NTPS minus each other score, both fixed beforehand, on the same groups."""
    for head, models in together(questions):
        names = shared(models, lambda q: q.fixed.index)
        if OWN in names and len(names) > 1:
            others = [name for name in names if name != OWN]
            yield from rows(head | {"basis": "fixed"}, compared(models, others, draws))


def compared(models: list[Question], others: list[str], draws: Draws) -> dict[str, Iterable[Any]]:
    pairs, n = fixed_values(models, [OWN, *others]), models[0].n
    rho = mean_rho(pairs)

    def difference(at: Positions) -> Array:
        return rho(at)[0] - rho(at)[1:]

    own, *other = rho(np.arange(n))
    values, ends, tests = own - np.array(other), draws.interval(difference, n), draws.swapped(pairs)
    words = [{"holds": f"{OWN} is better", "reversed": f"{name} is better"} for name in others]
    shown = verdicts(n, values, tests, *ends)
    return {
        "other": others, OWN: [own] * len(others), "rho_other": other, "difference": values,
        "low": ends[0], "high": ends[1], "p": tests.p, "p_holm": tests.holm, "critical": tests.critical,
        "reading": [own_words.get(word, word) for own_words, word in zip(words, shown)],
    }  # fmt: skip


# --- after a choice ------------------------------------------------------------------------------------------------


def choice_rows(questions: list[Question], draws: Draws) -> Iterator[Row]:
    """One row a model, target and procedure; also the mean over models of the procedures that all have."""
    for head, models in together(questions):
        if any(
            len(q.candidates) > 1 for q in models
        ):  # not of published values: one place, chosen in no known way
            yield from rows(head, choices(models, draws))


def choices(models: list[Question], draws: Draws) -> dict[str, Iterable[Any]]:
    """The correlation on itself and the held-out one. p: the whole choice is repeated in every permutation."""
    names, n = shared(models, lambda q: q.procedures), models[0].n
    tables = [[q.procedures[name] for q in models] for name in names]
    pairs = [
        [(table.to_numpy(float), q.y.to_numpy(float)) for table, q in zip(each, models)] for each in tables
    ]

    def correlations(at: Positions) -> Array:
        """(..., 2 len(names)): on itself, then held out."""
        found = [[judge(x, y[at]) for x, y in each] for each in pairs]
        kinds = ("itself", "heldout")
        return np.stack(
            [np.mean([getattr(j, kind) for j in each], 0) for kind in kinds for each in found], -1
        )

    itself, heldout = np.split(correlations(np.arange(n)), 2)
    tests = draws.permuted(correlations, n)
    heldout_tests = tests[len(names) :]
    chosen = [each[0].index[judge(*pair[0]).chosen] for each, pair in zip(tables, pairs)]
    places = zip(*(chosen if len(models) == 1 else [("", "", "")] * len(names)))
    return {
        "procedure": names, **dict(zip(CANDIDATE, places)), "itself": itself, "itself_p": tests.p[: len(names)],
        "heldout": heldout, "heldout_p": heldout_tests.p, "heldout_p_holm": heldout_tests.holm,
        "heldout_critical": heldout_tests.critical, "gap": itself - heldout,
        "reading": verdicts(n, heldout, heldout_tests),
    }  # fmt: skip


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
