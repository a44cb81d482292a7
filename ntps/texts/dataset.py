"""Labelled texts, from a YAML description: rows are read, cleaned, split and given class indices.

    from ntps.texts.dataset import load_dataset
    train = load_dataset("trec6").select("train", limit=1000)  # a name in configs/datasets, or a YAML

ntps/texts/description.py lists the keys of a description. Texts and labels are stripped of outer white space.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ntps.errors import UserError
from ntps.sources.yaml_files import config_names, find_config, suggest
from ntps.system.console import note, warn
from ntps.texts.description import read_description
from ntps.texts.rows import Clean, Cleaner, class_warnings, describe_dropped, names_of
from ntps.texts.sources import TextSource

SPLIT_SEED = 42
SEEN = 0.01  # share of a split's texts that are in train, or repeat others, from which on a warning says so
TINY = 1e-30  # numbers of this size have squares, and their squares too; float32 holds them, in which permuted ones are kept


@dataclass(frozen=True)
class Split:
    """Texts in order and their class indices, int64 of shape (n,); for a numeric target its numbers, float64; of several
    labels a row which of the C it has, bool of shape (n, C).

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
    def multilabel(self) -> bool:
        """Whether a row has a set of labels, which are `classes`."""
        return self.splits["train"].labels.ndim == 2

    @property
    def target(self) -> str:
        return "numeric" if self.numeric else "multilabel" if self.multilabel else "classes"

    @property
    def targets(self) -> int:
        """Columns of y: one a class or label, or the number."""
        return len(self.classes) or 1

    def select(self, split: str, limit: int | None = None, seed: int = 42) -> Split:
        """All rows in order, or the first `limit` of one permutation drawn from `seed`: so limits nest."""
        if split not in self.splits:
            raise UserError(f"{self.name}: there is no split {split!r}; {suggest(split, self.splits)}")
        whole = self.splits[split]
        if limit is None:
            return whole
        if limit <= 0:
            raise UserError(f"{self.name}: limit {limit}: take at least one text, or omit it for all")
        chosen = np.random.default_rng(seed).permutation(len(whole.texts))[:limit]
        return Split(split, [whole.texts[i] for i in chosen], whole.labels[chosen])


def texts_hash(split: Split) -> str:
    """SHA-256 over the texts and labels in order."""
    return hashlib.sha256(json.dumps([split.texts, split.labels.tolist()]).encode()).hexdigest()


def dataset_name(name: str) -> str:
    """DATASET of the output paths: a config name, or the stem of a YAML file."""
    return find_description(name).stem


def load_dataset(name: str, spec: dict[str, Any] | None = None) -> Dataset:
    """The data set of a config name or YAML file; labels of a numeric target are centred (see Split).

    spec: the keys of a YAML file that is not written yet. UserError for an unknown name, a wrong description, files or
    columns that are missing or cannot be read, a split without rows, and a single class.
    """
    where = find_description(name) if spec is None else Path(name)
    source, spec = read_description(where, spec)
    raw, facts = source.read(spec, where)
    order = facts.pop("class_order", [])
    cleaner = Cleaner(spec, where)
    if "train" not in raw:
        raise UserError(
            f"{where}: it has no split train, only {', '.join(raw) or 'none'}: one of its files must be train"
        )
    rows = {split: cleaner.clean(split, part) for split, part in raw.items()}
    cleaner.check_values()
    check_rows(rows, cleaner)
    merged = cleaner.merge_types(rows)
    for one, several in merged.items():
        kept = "normalise_labels: false in a YAML keeps them apart"
        note(f"{where}: label: {' and '.join(map(repr, several))} are one class, {one!r}: {kept}")
    if spec.get("deduplicate", source.drops_equal_texts and "test" not in rows):
        cleaner.deduplicate(rows)
    rule = "as given"
    if "test" not in rows:
        if other := sorted(rows.keys() - {"train", "validation"}):
            warn(
                f"{where}: no split is called test, so that a part of train is held out: is {other[0]!r} meant?"
            )
        rows["train"], rows["test"], rule = _make_test_split(rows["train"], source, cleaner)
    elif rules := [key for key in ("group", "stratify") if key in spec]:
        raise UserError(f"{where}: {rules[0]}: says how to make a test split, but one is given: remove it")
    numeric = spec.get("target") == "numeric"
    classes = _classes(rows, order, cleaner)
    splits = {split: _encode(split, part, classes, numeric, cleaner) for split, part in rows.items()}
    if not numeric:
        _warn_of_unseen(splits, classes, where)
    check_labels(splits["train"].labels, classes, spec.get("target", "classes"), where)
    for words in class_warnings(classes):
        warn(f"{where}: label: {words}")
    unused = ("about", "megabytes", "size", *facts)
    provenance = {
        "name": where.stem,
        "source": facts,
        "description": {key: value for key, value in spec.items() if value and key not in unused},
        "split_rule": rule,
        "dropped": dict(cleaner.dropped),
        **({"merged_labels": merged} if merged else {}),
        "rows": {split: len(part.texts) for split, part in splits.items()},
        **_overlaps(splits, where),
        "classes": classes,
    }
    if numeric:
        labels = splits["train"].labels
        provenance["label_mean"] = mean = math.fsum(labels) / len(labels)
        splits = {name: replace(part, labels=part.labels - mean) for name, part in splits.items()}
    return Dataset(where.stem, classes, splits, provenance)


def check_labels(labels: np.ndarray, classes: list[str], target: str, where: Path) -> None:
    """UserError where train's labels are all the same, so that nothing can be learnt."""
    if len(np.unique(labels, axis=0)) < 2 or (target == "multilabel" and len(classes) < 2):
        kinds = {"numeric": f"number {labels[0]}", "multilabel": "label or set of them"}
        only = kinds.get(target) or f"class {classes[labels[0]]!r}"
        raise UserError(f"{where}: label: all of train has the one {only}; at least two are needed")
    if target == "numeric" and not TINY < labels.std():
        raise UserError(f"{where}: label: the numbers of train differ by less than {TINY:g}")


def check_rows(splits: dict[str, list[Clean]], cleaner: Cleaner) -> None:
    """UserError for a split without rows."""
    for split, rows in splits.items():
        if not rows:
            lost = describe_dropped(cleaner.dropped)
            raise UserError(
                f"{cleaner.where}: split {split!r} has no rows with text and label; dropped: {lost}"
            )


def find_description(name: str) -> Path:
    """The YAML file of a config name, or the one named."""
    if (where := find_config("datasets", name)) is None:
        known = suggest(name, config_names("datasets"))
        raise UserError(f"unknown data set {name!r}; {known}; or give a YAML file")
    return where


CHECK_LABEL = (
    "Is it the right label? For numbers to predict set target: numeric (prescreen.py: --target numeric);"
)
CHECK_STRATA = "Take another column for stratify,"


def _make_test_split(rows: list[Clean], source: TextSource, cleaner: Cleaner) -> tuple[list, list, str]:
    """Train rows, test rows (both in order) and the rule in words.

    Stratified sources, and descriptions with `group` or `stratify`: a quarter, groups kept whole. Others, and targets that
    are no classes: 30 %, not stratified, the rows that `datasets.Dataset.train_test_split(test_size=0.3, seed=42)` takes.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    n, spec = len(rows), cleaner.spec
    of_classes = spec.get("target", "classes") == "classes"
    strata = [str(row.get("stratify", row["label"] if of_classes else "")) for row in rows]
    on = (
        f"stratified on {spec.get('stratify', 'the label')}"
        if of_classes or "stratify" in spec
        else "not stratified"
    )
    by = f"{on}, seed {SPLIT_SEED}"
    try:
        if "group" in spec:
            groups = [row["group"].casefold() or f" row {place}" for place, row in enumerate(rows)]
            if (several := len(set(groups))) < 4:
                told = f"group: {spec['group']!r} has {several} different values, and 4 are needed to hold out a quarter"
                raise UserError(
                    f"{cleaner.where}: {told}: take another column, or give a test split yourself"
                )
            folds = StratifiedGroupKFold(4, shuffle=True, random_state=SPLIT_SEED)
            test = next(folds.split(strata, strata, groups))[1]
            rule = f"test is the first of four folds, {by}, rows with one {spec['group']} together"
        elif "stratify" in spec or (source.stratified and of_classes):
            count = Counter(strata)
            shared = [i for i in range(n) if count[strata[i]] > 1]  # one of its kind stays in train
            kinds = [strata[i] for i in shared]
            test = train_test_split(shared, test_size=0.25, stratify=kinds, random_state=SPLIT_SEED)[1]
            rule = f"test is 25 % of the rows, {by}"
        else:
            test = np.random.default_rng(SPLIT_SEED).permutation(n)[: math.ceil(0.3 * n)]
            rule = f"test is 30 % of the rows, shuffled with seed {SPLIT_SEED}, not stratified"
    except ValueError as error:
        lost, column = describe_dropped(cleaner.dropped), spec.get("stratify", spec["label"])
        raise UserError(
            f"{cleaner.where}: cannot make a test split of {n} rows (dropped: {lost}): with {len(set(strata))} "
            f"different values of {column!r} there are too few of each. {CHECK_LABEL if column == spec['label'] else CHECK_STRATA} "
            "or give a test split yourself"
        ) from error
    chosen = set(map(int, test))
    return [rows[i] for i in range(n) if i not in chosen], [rows[i] for i in sorted(chosen)], rule


def _classes(rows: dict[str, list[Clean]], order: list[str], cleaner: Cleaner) -> list[str]:
    """Those of at least min_class_count rows, sorted; the cleaner counts the rows of the others, which have none of several labels.
    None of numbers."""
    counts = Counter(name for part in rows.values() for row in part for name in names_of(row["label"]))
    rare = {label for label, count in counts.items() if count < cleaner.spec.get("min_class_count", 0)}
    target = cleaner.spec.get("target")
    cleaner.dropped["rare_class"] = 0 if target == "multilabel" else sum(counts[label] for label in rare)
    return [] if target == "numeric" else _sort_classes(set(counts) - rare, order)


def _sort_classes(labels: set[str], order: list[str]) -> list[str]:
    """In the hub's order where it has one, as numbers if all are numbers, else as text."""
    if order and labels <= set(order):
        return [label for label in order if label in labels]
    try:
        return sorted(sorted(labels), key=float)
    except ValueError:
        return sorted(labels)


def _encode(split: str, rows: list[Clean], classes: list[str], numeric: bool, cleaner: Cleaner) -> Split:
    """Texts with their class indices, without the rows of rare classes; or with the numbers or sets that the labels are."""
    index = {label: i for i, label in enumerate(classes)}
    sets = cleaner.spec.get("target") == "multilabel"
    rows = [row for row in rows if numeric or sets or row["label"] in index]
    check_rows({split: rows}, cleaner)
    if numeric:
        labels = np.array([_number(row["label"], split, cleaner.where) for row in rows])
    elif sets:
        labels = np.zeros((len(rows), len(classes)), bool)
        for row, own in zip(rows, labels):
            own[[index[name] for name in row["label"] if name in index]] = True
    else:
        labels = np.array([index[row["label"]] for row in rows], dtype=np.int64)
    return Split(split, [row["text"] for row in rows], labels)


def _warn_of_unseen(splits: dict[str, Split], classes: list[str], where: Path) -> None:
    """Classes that train lacks can be neither learnt nor predicted."""

    def there(labels: np.ndarray) -> np.ndarray:
        return np.flatnonzero(labels.any(0)) if labels.ndim == 2 else np.unique(labels)

    known = there(splits["train"].labels)
    for name, part in splits.items():
        if len(lacking := np.setdiff1d(there(part.labels), known)):
            own = part.labels[:, lacking].any(1) if part.labels.ndim == 2 else np.isin(part.labels, lacking)
            named = ", ".join(repr(classes[place]) for place in lacking[:3])
            rows = f"{own.sum()} of the {len(part.texts)} texts of split {name!r}"
            warn(
                f"{where}: label: {rows} are of classes that train lacks: {named}: are they written alike in both?"
            )


def _number(label: str, split: str, where: Path) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not abs(number) < 1 / TINY or "_" in label:  # Python reads 1_000
        comma = "write 1.5 for 1,5, and no marks of thousands" if "," in label else ""
        too_large = f"one between {-1 / TINY:g} and {1 / TINY:g} is needed" if abs(number) >= 1 / TINY else ""
        remedy = comma or too_large or "mend it or leave the cell empty, or omit target: numeric"
        raise UserError(
            f"{where}: label: split {split!r} has {label!r}, which is no number to learn: {remedy}"
        )
    return number


def _overlaps(splits: dict[str, Split], where: Path) -> dict[str, Any]:
    """Texts of each split that are in train too, and splits of the same rows in any order; warnings where that is odd."""
    train = set(splits["train"].texts)
    by_rows: dict[frozenset, list[str]] = {}
    shared = {name: sum(text in train for text in part.texts) for name, part in splits.items()}
    del shared["train"]
    for name, part in splits.items():
        again = len(part.texts) - len(set(part.texts))
        if again >= SEEN * len(part.texts) > 0:
            told = f"{again} of the {len(part.texts)} texts of split {name!r} repeat others: p-values, errors and the choice of layer take rows for independent"
            warn(f"{where}: {told}; deduplicate: true in a YAML takes each once")
        rows = Counter(zip(part.texts, map(str, part.labels.tolist())))
        by_rows.setdefault(frozenset(rows.items()), []).append(name)
        if (seen := shared.get(name, 0)) >= SEEN * len(part.texts) > 0:
            told = f"{seen} of the {len(part.texts)} texts of split {name!r} are in train too: scores on it are too good"
            warn(f"{where}: {told}")
    same = [names for names in by_rows.values() if len(names) > 1]
    for names in same:
        warn(f"{where}: splits {' and '.join(names)} hold the same rows")
    return {"shared_with_train": shared, "same_rows": same}
