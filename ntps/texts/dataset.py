"""Labelled texts, from a YAML description: rows are read, cleaned, split and given class indices.

    from ntps.texts.dataset import load_dataset
    train = load_dataset("trec6").select("train", limit=1000)  # a name in configs/datasets, or a YAML

ntps/texts/description.py lists the keys of a description. Texts and labels are stripped of outer white space.
"""

import hashlib
import json
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntps.errors import UserError
from ntps.sources.yaml_files import config_names, find_config, suggest
from ntps.texts.description import read_description
from ntps.texts.readers import Row, read_files, read_hub, read_wheel

SPLIT_SEED = 42
READERS = {"package": read_wheel, "id": read_hub, "files": read_files}
DROPPED = ("empty", "duplicate", "conflicting_labels", "unlabelled", "unwanted", "rare_class")
TINY = 1e-50  # numbers of this size have squares, and their squares too
HALVES = re.compile("[\ud800-\udfff]")  # of a character, as a cut JSON string has: no UTF-8
FIELD = re.compile(r"\{([^{}]*)\}")
Clean = dict[str, str]  # text, label and, where the description has them, group and stratify


@dataclass(frozen=True)
class Split:
    """Texts in order and their class indices, int64 of shape (n,); for a numeric target its numbers, float64.

    Numbers are less the mean of the whole train split: S = E[m y^T] is not centred, so without that every
    score would depend on where a label has its zero. The mean is `label_mean` of the data set's provenance.
    """

    name: str
    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Splits that share one list of classes, empty for a numeric target; where they come from, ready for JSON."""

    name: str
    classes: list[str]
    splits: dict[str, Split]
    provenance: dict[str, Any]

    @property
    def numeric(self) -> bool:
        return not self.classes

    @property
    def targets(self) -> int:
        """Columns of y: one a class, or the number."""
        return len(self.classes) or 1

    def select(self, split: str, limit: int | None = None, seed: int = 42) -> Split:
        """All rows in order, or the first `limit` of one permutation drawn from `seed`: so limits nest."""
        if split not in self.splits:
            raise UserError(f"{self.name}: there is no split {split!r}; {suggest(split, self.splits)}")
        whole = self.splits[split]
        if limit is None:
            return whole
        if limit <= 0:
            raise UserError(f"{self.name}: limit {limit}: take at least one text, or leave it out for all")
        chosen = np.random.default_rng(seed).permutation(len(whole.texts))[:limit]
        return Split(split, [whole.texts[i] for i in chosen], whole.labels[chosen])


def texts_hash(split: Split) -> str:
    """SHA-256 over the texts and labels in order."""
    return hashlib.sha256(json.dumps([split.texts, split.labels.tolist()]).encode()).hexdigest()


def dataset_names() -> list[str]:
    """Names of the descriptions in configs/datasets."""
    return config_names("datasets")


def dataset_name(name: str) -> str:
    """DATASET of the output paths: a config name, or the stem of a YAML file."""
    return find_description(name).stem


def load_dataset(name: str) -> Dataset:
    """The data set of a config name or of a YAML file; the labels of a numeric target are centred (see Split).

    Raises UserError for an unknown name, a wrong description, files or columns that are missing or cannot be
    read, a split without rows, and a single class.
    """
    where = find_description(name)
    source, spec = read_description(where)
    found, facts = READERS[source](spec, where)
    dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
    rows = {split: _clean(part, spec, where, split, dropped) for split, part in found.items()}
    if spec.get("deduplicate", source == "package" or (source == "files" and "test" not in rows)):
        _deduplicate(rows, dropped)
    rule = "as given"
    if "test" not in rows:
        rows["train"], rows["test"], rule = _make_test_split(rows["train"], spec, source, where, dropped)
    elif rules := [key for key in ("group", "stratify") if key in spec]:
        raise UserError(
            f"{where}: {rules[0]}: says how to make a test split, but one is given; remove either"
        )
    counts = Counter(row["label"] for part in rows.values() for row in part)
    rare = {label for label, count in counts.items() if count < spec.get("min_class_count", 0)}
    dropped["rare_class"] = sum(counts[label] for label in rare)
    order = facts.pop("class_order", [])
    numeric = spec.get("target") == "numeric"
    classes = [] if numeric else _sort_classes(set(counts) - rare, order)
    index = None if numeric else {label: i for i, label in enumerate(classes)}
    splits = {split: _encode(split, part, index, where, dropped) for split, part in rows.items()}
    if len(set(splits["train"].labels)) < 2:
        only = float(splits["train"].labels[0]) if numeric else classes[splits["train"].labels[0]]
        kind = "number" if numeric else "class"
        raise UserError(f"{where}: label: all of train has the one {kind} {only!r}; at least two are needed")
    mean = {}
    if numeric:
        mean["label_mean"] = math.fsum(splits["train"].labels) / len(splits["train"].labels)
        if not TINY < splits["train"].labels.std():
            raise UserError(
                f"{where}: label: the numbers of train differ by less than {TINY:g}: rescale them"
            )
        splits = {s: Split(s, part.texts, part.labels - mean["label_mean"]) for s, part in splits.items()}
    used = {
        key: value
        for key, value in spec.items()
        if value and key not in ("about", "megabytes", "size", *facts)
    }
    provenance = {
        "name": where.stem,
        "source": facts,
        "description": used,
        "split_rule": rule,
        "dropped": dict(dropped),
        "rows": {split: len(part.texts) for split, part in splits.items()},
        "shared_with_train": _count_shared(splits, where),
        "same_rows": _same_rows(splits, where),
        "classes": classes,
    } | mean
    return Dataset(where.stem, classes, splits, provenance)


def find_description(name: str) -> Path:
    """The YAML file of a config name, or the one named."""
    if (where := find_config("datasets", name)) is None:
        raise UserError(f"unknown data set {name!r}; {suggest(name, dataset_names())}; or give a YAML file")
    return where


# ----------------------------------------------------------------------- from rows to texts and labels
def _as_text(value: Any) -> str:
    """A cell as text; choices, a list or a dict of lists with `text`, become "(0) first (1) second"."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, list):
        return " ".join(f"({i}) {_as_text(choice)}" for i, choice in enumerate(value))
    return "" if value is None or value != value else HALVES.sub("\ufffd", str(value))


def _fill(template: str, row: Row) -> str:
    """The column of that name, or the template with each {column} filled in; empty if all of them are."""
    if template in row or "{" not in template:
        return _as_text(row.get(template))
    filled = {name: _as_text(row.get(name)) for name in FIELD.findall(template)}
    return FIELD.sub(lambda match: filled[match[1]], template) if any(filled.values()) else ""


def _check_columns(rows: list[Row], spec: dict[str, Any], where: Path, split: str) -> None:
    known = dict.fromkeys(name for row in rows for name in row)
    wanted = [
        (key, spec[key]) for key in ("text", "label", "group", "stratify") if isinstance(spec.get(key), str)
    ]
    wanted += [("where", column) for column in spec["where"]]
    if isinstance(spec["text"], dict):
        for column, choices in spec["text"].items():
            wanted += [("text", column), *(("text", template) for template in choices.values())]
    for key, template in wanted:
        columns = [template] if template in known or "{" not in template else FIELD.findall(template)
        for column in columns:
            if column not in known:
                raise UserError(
                    f"{where}: {key}: split {split!r} has no column {column!r}; {suggest(column, known)}"
                )


def _clean(
    rows: list[Row], spec: dict[str, Any], where: Path, split: str, dropped: Counter[str]
) -> list[Clean]:
    """Rows with a text and a label, as text; the others are counted in `dropped`."""
    if not rows:
        raise UserError(f"{where}: split {split!r} has no rows")
    _check_columns(rows, spec, where, split)
    extra = [key for key in ("group", "stratify") if key in spec]
    cleaned = []
    for row in rows:
        if isinstance(row.get(spec["label"]), (list, dict)):
            raise UserError(
                f"{where}: label: {spec['label']} holds {row[spec['label']]!r}; a text has one label"
            )
        text, label = _text(row, spec), _label(_fill(spec["label"], row).strip(), spec)
        wanted = all(_as_text(row.get(column)) in values for column, values in spec["where"].items())
        if not wanted or label in spec["drop_labels"]:
            dropped["unwanted"] += 1
        elif not label:
            dropped["unlabelled"] += 1
        elif not text:
            dropped["empty"] += 1
        else:
            cleaned.append(
                {"text": text, "label": label} | {key: _fill(spec[key], row).strip() for key in extra}
            )
    return cleaned


def _text(row: Row, spec: dict[str, Any]) -> str:
    template = spec["text"]
    if isinstance(template, dict):
        ((column, choices),) = template.items()
        template = choices.get(_as_text(row.get(column)), choices.get("*"))
    text = _fill(template, row).strip() if template else ""
    for pattern, replacement in spec["replace"].items():
        text = re.sub(pattern, replacement, text)
    return text.strip()


def _label(label: str, spec: dict[str, Any]) -> str:
    """The label's name, empty where there is none."""
    if label and "label_pattern" in spec:
        match = re.search(spec["label_pattern"], label)
        label = match[1 if match.re.groups else 0] if match else ""
    if label and "label_ranges" in spec:
        try:
            number = float(label)
        except ValueError:
            return ""
        label = next((str(name) for low, high, name in spec["label_ranges"] if low <= number <= high), "")
    return spec["label_names"].get(label, label)


def left_out(dropped: dict[str, int]) -> str:
    """How many rows were dropped and why, in words; conflicting labels are among the duplicates."""
    said = {reason: f"{count} {reason}" for reason, count in dropped.items() if count}
    if said.pop("conflicting_labels", ""):
        said["duplicate"] += f" ({dropped['conflicting_labels']} of them with another label)"
    return ", ".join(said.values()) or "none"


def _deduplicate(splits: dict[str, list[Clean]], dropped: Counter[str]) -> None:
    """Keeps the first row of equal texts over all splits, train first: no other split then shares one."""
    first: dict[str, str] = {}
    for split in sorted(splits, key=lambda name: name != "train"):
        kept = []
        for row in splits[split]:
            if row["text"] not in first:
                first[row["text"]] = row["label"]
                kept.append(row)
            else:
                dropped["duplicate"] += 1
                dropped["conflicting_labels"] += first[row["text"]] != row["label"]
        splits[split] = kept


# ---------------------------------------------------------------------------------- splits and classes
def _make_test_split(
    rows: list[Clean], spec: dict[str, Any], source: str, where: Path, dropped: Counter[str]
) -> tuple[list[Clean], list[Clean], str]:
    """Train rows, test rows (both in order) and the rule in words.

    Wheels, and descriptions with `group` or `stratify`: a quarter, stratified, groups kept whole. Others, and
    numeric targets: 30 %, not stratified, the rows that `datasets.Dataset.train_test_split(test_size=0.3, seed=42)` takes.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    n = len(rows)
    strata = [row.get("stratify", row["label"]) for row in rows]
    by = f"stratified on {spec.get('stratify', 'the label')}, seed {SPLIT_SEED}"
    try:
        if "group" in spec:
            folds = StratifiedGroupKFold(4, shuffle=True, random_state=SPLIT_SEED)
            test = next(folds.split(strata, strata, [row["group"].casefold() for row in rows]))[1]
            rule = f"test is the first of four folds, {by}, rows with one {spec['group']} together"
        elif "stratify" in spec or (source == "package" and spec.get("target") != "numeric"):
            count = Counter(strata)
            shared = [i for i in range(n) if count[strata[i]] > 1]  # one of its kind stays in train
            test = train_test_split(
                shared, test_size=0.25, stratify=[strata[i] for i in shared], random_state=SPLIT_SEED
            )[1]
            rule = f"test is 25 % of the rows, {by}"
        else:
            test = np.random.default_rng(SPLIT_SEED).permutation(n)[: math.ceil(0.3 * n)]
            rule = f"test is 30 % of the rows, shuffled with seed {SPLIT_SEED}, not stratified"
    except ValueError as error:
        kinds = len(set(strata))
        raise UserError(
            f"{where}: cannot make a test split of {n} rows (left out: {left_out(dropped)}): with {kinds} different "
            f"values of {spec.get('stratify', spec['label'])!r} there are too few of each. Is it the right label? For "
            "numbers to predict set target: numeric (prescreen.py: --target numeric); or give a test split yourself"
        ) from error
    chosen = set(map(int, test))
    return [rows[i] for i in range(n) if i not in chosen], [rows[i] for i in sorted(chosen)], rule


def _sort_classes(labels: set[str], order: list[str]) -> list[str]:
    """In the hub's order where it has one, as numbers if all are numbers, else as text."""
    if order and labels <= set(order):
        return [label for label in order if label in labels]
    try:
        return sorted(sorted(labels), key=float)
    except ValueError:
        return sorted(labels)


def _encode(
    split: str, rows: list[Clean], index: dict[str, int] | None, where: Path, dropped: Counter[str]
) -> Split:
    """Texts with the class indices of `index`; without one, with the numbers that the labels are."""
    rows = [row for row in rows if index is None or row["label"] in index]
    if not rows:
        lost = left_out(dropped)
        raise UserError(f"{where}: split {split!r} has no rows with a text and a label; left out: {lost}")
    if index is not None:
        labels = np.array([index[row["label"]] for row in rows], dtype=np.int64)
    else:
        labels = np.array([_number(row["label"], split, where) for row in rows])
    return Split(split, [row["text"] for row in rows], labels)


def _number(label: str, split: str, where: Path) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not abs(number) < 1 / TINY or "_" in label:  # Python reads 1_000
        raise UserError(
            f"{where}: label: split {split!r} has {label!r}, which is no number below {1 / TINY:g}: mend it or leave "
            "the cell empty, or leave out target: numeric"
        )
    return number


def _same_rows(splits: dict[str, Split], where: Path) -> list[list[str]]:
    """Splits that hold the same texts with the same labels, in whatever order, by hash; a warning names them."""
    found: dict[str, list[str]] = {}
    sizes = Counter(len(part.texts) for part in splits.values())
    for name, part in splits.items():
        if sizes[len(part.texts)] == 1:
            continue
        rows = sorted(zip(part.texts, part.labels.tolist(), strict=True))
        found.setdefault(hashlib.sha256(json.dumps(rows).encode()).hexdigest(), []).append(name)
    same = [names for names in found.values() if len(names) > 1]
    for names in same:
        print(f"warning: {where}: splits {' and '.join(names)} hold the same rows", file=sys.stderr)
    return same


def _count_shared(splits: dict[str, Split], where: Path) -> dict[str, int]:
    """Texts of each other split that are in train too; a warning where most are."""
    train = set(splits["train"].texts)
    shared = {
        name: sum(text in train for text in part.texts) for name, part in splits.items() if name != "train"
    }
    for name, count in shared.items():
        if 2 * count > len(splits[name].texts):
            print(f"warning: {where}: {count} texts of split {name!r} are in train too", file=sys.stderr)
    return shared
