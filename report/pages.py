"""The pages' templates, filled by Jinja: NAME.template.md has the words, Python gives the values, filters write them as report/words.py does."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from ntps.errors import UserError
from report import words

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
TEMPLATES.filters |= {
    "two": words.two, "three": words.three, "whole": words.whole, "percent": words.percent,
    "points": words.points_of, "p": words.p_text, "number": words.number,
    "table": lambda lines: words.markdown(pd.DataFrame(lines)),
}  # fmt: skip
TEMPLATES.tests["known"] = lambda value: value == value  # no NaN


def filled(name: str, values: dict[str, Any]) -> str:
    """The text of NAME.template.md; UserError for a name in it that is not among the values."""
    try:
        return TEMPLATES.get_template(f"{name}.template.md").render(values)
    except UndefinedError as error:
        raise UserError(f"{name}.template.md names what no table supplies: {error}") from None
