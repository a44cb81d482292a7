"""Which model for my texts: candidates ranked by held-out skill. `ntps.rank`, and prescreen.py from the command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy.stats import sem, studentized_range

from ntps.errors import NO_MEMORY, UserError, boundary, enough_memory
from ntps.evaluation import halving
from ntps.evaluation.gain import Calibration
from ntps.evaluation.halving import Dropped
from ntps.flags import Prescreening
from ntps.models.description import output_name, resolve_model
from ntps.moments.pair import Cached
from ntps.prescreening import measure, page, user_files
from ntps.prescreening.measure import Measured, Row
from ntps.prescreening.rounds import Candidate, dropped_row
from ntps.prescreening.rows import Rows
from ntps.prescreening.text_probe import TextProbe
from ntps.sources.yaml_files import suggest
from ntps.system import atomic_files, processes
from ntps.system.console import visible

Found = TypeVar("Found")


class Ranking:
    """Candidate models measured on one data set, the best first; shown, it is the ranked table and the verdict.

    UserError where the data set cannot be read, or nothing can be learnt from it.
    """

    def __init__(self, flags: Prescreening, rows: Rows | None = None):
        if flags.gain:
            Calibration(flags.gain)  # refused before any pass if it is none
        self.flags, self.rows = flags, rows
        self.where, self.data = user_files.load(flags)
        if flags.finetune_probe and self.data.target != "classes":
            raise UserError(
                f"--finetune_probe: LoRA is trained on classes, one a row; {self.data.name} is {self.data.target}"
            )
        self.warnings = user_files.check(self.data, flags.limit, flags.seed)
        self.facts = user_files.facts(self.data, flags)
        self.measured: list[Measured] = []
        self.named: dict[str, str] = {}  # models as the user named them, by their names in the table
        self.failed: dict[str, str] = {}  # models that could not be measured, and why
        self.dropped: dict[str, Dropped] = {}  # models that a race left behind on few rows
        self.candidates: dict[str, Candidate] = {}

    def run(self) -> None:
        """All models, one after the other, or with a budget in a race; the first is fine-tuned if the flags say so. One that
        fails is printed and in `failed`.

        In a launch of several processes a failure ends all: UserError.
        """
        models = self.distinct()
        if self.flags.budget:
            self.dropped = halving.race(models, self.parts, self.flags.budget, self.race)
        else:
            for model in models:
                self.attempt(model, self.measure)
        if self.flags.finetune_probe and self.measured:
            self.attempt(self.named[self.measured[0].row["model"]], self.finetune)

    def distinct(self) -> list[str]:
        """The models, each once however its name is written; one that cannot be read stays, to fail with its reason.

        Of two of one name, whose results would be in one place, the second fails.
        """
        models, seen = dict[str, str](), list[Any]()  # by their names in the results
        for model in self.flags.models:
            try:
                one: Any = resolve_model(model)
                name = output_name(one)
            except (UserError, OSError):
                one = name = model
            if one in seen:
                continue
            seen.append(one)
            if (other := models.setdefault(name, model)) != model:
                self.fail(model, f"{other} is called {name} in the results, too: rename one")
        return list(models.values())

    def attempt(self, model: str, work: Callable[[str], Found]) -> Found | None:
        try:
            with enough_memory(NO_MEMORY):
                return work(model)
        except (UserError, OSError) as error:  # OSError: no permission, a file for a folder, a full disk
            if processes.count() > 1:
                raise UserError(f"{model}: {error}") from error
            self.fail(model, str(error))
            return None

    def fail(self, model: str, why: str) -> None:
        self.failed[model] = why
        print(visible(f"error: {model}: {why}"), file=sys.stderr)

    def measure(self, model: str, flags: Prescreening | None = None) -> Measured:
        """One more model: its forward pass, unless it is there, and its place among the others. UserError if it cannot be."""
        found = measure.measure(model, self.where, self.data, flags or self.flags)
        user_files.keep(self.flags)
        self.measured = ordered([*self.measured, found])
        self.named[found.row["model"]] = model
        return found

    def finetune(self, model: str) -> None:
        """A short LoRA training of the first model, into its row."""
        from ntps.prescreening.lora_probe import finetune  # imports transformers' Trainer

        first = self.measured[0]
        first.row.update(finetune(model, self.data, self.flags, first))

    @property
    def parts(self) -> int:
        return measure.caching_of(self.flags, self.data)["train"].partitions

    def race(self, model: str, new: range) -> np.ndarray | None:
        return self.attempt(model, lambda model: self.go_on(model, new, new.stop == self.parts))

    def go_on(self, model: str, new: range, last: bool) -> np.ndarray:
        """A model's losses after one more round of a race; after the last it is measured as any other."""
        if not new.start:
            pair = measure.pair_of(model, self.where, self.data, self.flags)
            others = list(self.candidates.values())
            self.candidates[model] = Candidate(model, pair, self.data, self.flags, others)
        candidate = self.candidates[model]
        candidate.forward(new)
        if not last:
            return candidate.losses(new.stop)
        fresh = candidate.finish()
        found = self.measure(model, replace(self.flags, overwrite=False))
        if fresh:
            found.row["seconds"] = candidate.seconds
        return found.errors

    @property
    def others(self) -> list[Row]:
        """Models that were not measured on all rows, with the reason: dropped ones, the last first, and those that failed."""
        last_first = sorted(self.dropped.items(), key=lambda item: (-item[1].round, item[1].behind))
        seen = {model: candidate.row for model, candidate in self.candidates.items()}
        rows = [dropped_row(seen[model], one, seen[one.leader]["model"]) for model, one in last_first]
        failed = {model: why for model, why in self.failed.items() if model not in self.named.values()}
        return rows + [{"model": model, "dropped": f"failed: {why}"} for model, why in failed.items()]

    @property
    def table(self) -> pd.DataFrame:
        """One row a model, the best first, with every score at its best layer; columns as in prescreen.py's CSV.

        One that failed, or was dropped in a race, has the reason in the column `dropped`.
        """
        return page.table([one.row for one in self.measured], self.others)

    def __repr__(self) -> str:
        rows = [one.row for one in self.measured]
        lines = [page.answer(rows, self.others), *(f"warning: {warning}" for warning in self.warnings)]
        return visible("\n".join(lines))

    def report(self, path: str | Path) -> Path:
        """Write the page that explains every number, one file of HTML without a network; its path."""
        written = page.page(self.measured, self.facts, self.warnings, self.others)
        with boundary(f"report({str(path)!r})", "give a path that can be written"):
            atomic_files.write_text(Path(path), written)
        return Path(path)

    def write(self) -> None:
        """Print the answer, and write OUTPUT/NAME.html, .json and .csv."""
        page.report(self.measured, self.facts, self.warnings, self.flags.output, self.others)

    def probe(self, model: str | None = None) -> TextProbe:
        """The probe of a model's best layer (of the first model by default), fitted on the train rows measured.

        For classes it is the one whose accuracy the table has, for numbers the ridge probe that ranks.
        """
        rows = {one.row["model"]: one.row for one in self.measured}
        names = {given: name for name, given in self.named.items()} | {name: name for name in rows}
        if (name := names.get(model or self.measured[0].row["model"])) is None:
            raise UserError(f"{model!r} was not measured: there are {', '.join(rows)}")
        pair = measure.pair_of(self.named[name], self.where, self.data, self.flags)
        return TextProbe.of(self.named[name], Cached(pair), rows[name]["layer"], self.data, self.originals)

    @property
    def originals(self) -> dict[str, Any]:
        """Classes as the user wrote them in Python, such as 1 for "1"."""
        return self.rows.originals if self.rows else {}


@cache
def reach(models: int, rows: float = math.inf) -> float:
    """Standard errors behind the first from which one of K models is not tied: 1.96 for two, 2.73 for five, of many rows.

    Of K equal models the first is the luckiest, so that it is not enough to correct for K - 1 comparisons. The 95 %
    point of the Studentized range of K means, n - 1 degrees of freedom, over sqrt(2) (Tukey 1949): in about 5 % of cases any
    is not tied (7 % with five rows, for each difference has an error of its own).
    """
    return float(studentized_range.ppf(0.95, max(models, 2), rows - 1)) / math.sqrt(2)


def ordered(measured: Sequence[Measured]) -> list[Measured]:
    """Sorted by held-out skill; each row is given its rank, how far it is behind the first, and whether they are tied.

    The same test texts are paired: difference of skill = mean(e - e_first) / mean(guesses), its standard
    error from the differences. `tied`: within `reach` of them, so that test texts decide the order.
    """
    ranked = sorted(measured, key=lambda one: -one.row["heldout_skill"])
    first = ranked[0]
    far = reach(len(ranked), len(first.errors))
    for place, one in enumerate(ranked, 1):
        gaps = (one.errors - first.errors) / first.guesses.mean()
        behind, error = float(gaps.mean()), float(sem(gaps))
        one.row.update(rank=place, behind=behind, behind_se=error, tied=not behind > far * error)
    return ranked


def rank(
    models: str | Sequence[str], texts: Any, labels: Any, *, text: str = "text", test: Any = None,
    target: str | None = None, name: str | None = None, output: str = "prescreen", **flags: Any,
) -> Ranking:  # fmt: skip
    """Which of these models serves labelled texts best: each is measured by one forward pass over at most 2000 rows.

    models: config names, YAML files, hub ids or folders. Rows are one of
    * texts and labels, lists (or arrays, Series) of equal length; test: (texts, labels) of further rows to score on;
    * texts a pandas DataFrame or a Hugging Face Dataset, labels the name of its column (or of several columns that hold 0 and
      1, one a label), text that of the texts' column or a template such as "{question} {choices}"; test: another table of the same columns;
    * texts a DatasetDict, or a mapping, of such tables, of which `train` is measured; test: the name of the split to score
      on (default: `test`, if there is one).
    Without test rows a part of train is held out. target: numeric (default where labels are fractions), multilabel (default
    where each is a list of labels, or all are a matrix of 0 and 1, one row a text) or else classes.
    Results go to OUTPUT; what is there already is not computed again. name: of the data set there (default: rows- and a
    hash of the rows). flags: those of prescreen.py, such as limit=500, layers="0,8" or device="cuda"; None is the default.

    budget=5 takes as many forward passes over these rows as 5 models would, however many there are: those significantly behind
    on few rows are dropped.

    A model that cannot be measured is a row of the table with its reason. UserError where none can, and for rows that are no
    texts and labels.
    """
    flags = {flag: value for flag, value in flags.items() if value is not None}
    known = {one.name for one in fields(Prescreening)}
    for unknown in flags.keys() - known:
        raise UserError(f"{unknown}=: no flag of prescreen.py; {suggest(unknown, sorted(known))}")
    for given in flags.keys() & {"dataset", "train", "label"}:
        raise UserError(f"{given}=: rows are the arguments texts and labels; prescreen.py takes files")
    rows = Rows.of(texts, labels, text, test)
    if isinstance(models, str | Path):
        models = [str(models)]
    if not isinstance(models, Iterable) or not (chosen := dict.fromkeys(map(str, models))):
        raise UserError(f"models: {models!r:.60}: give at least one, as a list of names")
    with rows.written(Path(output) / "data", name, flags.get("overwrite", False)) as files:
        asked = flags | {"text": rows.text, "label": rows.label, "target": target or rows.target}
        ranking = Ranking(Prescreening(models=list(chosen), output=output, **files, **asked), rows)
        ranking.run()
        if not ranking.measured:
            raise UserError("; ".join(f"{model}: {why}" for model, why in ranking.failed.items()))
    return ranking
