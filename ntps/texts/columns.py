"""The columns that a description names, for a table whose columns are known."""

import re
from collections.abc import Container, Iterator
from typing import Any

FIELD = re.compile(r"\{([^{}]*)\}")


def columns_of(template: str, known: Container[str]) -> list[str]:
    """The column of that name, or the columns that a template names in braces."""
    return [template] if template in known or "{" not in template else FIELD.findall(template)


def named_columns(spec: dict[str, Any], known: Container[str]) -> Iterator[tuple[str, str]]:
    """Every column that a checked description takes something from, after the key that names it."""
    texts = [spec["text"]]
    if isinstance(spec["text"], dict):  # a template for each value of a column
        ((column, choices),) = spec["text"].items()
        yield "text", column
        texts = list(choices.values())
    templates = [("text", template) for template in texts]
    templates += [(key, spec[key]) for key in ("label", "group", "stratify") if key in spec]
    yield from ((key, column) for key, template in templates for column in columns_of(template, known))
    yield from (("where", column) for column in spec["where"])
