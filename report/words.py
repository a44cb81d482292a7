"""Numbers in words for the report's pages, and Markdown tables: one way to write a p-value, a share, an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

Columns = Mapping[str, tuple[str, Callable[[Any], str]]]  # heading: column, and how its values are written


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of strings."""
    head = [list(table.columns), ["---"] * len(table.columns)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [*head, *table.itertuples(index=False)])


def written(table: pd.DataFrame, columns: Columns, index: str = "data set") -> str:
    """A Markdown table of the index, under this heading, and of some columns."""
    cells = {head: [write(value) for value in table[column]] for head, (column, write) in columns.items()}
    return markdown(pd.DataFrame({index: table.index, **cells}))


whole, tenths, percent = "{:.0f}".format, "{:.1f}".format, "{:.0%}".format


def in_form(form: str, scale: float = 1) -> Callable[[Any], str]:
    """How a number is written that may be negative; "-" for one that is not known."""
    return lambda value: "-" if pd.isna(value) else f"{scale * value:{form}}".replace("-", "−")


two, three = in_form(".2f"), in_form(".3f")
number = in_form("+.2f")  # a correlation or a difference, with its sign
points_of = in_form(".1f", 100)  # a share or an accuracy, in hundredths


def p_text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{two(low)}, {two(high)}]"


def rho(row: pd.Series[float]) -> str:
    return two(row["rho"]) + interval(row["low"], row["high"])


def p_values(p: float, after_holm: float) -> str:
    return f"p {p_text(p)}, after Holm {p_text(after_holm)}"


def marked(text: str, reading: str) -> str:
    """With a star where the correlation is significant."""
    return text + " *" * (reading in ("holds", "reversed"))
