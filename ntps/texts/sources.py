"""Where the rows of a data set come from: a wheel, a hub id or folder, the user's own files.

A new source is one class here with its instance in SOURCES: its keys, how rows are read, what holds by default.
"""

import fnmatch
import hashlib
import itertools
import json
import os
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ntps.errors import UserError, boundary, one_line
from ntps.sources.hub import locked, snapshot
from ntps.sources.patterns import form_faults, pattern_fault
from ntps.sources.wheels import file_sha256, pypi_wheel
from ntps.sources.yaml_files import Faults, Keys, suggest
from ntps.system.console import note, warn
from ntps.system.paths import regular_file
from ntps.texts import readers
from ntps.texts.columns import columns_of, named_columns
from ntps.texts.readers import Row, Spec

Splits = dict[str, list[Row]]
SPLIT = r"\w[\w-]*"  # a split's name
FOLDERS = ("Csv", "Json", "Parquet")  # what `datasets` may read of a local folder
MOST_FILES = 10_000  # below a local folder: one of more is a home or a disk, not a data set
ABOUT = ("README.md", ".huggingface.yaml")  # where a folder says which files are its rows


class TextSource(ABC):
    """A kind of source: the first of its keys names it in a description."""

    keys: Keys
    required: tuple[str, ...] = ()
    stratified = False  # a test split that we make: a quarter, stratified on the label; else 30 % of the rows
    drops_equal_texts = False  # only the first is taken by default, where no test split is given

    @property
    def name(self) -> str:
        return next(iter(self.keys))

    def faults(self, spec: Spec, where: Path) -> Faults:
        """What is wrong inside the values of its keys, as (key, fault)."""
        yield from ()

    def here(self, spec: Spec, where: Path) -> bool:
        """Whether the rows are on this disk, beside the description, and nothing is ever downloaded."""
        return False

    @abstractmethod
    def read(self, spec: Spec, where: Path) -> tuple[Splits, dict[str, Any]]:
        """Rows of each split, and what identifies them (`class_order` in it: classes in the source's order)."""

    def revision(self, spec: Spec, where: Path) -> str:
        """The commit, tag or branch that is downloaded; empty for what has none."""
        return ""


def _split_faults(key: str, splits: dict[str, str]) -> Faults:
    if strange := [name for name in splits if not re.fullmatch(SPLIT, name)]:
        yield key, f"has a split {strange[0]!r}: letters, digits, _ and - make a name"
    if "train" not in splits:
        yield key, "has no train"


def _encoding_faults(spec: Spec) -> Faults:
    try:
        "".encode(spec.get("encoding", "utf-8"))
    except (LookupError, ValueError):
        yield "encoding", "is no encoding of texts that Python knows"


class Wheel(TextSource):
    """Rows of the files inside a wheel that match `file:`, in order of their paths, all as train."""

    keys = {
        "package": (str, "package of the Python Package Index"),
        "version": (str, "its version"),
        "sha256": (str, "SHA-256 of its wheel"),
        "file": (
            str | list[str],
            "file in the wheel, or several; * and ? allowed; column `path` holds each row's",
        ),
        "reader": (str, "lines, jsonl, csv, tsv, sqlite, first_line or xml"),
        "pattern": (str, "lines: regular expression of a whole line; its named groups are the columns"),
        "separator": (str, "lines: what lies between two of them, if not the end of a line"),
        "table": (str, "sqlite: name of the table"),
        "encoding": (str, "of those files, if not utf-8"),
        "megabytes": (float, "size of the wheel, for the message while it is fetched"),
    }
    required = ("version", "sha256", "file", "reader")
    stratified = drops_equal_texts = True

    def faults(self, spec: Spec, where: Path) -> Faults:
        yield from form_faults(spec, "package", "version", "sha256")
        if spec["reader"] not in readers.WHEEL_READERS:
            yield "reader", f"is unknown; {suggest(spec['reader'], readers.WHEEL_READERS)}"
        for reader, key in (("lines", "pattern"), ("sqlite", "table")):
            if spec["reader"] == reader and key not in spec:
                yield key, "missing"
        if spec.get("separator") == "":
            yield "separator", "is nothing"
        if fault := pattern_fault(spec.get("pattern", "")):
            yield "pattern", fault
        yield from _encoding_faults(spec)

    def read(self, spec: Spec, where: Path) -> tuple[Splits, dict[str, Any]]:
        wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], spec.get("megabytes"))
        read, rows, paths = readers.WHEEL_READERS[spec["reader"]], [], set[str]()
        with boundary(f"{where}: file: cannot read {wheel.name}"), zipfile.ZipFile(wheel) as archive:
            for file in [spec["file"]] if isinstance(spec["file"], str) else spec["file"]:
                if not (matched := fnmatch.filter(archive.namelist(), file)):
                    raise UserError(f"{where}: file: nothing in {wheel.name} matches {file!r}")
                paths.update(matched)
            size = 0
            for path in sorted(paths):
                try:
                    readers.bounded(size := size + archive.getinfo(path).file_size)
                    rows += [{"path": path, **row} for row in read(archive.read(path), spec, where)]
                except (ValueError, SyntaxError) as error:
                    foreign = f"encoding: {spec.get('encoding', 'utf-8')}: not that of"
                    what = foreign if isinstance(error, UnicodeError) else "file: cannot read"
                    raise UserError(f"{where}: {what} {path}: {one_line(error)}") from error
        return {"train": rows}, {key: spec[key] for key in ("package", "version", "sha256")}


class Hub(TextSource):
    """Rows of each split of a folder, be it the user's or a commit of a hub repository, through `datasets`."""

    keys = {
        "id": (str, "hub id, or folder of csv, jsonl or parquet files beside the YAML; column `row` counts"),
        "config": (str, "subset of a hub data set"),
        "revision": (str, "commit, or tag or branch (python -m ntps.pin locks its commit) of a hub data set"),
        "splits": (dict[str, str], "our name of a split: its name on the hub"),
    }

    def faults(self, spec: Spec, where: Path) -> Faults:
        if "splits" in spec:
            yield from _split_faults("splits", spec["splits"])
        if not self.here(spec, where):
            yield from form_faults(spec, "id", "revision")

    def here(self, spec: Spec, where: Path) -> bool:
        return os.path.isdir(where.parent / spec["id"])

    def revision(self, spec: Spec, where: Path) -> str:
        remote = not self.here(spec, where)
        return locked(where, "dataset", spec["id"], spec.get("revision", "main")) if remote else ""

    def read(self, spec: Spec, where: Path) -> tuple[Splits, dict[str, Any]]:
        import datasets  # takes seconds to import: only where it is used
        from pandas.errors import ParserWarning

        # An absolute path: "csv" alone is a reader of `datasets`, not a folder.
        folder, local = (where.parent / spec["id"]).resolve(), self.here(spec, where)
        facts: dict[str, Any] = {"id": spec["id"], "config": spec.get("config")}
        cache = {}
        if local:
            facts["sha256"] = _hashes(folder, f"{where}: id: {spec['id']}")
            digest = hashlib.sha256(json.dumps(facts["sha256"]).encode()).hexdigest()
            # The usual one goes by the time of a change alone.
            cache["cache_dir"] = os.path.join(datasets.config.HF_DATASETS_CACHE, f"ntps-{digest}")
        else:  # `datasets` itself would read another commit than the one requested where it has no network
            folder = snapshot(spec["id"], self.revision(spec, where), "dataset", unwanted=("*.py",))
            facts["revision"] = folder.name
        remedy = "check id, config and revision" + ", or name each file under files:" * local
        with boundary(f"{where}: id: cannot load {spec['id']!r}", remedy):
            what = f"{where}: id: {spec['id']}"
            self._check_inside(asked_for(folder), folder, what)  # before `datasets` asks for an address
            builder = datasets.load_dataset_builder(str(folder), spec.get("config"), **cache)
            config, kind = builder.config, type(builder.config).__name__.removesuffix("Config")
            if local and kind not in FOLDERS:
                raise UserError(f"{what} is a folder of {kind} files; {', '.join(FOLDERS)} are read")
            found = [str(file) for files in dict(config.data_files or {}).values() for file in files]
            self._check_inside(found, folder, what)
            for file in found if local else ():
                readers.check_size(Path(file), kind == "Parquet")
            options, recognised = self._csv_options(config, folder, spec, where) if local else ({}, {})
            with warnings.catch_warnings():
                warnings.simplefilter("error", ParserWarning)  # of fields beyond those of the header
                loaded = datasets.load_dataset(str(folder), spec.get("config"), **cache, **options)
            for split, table in loaded.items() if options else ():
                loaded[split] = table.rename_columns({name: name.strip() for name in table.column_names})
        facts |= {"recognised": recognised} if recognised else {}
        if local:
            self._warn_of_left(found, folder, what)
        if local and kind == "Json":
            self._warn_of_dates(loaded, spec, what)
        names = spec.get("splits") or {n: n for n in ("train", "validation", "test") if n in loaded}
        if "train" not in names:
            raise UserError(f"{where}: splits: say which of {', '.join(loaded)} is train: {{train: ...}}")
        splits: Splits = {}
        for name, original in names.items():
            if original not in loaded:
                known = suggest(original, loaded)
                raise UserError(f"{where}: splits: {spec['id']} has no split {original!r}; {known}")
            splits[name], order = self._rows(loaded[original], spec, local, f"{where}: label: split {name!r}")
            if order:
                facts["class_order"] = order
        return splits, facts

    @staticmethod
    def _warn_of_left(found: list[str], folder: Path, what: str) -> None:
        """`datasets` goes by the names of files, and leaves out those that name no split as it spells them."""
        kinds, taken = ({getattr(Path(file), part) for file in found} for part in ("suffix", "name"))
        if left := sorted({path.name for path in folder.iterdir() if path.suffix in kinds} - taken):
            remedy = "call it test, or name each file under files:"
            warn(f"{what}: {', '.join(left[:3])} is in no split: {remedy}")

    @staticmethod
    def _warn_of_dates(loaded: Any, spec: Spec, what: str) -> None:
        """`datasets` takes texts such as 2024-01-31 for times, which are written as 2024-01-31 00:00:00."""
        kinds = {name: kind for table in loaded.values() for name, kind in table.features.items()}
        for column in dict.fromkeys(name for _, name in named_columns(spec, kinds)):
            if str(getattr(kinds.get(column), "dtype", "")).startswith("timestamp"):
                warn(f"{what}: {column} is read as times, not as it is written: name each file under files:")

    @staticmethod
    def _check_inside(paths: Iterable[str], folder: Path, what: str) -> None:
        """UserError where one lies elsewhere on this machine, or on the network. Links in the folder are followed: in the hub's
        cache every file is one."""
        top = folder.resolve()
        for path in paths:
            if "://" in path or not Path(os.path.abspath(top / path)).is_relative_to(top):
                raise UserError(f"{what}: {path} does not lie in it: name each file under files:")

    @staticmethod
    def _csv_options(
        config: Any, folder: Path, spec: Spec, where: Path
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """How `datasets` is to read a folder of CSV files, and what was recognised: as for Files, but for numbers."""
        from datasets.packaged_modules.csv.csv import CsvConfig

        if not isinstance(config, CsvConfig):
            return {}, {}
        found, recognised = {}, {}
        for path in sorted(Path(file) for files in dict(config.data_files).values() for file in files):
            name, notes = os.path.relpath(path, folder), list[str]()
            found[name] = readers.csv_options(path, spec, notes)
            if notes:
                recognised[name] = ", ".join(notes)
                note(f"{where}: id: {name} is read as {recognised[name]}")
        first = next(iter(found.values()))
        if other := [name for name, options in found.items() if options != first]:
            raise UserError(
                f"{where}: id: {other[0]} has another encoding or delimiter: name each under files:"
            )
        return {"keep_default_na": False, "na_values": [""], "index_col": False, **first}, recognised

    @staticmethod
    def _rows(table: Any, spec: Spec, local: bool, what: str) -> tuple[list[Row], list[str] | None]:
        """Rows with labels by name, None for missing and the hub's negative ones; the classes in the hub's order, if it has one."""
        rows = [{"row": place, **row} for place, row in enumerate(table.to_list())]
        names: Any = None
        for column in (name for name in columns_of(spec["label"], table.features) if name in table.features):
            feature = table.features[column]  # a class, or a list of them
            names = getattr(getattr(feature, "feature", feature), "names", None)
            hubs = bool(names) or not (local or spec.get("target") == "numeric")
            for row in rows:
                try:
                    row[column] = _label(row[column], names, hubs)
                except IndexError:
                    raise UserError(
                        f"{what}, row {row['row']}: {column} holds {row[column]!r:.200}, beyond the {len(names)} names of "
                        "its classes: mend the data set"
                    ) from None
        return rows, names


def _label(cell: Any, names: list[str] | None, hubs: bool) -> Any:
    """A label by its name, if it has one; None for a negative one of the hub's: not labelled. IndexError beyond the names."""
    if isinstance(cell, list) and names:
        return [name for one in cell if (name := _label(one, names, hubs)) is not None]
    if isinstance(cell, float) and cell.is_integer():  # integers with gaps arrive as 0.0 and 1.0
        cell = int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return None if hubs and cell < 0 else names[cell] if names else cell
    return cell


def _hashes(folder: Path, what: str) -> dict[str, str]:
    """SHA-256 of every file below it; UserError where one cannot be read, or the folder is no data set's."""
    with boundary(f"{what} cannot be read", "name each file under files:"):
        found = list(itertools.islice(folder.rglob("*"), MOST_FILES + 1))
        if len(found) > MOST_FILES:
            raise UserError(
                f"{what} holds more than {MOST_FILES} files and folders: name a folder of rows alone, or each file under files:"
            )
        files = sorted(path for path in found if path.is_file())
        return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def asked_for(folder: Path) -> list[str]:
    """The files and folders that a data set's README.md, or its older .huggingface.yaml, names in its configs."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK as FRONT  # what `datasets` finds, and nothing else

    paths = {name: folder / name for name in ABOUT if (folder / name).is_file()}
    texts = {name: path.read_bytes().decode("utf-8-sig") for name, path in paths.items()}
    fronts = [match[2] if (match := FRONT.search(text)) else "" for text in texts.values()]
    abouts = map(yaml.safe_load, [*fronts, texts.get(".huggingface.yaml", "")])
    configs = [about.get("configs") for about in abouts if isinstance(about, dict)]
    left: list[Any] = [one for several in configs if isinstance(several, list) for one in several]
    left = [one.get(key) for one in left if isinstance(one, dict) for key in ("data_files", "data_dir")]
    found, seen = list[str](), set[int]()
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list) and id(value) not in seen:  # an alias may stand anywhere
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value
    return found


class Files(TextSource):
    """Rows of each split from files, values as they are written."""

    keys = {
        "files": (dict[str, str], "name of a split: path of a CSV, TSV, JSON, Parquet or Excel file"),
        "encoding": (str, "of CSV, TSV and JSON, if neither utf-8 nor marked; such as cp1252"),
        "delimiter": (
            str,
            f"of CSV and TSV, if not recognised: {', '.join(readers.DELIMITERS)}, or a character",
        ),
    }
    drops_equal_texts = True

    def faults(self, spec: Spec, where: Path) -> Faults:
        yield from _split_faults("files", spec["files"])
        yield from _encoding_faults(spec)
        delimiter = spec.get("delimiter", ",")
        if delimiter not in readers.DELIMITERS and (len(delimiter) != 1 or delimiter in '"\r\n'):
            yield "delimiter", "is not one of these"
        elif not delimiter.isascii():
            yield "delimiter", "is not of ASCII"
        kinds = {readers.without_gz(Path(file)).suffix.lower() for file in spec["files"].values()}
        for key, known in (
            ("delimiter", readers.DELIMITED),
            ("encoding", (*readers.DELIMITED, ".jsonl", ".json")),
        ):
            if key in spec and not kinds.intersection(known):
                yield key, f"is only of {', '.join(known)}: take it out"

    def here(self, spec: Spec, where: Path) -> bool:
        return True

    def read(self, spec: Spec, where: Path) -> tuple[Splits, dict[str, Any]]:
        splits: Splits = {}
        hashes, recognised = {}, {}
        for name, file in spec["files"].items():
            path, what = where.parent / file, f"{where}: files: {name}:"
            if (kind := readers.without_gz(path).suffix.lower()) not in readers.FILE_READERS:
                known = ", ".join(readers.FILE_READERS)
                raise UserError(f"{what} {file} is none of {known}, or one of them with .gz")
            other = ", or give its delimiter: (flag --delimiter)" if kind in (".csv", ".tsv") else ""
            with boundary(f"{what} cannot read {path}", f"mend or convert the file{other}"):
                if not path.exists():
                    raise UserError(f"{what} there is no file {path}; paths are relative to the YAML")
                content = regular_file(path).read_bytes()
                hashes[file] = hashlib.sha256(content).hexdigest()
                splits[name], notes = readers.rows_of(path, content, spec)
            if notes:
                recognised[file] = ", ".join(notes)
                note(f"{what} {file} is read as {recognised[file]}")
        more = {"recognised": recognised} if recognised else {}
        return splits, {"files": spec["files"], "sha256": hashes} | more


SOURCES: dict[str, TextSource] = {source.name: source for source in (Wheel(), Hub(), Files())}
