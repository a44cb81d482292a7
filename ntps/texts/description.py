"""The keys of a data set's description, and their check; those of each source are in ntps/texts/sources.py.

The keys of a model's are in ntps/models/description.py; `python -m ntps.validate FILE` runs the check alone.
"""

from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.sources.patterns import pattern_fault
from ntps.sources.yaml_files import Faults, Keys, Label, check_keys, read_yaml
from ntps.texts.sources import SOURCES, TextSource

# A description has one source, the first key of one of SOURCES, and says what is text and label.
COMMON: Keys = {
    "about": (str, "what the texts are and where they come from"),
    "size": (dict[str, int], "for --plan where no rows are: train, test, tokens (of a text, about), classes"),
    "text": (str | dict[str, dict[Label, str]],
             "column, template '{a} {b}', or {column: {value: template}}: the one for its value, else that for '*'"),
    "label": (str, "column or template"),
    "target": (str, "classes, numeric: the label is a number to predict, or multilabel: it is a set of labels"),
    "label_separator": (str, "multilabel: what lies between labels of one row, such as ';', where they are no list"),
    "label_pattern": (str, "regular expression: its first group, or else the whole match, is the label"),
    "label_ranges": (list[tuple[float, float, Label]], "[low, high, name] of labels, ends included; the first"),
    "label_names": (dict[Label, Label], "label as written: name"),
    "normalise_labels": (bool, "write labels that are no key of label_names in one way: Yes as yes, 1.0 as 1; by "
                         "default only those of one value but several types, such as 1 and 1.0 or true and TRUE; "
                         "false: none"),
    "drop_labels": (list[Label], "labels whose rows are dropped"),
    "where": (dict[str, list[Label]], "column: list of values; other rows are dropped"),
    "replace": (dict[Label, Label], "regular expression: replacement, applied to the texts in this order"),
    "deduplicate": (bool, "keep the first of equal texts; default: for wheels, and for files without test"),
    "group": (str, "column or template: rows that share it stay on one side of the split; one without is alone"),
    "stratify": (str, "column or template to stratify the split on, if not the label"),
    "min_class_count": (int, "classes with fewer rows are dropped, after the split is made"),
}  # fmt: skip
TARGETS = ("classes", "numeric", "multilabel")


def read_description(where: Path, spec: dict[str, Any] | None = None) -> tuple[TextSource, dict[str, Any]]:
    """The source of a data set and its checked keys; UserError names the file and the key.

    spec: the keys, where there is no file yet.
    """
    spec = read_yaml(where, "text: COLUMN") if spec is None else dict(spec)
    source = SOURCES[check_keys(where, spec, {name: each.keys for name, each in SOURCES.items()}, COMMON)]
    allowed = source.keys | COMMON
    for key in (*source.required, "text", "label"):
        if key not in spec:
            raise UserError(f"{where}: {key}: missing; it is the {allowed[key][1]}")
    for key, fault in (*source.faults(spec, where), *_faults(spec)):
        value = f"{spec[key]!r:.200} " if key in spec else ""
        raise UserError(f"{where}: {key}: {value}{fault}; it is: {allowed[key][1]}")
    for key in ("label_names", "replace"):
        spec[key] = {str(old): str(new) for old, new in spec.get(key, {}).items()}
    if isinstance(spec["text"], dict):
        ((column, choices),) = spec["text"].items()
        spec["text"] = {column: {str(value): template for value, template in choices.items()}}
    spec["drop_labels"] = list(map(str, spec.get("drop_labels", [])))
    spec["where"] = {column: list(map(str, values)) for column, values in spec.get("where", {}).items()}
    return source, spec


def _faults(spec: dict[str, Any]) -> Faults:
    """What is wrong inside the values, as (key, fault)."""
    for name, count in spec.get("size", {}).items():
        if count < 1:
            yield "size", f"has no whole number above 0 for {name}"
    patterns = [("label_pattern", spec.get("label_pattern", ""), "")]
    patterns += [("replace", str(old), str(new)) for old, new in spec.get("replace", {}).items()]
    for key, pattern, replacement in patterns:
        if fault := pattern_fault(pattern, replacement):
            yield key, fault
    target = spec.get("target", "classes")
    if target not in TARGETS:
        yield "target", f"is none of {', '.join(TARGETS)}"
    if "label_separator" in spec and (target != "multilabel" or not spec["label_separator"]):
        yield "label_separator", "is nothing" if target == "multilabel" else "goes with target: multilabel"
    for key in ("label_ranges", "min_class_count"):
        if target == "numeric" and key in spec:
            yield key, "makes classes, which target: numeric has not"
    if isinstance(spec["text"], dict) and len(spec["text"]) != 1:
        yield "text", "is not one column with its values"
