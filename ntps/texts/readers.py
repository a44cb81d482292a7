"""Rows of one file: of the user's own by their ending, of those in a wheel by the reader that a description names."""

import json
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntps.sources.patterns import Pattern

Row = dict[str, Any]
Spec = dict[str, Any]  # the checked keys of a description


def _json_rows(text: str, **options: Any) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line, **options) if line.strip() else None
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if isinstance(row, dict):
            yield row
        elif line.strip():
            raise ValueError(f'line {number} is not an object such as {{"text": "...", "label": "..."}}')


def _lines(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    pattern = Pattern(spec["pattern"], where, "pattern")
    # Split at newlines only: str.splitlines would also cut at characters that occur inside these texts.
    for line in content.decode(spec.get("encoding", "utf-8")).split("\n"):
        if match := pattern("fullmatch", line.rstrip("\r")):
            yield match.groupdict()


def _jsonl(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    return _json_rows(content.decode(spec.get("encoding", "utf-8")))


def _first_line(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    yield {"first_line": content.split(b"\n", 1)[0].decode(spec.get("encoding", "utf-8"))}


def _xml(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    """A row for each <item>: attributes, texts of its children, and as `top` the <name> of the outermost."""
    for top in ElementTree.fromstring(content):
        for item in top.iter("item"):
            children = {child.tag: child.text for child in item if child.tag != "item"}
            yield {**item.attrib, **children, "top": top.findtext("name")}


WHEEL_READERS = {"lines": _lines, "jsonl": _jsonl, "first_line": _first_line, "xml": _xml}


def _csv(path: Path) -> list[Row]:
    import pandas as pd

    # Everything is text, nothing is guessed: "NA" is a word, "01" is not 1. Too many fields are an error.
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_filter": False, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(path, encoding="utf-8-sig", **options)
    return [dict(zip(table.columns, row)) for row in table.itertuples(index=False, name=None)]


def _json_lines(path: Path) -> list[Row]:
    text = path.read_bytes().decode("utf-8-sig")
    return list(_json_rows(text, parse_int=str, parse_float=str))  # numbers stay as they are written


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


FILE_READERS = {".csv": _csv, ".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
