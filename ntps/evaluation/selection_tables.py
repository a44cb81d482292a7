"""Tables of ntps.selection: what scores are worth at a layer and k fixed beforehand, and after a choice.

Models find the same data sets easy, so their correlations are no independent evidence: their mean is taken in every
bootstrap sample and permutation of the groups, which keeps the models of a group together. The scores of one model (or
mean of models) and target are one family of tests: a verdict takes p after Holm's correction. A score is judged on the
groups that have it, two scores are compared on those that have both.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ntps.evaluation.correlation import (
    FEWEST,
    Array,
    Draws,
    Family,
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
Tables = Iterator[pd.DataFrame]


@dataclass(frozen=True)
class Question:
    """One model and target: columns are independent groups; signs are such that a positive correlation is expected."""

    model: str
    target: str
    y: pd.Series  # (groups,)
    # score or "any": the candidates to choose from, on the groups that have all
    procedures: Mapping[str, pd.DataFrame]
    fixed: pd.DataFrame  # (scores, groups): at the layer and k fixed beforehand, NaN where a group has none
    errors: pd.DataFrame  # (scores, groups): their squared standard errors
    covariates: pd.DataFrame  # (covariates, groups)
    left_out: list[str]

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def candidates(self) -> dict[str, int]:
        """How many each score has."""
        return {name: len(table) for name, table in self.procedures.items() if name != "any"}

    @property
    def reliability(self) -> pd.Series:
        """(scores,): share of a fixed score's variance that is not of its standard errors."""
        return 1 - self.errors.mean(axis=1, skipna=False) / self.fixed.var(axis=1)

    @property
    def having(self) -> dict[str, pd.Index]:
        """The groups that have each fixed score."""
        return {str(name): values.dropna().index for name, values in self.fixed.iterrows()}

    def on(self, groups: list[str]) -> "Question":
        """On some of the groups."""
        parts = {name: getattr(self, name)[groups] for name in ("y", "fixed", "errors", "covariates")}
        return replace(self, **parts)


def together(questions: list[Question]) -> Iterator[tuple[str, list[Question]]]:
    """Each question alone and, target by target, those of all models where these have the same groups, with a name."""
    for target in dict.fromkeys(q.target for q in questions):
        same = [q for q in questions if q.target == target]
        yield from ((q.model, [q]) for q in same)
        if len(same) > 1 and len({tuple(q.y.index) for q in same}) == 1:
            yield f"mean of {len(same)} models", same


# --- blocks: names that the same groups have --------------------------------------------------------------------------

Measured = tuple[dict[str, Any], Family]  # columns of a table, one row a name, and their tests
Having = Callable[[Question], Mapping[str, pd.Index]]  # name -> the groups that have it


def enough(groups: int, of: int) -> bool:
    """Whether so many of the groups, fewer than all, could show anything."""
    return groups >= min(of, FEWEST)


def blocks(models: list[Question], having: Having) -> Iterator[tuple[list[str], list[Question]]]:
    """Names that all models have on the same groups, and the models on these groups; the most groups first."""
    names: dict[tuple[str, ...], list[str]] = {}
    known = [having(q) for q in models]
    for name in known[0]:
        if all(name in groups for groups in known):
            common = [group for group in models[0].y.index if all(group in groups[name] for groups in known)]
            names.setdefault(tuple(common), []).append(name)
    for groups in sorted(names, key=len, reverse=True):
        if enough(len(groups), models[0].n):
            yield names[groups], [q.on(list(groups)) for q in models]


def tested(tests: Family, prefix: str = "") -> dict[str, Array]:
    return {f"{prefix}p": tests.p, f"{prefix}p_holm": tests.holm, f"{prefix}critical": tests.critical}


def families(
    questions: list[Question], having: Having, measure: Callable[[list[str], list[Question]], Measured],
    value: str, prefix: str = "",
) -> Tables:  # fmt: skip
    """A table a model (or mean of models) and target: what `measure` finds of its blocks, and verdicts on the `value`s."""
    for model, models in together(questions):
        measured = [(on[0].n, *measure(names, on)) for names, on in blocks(models, having)]
        if measured:
            head = {"model": model, "target": models[0].target}
            table = pd.concat([pd.DataFrame(head | {"n_groups": n} | columns) for n, columns, _ in measured])
            tests = Family.joined([tests for *_, tests in measured])
            known = [table[name].to_numpy() for name in ("low", "high", "reliability") if name in table]
            reading = verdicts(table["n_groups"].to_numpy(), table[value].to_numpy(), tests, *known)
            yield table.assign(**tested(tests, prefix), reading=reading)


# --- layer and k fixed beforehand ----------------------------------------------------------------------------------


def fixed_values(models: list[Question], names: list[str]) -> list[tuple[Array, Array]]:
    """Scores (m, n) and target (n,) of each model."""
    return [(q.fixed.loc[names].to_numpy(float), q.y.to_numpy(float)) for q in models]


def fixed_tables(questions: list[Question], draws: Draws) -> Tables:
    """One row a model, target and score, and the means over models of the scores that all have."""

    def measure(names: list[str], models: list[Question]) -> Measured:
        n, pairs = models[0].n, fixed_values(models, names)
        (low, high), tests = draws.interval(mean_rho(pairs), n), draws.permuted(ordered(pairs), n)
        reliability = np.mean([q.reliability.reindex(names) for q in models], axis=0)
        return {
            "score": names, "rho": mean_rho(pairs)(np.arange(n)), "low": low, "high": high, **tested(tests),
            "reliability": reliability,
        }, tests  # fmt: skip

    return families(questions, lambda q: q.having, measure, "rho")


def partial_tables(questions: list[Question], draws: Draws) -> Tables:
    """Correlation of each fixed score with the target, one covariate held constant, with its interval."""
    for question in questions:
        for names, (q,) in blocks([question], lambda q: q.having):
            held = q.covariates.dropna()
            x, y, z = (part.to_numpy(float) for part in (q.fixed.loc[names], q.y, held))

            def given(at: Positions) -> Array:
                """(covariates, scores, ...)"""
                return partial(x[:, at], y[at], z[:, None, at])  # noqa: B023

            values, ends = given(np.arange(q.n)), draws.interval(given, q.n, held=1)
            for covariate, inside, low, high in zip(held.index, values, *ends):
                head = {"model": q.model, "target": q.target, "n_groups": q.n, "covariate": covariate}
                columns = {"score": names, "rho": spearman(x, y), "partial": inside, "low": low, "high": high}
                yield pd.DataFrame(head | columns)


def comparison_tables(questions: list[Question], draws: Draws) -> Tables:
    """NTPS minus each other score, both fixed beforehand, on the groups that have both."""

    def having(q: Question) -> dict[str, pd.Index]:
        own = q.having.get(OWN, pd.Index([]))
        return {name: own.intersection(its) for name, its in q.having.items() if name != OWN}

    def measure(others: list[str], models: list[Question]) -> Measured:
        n, pairs = models[0].n, fixed_values(models, [OWN, *others])
        rho = mean_rho(pairs)

        def difference(at: Positions) -> Array:
            return rho(at)[0] - rho(at)[1:]

        own, *other = rho(np.arange(n))
        (low, high), tests = draws.interval(difference, n), draws.swapped(pairs)
        return {
            "basis": "fixed", "other": others, OWN: own, "rho_other": other, "difference": own - np.array(other),
            "low": low, "high": high, **tested(tests),
        }, tests  # fmt: skip

    for table in families(questions, having, measure, "difference"):
        better = {"holds": f"{OWN} is better", "reversed": "{} is better"}
        words = [better.get(word, word).format(name) for name, word in zip(table["other"], table["reading"])]
        yield table.assign(reading=words)


# --- after a choice ------------------------------------------------------------------------------------------------


def choice_tables(questions: list[Question], draws: Draws) -> Tables:
    """The correlation on itself and the held-out one. p: the whole choice is repeated in every permutation."""

    def measure(names: list[str], models: list[Question]) -> Measured:
        n = models[0].n
        tables = [[q.procedures[name][q.y.index] for q in models] for name in names]
        pairs = [
            [(table.to_numpy(float), q.y.to_numpy(float)) for table, q in zip(each, models)]
            for each in tables
        ]

        def correlations(at: Positions) -> Array:
            """(..., 2 len(names)): on itself, then held out."""
            found = [[judge(x, y[at]) for x, y in each] for each in pairs]
            kinds = ("itself", "heldout")
            means = [np.mean([getattr(j, kind) for j in each], 0) for kind in kinds for each in found]
            return np.stack(means, -1)

        itself, heldout = np.split(correlations(np.arange(n)), 2)
        tests = draws.permuted(correlations, n)
        chosen = [each[0].index[judge(*pair[0]).chosen] for each, pair in zip(tables, pairs)]
        places = zip(*(chosen if len(models) == 1 else [("", "", "")] * len(names)))
        return {
            "procedure": names, **dict(zip(CANDIDATE, places)), "itself": itself, "itself_p": tests.p[: len(names)],
            "heldout": heldout, **tested(tests[len(names) :], "heldout_"), "gap": itself - heldout,
        }, tests[len(names) :]  # fmt: skip

    def having(q: Question) -> dict[str, pd.Index]:
        return {name: table.columns for name, table in q.procedures.items()}

    # not of published values: one place, chosen in no known way
    several = [q for q in questions if sum(q.candidates.values()) > 1]
    return families(several, having, measure, "heldout", "heldout_")


def fold_tables(questions: list[Question], _: Draws) -> Tables:
    """One row a procedure and group: the candidate chosen without it, and the share of the others it is put above."""
    for q in questions:
        for procedure, table in q.procedures.items():
            y = q.y[table.columns]
            found = judge(table.to_numpy(float), y.to_numpy(float))
            head = {"model": q.model, "target": q.target, "procedure": procedure, "group": y.index}
            head |= dict(zip(CANDIDATE, zip(*table.index[found.fold])))
            value = TARGETS[q.target][0] * y.to_numpy()
            yield pd.DataFrame(head | {"share": found.share, "value": value})


TABLES = {
    "choices": choice_tables,
    "folds": fold_tables,
    "fixed": fixed_tables,
    "partial": partial_tables,
    "comparisons": comparison_tables,
}
