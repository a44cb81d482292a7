"""What the report reads, each table once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from fig_plot.tables import score_rows
from ntps import results
from ntps.errors import UserError
from ntps.results.tables import PAIR, at_tenth, best_rows, read_tables

MODEL, RANDOM = "smollm2-135m", "smollm2-135m-random"
Facts = dict[str, str]


class Tables:
    """A results folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every row of K_sweep.py."""
        return score_rows(self.folder)

    @cached_property
    def best(self) -> pd.DataFrame:
        """Its rows at kv = d/10 and each pair's best layer, with the layer's other scores."""
        tenth = at_tenth(self.scores)
        return best_rows(self.folder).merge(tenth, "left", [*PAIR, "layer"], suffixes=("", "_"))

    @cached_property
    def last(self) -> pd.DataFrame:
        """Its rows at kv = d/10 and the last layer, by data set; of the model, or of those with its adapters."""
        table = at_tenth(self.scores)
        table = table[(table["layer"] == table["layer"].max()) & (table["model"] != RANDOM)]
        return table.set_index("dataset")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        return results.load_pairs(self.folder)

    @cached_property
    def selection(self) -> dict[str, pd.DataFrame]:
        """ntps.selection's tables of the model."""
        names = ("fixed", "choices", "comparisons")
        return {name: of_model(pd.read_csv(self.folder / "selection" / f"{name}.csv")) for name in names}

    def final_tests(self, method: str) -> pd.DataFrame:
        """The rows of a trainer's final accuracies on test."""
        table = read_tables(self.folder, f"accuracy/{method}")
        return table[(table["split"] == "test") & table["final"].astype(bool)]

    def below(self, name: str) -> Tables:
        return Tables(self.folder / name)


def of_model(table: pd.DataFrame, model: str = MODEL) -> pd.DataFrame:
    return table[table["model"] == model]


CONTROL = "-random"  # how models of random weights are called


def real(table: pd.DataFrame) -> pd.DataFrame:
    """Without the models of random weights."""
    return table[~table["model"].str.endswith(CONTROL)]


def by_dataset(table: pd.DataFrame, model: str = MODEL) -> pd.DataFrame:
    return of_model(table, model).set_index("dataset")


def one(table: pd.DataFrame, **where: str) -> pd.Series[float]:
    """The only row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise UserError(f"{len(table)} rows with {where}, not one: run ntps.selection again")
    return table.iloc[0]
