"""Rows of one file: of the user's own by their ending, of those in a wheel by the reader that a description names."""

import json
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ntps.sources.patterns import Pattern

Row = dict[str, Any]
Spec = dict[str, Any]  # the checked keys of a description


def _json_row(line: str | bytes, number: int, **options: Any) -> Row:
    try:
        row = json.loads(line, **options)
    except RecursionError as error:
        raise ValueError(f"line {number} is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f'line {number} is not an object such as {{"text": "...", "label": "..."}}')
    return row


def _lines(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    pattern = Pattern(spec["pattern"], where, "pattern")
    # Split at newlines only: str.splitlines would also cut at characters that occur inside these texts.
    for line in content.decode(spec.get("encoding", "utf-8")).split("\n"):
        if match := pattern("fullmatch", line.rstrip("\r")):
            yield match.groupdict()


def _jsonl(content: bytes, spec: Spec, where: Path) -> Iterator[Row]:
    return (_json_row(line, n) for n, line in enumerate(content.split(b"\n"), 1) if line.strip())


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
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, na_filter=False, index_col=False, encoding="utf-8-sig"
        )
    names = table.columns
    return [dict(zip(names, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def _json_lines(path: Path) -> list[Row]:
    lines: Iterable[tuple[int, str]] = enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1)
    as_written = {"parse_int": str, "parse_float": str}  # numbers stay as they are written
    return [_json_row(line, number, **as_written) for number, line in lines if line.strip()]


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


FILE_READERS = {".csv": _csv, ".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
