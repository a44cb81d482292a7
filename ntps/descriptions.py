"""The YAML file that describes a data set: its keys, and the check made before anything is read."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ntps.errors import UserError

# key: (kinds of value, meaning). A description has one source, the first key of one of these groups,
SOURCES: dict[str, dict[str, tuple[tuple[type, ...], str]]] = {
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
        "id": ((str,), "hub id, or a folder of csv, jsonl or parquet files relative to the YAML"),
        "config": ((str,), "subset of a hub data set"),
        "revision": ((str,), "commit of a hub data set"),
        "splits": ((dict,), "our name of a split: its name on the hub"),
    },
    "files": {"files": ((dict,), "name of a split: path of a CSV, JSON Lines or Parquet file")},
}
# and says what is text and label.
COMMON: dict[str, tuple[tuple[type, ...], str]] = {
    "about": ((str,), "what the texts are and where they come from"),
    "text": (
        (str, dict),
        "column, template '{a} {b}', or {column: {value: template}}: the one for its value",
    ),
    "label": ((str,), "column or template"),
    "label_pattern": ((str,), "regular expression: its first group, or else the whole match, is the label"),
    "label_ranges": ((list,), "[low, high, name] of numeric labels, ends included, the first that fits"),
    "label_names": ((dict,), "label as written: name"),
    "drop_labels": ((list,), "labels whose rows are left out"),
    "where": ((dict,), "column: list of values; other rows are left out"),
    "replace": ((dict,), "regular expression: replacement, applied to the texts in this order"),
    "deduplicate": ((bool,), "keep the first of equal texts; done for wheels unless false"),
    "group": ((str,), "column or template: rows that share it stay on one side of the split"),
    "stratify": ((str,), "column or template to stratify the split on, if not the label"),
    "min_class_count": ((int,), "classes with fewer rows are left out, after the split is made"),
}
REQUIRED = ("version", "sha256", "file", "reader", "text", "label")


def config_folders(kind: str) -> list[Path]:
    """Where names of a kind (models, datasets) are looked up: ./configs, the checkout's, the installed package's."""
    package = Path(__file__).resolve().parent
    return [folder / "configs" / kind for folder in (Path(), package.parent, package)]


def suggest(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?' with near matches of `name`, then what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    return (
        (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + "there are: " + ", ".join(known)
    )


def read_description(where: Path) -> tuple[str, dict[str, Any]]:
    """The source ("package", "id" or "files") and the checked keys; UserError names the file and the key."""
    try:
        spec = yaml.safe_load(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise UserError(f"{where}: a description is made of `key: value` lines, such as `text: COLUMN`")
    given = [source for source in SOURCES if source in spec]
    allowed = {k: v for source in (given if len(given) == 1 else SOURCES) for k, v in SOURCES[source].items()}
    allowed |= COMMON
    for key, value in spec.items():
        if key not in allowed:
            kind = f"a description with {given[0]}" if len(given) == 1 else "a description"
            raise UserError(f"{where}: {key}: not a key of {kind}; {suggest(str(key), allowed)}")
        kinds, meaning = allowed[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(
                f"{where}: {key}: {value!r} is not {names} ({meaning}); numbers as text need quotes"
            )
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{where}: exactly one of {', '.join(SOURCES)} is needed, found {found}")
    for key in (*REQUIRED, *(["pattern"] if spec.get("reader") == "lines" else [])):
        if key in allowed and key not in spec:
            raise UserError(f"{where}: {key}: missing; it is the {allowed[key][1]}")
    for key, fault in _faults(spec):
        raise UserError(f"{where}: {key}: {spec[key]!r} {fault}; it is: {allowed[key][1]}")
    for key in ("label_names", "replace"):
        spec[key] = {str(old): str(new) for old, new in spec.get(key, {}).items()}
    spec["drop_labels"] = list(map(str, spec.get("drop_labels", [])))
    spec["where"] = {column: list(map(str, values)) for column, values in spec.get("where", {}).items()}
    return given[0], spec


def _faults(spec: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong inside the values, as (key, fault)."""
    for key in ("pattern", "label_pattern", "replace"):
        for pattern in [spec[key]] if isinstance(spec.get(key), str) else spec.get(key, {}):
            try:
                re.compile(str(pattern))
            except re.error as error:
                yield key, f"is not a regular expression ({error})"
    for key in ("files", "splits"):
        if key in spec and not all(isinstance(part, str) for item in spec[key].items() for part in item):
            yield key, "does not give one text for each split"
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
