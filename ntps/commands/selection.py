"""Does a score order data sets as their accuracies do, also on data sets that had no part in choosing layer and k?

    python -m ntps.selection --results results
    python -m ntps.selection --results results --targets lora_gain --groups sst2,rotten_tomatoes
    python -m ntps.selection --results results/released/fig2_accuracy --order released --rule fraction

Reads what K_sweep.py and the trainers wrote; prints a report, and writes below OUTPUT (RESULTS/selection):
    fixed.csv        every score with layer and k fixed beforehand: best layer by the ridge probe on train, kv = d/10
    partial.csv      the same, with one covariate held constant
    comparisons.csv  NTPS minus each other score, on the same data sets
    choices.csv      (layer, k, score) chosen with and without the data sets that it is judged on
    folds.csv        what each left-out group was judged by
    selection.json   settings, what the targets are, and what was left out
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd

from ntps import results
from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, FEWEST, LEAST, LEVEL, Draws
from ntps.evaluation.selection_tables import CANDIDATE, OWN, TABLES, Question, enough
from ntps.flags import Judging, Natural, at_least, flag
from ntps.results.tables import COVARIATES, LAYER, SUBSPACE, only
from ntps.run import cli
from ntps.scores.registry import STANDARD_ERRORS, SUBSPACE_SCORES
from ntps.system import atomic_files, console, provenance

NAMES = [score.name for score in SUBSPACE_SCORES]
ERRORS = {error: name for name, error in STANDARD_ERRORS.items() if name in NAMES}  # -> whose error it is
PROBES = ("probe_accuracy", "linear_accuracy")  # measured accuracies that may predict what training adds
SHOWN = {  # table: what the report says of it
    "choices": "Layer, k (and score: `any`) chosen by the correlation itself; held out: chosen without the group it is judged on.\n"
    "itself_p counts the search; gap: what the search adds. No intervals after a choice.",
    "fixed": "Layer and k fixed beforehand: the best layer of the ridge probe and kv = d/10 (or the one place there is).",
    "comparisons": "NTPS against each other score there; gcv_skill and gcv_error are the linear probe's, cross-validated on train.",
    "partial": "NTPS there, one covariate held constant.",
}


@dataclass(kw_only=True)
class Flags(Judging):
    """Judge scores against accuracies, over the data sets of a results folder."""

    targets: Sequence[str] = flag(
        (), f"{' '.join(results.TARGETS)} (default: all that are there; of train only where test is not)"
    )
    scores: Sequence[str] = flag(
        (),
        "those that docs/columns.md marks better or worse (default: all of these that do not use the labels of test)",
    )
    resamples: Annotated[int, at_least(1000)] = flag(10_000, "of the data sets, for intervals")
    permutations: Annotated[int, at_least(1000)] = flag(
        10_000, "of the accuracies, for p; all of them where there are no more"
    )
    seed: Natural = flag(42, "of both")
    output: str | None = flag(None, "folder of the tables (default: RESULTS/selection)")


def main(flags: Flags) -> int:
    long = results.load_scores(flags.results, [*results.DIRECTION, *ERRORS])
    pairs = results.load_pairs(flags.results, flags.groups)
    long, pairs = (only(t, model=flags.models, dataset=flags.datasets) for t in (long, pairs))
    wanted = tuple(flags.scores) or (*SUBSPACE, *LAYER)
    if unknown := set(wanted) - set(results.DIRECTION):
        raise UserError(f"--scores {' '.join(sorted(unknown))}: there are {' '.join(results.DIRECTION)}")
    errors = [error for error, score in ERRORS.items() if score in wanted]
    long = results.at_points(long[long["score"].isin([*wanted, *errors])], flags.order, flags.rule)
    long["value"] *= long["score"].map(results.DIRECTION).fillna(1).astype(float)
    each = product(targets_there(pairs, flags.targets), sorted(set(pairs["model"])))
    questions = [question_of(long, pairs, model, target) for target, model in each]
    asked = [q for q in questions if q.candidates and q.n]
    draws = Draws(flags.permutations, flags.resamples, flags.seed)
    every = console.progress(len(TABLES), "table", "selection", over=TABLES.items())
    tables = {name: pd.concat([pd.DataFrame(), *parts(asked, draws)]) for name, parts in every}
    print(*report(questions, tables), sep="\n")
    folder = Path(flags.output or Path(flags.results) / "selection")
    for name, table in tables.items():
        atomic_files.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    meanings = {q.target: results.TARGETS[q.target][1] for q in questions}
    left_out = {f"{q.model}, {q.target}": q.left_out for q in questions}
    record = provenance.of("selection", {"flags": vars(flags)}, targets=meanings, left_out=left_out)
    atomic_files.write_text(folder / "selection.json", atomic_files.to_json(record))
    print(f"wrote {folder}: {', '.join(f'{name}.csv' for name in tables)}, selection.json")
    return 0


# --- questions -----------------------------------------------------------------------------------------------------


def targets_there(pairs: pd.DataFrame, requested: Sequence[str]) -> list[str]:
    """The targets to judge by: those requested, or all that are known; of train only where test is not."""
    if unknown := set(requested) - set(results.TARGETS):
        raise UserError(f"--targets {' '.join(sorted(unknown))}: there are {' '.join(results.TARGETS)}")
    there = [name for name in results.TARGETS if pairs[name].notna().any()]
    if not there:
        raise UserError("no accuracies to judge by: run linear_sklearn.py, or a trainer")
    if missing := " ".join(sorted(set(requested) - set(there))):
        raise UserError(f"--targets {missing}: not in the results; there are {' '.join(there)}")
    return list(requested) or [name for name in there if name.replace("train_", "") not in {*there} - {name}]


def question_of(long: pd.DataFrame, pairs: pd.DataFrame, model: str, target: str) -> Question:
    """What is known of one model: values of groups are means over their data sets."""
    pairs, long = (table[table["model"] == model] for table in (pairs, long))
    scored = pairs["dataset"].isin(long["dataset"][long["value"].notna()].unique())
    measured = pairs[target].notna()
    left_out = [f"{name}: no {target}" for name in pairs["dataset"][~measured]]
    left_out += [f"{name}: no scores" for name in pairs["dataset"][measured & ~scored]]
    known = pairs[measured & scored].set_index("dataset")
    group = known["group"]  # of each data set
    y = results.TARGETS[target][0] * known[target].groupby(group).mean()
    fixed = results.headline(long, known.reset_index()).set_index("dataset").drop(columns="model")
    if target.startswith(("lora", "scratch")):
        fixed = fixed.join(known[list(PROBES)])
    squares = (fixed.reindex(columns=list(ERRORS)) ** 2).groupby(group)
    # of a group's mean, squared; unknown where one of its data sets' is
    errors = squares.mean() / squares.count()
    errors = errors.where(squares.count().eq(squares.size(), axis=0)).rename(columns=ERRORS)
    fixed = fixed.drop(columns=list(ERRORS), errors="ignore").groupby(group).mean()
    fixed, errors = (table.T.reindex(columns=y.index) for table in (fixed, errors))
    candidates = long[~long["score"].isin(list(ERRORS))].join(group, on="dataset", how="inner")
    values = candidates.groupby([*CANDIDATE, "group"], dropna=False)["value"].mean()
    procedures, without = choices_of(values.unstack("group").sort_index().reindex(columns=y.index), fixed)
    covariates = known[list(COVARIATES)].groupby(group).mean().T
    return Question(model, target, y, procedures, fixed, errors, covariates, left_out + without)


def choices_of(table: pd.DataFrame, fixed: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The candidates of each score, and of any, on the groups that have it; and what is left out.

    The groups that have a score are those that have it at the best layer, whose values are `fixed`.
    """
    procedures, left_out, n = {}, [], table.shape[1]
    for score, at_best in fixed.iterrows():
        part = table[table.index.get_level_values("score") == score]
        if at_best.isna().all() and part.notna().any(axis=None):
            left_out.append(f"{score} at the best layer: no group has it")
            at_best = part.mean()
        groups = at_best.dropna().index
        whole = part[groups].dropna()
        if not enough(len(groups), n):
            left_out.append(
                f"{score}: {len(groups)} of {n} groups have it; no order of fewer than {FEWEST} is significant"
            )
            continue
        if len(whole):
            procedures[str(score)] = whole
        left_out += [f"{group}: no {score}" for group in at_best.index.difference(groups)]
        if few := len(part) - len(whole):
            left_out.append(f"{few} candidates of {score}: not known of every group that has it")
    common = table.dropna()
    if common.index.get_level_values("score").nunique() > 1:
        procedures["any"] = common
    return procedures, left_out


# --- report --------------------------------------------------------------------------------------------------------


def report(questions: list[Question], tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """The tables, and what they mean, for a terminal."""
    yield "Spearman correlations over independent groups of data sets; positive: as expected (a score that promises"
    yield "readable labels goes with a higher accuracy, a lower mse, a lower gain). low, high: bootstrap interval of"
    yield f"{LEVEL:.0%} (BCa, {LEAST} groups or more; none of a perfect order); p: two-sided, by permutation; p_holm: p after Holm's"
    yield f"correction for the scores of a table, the reading's: holds or reversed at {ALPHA:g}. critical: the smallest correlation"
    yield "that would be significant; reliability: share of a score's variance over groups that is not its standard error's."
    for target in dict.fromkeys(q.target for q in questions):
        here = [q for q in questions if q.target == target]
        yield f"\n== {target}: {results.TARGETS[target][1]}"
        yield from facts(here)
        if (most := max(q.n for q in here)) <= 2:
            yield f"no correlation: it takes more than {most} independent group{'s' * (most != 1)} of data sets, {FEWEST} to be significant"
            continue
        for name, what in SHOWN.items():
            if (table := tables[name]).empty:
                continue
            rows = table[(table["target"] == target) & (table["score"] == OWN if name == "partial" else True)]
            shown = rows.drop(columns=["target", "basis"], errors="ignore")
            if len(rows):
                yield f"\n{what}\n{shown.to_string(index=False, na_rep='-', float_format='{:.3g}'.format)}"


def facts(questions: list[Question]) -> Iterator[str]:
    """How many groups and candidates each model has, and what was left out."""
    notes: dict[str, list[str]] = {}
    for q in questions:
        scores = ", ".join(q.candidates) or "no score"
        yield f"{q.model}: {q.n} independent groups, {sum(q.candidates.values())} candidates of {scores}"
        for note in q.left_out:
            notes.setdefault(note, []).append(q.model)
    if joined := sorted({group for q in questions for group in q.y.index if "," in group}):
        yield f"counted once: {' and '.join(joined)}"
    if any(sum(q.candidates.values()) == 1 for q in questions):
        yield "one candidate, so nothing to choose; if these accuracies chose it, its correlation is too high"
    for note, models in notes.items():
        yield f"left out: {note} ({', '.join(models) if len(models) < len(questions) else 'all models'})"


if __name__ == "__main__":
    sys.exit(cli.run(main))
