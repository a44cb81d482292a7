"""Results in the forms of others: a Hugging Face model card, and the JSON of lm_eval (lm-evaluation-harness).

A card's `model-index` is the Hub's (huggingface_hub.EvalResult); the JSON has the keys of lm_eval 0.4 (its result_schema.py).
Values are those of the best layer, by the ridge probe on train, and of kv = d/10.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from ntps.accuracies import registry
from ntps.errors import UserError
from ntps.results.tables import (
    HALF,
    PAIR,
    at_points,
    headline,
    load_pairs,
    load_scores,
    provenances,
    read_tables,
    two_sided,
)  # fmt: skip
from ntps.scores.registry import EVERY, STANDARD_ERRORS
from ntps.system import atomic_files, provenance
from ntps.system.console import escaped

SCORES = {  # what is exported, and its name there; in the order of the tables
    "ridge_test_skill": "skill of a ridge probe on test (1 perfect, 0 class frequencies)",
    "retention_corrected": "corrected retention of the label signal by next-token directions",
    "retention_corrected_pca": "the same by as many principal components",
    "conditioned_ntps": "conditioned NTPS",
    "conditioned_p_value": "p-value of conditioned NTPS by label permutation, two-sided",
    "ntps": "Next Token Perception Score (NTPS)",
    "null_mean": "mean NTPS of permuted labels",
    "p_value": "p-value of NTPS by label permutation, two-sided",
    "retention": "retention of the label signal by next-token directions",
    "retention_p_value": "p-value of retention by label permutation, two-sided",
    "signal_share": "share of the probe's squared coefficients that is not noise",
    "n_over_d": "train rows per dimension",
}
OLDER = {
    name: SCORES[name].replace("two-sided", "small above it") for name in ("p_value", "retention_p_value")
}
ERRORS = {name: STANDARD_ERRORS[name] for name in SCORES if name in STANDARD_ERRORS}
CARD = """\
---
{metadata}
---

## Next Token Perception Score

{note}At the layer with the lowest cross-validated error of a ridge probe on train, and kv = d/10 directions; ±: standard error.
A score (arXiv 2505.17169) says little without the values of permuted labels and of principal components beside it.

| data set | split | what | value |
|---|---|---|---|
{rows}
"""


class Value(NamedTuple):
    """A measured value and its standard error (or NaN); direction: +1 where more is better, -1 where less is, or 0."""

    split: str
    method: str  # none for a score
    metric: str
    meaning: str
    direction: int
    layer: int | None
    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g}" + ("" if math.isnan(self.error) else f" ± {self.error:.2g}")


@dataclass(frozen=True)
class Measured:
    """One data set of a model: the values, and from the provenance beside them where they come from."""

    values: list[Value]
    source: dict[str, Any]  # of the rows
    settings: dict[str, Any]
    samples: dict[str, int]  # rows of test: all, and those that were taken
    date: str
    model: dict[str, Any]

    @property
    def hub(self) -> tuple[str | None, str | None]:
        """Id and configuration of a data set of the hub."""
        return (self.source["id"], self.source.get("config")) if "revision" in self.source else (None, None)

    @property
    def of_sample(self) -> bool:
        known = {value.metric: value.value for value in self.values}
        return known.get("signal_share", 1) < HALF or known.get("n_over_d", 1) < 1


Sets = Mapping[str, Measured]


def load(folder: Path) -> dict[str, dict[str, Measured]]:
    """model: data set: what was measured, of every pair of a results folder."""
    pairs = load_pairs(folder)
    long = load_scores(folder, [name for name in (*SCORES, *ERRORS.values()) if name not in pairs])
    rows = read_tables(folder, "ntps")
    recent = set(rows[two_sided(rows)][PAIR].itertuples(index=False, name=None))
    models: dict[str, dict[str, Measured]] = {}
    for row in pairs.merge(headline(at_points(long), pairs), "left", PAIR).to_dict("records"):
        meanings = SCORES if (row["model"], row["dataset"]) in recent else SCORES | OLDER
        one = measured(folder, {str(name): value for name, value in row.items()}, meanings)
        models.setdefault(row["model"], {})[row["dataset"]] = one
    return models


def measured(folder: Path, row: Mapping[str, Any], meanings: Mapping[str, str] = SCORES) -> Measured:
    """One pair: `row` has its scores, accuracies and best layer."""
    about = provenances(folder, row["model"], row["dataset"]) or {"none": provenance.of("none", {})}
    first = next(iter(about.values()))
    run, record = run_and_record(first)
    rows, taken = test_rows(first)
    layer = None if math.isnan(row["best_layer"]) else int(row["best_layer"])
    values = []
    for name, meaning in meanings.items():
        score, error = EVERY[name], row.get(ERRORS.get(name, ""), math.nan)
        split, value = "test" if score.on_test else "train", row.get(name, math.nan)
        values.append(Value(split, "none", name, meaning, score.direction, layer, value, error))
    for method in registry.METHODS:
        n = test_rows(about.get(f"accuracy/{method.name}", first))[1]
        for target in method.targets:
            if target.of or target.split != "test" or method.trains == "all":  # all: another model
                continue
            value, metric = row[target.name], {"accuracy": "acc"}.get(target.metric, target.metric)
            error = math.sqrt(value * (1 - value) / (n - 1)) if metric == "acc" and n > 1 else math.nan
            where = layer if target.probe else None
            values.append(
                Value("test", method.name, metric, target.meaning, target.direction, where, value, error)
            )
    return Measured(
        values=[value for value in values if not math.isnan(value.value)],
        source=record.get("data", {}).get("source") or {},
        settings={name: run.get(name) for name in ("limit", "max_length", "dtype", "seed")},
        samples={"original": rows, "effective": taken} if rows else {},
        date=max(date_of(one, f"{kind} of {row['model']} x {row['dataset']}") for kind, one in about.items()),
        model=record.get("model") or {},
    )


def run_and_record(about: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and record of the forward pass that a table rests on."""
    identity, record = about["identity"], about["record"]
    return identity.get("train", identity), record.get("moments", record)


def date_of(about: dict[str, Any], what: str) -> str:
    """When a table was made; UserError where its record does not say so."""
    date = about["record"].get("date")
    try:
        datetime.fromisoformat(date)
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: the record beside the table has no date ({date!r}). {provenance.REMEDY}"
        ) from None
    return str(date)


def test_rows(about: dict[str, Any]) -> tuple[int, int]:
    """Rows of the test split that the data set has, and that a table's run took; 0 where it is not recorded."""
    run, record = run_and_record(about)
    rows = record.get("data", {}).get("rows", {}).get("test", 0)
    return rows, min(rows, run.get("limit") or rows)


def model_card(model: str, sets: Sets) -> str:
    """YAML metadata with a `model-index`, and a section with the same values."""
    # results of one id, configuration and split would be joined
    shared = Counter(one.hub for one in sets.values())
    results, rows = [], []
    for dataset, one in sets.items():
        for value in one.values:
            rows.append(f"| {escaped(dataset)} | {value.split} | {value.meaning} | {value} |")
            result = EvalResult(
                task_type="text-classification",
                dataset_type=one.hub[0] if one.hub[0] and shared[one.hub] == 1 else dataset,
                dataset_name=dataset,
                dataset_config=one.hub[1],
                dataset_split=value.split,
                dataset_revision=one.source.get("revision"),
                metric_type="accuracy" if value.metric == "acc" else value.metric,
                metric_name=value.meaning,
                metric_value=float(value.value),
                metric_args=None if value.layer is None else {"layer": value.layer},
            )
            results.append(result)
    if few := ", ".join(dataset for dataset, one in sets.items() if one.of_sample):
        rows.append(f"\n{escaped(few)}: NTPS describes the sample more than the task.")
    about = next(iter(sets.values())).model
    data = ModelCardData(model_name=about.get("id", model), eval_results=results)
    note = f"The model: {escaped(about['note'])}.\n" if about.get("note") else ""
    return CARD.format(metadata=data.to_yaml(), note=note, rows="\n".join(rows))


def lm_eval(model: str, sets: Sets) -> dict[str, Any]:
    """A task `ntps_DATASET` each; a metric's filter is the script that measured it, none for scores."""
    tasks = {f"ntps_{dataset}": (dataset, one) for dataset, one in sets.items()}
    about = next(iter(sets.values())).model
    name = about.get("id", model)
    return {
        "results": {task: {"alias": dataset} | metrics(one.values) for task, (dataset, one) in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: config(task, *where) for task, where in tasks.items()},
        "versions": dict.fromkeys(tasks, provenance.FORMAT),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            task: {value.metric: {1: True, -1: False}.get(value.direction) for value in one.values}
            for task, (_, one) in tasks.items()
        },
        "n-samples": {task: one.samples for task, (_, one) in tasks.items() if one.samples},
        "config": {"model": "ntps", "model_args": about},
        "date": datetime.fromisoformat(newest(sets)).timestamp(),
        "model_source": "ntps",
        "model_name": name,
        "model_name_sanitized": name.replace("/", "__"),
    }


def metrics(values: list[Value]) -> dict[str, float]:
    """metric,filter and metric_stderr,filter."""
    found = {f"{value.metric},{value.method}": float(value.value) for value in values}
    errors = {f"{value.metric}_stderr,{value.method}": float(value.error) for value in values}
    return found | {name: error for name, error in errors.items() if not math.isnan(error)}


def config(task: str, dataset: str, one: Measured) -> dict[str, Any]:
    return {
        "task": task,
        "dataset_path": one.hub[0] or dataset,
        "dataset_name": one.hub[1],
        "training_split": "train",
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {
            "version": provenance.FORMAT,
            "source": one.source,
            "layer": next((value.layer for value in one.values if value.layer is not None), None),
            **one.settings,
        },
    }


def newest(sets: Sets) -> str:
    return max(one.date for one in sets.values())


def write(folder: Path, output: Path, form: str) -> list[Path]:
    """OUTPUT/MODEL.md for each model, or OUTPUT/MODEL/results_DATE.json, as lm_eval names it."""
    written = []
    for model, sets in load(folder).items():
        if form == "model-card":
            path, text = output / f"{model}.md", model_card(model, sets)
        else:
            path = output / model / f"results_{newest(sets).replace(':', '-')}.json"
            text = atomic_files.to_json(lm_eval(model, sets))
        atomic_files.write_text(path, text)
        written.append(path)
    return written
