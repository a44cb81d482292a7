"""Which model for my texts, from Python: `ntps.rank`. prescreen.py is the same from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.errors import NO_MEMORY, UserError, enough_memory
from ntps.evaluation.gain import Calibration
from ntps.flags import Prescreening
from ntps.moments.pair import Cached
from ntps.prescreening import measure, page, texts
from ntps.prescreening.rows import Rows
from ntps.prescreening.text_probe import TextProbe
from ntps.system import storage


class Ranking:
    """Candidate models measured on one data set, the best first; shown, it is the ranked table and the verdict.

    UserError where the data set cannot be read, or nothing can be learnt from it.
    """

    def __init__(self, flags: Prescreening, rows: Rows | None = None):
        if flags.gain:
            Calibration(flags.gain)  # refused before any pass if it is none
        self.flags, self.rows = flags, rows
        self.where, self.data = texts.load(flags)
        self.warnings = texts.check(self.data, flags.limit, flags.seed)
        self.facts = texts.facts(self.data, flags)
        self.measured: list[measure.Measured] = []
        self.named: dict[str, str] = {}  # models as the user named them, by their names in the table
        self.failed: dict[str, str] = {}  # models that could not be measured, and why

    def measure(self, model: str) -> None:
        """One more model: its forward pass, unless it is there, and its place among the others. UserError if it cannot be."""
        found = measure.measure(model, self.where, self.data, self.flags)
        texts.keep(self.flags)
        self.measured = measure.rank([*self.measured, found])
        self.named[found.row["model"]] = model

    @property
    def table(self) -> pd.DataFrame:
        """One row a model, the best first, with every score at its best layer; columns as in prescreen.py's CSV."""
        return page.table([one.row for one in self.measured])

    def __repr__(self) -> str:
        rows = [one.row for one in self.measured]
        return "\n".join([page.answer(rows), *(f"warning: {warning}" for warning in self.warnings)])

    def report(self, path: str | Path) -> Path:
        """Write the page that explains every number, one file of HTML without a network; its path."""
        storage.write_text(Path(path), page.page(self.measured, self.facts, self.warnings))
        return Path(path)

    def write(self) -> None:
        """Print the answer, and write OUTPUT/NAME.html, .json and .csv."""
        page.report(self.measured, self.facts, self.warnings, self.flags.output)

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
    hash of the rows). flags: those of prescreen.py, such as limit=500, layers="all" or device="cuda".

    A model that cannot be measured is reported and left out. UserError where none can, and for rows that are no texts and
    labels.
    """
    rows = Rows.of(texts, labels, text, test)
    chosen = dict.fromkeys([models] if isinstance(models, str) else models)
    with rows.written(Path(output) / "data", name, flags.get("overwrite", False)) as files:
        asked = flags | {"text": rows.text, "label": rows.label, "target": target or rows.target}
        ranking = Ranking(Prescreening(models=list(chosen), output=output, **files, **asked), rows)
        for model in chosen:
            try:
                with enough_memory(NO_MEMORY):
                    ranking.measure(model)
            except (UserError, OSError) as error:
                ranking.failed[model] = str(error)
                print(f"error: {model}: {error}", file=sys.stderr)
        if not ranking.measured:
            raise UserError("; ".join(f"{model}: {why}" for model, why in ranking.failed.items()))
    return ranking
