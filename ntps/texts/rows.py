"""From rows to texts and labels, as a description says, with a count of the rows that are dropped."""

import ast
import contextlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ntps.errors import UserError
from ntps.sources.patterns import Pattern
from ntps.sources.yaml_files import suggest
from ntps.system.console import warn
from ntps.texts.columns import FIELD, columns_of, named_columns
from ntps.texts.readers import Row

DROPPED = ("empty", "duplicate", "conflicting_labels", "unlabelled", "unwanted", "rare_class")
MANY = 20  # classes that are fractions
LONGEST = 10**7  # characters of a text that a template or `replace` makes
HALVES = re.compile("[\ud800-\udfff]")  # of a character, as a cut JSON string has: no UTF-8
# text, label (several: a sorted tuple) and, where the description has them, group and stratify
Clean = dict[str, Any]


def as_text(value: Any) -> str:
    """A cell as text; choices, a list or a dict of lists with `text`, become "(0) first (1) second".

    ValueError for what would be text only as Python prints it: an object, or bytes that are no UTF-8.
    """
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, dict):
        raise ValueError(
            f"an object, {value!r:.80}, where a text should be: give its parts columns of their own"
        )
    if isinstance(value, bytes):
        value = value.decode()  # UnicodeDecodeError is a ValueError
    if isinstance(value, list):
        return " ".join(f"({i}) {as_text(choice)}" for i, choice in enumerate(value))
    text = "" if value is None or value != value else str(value)
    return text if text.isascii() else HALVES.sub("\ufffd", text)


def as_list(text: str) -> list[Any] | None:
    """What a text such as "['a', 'b']", '["a"]' or "[1, 2]" lists, as pandas and JSON write lists; None for another text.

    ValueError for one that only looks so, such as the "['a' 'b']" of a numpy array, in which Python would see one text, and
    for a tuple, set or dict of Python.
    """
    if not re.fullmatch(
        r"\[\s*(['\"].*|-?\.?\d[-+.,\seE\d]*)?\]|\(\s*['\"].*\)|{\s*['\"].*}", text, re.DOTALL
    ):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(text, parse_int=str, parse_float=str), list):
            return found
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        if repr(found := ast.literal_eval(text)) == text and isinstance(found, list):
            return found
    raise ValueError(
        f"{text:.80} is neither a list of Python nor of JSON: save the table as JSON Lines, or join labels by ;"
    )


def untyped(label: str) -> str:
    """A label without what is only its type: True is true, and 1.0 is 1."""
    lower = label.casefold()
    return lower if lower in ("true", "false") else re.sub(r"^([-+]?\d+)\.0*$", r"\1", label)


def normal(label: str) -> str:
    """A label without what is only a way to write it: Yes is yes, and 1.0 is 1."""
    return untyped(label.casefold())


def as_seen(label: str) -> str:
    """A label without what is only a way to encode it: one form of each character, and none that is invisible."""
    visible = (mark for mark in unicodedata.normalize("NFKC", label) if unicodedata.category(mark) != "Cf")
    return " ".join("".join(visible).split()).casefold()


def plain(cell: Any) -> str:
    """A cell as `where` and the choice of a text compare it: stripped, and without what is only its type."""
    return untyped(as_text(cell).strip())


def as_number(label: str) -> str:
    """A number without what is only a way to write it."""
    try:
        return str(float(label))
    except ValueError:
        return label


# of normalise_labels
RULES: dict[bool | None, Callable[[str], str]] = {True: normal, None: untyped, False: str}


def alike(labels: Iterable[str], rule: Callable[[str], str]) -> dict[str, list[str]]:
    """The labels that become one by a rule, by what they become."""
    found: dict[str, list[str]] = {}
    for label in sorted(labels):
        found.setdefault(rule(label), []).append(label)
    return {one: several for one, several in found.items() if len(several) > 1}


def label_set(classes: Iterable[str]) -> tuple[str, str] | None:
    """A class that looks like a set of labels, and what is between them: | or ;.

    Half or more of the labels that recur stand at different places; in paths such as animal|dog each has its depth.
    """
    for mark in "|;":
        places, sets = dict[str, list[int]](), list[str]()
        for label in classes:
            parts = [part.strip() for part in label.strip(mark).split(mark)]
            sets += [label] * (1 < len(parts) == len(set(parts)))
            for place, part in enumerate(parts):
                places.setdefault(part, []).append(place)
        recurring = [found for found in places.values() if len(found) > 1]
        moving = sum(len(set(found)) > 1 for found in recurring)
        if sets and 0 < len(recurring) <= 2 * moving:
            return sets[0], mark
    return None


def class_warnings(classes: list[str]) -> Iterator[str]:
    """What is odd about the names of classes, in words."""
    for labels in alike(classes, normal).values():
        remedy = "normalise_labels: true (flag --normalise_labels) makes them one"
        yield f"{' and '.join(map(repr, labels))} are different classes: {remedy}"
    for labels in alike(classes, as_seen).values():
        if len({normal(label) for label in labels}) > 1:
            named = " and ".join(map(ascii, labels))
            yield f"{named} are different classes, and look alike: write their characters in one way"
    fractions = [label for label in classes if re.fullmatch(r"[-+]?\d*\.\d+", normal(label))]
    if len(fractions) >= MANY:
        remedy = "is it target: numeric (flag --target)?"
        yield f"{len(fractions)} classes are fractions such as {fractions[0]!r}: {remedy}"
    if found := label_set(classes):
        remedy = (
            f"it is taken as one class; label_pattern: '[^{found[1]}]+' takes the first, target: multilabel with "
            f"label_separator: '{found[1]}' all (flags --target, --label_separator)"
        )
        yield f"{found[0]!r} looks like several labels: {remedy}"


def names_of(label: str | tuple[str, ...]) -> tuple[str, ...]:
    """The classes of a row: its one, or its set of labels."""
    return label if isinstance(label, tuple) else (label,)


def fill(template: str, row: Row) -> str:
    """The column of that name, or the template with each {column} filled in; empty if all of them are."""
    cells = {name: as_text(row.get(name)) for name in columns_of(template, row)}
    if template in cells:
        return cells[template]
    size = len(template) + sum(len(cells[name]) for name in FIELD.findall(template))
    if size > max(LONGEST, sum(map(len, cells.values())) + len(template)):
        raise ValueError(
            f"the template makes a text of {size} characters of it: over {LONGEST} are not taken"
        )
    return FIELD.sub(lambda match: cells[match[1]], template) if any(cells.values()) else ""


def describe_dropped(dropped: dict[str, int]) -> str:
    """How many rows were dropped and why, in words; conflicting labels are among the duplicates."""
    words = {reason: f"{count} {reason}" for reason, count in dropped.items() if count}
    if words.pop("conflicting_labels", ""):
        words["duplicate"] += f" ({dropped['conflicting_labels']} of them with another label)"
    return ", ".join(words.values()) or "none"


class Cleaner:
    """Takes text and label out of each row of a data set; `dropped` counts the rows that lack either, by reason."""

    def __init__(self, spec: dict[str, Any], where: Path):
        self.spec, self.where = spec, where
        self.dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
        self.replace = [(Pattern(old, where, "replace"), new) for old, new in spec["replace"].items()]
        self.label_pattern = Pattern(spec.get("label_pattern", ""), where, "label_pattern")
        text = spec["text"] if isinstance(spec["text"], dict) else {"": {"*": spec["text"]}}
        ((self.chooser, templates),) = text.items()  # column: {its value: template}
        self.templates = {plain(value): template for value, template in templates.items()} | templates
        self.wanted = {column: set(map(plain, values)) for column, values in spec["where"].items()}
        numeric = spec.get("target") == "numeric"
        self.same = as_number if numeric else RULES[spec.get("normalise_labels")]
        self.unwanted = set(map(self.same, spec["drop_labels"]))
        self.names: dict[str, str] = {}  # of label_names, by what their keys are whatever their type
        for key, name in spec["label_names"].items():
            same = RULES[spec.get("normalise_labels")](key)
            if (known := self.names.setdefault(same, name)) != name:
                raise UserError(
                    f"{where}: label_names: keys that are {same!r} are named {known!r} and {name!r}"
                )
        # the values that the description names, by its key: taken out as a row has them
        self.unmet = {"drop_labels": set(self.unwanted), "label_names": set(self.names)}
        self.unmet |= {f"where: {column}": set(values) for column, values in self.wanted.items()}
        self.unmet["text"] = set(map(plain, templates)) - {"*"}

    def clean(self, split: str, rows: list[Row]) -> list[Clean]:
        """Rows with a text and a label, as text; the others are counted in `dropped`."""
        if not rows:
            raise UserError(f"{self.where}: split {split!r} has no rows")
        self._check_columns(split, rows)
        try:
            return [cleaned for row in rows if (cleaned := self._row(row))]
        except RecursionError as error:
            raise UserError(f"{self.where}: split {split!r} has a cell that is nested too deep") from error
        except ValueError as error:
            raise UserError(
                f"{self.where}: split {split!r} has a cell that cannot be taken as text: {error}"
            ) from error

    def check_values(self) -> None:
        """Warns of those that the description names and no row has: typing errors, or other names of what is there."""
        for key, values in self.unmet.items():
            if values:
                one, *more = sorted(values)
                hint = "; label_pattern, label_ranges and label_names come first" * (key == "drop_labels")
                others = f" (nor {len(more)} more of its values)" * bool(more)
                warn(f"{self.where}: {key}: no row has {one!r:.200}{others}{hint}")

    def deduplicate(self, splits: dict[str, list[Clean]]) -> None:
        """Takes the first row of equal texts over all splits, train first: no other split then shares one."""
        first: dict[str, Clean] = {}
        for split in sorted(splits, key=lambda name: name != "train"):
            rows = splits[split]
            kept = [first.setdefault(row["text"], row) for row in rows]
            self.dropped["duplicate"] += sum(row is not one for row, one in zip(rows, kept))
            self.dropped["conflicting_labels"] += sum(a["label"] != b["label"] for a, b in zip(kept, rows))
            splits[split] = [row for row, one in zip(rows, kept) if row is one]

    def merge_types(self, splits: dict[str, list[Clean]]) -> dict[str, list[str]]:
        """Makes labels that differ in type alone one class, over all splits; those of each such class."""
        if self.spec.get("target") == "numeric" or not self.spec.get("normalise_labels", True):
            return {}
        every = {name for rows in splits.values() for row in rows for name in names_of(row["label"])}
        merged = alike(every, untyped)
        one = {label: name for name, labels in merged.items() for label in labels}
        for row in (row for rows in splits.values() for row in rows) if one else ():
            names = [one.get(name, name) for name in names_of(row["label"])]
            row["label"] = tuple(sorted(set(names))) if isinstance(row["label"], tuple) else names[0]
        return merged

    def _check_columns(self, split: str, rows: list[Row]) -> None:
        known = dict.fromkeys(name for row in rows for name in row)
        named = list(named_columns(self.spec, known))
        columns = {key: {name for of, name in named if of == key} for key in ("text", "label")}
        if split == "train" and (shared := columns["text"] & columns["label"]):
            said = f"the text holds the label's column {sorted(shared)[0]!r}, so that any model can read the label"
            warn(f"{self.where}: text: {said}")
        for key, name in named:
            if name not in known:
                hint = suggest(name, known)
                if "files" in self.spec and (len(known) == 1 or re.search(r"[;|\t]", "".join(known))):
                    hint += ". Several columns in one take another delimiter: (flag --delimiter)"
                raise UserError(f"{self.where}: {key}: split {split!r} has no column {name!r}; {hint}")

    def _row(self, row: Row) -> Clean | None:
        spec, text = self.spec, self._text(row)
        label = self._labels(row) if spec.get("target") == "multilabel" else self._one_label(row)
        cells = {column: plain(row.get(column)) for column in self.wanted}
        unwanted = self.unwanted.intersection(map(self.same, names_of(label or "")))
        self.unmet["drop_labels"] -= unwanted
        for column, cell in cells.items():
            self.unmet[f"where: {column}"].discard(cell)
        if unwanted or any(cells[column] not in values for column, values in self.wanted.items()):
            self.dropped["unwanted"] += 1
        elif label is None or not text:
            self.dropped["unlabelled" if label is None else "empty"] += 1
        else:
            extra = {key: fill(spec[key], row).strip() for key in ("group", "stratify") if key in spec}
            return {"text": text, "label": label} | extra
        return None

    def _text(self, row: Row) -> str:
        cell, known = row.get(self.chooser), self.templates
        whole, bare = as_text(cell), plain(cell)
        template = known.get(whole, known.get(bare, known.get("*")))
        self.unmet["text"] -= {whole, bare}
        text = fill(template, row).strip() if template else ""
        for pattern, replacement in self.replace:
            before, text = text, pattern("sub", replacement, text)
            if len(text) > max(LONGEST, len(before)):
                raise UserError(
                    f"{self.where}: replace: {pattern.pattern.pattern!r:.200} makes a text of {len(before)} characters one of "
                    f"{len(text)}: over {LONGEST} are not taken, so write a replacement that repeats less"
                )
        return text.strip()

    def _one_label(self, row: Row) -> str | None:
        """None where there is none."""
        if isinstance(cell := row.get(self.spec["label"]), (list, dict)):
            remedy = "a text has one label, or target: multilabel (flag --target)"
            raise UserError(f"{self.where}: label: {self.spec['label']} holds {cell!r:.200}; {remedy}")
        return self._label(fill(self.spec["label"], row).strip()) or None

    def _labels(self, row: Row) -> tuple[str, ...] | None:
        """The labels of a row that may have several: a list, which may be empty, or a text; None for an empty text."""
        cells, mark = row.get(self.spec["label"]), self.spec.get("label_separator")
        if not isinstance(cells, list):
            if not (text := fill(self.spec["label"], row).strip()):
                return None
            if (cells := as_list(text)) is None and not mark:
                remedy = "say what lies between labels, label_separator: ';' (flag --label_separator)"
                raise UserError(f"{self.where}: label: {text!r:.200} is no list of labels: {remedy}")
            cells = text.split(mark) if cells is None else cells
        return tuple(sorted({self._label(as_text(cell).strip()) for cell in cells} - {""}))

    def _label(self, label: str) -> str:
        """The label's name, empty where there is none."""
        if label and "label_pattern" in self.spec:
            match = self.label_pattern("search", label)
            label = match[1 if match.re.groups else 0] or "" if match else ""
        if label and "label_ranges" in self.spec:
            try:
                number = float(label)
            except ValueError:
                return ""
            ranges = self.spec["label_ranges"]
            label = next((str(name) for low, high, name in ranges if low <= number <= high), "")
        names, asked = self.spec["label_names"], self.spec.get("normalise_labels")
        if not (names or asked):
            return label
        same = RULES[asked](label)
        self.unmet["label_names"].discard(same)
        return names[label] if label in names else self.names.get(same, same if asked else label)
