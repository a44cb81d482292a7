"""Does a score order data sets as their accuracies do, also on data sets that had no part in choosing layer and k?

    python -m ntps.selection --results results
    python -m ntps.selection --results results --targets lora_gain --groups sst2,rotten_tomatoes
    python -m ntps.selection --results results/released/fig2_accuracy --order released --rule fraction

Reads what K_sweep.py and the trainers wrote; prints a report, and writes below OUTPUT (RESULTS/selection):
    choices.csv      (layer, k, score) chosen with and without the data sets that it is judged on
    folds.csv        what each left-out group was judged by
    fixed.csv        every score at one place that no accuracy chose: best layer by the ridge probe on train, kv = d/10
    partial.csv      the same, with one covariate held constant
    comparisons.csv  NTPS minus each other score, on the same data sets
    selection.json   settings, what the targets are, and what was left out
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from ntps.errors import UserError, at_least
from ntps.evaluation.comparison import (
    CANDIDATE,
    OWN,
    Question,
    answer,
    choice_rows,
    comparison_rows,
    fixed_rows,
    fold_rows,
    partial_rows,
)
from ntps.evaluation.correlation import LEAST, LEAST_CHOSEN
from ntps.results.tables import (
    COVARIATES,
    DIRECTION,
    LAYER,
    SUBSPACE,
    TARGETS,
    at_points,
    headline,
    load_pairs,
    load_scores,
    only,
)
from ntps.run import cli
from ntps.system import console, storage

PROBES = ("probe_accuracy", "linear_accuracy")  # measured figures that may predict what training adds


def main(
    results: str = "results",
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
    targets: Sequence[str] = (),
    scores: Sequence[str] = (),
    groups: Sequence[str] = (),
    order: str = "descending",
    rule: str = "task_rank",
    resamples: int = 200,
    permutations: int = 500,
    seed: int = 42,
    output: str | None = None,
) -> int:
    """Judge scores against accuracies, over the data sets of a results folder.

    Args:
        results: the folder that K_sweep.py and the trainers wrote to
        models: folder names of models (default: all)
        datasets: names of data sets (default: all)
        targets: columns of ntps.results.TARGETS (default: all that are there; of train only where test is not)
        scores: candidates (default: all that do not use the labels of test)
        groups: data sets that count once, as a,b; those read from one file do so anyway
        order: descending or released
        rule: task_rank or fraction
        resamples: of the data sets, for intervals
        permutations: of the accuracies, for p
        seed: of both
        output: folder of the tables (default: RESULTS/selection)
    """
    flags = dict(locals())
    for name, value, least in (
        ("resamples", resamples, 20),
        ("permutations", permutations, 20),
        ("seed", seed, 0),
    ):
        at_least(name, value, least)
    long, pairs = load_scores(results), load_pairs(results, groups)
    long, pairs = (only(only(table, "model", models), "dataset", datasets) for table in (long, pairs))
    wanted = tuple(scores) or (*SUBSPACE, *LAYER)
    if unknown := set(wanted) - set(DIRECTION):
        raise UserError(f"--scores {' '.join(sorted(unknown))}: there are {' '.join(DIRECTION)}")
    long = at_points(long[long["score"].isin(wanted)], order, rule)
    long["value"] *= long["score"].map(DIRECTION).astype(float)
    asked = list(product(targets_there(pairs, targets), sorted(set(pairs["model"]))))
    questions, answers = [ask(long, pairs, model, target) for target, model in asked], []
    with console.progress(len(asked), "question", "targets x models") as bar:
        for question in questions:
            if len(question.candidates) and question.n:
                answers.append(answer(question, resamples, permutations, seed))
            bar.update()
    tables = {
        "choices": pd.DataFrame(choice_rows(answers)),
        "folds": pd.DataFrame(row for found in answers for row in fold_rows(found)),
        "fixed": pd.DataFrame(fixed_rows(answers)),
        "partial": pd.DataFrame(row for found in answers for row in partial_rows(found, resamples, seed)),
        "comparisons": pd.DataFrame(comparison_rows(answers)),
    }
    for line in report(questions, tables):
        print(line)
    folder = Path(output or Path(results) / "selection")
    for name, table in tables.items():
        storage.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    notes = {f"{ask.model}, {ask.target}": ask.left_out for ask in questions}
    about = {
        "targets": {name: TARGETS[name][1] for name, _ in asked},
        "left_out": notes,
    }
    record = storage.provenance("selection", {"flags": flags}, **about)
    storage.write_text(folder / "selection.json", storage.to_json(record))
    print(f"wrote {folder}: {', '.join(f'{name}.csv' for name in tables)}, selection.json")
    return 0


# --- what is asked -------------------------------------------------------------------------------------------------


def targets_there(pairs: pd.DataFrame, asked: Sequence[str]) -> list[str]:
    """The targets to judge by: those asked for, or all that are known; of train only where test is not."""
    if unknown := set(asked) - set(TARGETS):
        raise UserError(f"--targets {' '.join(sorted(unknown))}: there are {' '.join(TARGETS)}")
    there = [name for name in TARGETS if pairs[name].notna().any()]
    if missing := set(asked) - set(there):
        raise UserError(
            f"--targets {' '.join(sorted(missing))}: not in the results; there are {' '.join(there) or 'none'}"
        )
    found = list(asked) or [name for name in there if name.replace("train_", "") not in set(there) - {name}]
    if not found:
        raise UserError(
            "no accuracies to judge by: run linear_sklearn.py, linear_training.py or lora_finetuning.py"
        )
    return found


def ask(long: pd.DataFrame, pairs: pd.DataFrame, model: str, target: str) -> Question:
    """What is known of one model: values of groups are means over their data sets."""
    pairs, long = pairs[pairs["model"] == model], long[long["model"] == model]
    known = pairs[pairs[target].notna() & pairs["dataset"].isin(long.loc[long["value"].notna(), "dataset"])]
    left_out = [
        f"{name}: {'no ' + target if math.isnan(value) else 'no scores'}"
        for name, value in zip(pairs["dataset"], pairs[target])
        if name not in set(known["dataset"])
    ]
    long = long.merge(known[["dataset", "group"]], on="dataset")
    sign = TARGETS[target][0]
    by_group = known.groupby("group")
    table = long.groupby([*CANDIDATE, "group"], dropna=False)["value"].mean().unstack("group").sort_index()
    table = table.reindex(columns=sorted(by_group.groups))
    whole = table.notna().all(axis=1)
    for score, part in table[~whole].groupby(level="score"):
        few = "of no group" if part.isna().all(axis=None) else "not of every group"
        left_out.append(f"{len(part)} candidates of {score}: known {few}")
    fixed = headline(long, known).set_index("dataset").drop(columns="model")
    if target.startswith(("lora", "scratch")):
        fixed = fixed.join(known.set_index("dataset")[list(PROBES)])
    fixed = fixed.groupby(known.set_index("dataset")["group"]).mean().T.reindex(columns=table.columns)
    return Question(
        model=model,
        target=target,
        y=sign * by_group[target].mean(),
        candidates=table[whole],
        fixed=fixed[fixed.notna().all(axis=1)],
        covariates=by_group[list(COVARIATES)].mean().T,
        left_out=left_out,
    )


# --- report --------------------------------------------------------------------------------------------------------


def report(questions: list[Question], tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """The tables, and what they mean, for a terminal."""
    yield "Spearman correlations over independent groups of data sets; positive: as expected (a score that promises"
    yield "readable labels goes with a higher accuracy, a lower mse, a lower gain). [90 % intervals], p one-sided."
    yield f"Intervals take {LEAST} groups, after a choice {LEAST_CHOSEN}; each is one draw of what data sets there might have been."
    for target in dict.fromkeys(ask.target for ask in questions):
        yield ""
        yield f"== {target}: {TARGETS[target][1]}"
        yield from facts([ask for ask in questions if ask.target == target])
        shown = {name: table[table["target"] == target] for name, table in tables.items() if len(table)}
        if "choices" in shown:
            yield "\nLayer, k (and score: `any`, `nested`) chosen by the correlation itself; held out: chosen without the"
            yield "group it is judged on. p on itself counts the search."
            yield from lines(
                shown["choices"],
                "model procedure score layer k itself itself_p heldout heldout_p gap reading",
            )
        if "fixed" in shown:
            yield "\nAt the best layer of the ridge probe and kv = d/10 (or the one place there is): nothing chosen."
            yield from lines(shown["fixed"], "model score rho p reading")
        if "comparisons" in shown:
            yield "\nNTPS against each other score on the same groups (fixed place; held out); gcv_skill and gcv_error are the"
            yield "linear probe's, cross-validated on train."
            yield from lines(shown["comparisons"], "model basis other ntps rho_other difference p reading")
        if "partial" in shown:
            yield "\nOf NTPS, one covariate held constant."
            part = shown["partial"]
            yield from lines(part[part["score"] == OWN], "model covariate rho partial")


def facts(questions: list[Question]) -> Iterator[str]:
    """How many groups and candidates each model has, and what was left out."""
    notes: dict[str, list[str]] = {}
    for ask in questions:
        kinds = ", ".join(ask.kinds) or "no score"
        yield f"{ask.model}: {ask.n} independent groups, {len(ask.candidates)} candidates of {kinds}"
        for note in ask.left_out:
            notes.setdefault(note, []).append(ask.model)
    if joined := sorted({group for ask in questions for group in ask.y.index if "," in group}):
        yield f"counted once: {' and '.join(joined)}"
    if any(len(ask.candidates) == 1 for ask in questions):
        yield "one candidate, so nothing to choose; if these accuracies chose it, its correlation is too high"
    for note, models in notes.items():
        yield f"left out: {note} ({', '.join(models) if len(models) < len(questions) else 'all models'})"


def lines(table: pd.DataFrame, columns: str) -> Iterator[str]:
    """Those columns, intervals behind what they belong to."""
    if table.empty:
        return
    names, shown = columns.split(), pd.DataFrame(index=table.index)
    for name in names:
        shown[name] = [value if isinstance(value, str) else number(value, name) for value in table[name]]
    interval = next(name for name in ("partial", "difference", "heldout", "rho") if name in names)
    ends = ("heldout_low", "heldout_high") if interval == "heldout" else ("low", "high")
    shown[interval] += [
        f" [{number(low)}, {number(high)}]" for low, high in zip(*(table[end] for end in ends))
    ]
    if "gap" in names:
        shown["gap"] += [f" [{number(a)}, {number(b)}]" for a, b in zip(table["gap_low"], table["gap_high"])]
    yield shown.to_string(index=False)


def number(value: float, name: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:.0f}" if name == "layer" else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
