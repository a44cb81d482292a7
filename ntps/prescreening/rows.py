"""Labelled rows in memory: lists, a pandas DataFrame, a Hugging Face Dataset; as files that every script reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntps.errors import UserError
from ntps.moments.pair import SPLITS
from ntps.sources.yaml_files import suggest
from ntps.system import atomic_files
from ntps.system.paths import plain_name
from ntps.texts.columns import columns_of
from ntps.texts.rows import as_text, untyped

NO_TEXT = bytes, bytearray, set, frozenset  # a column of a template may hold lists
NO_LABEL = *NO_TEXT, dict, list, tuple, np.ndarray  # below the list of a row's labels


@dataclass(frozen=True)
class Rows:
    """Tables of train and, where there is one, of test, with the columns that are needed."""

    tables: dict[str, pd.DataFrame]
    text: str  # column or template
    label: str

    @classmethod
    def of(cls, texts: Any, labels: Any, text: str, test: Any) -> Rows:
        """The arguments of `ntps.rank`; UserError where they do not fit together."""
        if isinstance(texts, Mapping):  # a DatasetDict is one
            if not (test is None or isinstance(test, str)):
                raise UserError(f"test: {short(test)} is no name of a split of texts")
            given, test = texts, "test" if test is None and "test" in texts else test
            for split in ("train", *([test] if test else [])):
                if split not in given:
                    raise UserError(f"texts: there is no split {split!r}; {suggest(split, map(str, given))}")
            texts, test = given["train"], given[test] if test else None
        if not is_table(texts):
            pairs = {"train": (texts, labels)} | ({"test": test} if test is not None else {})
            if test is not None and not (isinstance(test, list | tuple) and len(test) == 2):
                raise UserError("test: give a pair of lists, (texts, labels)")
            return cls({split: of_lists(*pair) for split, pair in pairs.items()}, "text", "label")
        parts = {name: part for name, part in zip(SPLITS, (texts, test)) if part is not None}
        for name, part in parts.items():
            if not is_table(part) or not hasattr(part, "__len__"):  # a streamed Dataset has no length
                raise UserError(f"{name}: give a DataFrame, or a Dataset that is not streamed")
        one = isinstance(labels, str) or not hasattr(labels, "__iter__")
        text, columns = str(text), str(labels) if one else [*map(str, labels)]
        label = columns if isinstance(columns, str) else "labels"
        while not isinstance(columns, str) and any(label in columns_in(part) for part in parts.values()):
            label += "_"
        return cls({name: of_table(part, text, columns, label) for name, part in parts.items()}, text, label)

    def __post_init__(self) -> None:
        """UserError for an entry that is no text or no label, rather than what it looks like when printed."""
        for table in self.tables.values():
            for column in table.columns.difference([self.label]):
                refuse("texts", table[column], NO_TEXT)
            entries = (value if isinstance(value, list) else [value] for value in table[self.label])
            refuse("labels", chain.from_iterable(entries), NO_LABEL)

    @property
    def labels(self) -> pd.Series:
        """Of train."""
        return self.tables["train"][self.label]

    @property
    def target(self) -> str:
        """multilabel where a label is a list, numeric where one is a fraction, else classes."""
        labels = self.labels.dropna()
        if any(isinstance(value, list) for value in labels):
            return "multilabel"
        fractions = (isinstance(value, float) and not value.is_integer() for value in labels)
        return "numeric" if any(fractions) else "classes"

    @property
    def originals(self) -> dict[str, Any]:
        """Labels by how they read as text, and by the name of the class that 1 and 1.0, or True and "true", share."""
        labels = self.labels.dropna().explode().dropna().tolist()
        names = {as_text(value).strip(): value for value in labels[::-1]}
        return {untyped(name): value for name, value in names.items()} | names

    @contextmanager
    def written(self, folder: Path, name: str | None, overwrite: bool) -> Iterator[dict[str, Any]]:
        """FOLDER/NAME.jsonl and .test.jsonl as the flags train and test, removed on an error before a model is measured."""
        content = {split: json_lines(table) for split, table in self.tables.items()}
        name = (
            plain_name(str(name), "name=: the data set")
            if name
            else f"rows-{hashlib.sha256(''.join(content.values()).encode()).hexdigest()[:6]}"
        )
        ends = {"train": ".jsonl", "test": ".test.jsonl"}
        paths = {split: folder / f"{name}{ends[split]}" for split in content}
        for split, path in paths.items():
            if path.exists() and path.read_text() != content[split] and not overwrite:
                raise UserError(
                    f"{path}: an earlier call had other rows of this name: give another name=, or overwrite=True"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file in its place, no permission
            raise UserError(f"output=: {error}") from error
        fresh = [path for path in paths.values() if not path.exists()]
        try:
            for split, path in paths.items():
                atomic_files.write_text(path, content[split])
            yield {split: str(path) for split, path in paths.items()}
        except BaseException:
            for path in fresh if not (folder / f"{name}.yaml").exists() else ():  # nothing was measured
                path.unlink(missing_ok=True)
            atomic_files.remove_empty(folder, 2)
            raise


def refuse(what: str, values: Iterable[Any], kinds: tuple[type, ...]) -> None:
    """UserError for the first value of these kinds."""
    for value in values:
        if isinstance(value, kinds):
            remedy = "decode it, by .decode()" if isinstance(value, bytes) else "give text or a number"
            raise UserError(f"{what}: {short(value)} is of the type {type(value).__name__}: {remedy}")


def short(value: Any) -> str:
    """In one line."""
    return f"{' '.join(repr(value).split()):.60}"


def is_table(rows: Any) -> bool:
    return hasattr(rows, "columns") or hasattr(rows, "column_names")


def columns_in(table: Any) -> list[str]:
    return list(getattr(table, "column_names", None) or table.columns)


def of_lists(texts: Iterable[str], labels: Iterable[Any]) -> pd.DataFrame:
    for what, given in (("texts", texts), ("labels", labels)):
        flat = 1 <= getattr(given, "ndim", 1) <= (1 if what == "texts" else 2)
        if isinstance(given, str | bytes) or not hasattr(given, "__iter__") or not flat:
            remedy = "give one entry a row, or a table (of pandas.read_csv) and the name of its column"
            raise UserError(f"{what}: {short(given)} is no list: {remedy}")
    texts, labels = list(texts), listed(labels)
    refuse("texts", texts, (dict, list, tuple, np.ndarray))  # only columns of a template may hold them
    if len(texts) != len(labels):
        raise UserError(f"{len(texts)} texts and {len(labels)} labels: give one label a text")
    return pd.DataFrame({"text": texts, "label": labels}, dtype=object)


def listed(labels: Any) -> list[Any]:
    """One label, or a list of labels, a row; of a matrix of 0 and 1 the names, or numbers, of the columns that hold 1."""
    if getattr(labels, "ndim", 1) == 2:
        names = list(getattr(labels, "columns", range(labels.shape[1])))
        matrix = labels.toarray() if hasattr(labels, "toarray") else np.asarray(labels)  # sparse, or not
        if not np.isin(matrix, (0, 1)).all():
            raise UserError("labels: a matrix of labels, one row a text, holds 0 and 1 only")
        return [[names[place] for place in np.flatnonzero(row)] for row in matrix]
    found = [as_list(value) for value in (labels.tolist() if hasattr(labels, "tolist") else labels)]
    for value in found:
        if isinstance(value, list) and len(set(map(str, value))) < len(value):
            raise UserError(f"labels: {value!r:.200} has a label twice; give a matrix of 0 and 1 as an array")
    return found


def as_list(value: Any) -> Any:
    """A set of labels as a list; one label as it is."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return list(value) if isinstance(value, tuple | np.ndarray) else value


def of_table(table: Any, text: str, label: str | list[str], name: str) -> pd.DataFrame:
    """The columns of texts and, as `name`, labels; those of a Dataset with the names of its classes.

    label: a column, or several that hold 0 and 1.
    """
    if isinstance(table, pd.DataFrame):
        names = [*map(str, table.columns)]  # 0 and 1 of a file without a header; tuples of two
        table = table.set_axis(names, axis=1)
    elif not hasattr(table, "features"):
        kind = f"{type(table).__module__.partition('.')[0]}'s {type(table).__name__}"
        raise UserError(
            f"texts: a table of {kind}: give a DataFrame of pandas, as of table.to_pandas(), or a Dataset"
        )
    known = columns_in(table)
    ours, theirs = columns_of(text, known), [label] if isinstance(label, str) else label
    for what, columns in (("text", ours), ("labels", theirs)):
        for column in columns:
            if column not in known:
                raise UserError(f"{what}: there is no column {column!r:.60}; {suggest(column, known)}")
            if known.count(column) > 1:
                raise UserError(f"{what}: there are {known.count(column)} columns {column!r:.60}: rename one")
    features = getattr(table, "features", {})
    if features:
        table = table.select_columns([*dict.fromkeys([*ours, *theirs])]).to_pandas()
    labels, feature = listed(table[label]), features.get(label) if isinstance(label, str) else None
    if classes := getattr(getattr(feature, "feature", feature), "names", None):
        labels = [class_names(value, classes) for value in labels]
    return table[ours].assign(**{name: pd.Series(labels, table.index, dtype=object)})


def class_names(value: Any, classes: list[str]) -> Any:
    """Of an index, or a list of them; None for -1, which stands for no label."""
    if isinstance(value, list):
        return [name for one in value if (name := class_names(one, classes)) is not None]
    return classes[int(value)] if value is not None and value == value and value >= 0 else None


def json_lines(table: pd.DataFrame) -> str:
    """One object a row, as JSON Lines; a missing value is null."""
    table = table.astype(object).where(table.notna(), None)

    def plain(value: Any) -> Any:  # of numpy
        return value.tolist() if hasattr(value, "tolist") else str(value)

    return "".join(f"{json.dumps(row, default=plain)}\n" for row in table.to_dict("records"))
