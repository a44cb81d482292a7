"""The user's labelled files as a data set: its description, warnings about its rows, and facts for the report."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ntps.errors import UserError
from ntps.flags import Prescreening, whole_text
from ntps.moments.pair import SPLITS
from ntps.moments.sums import targets_of
from ntps.sources import yaml_files
from ntps.system import atomic_files
from ntps.system.paths import plain_name
from ntps.texts.dataset import Dataset, Split, load_dataset
from ntps.texts.readers import without_gz
from ntps.texts.rows import describe_dropped

MANY_NUMBERS = 20  # more classes than this that are all numbers look like a numeric target

EXAMPLE = "trec6"  # the data set where neither --train nor --dataset is given


def description(flags: Prescreening) -> tuple[Path, dict[str, Any]]:
    """OUTPUT/data/NAME.yaml for the user's files, and its keys; NAME is that of the train file.

    Without a test file a part of train is held out, stratified where there are classes.
    """
    files = given_files(flags)
    for name, file in files.items():
        if not Path(file).is_file():
            raise UserError(f"--{name} {file}: there is no such file")
        try:
            files[name] = whole_text(str(Path(file).resolve()))
        except ValueError as error:
            raise UserError(f"--{name} {file}: its folder {error}") from None
    spec: dict[str, Any] = {"files": files}
    spec |= flags.keys
    if not flags.test and flags.target == "classes":
        spec["stratify"] = flags.label
    name = plain_name(without_gz(Path(files["train"])).stem, f"--train {flags.train!a}")
    return Path(flags.output) / "data" / f"{name}.yaml", spec


def given_files(flags: Prescreening) -> dict[str, str]:
    """The user's files by split."""
    return {name: file for name, file in zip(SPLITS, (flags.train, flags.test)) if file}


def load(flags: Prescreening) -> tuple[str, Dataset]:
    """The data set and the name of its description, which `keep` writes once something is measured.

    UserError if moments of another description are there, unless `overwrite`.
    """
    if not flags.train:
        return (name := flags.dataset or EXAMPLE), load_dataset(name)
    where, spec = description(flags)
    kept = where.exists() and not flags.overwrite
    earlier = yaml_files.read_yaml(where, "text: COLUMN") if kept else spec
    measured = any(Path(flags.output).glob(f"moments/*/{glob.escape(where.stem)}/[!.]*"))
    if earlier != spec and measured:
        raise UserError(f"{where}: an earlier run read other files or columns under this name: give another --output, or "
                        "--overwrite to replace its results")  # fmt: skip
    with named_by_files(flags, where):
        return str(where), load_dataset(str(where), spec)


@contextmanager
def named_by_files(flags: Prescreening, where: Path) -> Iterator[None]:
    """Errors name the user's files in place of their description, which is not there yet."""
    try:
        yield
    except UserError as error:
        given = " ".join(f"--{name} {file}" for name, file in given_files(flags).items())
        raise UserError(
            str(error).replace(f"{where}: files: ", "--").replace(f"{where}:", f"{given}:")
        ) from None


def keep(flags: Prescreening) -> None:
    """Write the description, from which the other scripts go on."""
    if flags.train:
        where, spec = description(flags)
        atomic_files.write_text(where, yaml.safe_dump(spec, sort_keys=False, allow_unicode=True))


def check(data: Dataset, limit: int, seed: int) -> list[str]:
    """Warnings about the rows; UserError where nothing can be learnt from the labels, or scored on them."""
    train, test = (data.select(name, limit, seed) for name in SPLITS)
    n, n_test, rows = len(train.texts), len(test.texts), data.provenance["rows"]
    shared = data.provenance["shared_with_train"].get("test")
    faults = {
        f"{n_test} test text of {n + n_test}: a score on unseen texts needs at least 2, and some hundreds to mean much; "
        "give more texts": n_test < 2,
        f"the {n_test} test texts all have one number: nothing can be scored on them":
            data.numeric and len(set(test.labels)) < 2,
        f"{data.targets} classes in {n} train texts: nothing can be learnt from classes this small. Is it the right "
        "--label? For numbers to predict add --target numeric": data.targets > n / 2,
        f"all {shared} test texts are in train too: nothing is unseen; without test rows a part is held out":
            shared == len(data.splits["test"].texts),
    }  # fmt: skip
    for fault, holds in faults.items():
        if holds:
            raise UserError(f"{data.name}: {fault}")
    dropped = describe_dropped(data.provenance["dropped"])
    warnings = {
        f"{len(part.texts)} of {rows[part.name]} {part.name} texts were used: --limit {rows[part.name]} takes all":
            len(part.texts) < rows[part.name] for part in (train, test)
    }  # fmt: skip
    warnings |= {
        f"dropped rows: {dropped}": dropped != "none",
        f"{shared} test texts are in train too: held-out scores are too good": shared,
        f"only {n_test} held-out texts: look at the standard error beside each value": n_test < 100,
    }  # fmt: skip
    if not data.numeric:
        warnings |= class_warnings(data, train, test)
    return [warning for warning, holds in warnings.items() if holds]


def class_warnings(data: Dataset, train: Split, test: Split) -> dict[str, Any]:
    """Warnings about the classes, and whether they hold; UserError where no test row has a class of the train rows."""
    kind = "labels" if data.multilabel else "classes"
    n, n_test = len(train.texts), len(test.texts)
    numbers = pd.to_numeric(pd.Series(data.classes), errors="coerce").notna().all()
    counts = class_counts(train.labels, data.targets)
    few, most = ((counts > 0) & (counts < 10)).sum(), counts.max()
    there = np.flatnonzero(class_counts(test.labels, data.targets))
    only = data.classes[there[0]] if len(there) == 1 and not data.multilabel else ""
    labels = targets_of(test.labels, data.targets).numpy() > 0
    unseen = labels[:, counts == 0].any(1).sum()
    if not labels[:, counts > 0].any():
        kinds = ", ".join(data.classes[place] for place in there[:3])
        raise UserError(
            f"{data.name}: no test text has one of the {kind} of its train texts (test: {kinds}): are they written alike in both?"
        )
    return {
        f"the {data.targets} classes are all numbers: is it --target numeric?":
            not data.multilabel and data.targets > MANY_NUMBERS and numbers,
        f"{most / n:.0%} of the train texts are {data.classes[counts.argmax()]!r}": most > 0.8 * n,
        f"{kind} with fewer than 10 train texts: {few} of {data.targets}": few,
        f"all {n_test} test texts are {only!r}: accuracy and skill on them say little": only,
        f"{unseen} test texts are of {kind} that train lacks": unseen,
    }  # fmt: skip


def facts(data: Dataset, flags: Prescreening) -> dict[str, Any]:
    """What was measured on, for the page and the JSON."""
    train, test = (data.select(name, flags.limit, flags.seed) for name in SPLITS)
    about = {
        "name": data.name,
        "target": data.target,
        "texts": {"train": len(train.texts), "test": len(test.texts)},
        "seen": seen(data, flags),
        "split_rule": data.provenance["split_rule"],
        "source": data.provenance["source"],
        "example": train.texts[0],
        "flags": asdict(flags),
    }
    if data.numeric:
        y = train.labels + data.provenance["label_mean"]  # as in the file
        return about | {"label": {"mean": y.mean(), "std": y.std(), "least": y.min(), "most": y.max()}}
    counts = {part.name: class_counts(part.labels, data.targets).tolist() for part in (train, test)}
    if data.multilabel:
        about["labels_per_row"] = float(train.labels.sum(1).mean())
    return about | {"classes": data.classes, "class_counts": counts}


def seen(data: Dataset, flags: Prescreening) -> int:
    """Test texts measured on that are train texts, too."""
    train, test = (data.select(name, flags.limit, flags.seed).texts for name in SPLITS)
    return sum(map(set(train).__contains__, test))


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Rows of each class or label (C,)."""
    return labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
