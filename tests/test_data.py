"""Descriptions of data sets: each source, each key, each fault a user can make, and the real texts."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import os
import sqlite3
import sys
import time
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ntps.commands import validate
from ntps.errors import UserError
from ntps.run import cli
from ntps.sources.yaml_files import config_names
from ntps.texts import readers, sources
from ntps.texts.dataset import Dataset, Split, load_dataset, texts_hash
from ntps.texts.rows import label_set


@pytest.fixture
def describe(tmp_path):
    """Writes mine.yaml with the keys given, and each file of `contents` beside it; loads it."""

    def load(contents=None, **keys):
        for name, content in (contents or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"text": "text", "label": "label", **keys}, sort_keys=False))
        return load_dataset(str(path))

    return load


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the cache with the files given: keys of a description that reads it."""
    monkeypatch.setenv("NTPS_CACHE", str(tmp_path / "cache"))

    def build(files):
        folder = tmp_path / "cache/wheels/texty-1.0"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "texty-1.0-py3-none-any.whl", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        sha256 = hashlib.sha256((folder / "texty-1.0-py3-none-any.whl").read_bytes()).hexdigest()
        return {"package": "texty", "version": "1.0", "sha256": sha256}

    return build


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes splits as parquet files with their features into a folder; keys that read it as `id`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def build(splits, features=None):
        (tmp_path / "folder").mkdir()
        for name, columns in splits.items():
            table = datasets.Dataset.from_dict(columns, features=features)
            table.to_parquet(str(tmp_path / "folder" / f"{name}.parquet"))
        return {"id": "folder"}

    return build


def pairs(dataset, split):
    part = dataset.splits[split]
    return [(text, dataset.classes[label]) for text, label in zip(part.texts, part.labels, strict=True)]


TWO = {"train.csv": "text,label\ngood,1\nbad,0\nfine,1\n", "test.csv": "text,label\nawful,0\n"}
FILES = {"train": "train.csv", "test": "test.csv"}


# -------------------------------------------------------------------------------- the user's own files
def test_csv_with_its_quirks(describe):
    train = '\ufefftext,label\n"a ""quoted"", text\nof two lines",01\nNA,1\nnull,\n1.0,1\n  ,01\n é ,1 \n'
    dataset = describe({"train.csv": train, "test.csv": "label,text\n2,None\n"}, files=FILES)
    assert pairs(dataset, "train") == [
        ('a "quoted", text\nof two lines', "01"),
        ("NA", "1"),
        ("1.0", "1"),
        ("é", "1"),
    ]
    assert pairs(dataset, "test") == [("None", "2")]
    assert dataset.classes == ["01", "1", "2"]
    assert dataset.provenance["dropped"] == {
        "empty": 1,
        "duplicate": 0,
        "conflicting_labels": 0,
        "unlabelled": 1,
        "unwanted": 0,
        "rare_class": 0,
    }
    assert dataset.splits["train"].labels.dtype == np.int64


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_three_formats_give_the_same(describe, tmp_path, kind):
    rows = [{"text": "NA", "label": 10}, {"text": "two\nlines", "label": 9}, {"text": "null", "label": 10}]
    if kind == "parquet":
        pd.DataFrame(rows).astype({"label": "Int64"}).to_parquet(tmp_path / "train.parquet")
    elif kind == "jsonl":
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    dataset = (
        describe(TWO, files={"train": f"train.{kind}", "test": f"train.{kind}"}) if kind != "csv" else None
    )
    dataset = dataset or describe(files={"train": "train.csv", "test": "train.csv"})
    assert pairs(dataset, "train") == [("NA", "10"), ("two\nlines", "9"), ("null", "10")]
    assert dataset.classes == ["9", "10"]  # as numbers


def test_integers_with_missing_ones_stay_integers(describe, tmp_path):
    table = pd.DataFrame({"text": ["a", "b", "c", "d"], "label": pd.array([1, None, 0, 1], dtype="Int64")})
    table.to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.jsonl").write_text(
        '{"text": "e", "label": 1}\n{"text": "f", "label": null}\n{"text": "g"}\n'
    )
    dataset = describe(files={"train": "train.parquet", "test": "test.jsonl"})
    assert dataset.classes == ["0", "1"]
    assert dataset.provenance["dropped"]["unlabelled"] == 3


def test_negative_labels_of_the_users_own_are_labels(describe):
    dataset = describe(
        {"train.csv": "text,label\na,-1\nb,1\n"}, files={"train": "train.csv", "test": "train.csv"}
    )
    assert dataset.classes == ["-1", "1"]


ROWS = [("naïve; café, tea|“a”", "01"), ('two\tlines\r\nand "quotes"', "1.0"), ("NA", "null"), ("None", "é")]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("delimiter", readers.DELIMITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-16-be"])
def test_tables_as_people_write_them_give_the_same_rows(describe, capsys, encoding, delimiter, packed):
    name = ("t.tsv" if delimiter == "tab" else "t.csv") + ".gz" * packed
    table = pd.DataFrame(ROWS, columns=[" text ", " label"])
    content = table.to_csv(index=False, sep=readers.DELIMITERS[delimiter]).encode(encoding)
    content = gzip.compress(content) if packed else content
    keys = {"encoding": encoding} if encoding in ("cp1252", "utf-16-be") else {}
    for _ in range(2):
        data = describe({name: content}, files={"train": name, "test": name}, **keys)
    assert pairs(data, "train") == ROWS
    words = ["gzip"] * packed + [encoding] * (encoding in ("utf-16", "utf-32"))
    words = ", ".join(words + [f"delimiter {delimiter}"] * (delimiter in ("semicolon", "pipe")))
    assert data.provenance["source"].get("recognised", {}) == ({name: words} if words else {})
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(said) == 2 * bool(words) and all(f"{name} is read as {words}" in line for line in said)


CELLS = st.text(
    st.characters(codec="cp1252", exclude_characters="\0") | st.sampled_from(",;\t|\"\n\r'é€ "), max_size=9
)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["quotes", "all quoted"])
@pytest.mark.parametrize("delimiter", readers.DELIMITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    names=st.permutations(["the text", "label", ",;\t|"]), end=st.sampled_from(["\n", "\r\n", "\r"]), tsv=st.booleans(),
)  # fmt: skip
def test_any_table_is_read_as_it_was_written(encoding, delimiter, quoting, rows, names, end, tsv):
    end = (
        end if quoting == csv.QUOTE_ALL else "\r\n"
    )  # with another one the writer leaves some \r and \n bare
    writer = csv.writer(file := io.StringIO(newline=""), "excel", quoting=quoting, lineterminator=end,
                        delimiter=readers.DELIMITERS[delimiter])  # fmt: skip
    writer.writerows([names, *rows])
    spec = {"text": "the text", "label": "label", "where": {}} | (
        {"encoding": "cp1252"} if encoding == "cp1252" else {}
    )
    found, notes = readers.rows_of(Path("a.tsv" if tsv else "a.csv"), file.getvalue().encode(encoding), spec)
    names = [name.strip() for name in names]
    assert found == [dict(zip(names, row, strict=True)) for row in rows]
    usual = delimiter == ("tab" if tsv else "comma")
    notes = [note for note in notes if "valid UTF-8" not in note]  # which 'Ã©' is in cp1252
    assert notes == [encoding] * (encoding in ("utf-16", "utf-32")) + [f"delimiter {delimiter}"] * (not usual)


@pytest.mark.parametrize(
    ("written", "told", "text", "noted"),
    [
        ("utf-8", "latin-1", "cafÃ©", ["latin-1, though it is valid UTF-8"]),
        ("utf-8-sig", "cp1252", "cafÃ©", ["cp1252, though it is valid UTF-8"]),
        ("utf-8-sig", "utf-8-sig", "café", []),
        ("utf-8", "UTF8", "café", []),
        ("latin-1", "latin-1", "café", []),
        ("utf-16-be", "utf-16-be", "cafe", []),
        ("utf-7", "utf-7", "café", []),
    ],
)
def test_an_encoding_that_a_utf_8_file_does_not_need_is_noted(written, told, text, noted):
    content = "label,text\na,café\n".replace("é", "e" if text == "cafe" else "é").encode(written)
    spec = {"text": "text", "label": "label", "where": {}, "encoding": told}
    found, notes = readers.rows_of(Path("a.csv"), content, spec)
    assert (found[0]["text"], notes) == (text, noted)


@pytest.mark.parametrize(
    ("header", "keys", "delimiter"),
    [
        ("text, in full;label", {"text": "text, in full"}, "semicolon"),
        ("a;text, in full", {"text": "text, in full", "label": "a"}, "semicolon"),
        ("text\tlabel\tso, this; and that", {}, "tab"),
        ('"text, ""quoted""\nin two lines"|label', {"text": 'text, "quoted"\nin two lines'}, "pipe"),
        ("q;c;label;x,y,z,w,v", {"text": "{q} {c}"}, "semicolon"),
        ("k|b|label|x,y", {"text": {"k": {"*": "b"}}}, "pipe"),
        ("text|label|g,h", {"group": "g,h"}, "pipe"),
        ("text;label,k", {"label": "label,k", "where": {"text": ["a"]}}, "semicolon"),
        ("text,label;a;b;c", {"label": "label;a;b;c"}, "comma"),
    ],
)
def test_the_delimiter_is_that_which_finds_the_columns(header, keys, delimiter):
    notes = []
    spec = {"text": "text", "label": "label", "where": {}} | keys
    assert readers._delimiter(header + "\na;b,c\n", spec, notes, ",") == readers.DELIMITERS[delimiter]
    assert notes == [f"delimiter {delimiter}"] * (delimiter != "comma")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("name", [*readers.DELIMITERS, "^"])
def test_a_delimiter_that_is_given_wins(describe, ending, name):
    mark = readers.DELIMITERS.get(name, name)
    other = ",;"[mark == ","]
    content = f"text{other}{other}x{mark}label\na{other}b{mark}1\nc\u00e9{mark}0\n".encode("cp1252")
    keys = {"files": dict.fromkeys(("train", "test"), f"t.{ending}"), "text": f"text{other}{other}x"}
    for written in (name, mark):
        data = describe({f"t.{ending}": content}, delimiter=written, encoding="cp1252", **keys)
        assert pairs(data, "train") == [(f"a{other}b", "1"), ("cé", "0")]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.json.gz", "t.JSONL.GZ"])
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_as_pandas_writes_it(describe, name, lines, indent):
    table = pd.DataFrame(ROWS, columns=["text", "label"])
    content = table.to_json(orient="records", lines=lines, indent=None if lines else indent).encode()
    content = gzip.compress(content) if "gz" in name.lower() else content
    data = describe({name: content}, files={"train": name, "test": name})
    assert pairs(data, "train") == ROWS
    assert ("a JSON array" in data.provenance["source"].get("recognised", {}).get(name, "")) == (not lines)


def test_excel_is_read_as_its_cells_hold_it(describe, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (
        [],
        [" text", "label ", None, None],
        ["NA", 1],
        ["é", "01"],
        [],
        ["x", True],
        ["y"],
        ["z", 1.5],
    ):
        book.active.append(row)
    book.create_sheet("more").append(["nothing"])
    book.save(tmp_path / "t.xlsx")
    data = describe(files={"train": "t.xlsx", "test": "t.xlsx"})
    assert pairs(data, "train") == [("NA", "1"), ("é", "01"), ("x", "True"), ("z", "1.5")]
    assert data.provenance["source"]["recognised"] == {"t.xlsx": "sheet 'Sheet' of 2"}
    book.active["C2"] = "text"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(UserError, match="t.xlsx: it has two columns 'text'"):
        describe(files={"train": "t.xlsx", "test": "t.xlsx"})


@pytest.mark.parametrize("name", ["t.csv.gz", "t.xlsx"])
def test_a_packed_file_is_unpacked_up_to_a_bound(describe, tmp_path, monkeypatch, name):
    if name == "t.xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for number in range(1000):
            book.active.append(["a" * 100, number])
        book.save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(b"text,label\n" + b"a,1\n" * 10**5))
    monkeypatch.setattr("ntps.texts.readers.LARGEST", 10**5)
    with pytest.raises(UserError, match=f"files: train: .*{name}: it holds more than .* MiB: unpack it"):
        describe(files={"train": name, "test": name})


def test_excel_without_openpyxl_names_the_command(describe, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(
        UserError, match="files: train: .*t.xlsx: it takes openpyxl: pip install openpyxl==3.1.5"
    ):
        describe({"t.xlsx": b"PK"}, files={"train": "t.xlsx"})


def test_what_is_read_by_default_is_recorded_as_before(describe):
    assert describe(TWO, files=FILES).provenance["source"].keys() == {"files", "sha256"}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_words_for_nothing_are_classes_and_empty_cells_are_none(describe, tmp_path, ending):
    rows = [
        {"text": f"text {i}", "label": label}
        for i, label in enumerate(["NA", "None", "null", "nan", "", " "])
    ]
    table, path = pd.DataFrame(rows), tmp_path / f"t.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    elif ending.startswith("json"):
        table.to_json(path, orient="records", lines=ending == "jsonl")
    else:
        table.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    data = describe(files={"train": path.name, "test": path.name})
    assert data.classes == ["NA", "None", "nan", "null"] and data.provenance["dropped"]["unlabelled"] == 4


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            ["Yes", "YES", "yes", "no"],
            "'YES' and 'Yes' and 'yes' are different classes: normalise_labels: true (flag ",
        ),
        (
            ["caf\u00e9", "cafe\u0301", "the"],
            r"'cafe\u0301' and 'caf\xe9' are different classes, and look alike: write their characters in one way",
        ),
        (["a", "a\u200b", "b"], r"'a' and 'a\u200b' are different classes, and look alike"),
        (
            [f"{i / 53:.3f}" for i in range(1, 51)],
            "50 classes are fractions such as '0.019': is it target: numeric (flag --target)?",
        ),
        (
            ["x", "y", "x|y"],
            "'x|y' looks like several labels: it is taken as one class; label_pattern: '[^|]+'",
        ),
        (["1", "01", "NA", "null", "a b", "|", "0.5", *map(str, range(2, 60))], ""),
    ],
)
def test_odd_classes_are_named_in_a_warning(describe, capsys, labels, words):
    table = "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))
    files = {"train": "train.csv", "test": "train.csv"}
    assert len(describe({"train.csv": table}, files=files).classes) == len(set(labels))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "mine.yaml: label: " in line]
    assert len(warnings) == bool(words) and words in "".join(warnings)


TYPES = {
    "csv": ("text,label\na,1\nb,1.0\nc,True\nd,true\ne,TRUE\nf,01\ng,x\nh,X\n", 8),
    "jsonl": ('{"text": "a", "label": 1}\n{"text": "b", "label": "1"}\n{"text": "c", "label": 1.0}\n'
              '{"text": "d", "label": true}\n{"text": "e", "label": "true"}\n{"text": "f", "label": "01"}\n'
              '{"text": "g", "label": "x"}\n{"text": "h", "label": "X"}\n', 7),
}  # fmt: skip


@pytest.mark.parametrize("ending", TYPES)
def test_labels_of_several_types_are_one_class_and_a_note_says_so(describe, tmp_path, capsys, ending):
    content, apart = TYPES[ending]
    files = {"train": f"t.{ending}", "test": "test.csv"}
    contents = {f"t.{ending}": content, "test.csv": "text,label\ni,1.00\nj,true\n"}
    data = describe(contents, files=files)
    assert data.classes == ["01", "1", "X", "true", "x"]
    assert [label for _, label in pairs(data, "test")] == ["1", "true"]
    assert data.provenance["merged_labels"].keys() == {"1", "true"}
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and all(
        "are one class, " in line and "normalise_labels: false" in line for line in notes
    )
    kept = describe(contents, files=files, normalise_labels=False)
    assert len(kept.classes) == apart + 1 and "merged_labels" not in kept.provenance  # 1.00 of test, too
    named = describe(contents, files=files, label_names={1: "one", "true": "yes"})
    assert named.classes == ["01", "X", "one", "x", "yes"]
    as_before = describe({"t.csv": "text,label\na,1.0\nb,2.0\nc,TRUE\n"}, files=dict.fromkeys(FILES, "t.csv"))
    assert as_before.classes == ["1.0", "2.0", "TRUE"] and "merged_labels" not in as_before.provenance


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (["x", "y", "x|y"], ("x|y", "|")),
        (["Crime;Drama", "Drama", "Comedy; Drama", "Comedy"], ("Crime;Drama", ";")),
        (["0|3|5|", "3|", "0|5|"], ("0|3|5|", "|")),
        (["animal|dog", "animal|cat", "plant|rose", "animal", "plant"], None),  # paths
        (["animal|dog", "animal|other", "plant|rose", "plant|other", "mineral|gold", "other"], None),
        (["a|b", "c|d", "N|A", ":|", ";)", "|", "a;b"], None),
        (["yes; but no", "no", "I came; I saw", "x"], None),
        (["DESC:def", "HUM:ind", "a, b", "b"], None),
    ],
)  # fmt: skip
def test_sets_of_labels_are_recognised_and_ordinary_labels_are_not(classes, found):
    assert label_set(classes) == found


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=40, max_size=40))
def test_many_sets_of_labels_are_recognised(sets):
    classes = {";".join(sorted(labels)) for labels in sets}
    assume(len(classes) > 20)
    assert label_set(sorted(classes)) is not None


@pytest.mark.parametrize(
    ("labels", "keys", "classes"),
    [
        (["1", "1.0", "2.0", "x"], {"drop_labels": [1]}, ["2.0", "x"]),
        (["1.0", "2.0", "3.0"], {"drop_labels": [3]}, ["1.0", "2.0"]),
        (["1", "1.0", "2.0", "x"], {"drop_labels": [1], "normalise_labels": False}, ["1.0", "2.0", "x"]),
        (["TRUE", "01", "x"], {"drop_labels": ["true", 1]}, ["01", "x"]),
        (["Yes", "maybe", "No"], {"drop_labels": ["Maybe"], "normalise_labels": True}, ["no", "yes"]),
    ],
)
def test_labels_are_dropped_however_their_type_is_written(describe, labels, keys, classes):
    table = "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))
    assert describe({"t.csv": table}, files=dict.fromkeys(FILES, "t.csv"), **keys).classes == classes


@pytest.mark.parametrize(
    ("keys", "lost"),
    [
        (
            {"drop_labels": ["x"], "label_names": {"x": "unknown"}},
            "drop_labels: no row has 'x'",
        ),  # its name is what a row has
        ({"drop_labels": ["unknown"], "label_names": {"x": "unknown"}}, ""),
        ({"drop_labels": ["z", "x", "u", "v"]}, "drop_labels: no row has 'u' (nor 2 more of its values)"),
        (
            {"drop_labels": [9], "target": "numeric", "text": "label", "label": "text"},
            "drop_labels: no row has '9.0'",
        ),
        ({"drop_labels": [1.0], "target": "numeric", "text": "label", "label": "text"}, ""),
        ({"label_names": {"Y": "yes", "x": "no"}}, "label_names: no row has 'Y'"),
        ({"label_names": {"Y": "yes"}, "normalise_labels": True}, ""),
        ({"where": {"text": [1, 2.0, 3, 7]}}, "where: text: no row has '7'"),
    ],
)
def test_values_that_no_row_has_are_named_in_a_warning(describe, capsys, keys, lost):
    table = "text,label\n1,x\n2,y\n3,w\n4,y\n"
    describe({"t.csv": table}, files=dict.fromkeys(FILES, "t.csv"), **keys)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no row has" in line]
    assert len(warnings) == bool(lost) and lost in "".join(warnings)


def test_where_and_the_choice_of_a_text_compare_cells_without_their_type(describe):
    content = parquet(text=list("abcd"), label=list("xyxy"), kind=[1.0, 2.0, 3.0, None])
    files = dict.fromkeys(FILES, "t.parquet")
    text = {"kind": {1: "one {text}", "3.0": "three {text}", "*": "other {text}"}}
    chosen = describe({"t.parquet": content}, files=files, text=text)
    assert chosen.splits["train"].texts == ["one a", "other b", "three c", "other d"]
    kept = describe({"t.parquet": content}, files=files, where={"kind": [1, 2]})
    assert kept.splits["train"].texts == ["a", "b"]
    table = "text,label,lang\na,x,en\nb,y, en\nc,x,de\nd,y,en \n"
    kept = describe({"t.csv": table}, files=dict.fromkeys(FILES, "t.csv"), where={"lang": ["en"]})
    assert kept.splits["train"].texts == ["a", "b", "d"]


def test_normalised_labels_are_written_in_one_way(describe, capsys):
    table = "text,label\na,1\nb,1.0\nc,TRUE\nd,true\ne,Yes\nf,1.5\n"
    files = {"train": "train.csv", "test": "train.csv"}
    data = describe({"train.csv": table}, files=files, normalise_labels=True, label_names={"Yes": "JA"})
    assert data.classes == ["1", "1.5", "JA", "true"] and "label:" not in capsys.readouterr().err
    assert data.provenance["description"]["normalise_labels"] is True


def test_template_of_columns(describe):
    rows = [
        {"q": "Why?", "c": ["so", "thus"], "y": "a"},
        {"q": "{c}", "c": None, "y": "b"},
        {"q": "", "c": [], "y": "b"},
    ]
    dataset = describe(
        {"t.jsonl": "\n".join(map(json.dumps, rows))},
        files={"train": "t.jsonl", "test": "t.jsonl"},
        text="{q} = {c}",
        label="y",
    )
    assert pairs(dataset, "train") == [("Why? = (0) so (1) thus", "a"), ("{c} =", "b")]
    assert dataset.provenance["dropped"]["empty"] == 2  # one in each split


def test_a_test_split_is_made_as_published(describe):
    n = 41
    table = "text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(n))
    dataset = describe({"train.csv": table}, files={"train": "train.csv"})
    expected = datasets.Dataset.from_dict({"i": range(n)}).train_test_split(
        test_size=0.3, shuffle=True, seed=42
    )
    for split in ("train", "test"):
        assert dataset.splits[split].texts == [f"text {i}" for i in sorted(expected[split]["i"])]
    assert "30 %" in dataset.provenance["split_rule"]


def test_deduplicate_leaves_no_text_of_train_in_test(describe, capsys):
    contents = {"train.csv": "text,label\na,0\na,1\nb,1\nc,0\n", "test.csv": "text,label\nb,0\na,0\nd,1\n"}
    kept = describe(contents, files=FILES)
    assert kept.provenance["shared_with_train"] == {"test": 2}
    assert "2 of the 3 texts of split 'test' are in train too" in capsys.readouterr().err
    dataset = describe(contents, files=FILES, deduplicate=True)
    assert pairs(dataset, "train") == [("a", "0"), ("b", "1"), ("c", "0")]
    assert pairs(dataset, "test") == [("d", "1")]
    assert dataset.provenance["dropped"]["duplicate"] == 3
    assert dataset.provenance["dropped"]["conflicting_labels"] == 2


def test_what_the_user_would_not_notice_is_said(describe, capsys):
    """A split by another name, classes of test alone, rows given several times, a key of `text` that no row has."""
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(20)]
    table = "\n".join(["text,label", *rows])
    describe(
        {"train.csv": table, "t.csv": "text,label\nmine,a\n"}, files={"train": "train.csv", "Test": "t.csv"}
    )
    assert (
        "no split is called test, so that a part of train is held out: is 'Test' meant?"
        in capsys.readouterr().err
    )
    describe({"test.csv": "text,label\nx,A\ny,b\n"}, files=FILES)
    assert "1 of the 2 texts of split 'test' are of classes that train lacks: 'A'" in capsys.readouterr().err
    describe({"train.csv": "\n".join(["text,label", *rows, *rows[:5]])}, files=FILES)
    assert "5 of the 25 texts of split 'train' repeat others" in capsys.readouterr().err
    describe({"train.csv": table}, files=FILES)
    said = capsys.readouterr().err
    assert "repeat others" not in said and "no split" not in said
    kinds = "kind,label,q\n" + "".join(f"{'ab'[i % 2]},{i % 3},what {i}\n" for i in range(12))
    describe(
        {"train.csv": kinds},
        files={"train": "train.csv"},
        text={"kind": {"a": "{q}", "B": "{q}?", "*": "{q}!"}},
    )
    assert "text: no row has 'B'" in capsys.readouterr().err


def test_a_template_that_repeats_much_is_refused(describe):
    rows = "".join(f"{'x' * 10_000},{i % 2}\n" for i in range(4))
    with pytest.raises(UserError, match="a text of 2000.* characters"):
        describe({"train.csv": "t,label\n" + rows}, files={"train": "train.csv"}, text="{t}" * 2000)


def test_two_columns_of_one_name_in_parquet_are_refused(describe, tmp_path):
    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["0", "1"]), pyarrow.array(["2", "2"])]
    table = pyarrow.Table.from_arrays(columns, names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(UserError, match="two columns 'label'"):
        describe(files={"train": "train.parquet"})


def test_a_file_of_a_folder_that_no_split_took_is_named(describe, hub, capsys):
    rows = {"text": ["a", "b", "c", "d"], "label": ["0", "1", "0", "1"]}
    describe(**hub({"train": rows, "holdout": rows}))
    assert "holdout.parquet is in no split" in capsys.readouterr().err


def test_equal_texts_never_lie_on_both_sides_of_a_split_that_we_make(describe):
    table = "text,label\n" + "".join(f"text {i % 30},{i % 2}\n" for i in range(60))
    dataset = describe({"train.csv": table}, files={"train": "train.csv"})
    assert dataset.provenance["shared_with_train"] == {"test": 0}
    assert dataset.provenance["dropped"]["duplicate"] == 30
    as_is = describe({"train.csv": table}, files={"train": "train.csv"}, deduplicate=False)
    assert as_is.provenance["shared_with_train"]["test"] > 0


def test_provenance_is_json_and_follows_the_files(describe):
    dataset = describe(TWO, files=FILES, about="a note")
    provenance = json.loads(json.dumps(dataset.provenance))
    assert provenance["source"]["sha256"]["test.csv"] == hashlib.sha256(TWO["test.csv"].encode()).hexdigest()
    assert provenance["rows"] == {"train": 3, "test": 1}
    assert provenance["description"] == {"text": "text", "label": "label"}
    assert provenance["classes"] == ["0", "1"]
    assert describe(TWO, files=FILES).provenance == provenance
    other = describe(TWO | {"test.csv": "text,label\nawfully,0\n"}, files=FILES)
    assert other.provenance != provenance
    assert texts_hash(other.splits["test"]) != texts_hash(dataset.splits["test"])


# -------------------------------------------------------------------------------------------- choosing
def tiny(n):
    return Dataset(
        "tiny", ["a", "b"], {"train": Split("train", [f"t{i}" for i in range(n)], np.arange(n) % 2)}, {}
    )


@settings(deadline=None)
@given(n=st.integers(1, 50), small=st.integers(1, 60), more=st.integers(0, 20), seed=st.integers(0, 5))
def test_limits_nest(n, small, more, seed):
    dataset = tiny(n)
    first, second = dataset.select("train", small, seed), dataset.select("train", small + more, seed)
    assert second.texts[: len(first.texts)] == first.texts
    assert len(first.texts) == min(n, small) == len(set(first.texts))
    assert all(int(text[1:]) % 2 == label for text, label in zip(second.texts, second.labels, strict=True))


def test_select_without_limit_keeps_the_order():
    assert tiny(9).select("train").texts == [f"t{i}" for i in range(9)]
    assert tiny(30).select("train", 30, seed=1).texts != tiny(30).select("train", 30, seed=2).texts


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_of_nothing(limit):
    with pytest.raises(UserError, match=f"tiny: limit {limit}"):
        tiny(3).select("train", limit)


def test_unknown_split():
    with pytest.raises(UserError, match="no split 'tran'; did you mean 'train'"):
        tiny(3).select("tran")


def test_hash_sees_text_label_and_order():
    def digest(texts, labels):
        return texts_hash(Split("train", texts, np.array(labels)))

    base = digest(["a", "b"], [0, 1])
    others = [digest(["b", "a"], [0, 1]), digest(["a", "b"], [1, 0]), digest(["ab", ""], [0, 1])]
    assert base not in others and base == digest(["a", "b"], [0, 1])


# ---------------------------------------------------------------------------------------------- wheels
def test_wheel_of_lines_with_numeric_ranges(describe, wheel):
    content = "id\trating\ttext\n" + "".join(
        f"{i}\t{r}\ttext {i}\r\n" for i, r in enumerate([0.5, -0.5, 0, 1, -2] * 8)
    )
    dataset = describe(
        **wheel({"data/a.txt": content.encode() + "9\t1\ttext\x85 caf\xe9\n".encode("latin-1")}),
        file="data/*.txt",
        reader="lines",
        encoding="latin-1",
        pattern=r"\d+\t(?P<rating>-?[\d.]+)\t(?P<text>.*)",
        label="rating",
        label_ranges=[[0.5, float("inf"), "pos"], [float("-inf"), -0.5, "neg"], [-1, 1, "neu"]],
    )
    counts = Counter(label for split in ("train", "test") for _, label in pairs(dataset, split))
    assert counts == {"pos": 17, "neg": 16, "neu": 8}
    assert "text\x85 café" in dataset.splits["train"].texts + dataset.splits["test"].texts
    test = Counter(label for _, label in pairs(dataset, "test"))
    assert len(dataset.splits["test"].texts) == 11 and test["neu"] == 2 and test["pos"] in (4, 5)


def test_wheel_of_json_lines_with_choice_of_template_and_path_label(describe, wheel):
    def rows(kind):
        return "\n".join(json.dumps({"kind": "ab"[i % 2], "x": f"{kind} {i}", "y": "more"}) for i in range(8))

    dataset = describe(
        **wheel({f"d/{kind}.jsonl": rows(kind) for kind in ("cat", "dog", "other")}),
        file="d/*.jsonl",
        reader="jsonl",
        text={"kind": {"a": "{x} {y}", "b": "x"}},
        label="path",
        label_pattern=r"([^/]+)\.jsonl$",
        drop_labels=["other"],
        replace={"^(cat|dog)": r"a \1", " +": "_"},
        label_names={"dog": "hound"},
    )
    assert dataset.classes == ["cat", "hound"]
    assert dataset.provenance["dropped"]["unwanted"] == 8
    assert {"a_cat_0_more", "a_cat_1", "a_dog_7"} <= set(
        dataset.splits["train"].texts + dataset.splits["test"].texts
    )


def test_wheel_of_xml_and_of_first_lines(describe, wheel):
    def chapter(name):
        codes = "".join(
            f'<item type="code"><name>{name}{i}</name><text>{name} {i}</text></item>' for i in range(4)
        )
        return f'<item type="chapter"><name>{name}</name><text>{name}</text>{codes}</item>'

    files = {"d/x.xml": f"\ufeff<all>{chapter('I')}{chapter('V')}</all>".encode()}
    files |= {
        f"d/{label}/{i}.txt": f"{label} {i}\nbody \xff".encode("latin-1") for label in "ab" for i in range(4)
    }
    keys = wheel(files)
    dataset = describe(**keys, file="d/x.xml", reader="xml", where={"type": ["code"]}, label="top")
    assert sorted(pairs(dataset, "train") + pairs(dataset, "test")) == [
        (f"{name} {i}", name) for name in "IV" for i in range(4)
    ]
    dataset = describe(
        **keys, file="d/*/*.txt", reader="first_line", text="first_line", label="path", label_pattern="d/(.)/"
    )
    assert sorted(pairs(dataset, "train") + pairs(dataset, "test")) == [
        (f"{label} {i}", label) for label in "ab" for i in range(4)
    ]


def test_wheel_of_tables_in_several_files(describe, wheel):
    head = "name,text,label\n"
    files = {
        "d/a.csv": head + "".join(f'"x, {i}","a ""b"" _ {i}",{i % 2}\n' for i in range(8)),
        "d/b.csv": head + "".join(f"y,_ c,{i}\n" for i in (0, 1)),
        "d/c.csv": head + "z,not this,0\n",
        "d/d.txt": "text\tlabel\n" + "".join(f"Über {i}\t{i % 2}\n" for i in range(8)),
    }
    keys = wheel({name: text.encode("cp1252") for name, text in files.items()})
    dataset = describe(
        **keys,
        file=["d/b.csv", "d/a.csv", "d/[ab].*"],
        reader="csv",
        encoding="cp1252",
        text="{name}|{text}",
        replace={r"^(.*)\|(.*)_": r"\2\1"},
    )
    rows = pairs(dataset, "train") + pairs(dataset, "test")
    wanted = [(f'a "b" x, {i} {i}', str(i % 2)) for i in range(8)] + [("y c", "0")]
    assert sorted(rows) == sorted(wanted) and dataset.provenance["dropped"]["conflicting_labels"] == 1
    dataset = describe(**keys, file="d/d.txt", reader="tsv", encoding="cp1252")
    assert sorted(pairs(dataset, "train") + pairs(dataset, "test"))[5] == ("Über 5", "1")
    for file, fault in [
        (["d/a.csv", "d/e.csv"], r"file: nothing in texty.* matches 'd/e\.csv'"),
        ("d/d.txt", "file: cannot read d/d.txt: it is not utf-8; encoding: cp1252"),
    ]:
        with pytest.raises(UserError, match=f"mine.yaml: {fault}"):
            describe(**keys, file=file, reader="csv")


def test_wheel_of_lines_between_other_marks_than_the_end_of_a_line(describe, wheel):
    passages = "".join(f"%%\nkind: {'ab'[i % 2]}\n---\npassage\n{i}\n" for i in range(8))
    keys = wheel({"d.txt": f"a preface\n{passages}"}) | {"file": "d.txt", "reader": "lines"}
    pattern = r"(?s)kind: (?P<label>\w)\n---\n(?P<text>.*)"
    dataset = describe(**keys, separator="%%\n", pattern=pattern)
    rows = pairs(dataset, "train") + pairs(dataset, "test")
    assert sorted(rows) == [(f"passage\n{i}", "ab"[i % 2]) for i in range(8)]
    with pytest.raises(UserError, match="mine.yaml: separator: '' is nothing"):
        describe(**keys, separator="", pattern=pattern)


def sqlite(*statements):
    """The bytes of a database that these statements make."""
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
        return database.serialize()


VERSES = [
    'CREATE TABLE "my ""verses" (text TEXT, label INT, length INT AS (length(text)))',
    *(f"""INSERT INTO "my ""verses" VALUES ('verse {i}', {i % 2})""" for i in range(8)),
]


def test_wheel_of_a_database(describe, wheel):
    content = sqlite(*VERSES, 'CREATE VIEW seen AS SELECT * FROM "my ""verses"')
    keys = wheel({"d.db": content, "e.db": content[:2000], "f.db": "text,label\n"}) | {"reader": "sqlite"}
    dataset = describe(**keys, file="d.db", table='my "verses')
    rows = pairs(dataset, "train") + pairs(dataset, "test")
    assert sorted(rows) == [(f"verse {i}", str(i % 2)) for i in range(8)]
    for file, table, fault in [
        ("d.db", "seen", """d.db: it has no table 'seen'; there are: my "verses"""),
        ("d.db", 'my "verses"; DROP TABLE x', 'd.db: it has no table .*; did you mean .my "verses'),
        ("e.db", 'my "verses', "e.db: database disk image is malformed"),
        ("f.db", "t", "f.db: file is not a database"),
    ]:
        with pytest.raises(UserError, match=f"mine.yaml: file: cannot read {fault}"):
            describe(**keys, file=file, table=table)
    with pytest.raises(
        UserError, match="mine.yaml: label: .*no column 'length'; there are: path, text, label"
    ):
        describe(**keys, file="d.db", table='my "verses', label="length")
    with pytest.raises(UserError, match="mine.yaml: table: missing"):
        describe(**keys, file="d.db")


def test_a_file_in_a_wheel_is_unpacked_up_to_a_bound(describe, wheel, monkeypatch):
    keys = wheel({"d.csv": "text,label\n" + "a,1\n" * 1000})
    monkeypatch.setattr("ntps.texts.readers.LARGEST", 1000)
    with pytest.raises(UserError, match="mine.yaml: file: cannot read d.csv: it holds more than .* MiB"):
        describe(**keys, file="d.csv", reader="csv")


def test_all_files_of_a_wheel_are_unpacked_up_to_one_bound(describe, wheel, monkeypatch):
    keys = wheel({f"{number}.csv": "text,label\n" + "a,1\n" * 100 for number in range(9)})
    monkeypatch.setattr("ntps.texts.readers.LARGEST", 1000)
    with pytest.raises(UserError, match="mine.yaml: file: cannot read 2.csv: it holds more than .* MiB"):
        describe(**keys, file="*.csv", reader="csv")


def test_a_number_that_a_database_stores_once_counts_as_often(describe, wheel, monkeypatch):
    columns = [f"ALTER TABLE t ADD COLUMN c{number} DEFAULT 123456789012345" for number in range(20)]
    rows = [f"INSERT INTO t (text, label) VALUES ('verse {i}', {i % 2})" for i in range(100)]
    content = sqlite("CREATE TABLE t (text TEXT, label INT)", *rows, *columns)
    keys = wheel({"d.db": content}) | {"reader": "sqlite", "file": "d.db", "table": "t"}
    monkeypatch.setattr("ntps.texts.readers.LARGEST", 100_000)
    with pytest.raises(UserError, match="mine.yaml: file: cannot read d.db: it holds more than .* MiB"):
        describe(**keys)


def test_a_text_that_a_database_stores_once_for_all_rows_is_read_up_to_a_bound(describe, wheel, monkeypatch):
    rows = [f"INSERT INTO t (text) VALUES ('verse {i}')" for i in range(100)]
    content = sqlite(
        "CREATE TABLE t (text TEXT)", *rows, f"ALTER TABLE t ADD COLUMN label DEFAULT '{'x' * 1000}'"
    )
    keys = wheel({"d.db": content}) | {"reader": "sqlite", "file": "d.db", "table": "t"}
    assert len(content) < 50_000
    monkeypatch.setattr("ntps.texts.readers.LARGEST", 50_000)
    with pytest.raises(UserError, match="mine.yaml: file: cannot read d.db: it holds more than .* MiB"):
        describe(**keys)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("train.parquet", lambda: parquet(text=["x" * 1000] * 400, label=["a", "b"] * 200), "it holds more than"),
        ("train.jsonl.gz", lambda: gzip.compress(b'{"text": "a", "label": "b"}\n' * 20_000), "it holds more than"),
        ("train.csv.bz2", lambda: bz2.compress(b"text,label\n" + b"a,b\n" * 100_000), "it holds more than"),
        ("train.parquet", lambda: b"XXXX" + parquet(text=["x" * 1000] * 400, label=["a", "b"] * 200)[4:], "it holds more than"),
        ("train.jsonl", lambda: zipped("train.jsonl", b'{"text": "a", "label": "b"}\n' * 20_000, b"junk"), "train.jsonl is a zip file: unpack it"),
        ("train.arrow", lambda: arrow(text=["x" * 1000] * 400, label=["a", "b"] * 200), "a folder of Arrow files; Csv, Json, Parquet are read"),
        ("train.csv.zip", lambda: zipped("train.csv", b"text,label\na,b\n"), "train.csv.zip is a zip file: unpack it"),
    ],
)  # fmt: skip
def test_a_packed_file_of_a_folder_is_read_up_to_a_bound(
    describe, hub, tmp_path, monkeypatch, name, content, fault
):
    keys = hub({}) | {"splits": {"train": "train", "test": "train"}}
    packed = content()
    (tmp_path / "folder" / name).write_bytes(packed)
    assert len(packed) < 10_000
    monkeypatch.setattr(readers, "LARGEST", 300_000)
    with pytest.raises(UserError, match=f"mine.yaml: id: .*{fault}"):
        describe(**keys)
    assert not list((tmp_path / "hf").rglob("*.arrow"))  # nothing was unpacked


def arrow(**columns):
    file, table = io.BytesIO(), pyarrow.table(columns)
    with pyarrow.ipc.new_stream(
        file, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    return file.getvalue()


def zipped(name, content, before=b""):
    file = io.BytesIO(before)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_groups_stay_together_and_rare_classes_leave_the_split_alone(describe, wheel):
    random = np.random.default_rng(0)
    rows = [
        {
            "text": f"text {i}",
            "q": " Q"[i % 2] + f"{i // 10}",
            "coarse": c,
            "fine": c + str(random.integers(3)),
        }
        for i, c in enumerate(random.choice(["a", "b"], 200))
    ]
    rows.append({"text": "one of its kind", "q": "q", "coarse": "a", "fine": "a9"})
    keys = wheel({"d.jsonl": "\n".join(map(json.dumps, rows))}) | {"file": "d.jsonl", "reader": "jsonl"}
    grouped = describe(**keys, label="coarse", group="q")
    group = {row["text"]: row["q"].strip().casefold() for row in rows}
    sides = [{group[text] for text in grouped.splits[split].texts} for split in ("train", "test")]
    assert not sides[0] & sides[1] and len(grouped.splits["test"].texts) in range(40, 61)
    coarse = describe(**keys, label="coarse")
    fine = describe(**keys, label="{coarse}:{fine}", stratify="coarse", min_class_count=2)
    assert fine.provenance["dropped"]["rare_class"] == 1 and "a:a9" not in fine.classes
    for split in ("train", "test"):
        assert [t for t in coarse.splits[split].texts if t != "one of its kind"] == fine.splits[split].texts


def test_rows_without_a_group_are_each_alone(describe):
    table = "text,label,g\n" + "".join(f"text {i},{i % 2},{i * (i > 19) or ''}\n" for i in range(40))
    data = describe({"t.csv": table}, files={"train": "t.csv"}, group="g")
    assert data.provenance["rows"] == {"train": 30, "test": 10}
    with pytest.raises(UserError, match="mine.yaml: group: 'label' has 2 different values, and 4 are needed"):
        describe(files={"train": "t.csv"}, group="label")


def test_wheel_that_does_not_fit_the_description(describe, wheel):
    keys = wheel({"d.jsonl": '{"text": "a", "label": 1}\n'})
    with pytest.raises(UserError, match=r"mine.yaml: file: nothing in texty.* matches 'e\.jsonl'"):
        describe(**keys, file="e.jsonl", reader="jsonl")
    with pytest.raises(UserError, match="mine.yaml: reader: 'json' is unknown; did you mean 'jsonl'"):
        describe(**keys, file="d.jsonl", reader="json")
    with pytest.raises(UserError, match="mine.yaml: cannot make a test split of 1 rows"):
        describe(**keys, file="d.jsonl", reader="jsonl")


# -------------------------------------------------------------------------------------- the hub's kind
def test_hub_class_names_in_their_order_and_rows_without_label(describe, hub):
    names = datasets.ClassLabel(names=["zero", "one", "never", "a"])
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": names, "index": datasets.Value("int32")}
    )
    splits = {
        "train": {"sentence": ["x ", "y\n", "z"], "label": [0, 1, None], "index": [0, 1, 2]},
        "validation": {"sentence": ["v", "w"], "label": [3, 0], "index": [0, 1]},
        "test": {"sentence": ["t"], "label": [-1], "index": [0]},
    }
    keys = hub(splits, features)
    dataset = describe(**keys, text="sentence", splits={"train": "train", "test": "validation"})
    assert dataset.classes == ["zero", "one", "a"]
    assert pairs(dataset, "train") == [("x", "zero"), ("y", "one")]
    assert pairs(dataset, "test") == [("v", "a"), ("w", "zero")]
    assert set(dataset.provenance["source"]["sha256"]) == {f"{split}.parquet" for split in splits}
    with pytest.raises(UserError, match=r"split 'test' has no rows.*2 unlabelled"):
        describe(**keys, text="sentence")


def test_hub_choices_as_a_dict_of_lists(describe, hub):
    choices = [{"label": list("ABC"), "text": ["bank", "mall", "new york"]}] * 4
    keys = hub(
        {
            "train": {
                "question": ["Where?", "Who?", "Why?", "How?"],
                "choices": choices,
                "answerKey": list("ABA") + [""],
            }
        }
    )
    dataset = describe(
        **keys, text="{question} {choices}", label="answerKey", label_names={"A": 0, "B": 1, "C": 2}
    )
    assert dataset.classes == ["0", "1"]
    assert dataset.provenance["dropped"]["unlabelled"] == 1
    assert "30 %" in dataset.provenance["split_rule"]
    assert (
        "Where? (0) bank (1) mall (2) new york"
        in dataset.splits["train"].texts + dataset.splits["test"].texts
    )


def test_hub_folder_of_csv_with_gaps_in_its_labels(describe, hub, tmp_path):
    keys = hub({})
    (tmp_path / "folder/train.csv").write_text("text, label,other\na,0,1\nb,1,2\nc,-1,3\nd,,4\n")
    (tmp_path / "folder/test.csv").write_text("text, label,other\ne,1,1\nf,0,1\n")
    dataset = describe(**keys)
    assert pairs(dataset, "train") == [("a", "0"), ("b", "1"), ("c", "-1")]
    assert pairs(dataset, "test") == [("e", "1"), ("f", "0")]
    assert dataset.provenance["dropped"]["unlabelled"] == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", "text;label\nNA;1\nnull;0\n".encode("utf-16"), "utf-16, delimiter semicolon"),
        ("train.csv.gz", gzip.compress(b"text|label\nNA|1\nnull|0\n", mtime=0), "gzip, delimiter pipe"),
        ("train.tsv", b"text\tlabel\nNA\t1\nnull\t0\n", ""),
        ("train.csv", "\ufefftext,label\nNA,1\nnull,0\n".encode(), ""),
    ],
)
def test_hub_folder_of_csv_is_read_as_files_are(describe, hub, tmp_path, capsys, name, content, words):
    keys = hub({}) | {"splits": {"train": "train", "test": "train"}}
    (tmp_path / "folder" / name).write_bytes(content)
    dataset = describe(**keys)
    assert pairs(dataset, "train") == [("NA", "1"), ("null", "0")]
    assert dataset.provenance["source"].get("recognised", {}) == ({name: words} if words else {})
    assert (f"{name} is read as {words}" in capsys.readouterr().err) == bool(words)


def test_folder_that_is_no_data_set_is_told_at_once(describe, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / "folder" / name).write_text("text,label\na,1\nb,2\n")
    monkeypatch.setattr(sources, "MOST_FILES", 2)
    with pytest.raises(UserError, match="mine.yaml: id: folder holds more than 2 files"):
        describe(id="folder", splits={"train": "train"})
    for unreadable in ("/", "/proc"):
        with pytest.raises(UserError, match=f"mine.yaml: id: {unreadable} holds more than 2 files"):
            describe(id=unreadable, splits={"train": "train"})


def test_hub_folder_of_csv_that_is_not_to_be_read_names_the_remedy(describe, hub, tmp_path):
    keys = hub({})
    (tmp_path / "folder/train.csv").write_bytes("text,label\né,1\n".encode("cp1252"))
    with pytest.raises(UserError, match="mine.yaml: id: cannot load 'folder': it is not utf-8.*under files:"):
        describe(**keys)
    (tmp_path / "folder/train.csv").write_text("text,label\na,1\n")
    (tmp_path / "folder/test.csv").write_text("text;label\na;1\n")
    with pytest.raises(
        UserError, match=r"mine.yaml: id: train.csv has another .* delimiter: name each under files:"
    ):
        describe(**keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label,label \na,1,x\nb,2,y\n", "it has two columns 'label': rename one"),
        ("text,label\na,1,x\nb,2,y\n", "cannot load 'folder': .*name each file under files:"),
        ("text,label\na\rb,1\nc,2\n", r"it has a bare \\r outside quotes"),
    ],
)
def test_hub_folder_of_csv_is_refused_as_files_are(describe, hub, tmp_path, content, message):
    keys = hub({})
    (tmp_path / "folder/train.csv").write_text(content, newline="")
    with pytest.raises(UserError, match=f"mine.yaml: id: .*{message}"):
        describe(**keys)


def test_hub_folder_of_csv_with_a_comma_at_the_end_of_its_rows_keeps_its_columns(describe, hub, tmp_path):
    keys = hub({}) | {"splits": {"train": "train", "test": "train"}}
    (tmp_path / "folder/train.csv").write_text("text,label,note\na,x,checked,\nb,y,open,\n")
    assert pairs(describe(**keys), "train") == [("a", "x"), ("b", "y")]


def test_hub_classes_are_named_in_templates_and_in_lists(describe, hub):
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": names, "tags": datasets.List(names)}
    )
    columns = {"text": list("abc"), "label": [0, 1, -1], "tags": [[0, None], [1, -1], []]}
    keys = hub({"train": columns, "test": columns}, features)
    data = describe(**keys, label="{label}")
    assert pairs(data, "train") == [("a", "no"), ("b", "yes")]
    assert data.provenance["dropped"]["unlabelled"] == 2
    sets = describe(**keys, label="tags", target="multilabel")
    assert sets.splits["train"].labels.tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("label", [[0, 2, 1], [[0], [1, 2], []]], ids=["class", "list"])
def test_hub_class_beyond_its_names_is_one_error(describe, tmp_path, label):
    names = datasets.ClassLabel(names=["no", "yes"])
    feature = datasets.List(names) if isinstance(label[0], list) else names
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    meta = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    table = pyarrow.table({"text": list("abc"), "label": label}).replace_schema_metadata(meta)
    pyarrow.parquet.write_table(table, file := io.BytesIO())
    target = "multilabel" if isinstance(label[0], list) else "classes"
    with pytest.raises(UserError, match="label: split 'train', row 1: label holds .*beyond the 2 names"):
        describe({"folder/train.parquet": file.getvalue()}, id="folder", target=target)


def test_hub_folder_is_read_again_where_its_files_are_others_of_the_same_time(describe, hub, tmp_path):
    keys = hub({}) | {"splits": {"train": "train", "test": "train"}}
    for word in ("old", "new"):
        (tmp_path / "folder/train.csv").write_text(f"text,label\n{word} a,0\n{word} b,1\n")
        os.utime(tmp_path / "folder/train.csv", (1e9, 1e9))
        assert pairs(describe(**keys), "train") == [(f"{word} a", "0"), (f"{word} b", "1")]


def test_dates_of_a_folder_of_json_are_named_in_a_warning(describe, capsys):
    rows = [{"text": f"text {i}", "day": f"2024-01-{i + 1:02d}", "label": "xy"[i % 2]} for i in range(8)]
    content = {"d/train.jsonl": "\n".join(map(json.dumps, rows))}
    for text, dates in (("{day} {text}", 1), ("text", 0)):
        describe(content, id="d", text=text)
        said = [line for line in capsys.readouterr().err.splitlines() if "read as times" in line]
        assert len(said) == dates and "id: d: day is read as times" * dates in "".join(said)
    assert (
        describe(content, files=dict.fromkeys(FILES, "d/train.jsonl"), text="{day} {text}")
        .splits["train"]
        .texts[0]
        == "2024-01-01 text 0"
    )


def test_hub_folder_of_the_name_of_a_reader_is_a_folder(describe, hub, tmp_path, monkeypatch):
    hub({})
    monkeypatch.chdir(tmp_path)
    keys = {"id": "csv", "splits": {"train": "train", "test": "train"}}
    describe({"csv/train.csv": "text,label\na,0\nb,1\n"}, **keys)
    assert pairs(load_dataset("mine.yaml"), "train") == [("a", "0"), ("b", "1")]


def test_hub_folder_without_train(describe, hub):
    keys = hub({"test": {"text": ["a", "b"], "label": [0, 1]}})
    with pytest.raises(UserError, match="mine.yaml: splits: say which of test is train"):
        describe(**keys)


def test_hub_id_config_and_commit_are_handed_on_and_recorded(describe, tmp_path, monkeypatch):
    commit = "0123456789abcdef" * 2 + "01234567"
    asked = []

    def snapshot(*arguments, **options):
        asked.append((arguments, options))
        return tmp_path / "snapshots" / commit

    def load(*arguments, **options):
        asked.append((arguments, options))
        table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
        return datasets.DatasetDict({"train": table, "test": table})

    def builder(*arguments):
        asked.append((arguments, {}))
        return SimpleNamespace(config=SimpleNamespace(data_files=None))

    monkeypatch.setattr(sources, "snapshot", snapshot)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = describe(id="owner/name", config="split", revision="v1")
    assert asked == [
        (("owner/name", "v1", "dataset"), {"unwanted": ("*.py",)}),
        *[((str(tmp_path / "snapshots" / commit), "split"), {})] * 2,
    ]
    assert dataset.provenance["source"] == {"id": "owner/name", "config": "split", "revision": commit}


def test_hub_faults(describe, hub):
    keys = hub({"train": {"text": ["a", "b"], "label": [0, 1]}})
    with pytest.raises(UserError, match="mine.yaml: splits: .*has no train"):
        describe(**keys, splits={"test": "train"})
    with pytest.raises(UserError, match="mine.yaml: group: says how to make a test split"):
        describe(**keys, splits={"train": "train", "test": "train"}, group="text")
    with pytest.raises(UserError, match=r"mine.yaml: splits: folder has no split 'dev'; there are: train"):
        describe(**keys, splits={"train": "train", "test": "dev"})
    with pytest.raises(UserError, match=r"mine.yaml: id: cannot load 'folder'.*revision"):
        describe(**keys, config="nonsense", splits={"train": "train"})


# --------------------------------------------------------------------------------------- a source of one's own
def test_a_new_source_is_one_class(describe, tmp_path, monkeypatch, capsys):
    class Folders(sources.TextSource):
        """Rows of text files, whose folder is the label."""

        keys = {"folders": (str, "folder of folders of .txt files"), "ending": (str, "of the files")}

        def here(self, spec, where):
            return True

        def read(self, spec, where):
            files = sorted((where.parent / spec["folders"]).glob(f"*/*.{spec.get('ending', 'txt')}"))
            rows = [{"text": file.read_text(), "label": file.parent.name} for file in files]
            return {"train": rows}, {"folders": spec["folders"]}

    monkeypatch.setitem(sources.SOURCES, "folders", Folders())
    contents = {f"mine/{label}/{i}.txt": f"{label} {i}" for label in ("in", "out") for i in range(5)}
    dataset = describe(contents, folders="mine")
    assert dataset.classes == ["in", "out"] and dataset.provenance["source"] == {"folders": "mine"}
    assert (
        dataset.provenance["rows"] == {"train": 7, "test": 3} and "30 %" in dataset.provenance["split_rule"]
    )
    assert cli.run(validate.main, [str(tmp_path / "mine.yaml")]) == 0
    assert "source           mine" in capsys.readouterr().out
    with pytest.raises(UserError, match="mine.yaml: revision: not a key of a description with folders"):
        describe(folders="mine", revision="main")
    with pytest.raises(UserError, match="exactly one of package, id, files, folders is needed"):
        describe()
    monkeypatch.setattr(Folders, "read", lambda *_: ({"dev": []}, {}))
    with pytest.raises(UserError, match="mine.yaml: it has no split train, only dev"):
        describe(folders="mine")


# ---------------------------------------------------------------------------------------------- faults
FAULTS = {
    "unknown key": ({"labels": "label"}, "labels: not a key .*did you mean 'label'"),
    "key of another source": ({"revision": "abc"}, "revision: not a key of a description with files"),
    "wrong kind": ({"min_class_count": "20"}, "min_class_count: '20' is not int"),
    "number as text": ({"label": 1}, "label: 1 is not str"),
    "missing column": (
        {"text": "txet"},
        "text: split 'train' has no column 'txet'; did you mean 'text'.*label",
    ),
    "missing in template": ({"text": "{text} {title}"}, "text: split 'train' has no column 'title'"),
    "missing label": ({"label": "y"}, "label: split 'train' has no column 'y'; there are: text, label"),
    "missing where": ({"where": {"z": ["1"]}}, "where: split 'train' has no column 'z'"),
    "no train": ({"files": {"test": "test.csv"}}, "files: .* has no train"),
    "missing file": ({"files": {"train": "gone.csv"}}, "files: train: there is no file .*gone.csv"),
    "other kind of file": ({"files": {"train": "train.xls"}}, "files: train: train.xls is none of .csv"),
    "two columns of templates": (
        {"text": {"a": {"b": "c"}, "d": {"e": "f"}}},
        "text: .* is not one column with its values",
    ),
    "two sources": ({"id": "a/b"}, "exactly one of package, id, files is needed, found id and files"),
    "delimiter": ({"delimiter": "::"}, "delimiter: '::' is not one of these.*semicolon, tab, pipe"),
    "encoding": ({"encoding": "nonsense"}, "encoding: 'nonsense' is no encoding"),
    "idle delimiter": (
        {"files": {"train": "t.jsonl"}, "delimiter": ";"},
        "delimiter: ';' is only of .csv, .tsv: take it out",
    ),
    "idle encoding": (
        {"files": {"train": "t.parquet"}, "encoding": "cp1252"},
        "encoding: 'cp1252' is only of .csv, .tsv, .jsonl, .json",
    ),
    "regular expression": ({"label_pattern": "("}, "label_pattern: '\\(' is not a regular expression"),
    "template": ({"text": {"a": "b"}}, "text: {'a': 'b'} is not str .*column: {value: template}"),
    "ranges": ({"label_ranges": [[1, "a"]]}, r"label_ranges: \[\[1, 'a'\]\] is not .*\[low, high, name\]"),
    "values": ({"where": {"label": "1"}}, "where: {'label': '1'} is not .*column: list of values"),
    "idle group": ({"group": "label"}, "group: says how to make a test split, but one is given"),
    "too high a bar": ({"min_class_count": 9}, "split 'train' has no rows.*4 rare_class"),
}


@pytest.mark.parametrize(("keys", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_of_a_description(describe, keys, message):
    with pytest.raises(UserError, match=f"mine.yaml: {message}"):
        describe(TWO, **{"files": FILES, **keys})


def parquet(**columns):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


BAD_FILES = {
    "no rows": ("t.csv", "text,label\n", "split 'train' has no rows"),
    "empty": ("t.csv", "", "files: train: cannot read .*t.csv"),
    "only white space": ("t.csv", 'text,label\n" ",1\n,0\n', "split 'train' has no rows.*4 empty"),
    "one class": ("t.csv", "text,label\na,1\nb,1\n", "label: all of train has the one class '1'"),
    "open quote": ("t.csv", 'text,label\n"a,1\nb,0\n', "files: train: cannot read .*t.csv"),
    "too many fields": ("t.csv", "text,label\na,b,1\nc,0\n", "files: train: cannot read .*t.csv"),
    "not utf-8": (
        "t.csv",
        b"text,label\ncaf\xe9,1\n",
        ".*it is not utf-8; encoding: cp1252 .flag --encoding. would read '.*café,1",
    ),
    "not json": ("t.jsonl", '{"text": "a", "label": 1}\n{"text":', "files: train: .*line 2 is not JSON"),
    "json list": ("t.json", "[1]", "files: train: .*item 1 is not an object"),
    "json lists": ("t.jsonl", "[1]\n[2]", "files: train: .*its array is not JSON: Extra data"),
    "two columns of one name": (
        "t.csv",
        "text,label,label \na,1,2\n",
        ".*it has two columns 'label': rename",
    ),
    "another delimiter": ("t.csv", "text;label,x\na;1,2\n", "text: .* take another delimiter: .flag --del"),
    "a delimiter of its own": ("t.csv", "text^label\na^1\n", "text: .* take another delimiter: .flag --del"),
    "too many of another delimiter": (
        "t.csv",
        "text,label;x\na,1;2,3\n",
        ".*give its delimiter: .flag --del",
    ),
    "utf-16 without its mark": ("t.csv", "text,label\na,1\n".encode("utf-16-le"), ".*encoding: utf-16-le"),
    "utf-16 that is no utf-8": ("t.csv", "té,label\na,1\n".encode("utf-16-le"), ".*encoding: utf-16-le"),
    "no gzip": ("t.csv.gz", b"\x1f\x8bnonsense", "files: train: cannot read .*t.csv.gz"),
    "no excel": ("t.xlsx", "hello", "files: train: cannot read .*t.xlsx.*mend or convert the file"),
    "not parquet": ("t.parquet", "hello", "files: train: cannot read .*t.parquet"),
    "a quote that is never closed": (
        "t.tsv",
        'text\tlabel\nfine\ta\n"Great 1\tb\nbad 2\ta\n"Great 3\tb\n',
        "files: train: .*the quote in line 3 is not closed, and lines to 5",
    ),
    "a quote that is never closed, texts with commas": (
        "t.csv",
        '\ntext,label\nfine,a\n"Great film, loved it,b\nbad,a\n"Superb",b\nmeh,a\n',
        "files: train: .*the quote in line 4 is not closed, and lines to 6",
    ),
    "a quote that is never closed, text last": (
        "t.csv",
        'label,text\na,fine\nb,"Great film, loved it\na,bad\nb,"Superb, too"\n',
        "files: train: .*the quote in line 3 is not closed, and lines to 5",
    ),
    "rows end in two ways": (
        "t.csv",
        'text,label\n"a\rb",x\nline one\rline two,y\n',
        r"files: train: .*it has a bare \\r outside quotes, in .*line one\\rline two",
    ),
    "bytes that are no text": (
        "t.parquet",
        parquet(text=[b"\xff", b"a"], label=["1", "0"]),
        "split 'train' has a cell .*utf-8",
    ),
    "an object for a text": (
        "t.jsonl",
        '{"text": {"en": "a"}, "label": 1}',
        "split 'train' .*an object, {'en': 'a'}",
    ),
    "labels in lists": ("t.jsonl", '{"text": "a", "label": [1, 2]}', "label: label holds .* one label"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_cannot_be_used(describe, name, content, message):
    with pytest.raises(UserError, match=f"mine.yaml: {message}"):
        describe({name: content}, files={"train": name, "test": name})


def test_bytes_of_parquet_are_text(describe):
    content = parquet(text=["é".encode(), b"b", b"c"], label=[b"x", b"y", b"x"])
    dataset = describe({"t.parquet": content}, files={"train": "t.parquet", "test": "t.parquet"})
    assert dataset.splits["train"].texts == ["é", "b", "c"] and dataset.classes == ["x", "y"]


def test_of_parquet_only_the_columns_that_are_named_are_read(describe, monkeypatch):
    content = parquet(text=["a", "b"], label=[0, 1], **{f"x{place}": [0, 0] for place in range(20)})
    monkeypatch.setattr(readers, "LARGEST", 2 * 2 * readers.CELL)
    files = {"train": "t.parquet", "test": "t.parquet"}
    assert describe({"t.parquet": content}, files=files).splits["train"].texts == ["a", "b"]
    with pytest.raises(UserError, match="no column 'y'.*x19"):
        monkeypatch.undo()
        describe({"t.parquet": content}, files=files, label="y")
    monkeypatch.setattr(readers, "LARGEST", 2 * 2 * readers.CELL - 1)
    with pytest.raises(UserError, match="its 2 rows of text, label do not fit in memory"):
        describe({"t.parquet": content}, files=files)


def test_quoted_lines_and_quotes_within_a_line_are_text(describe):
    content = 'text,label\n"a, b\nc, d\n""e"", f",1\n"Great" it is,0\n"g\nh" ,0\n"Great" i "j\nk",1\n'
    dataset = describe({"t.csv": content}, files={"train": "t.csv", "test": "t.csv"})
    assert dataset.splits["train"].texts[:3] == ['a, b\nc, d\n"e", f', "Great it is", "g\nh"]


@pytest.mark.parametrize(
    "text",
    [
        'a, b, c\nshe said "wow" out loud',
        'a, b, c\n"wow" she said',
        'He wrote, once, in ink:\n"to be"\nand so on',
        'a, b, c\n\n5" wide',
        '""doubled"", b, c\n""more"", d\n',
        "a, b\rc, d\n",
    ],
)
def test_quotes_in_texts_of_several_lines_are_text(text):
    readers._check_lines(f'text,label\n"x, y, z",1\n"{text}",0\nfine,1\n"q, r",0\n', ",")


@pytest.mark.parametrize("end", ["\r\r\n", "\n"])
def test_returns_at_the_ends_of_lines_are_ends_of_lines(describe, end):
    """As a CSV opened without newline="" has them on Windows, and one after the last line."""
    rows = [f"text {number},{'ab'[number % 2]}" for number in range(20)]
    dataset = describe(
        {"t.csv": end.join(["text,label", *rows]) + end + "\r"}, files=dict.fromkeys(FILES, "t.csv")
    )
    assert dataset.splits["train"].texts == [f"text {number}" for number in range(20)]


def test_a_categorical_column_is_not_counted_once_a_batch(tmp_path, describe, monkeypatch):
    texts = pd.Series(
        [f"a text that is a little longer, number {number}" for number in range(400)], dtype="category"
    )
    pd.DataFrame({"text": texts, "label": ["a", "b"] * 200}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(readers, "LARGEST", 400 * 2 * readers.CELL)
    dataset = describe(files=dict.fromkeys(FILES, "t.parquet"))
    assert len(dataset.splits["train"].texts) == 400


def test_a_file_that_ends_its_lines_in_a_bare_return_is_read(describe):
    dataset = describe({"t.csv": 'text,label\r"a\nb",1\rc,0\r'}, files=dict.fromkeys(FILES, "t.csv"))
    assert pairs(dataset, "train") == [("a\nb", "1"), ("c", "0")]


def test_many_bare_returns_take_no_time(describe):
    """By a pattern that tries again from each of them they took minutes."""
    start = time.monotonic()
    many = "\r" * 100_000
    describe({"t.csv": f'text,label\na,1\n"b{many}c",0\n'}, files=dict.fromkeys(FILES, "t.csv"))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("t.csv", "text,label\na,1\nb,0\ntext,label\nc,1\n", "row 3 after the header is the header again"),
        (
            "t.jsonl",
            '{"text": "a", "label": 1, "label": 2}\n',
            "line 1 is not JSON: key 'label' stands twice",
        ),
        ("t.csv", "text;label\na;1\nb;0\n", "delimiter: .* is not of ASCII"),
    ],
)
def test_files_that_say_a_thing_twice_are_one_error(describe, name, content, fault):
    keys = {"delimiter": "é"} if "ASCII" in fault else {}
    with pytest.raises(UserError, match=fault):
        describe({name: content}, files=dict.fromkeys(FILES, name), **keys)


def test_a_sheet_that_claims_more_rows_than_excel_has_is_one_error(monkeypatch):
    monkeypatch.setattr(readers, "SHEET", 3)
    sheet = SimpleNamespace(iter_rows=lambda values_only: iter([(1,)] * 5))
    with pytest.raises(ValueError, match="a row beyond 3"):
        list(readers._of_sheet(sheet))


def test_a_parquet_of_texts_that_are_stored_once_is_read_up_to_a_bound(describe, monkeypatch):
    content = parquet(text=["x" * 1000] * 400, label=["a", "b"] * 200)
    monkeypatch.setattr(readers, "LARGEST", 300_000)
    assert len(content) < 10_000
    with pytest.raises(UserError, match="files: train: .*t.parquet: it holds more than"):
        describe({"t.parquet": content}, files=dict.fromkeys(FILES, "t.parquet"))


def test_a_text_longer_than_the_csv_module_takes_is_text(describe):
    long = "word, of a line\n" * 10_000
    content = pd.DataFrame({"text": [long, "b"], "label": [0, 1]}).to_csv(index=False)
    dataset = describe({"t.csv": content}, files={"train": "t.csv", "test": "t.csv"})
    assert dataset.splits["train"].texts == [long.strip(), "b"] and csv.field_size_limit() == 131_072


def test_an_unclosed_quote_in_a_folder_of_csv_is_refused_too(describe):
    content = 'text,label\nfine,a\n"Great 1,b\nbad 2,a\n"Great 3,b\n'
    with pytest.raises(UserError, match="the quote in line 3 is not closed"):
        describe({"folder/train.csv": content}, id="folder")


def test_a_list_of_labels_as_pandas_writes_it_is_a_list(describe):
    content = 'text,label\na,"[\'x\', \'y\']"\nb,[]\nc,"[""y""]"\nd,[2\ne,"[1, 2.50]"\nf,[1];[3]\n'
    files = {"train": "t.csv", "test": "t.csv"}
    dataset = describe({"t.csv": content}, files=files, target="multilabel", label_separator=";")
    rows = [{dataset.classes[i] for i in np.flatnonzero(row)} for row in dataset.splits["train"].labels]
    assert rows == [{"x", "y"}, set(), {"y"}, {"[2"}, {"1", "2.50"}, {"[1]", "[3]"}]
    for other in (
        "['x' 'y']",
        "[1. 2.]",
        "[01]",
        "\"('x', 'y')\"",
        "{'x'}",
    ):  # numpy's, and other types of Python
        with pytest.raises(UserError, match="neither a list of Python nor of JSON"):
            describe(
                {"t.csv": f"text,label\na,{other}\nb,['x']\n"},
                files=files,
                target="multilabel",
                label_separator=";",
            )


def test_a_text_that_holds_its_label_is_named_in_a_warning(describe, capsys):
    content = {"t.csv": "text,label\na,1\nb,0\n"}
    describe(content, files={"train": "t.csv", "test": "t.csv"}, text="{text} {label}")
    assert capsys.readouterr().err.count("the text holds the label's column 'label'") == 1


def test_short_rows_lose_their_label_only(describe):
    dataset = describe({"t.csv": "text,label\na,1\nb\nc,0\n"}, files={"train": "t.csv", "test": "t.csv"})
    assert pairs(dataset, "train") == [("a", "1"), ("c", "0")]


def test_names_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"unknown data set 'trec5'; did you mean 'trec50'.*YAML"):
        load_dataset("trec5")
    with pytest.raises(UserError, match="no data set description .*gone.yaml"):
        load_dataset(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("content", ["a: [1", "- a\n- b", "", "text: \x00"])
def test_yaml_that_cannot_be_read(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml: "):
        load_dataset(str(tmp_path / "bad.yaml"))


# ------------------------------------------------------------------------------------ the real texts
REAL = {  # rows without empty and duplicate texts, classes kept
    "rotten_tomatoes_pypi": (10603, 2),
    "sms_spam_pypi": (5160, 2),
    "trec6": (5381, 6),
    "trec50": (5381, 35),
    "amazon3": (3697, 3),
    "nyt3": (5119, 3),
    "commonsense_pypi": (1221, 5),
    "bias_type": (4217, 4),
    "medmcqa": (9649, 20),
    "privacyqa": (10923, 2),
    "bbc_headline": (2096, 5),
    "icd10": (12194, 22),
    "tweets3": (4200, 3),
    "question_source": (15140, 7),
    "boolq": (12697, 2),
    "crows_bias": (1017, 9),
    "toxic_insult": (993, 2),
    "pubmedqa": (1000, 3),
    "kjv_section": (24345, 8),
    "edam_branch": (2340, 4),
    "occupation": (1016, 11),
    "license_role": (11348, 4),
    "tax_rule": (5697, 9),
    "api_type": (10906, 7),
    "election_tweets": (5714, 2),
}


def test_every_description_is_in_the_list():
    assert set(REAL) <= set(config_names("datasets"))


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_texts_have_the_published_size(name):
    dataset = load_dataset(name)
    rows, dropped = dataset.provenance["rows"], dataset.provenance["dropped"]
    assert (sum(rows.values()) + dropped["rare_class"], len(dataset.classes)) == REAL[name]
    whole_families = 0.04 if name == "license_role" else 0.003  # one of its groups has a quarter of the rows
    assert rows["test"] / sum(rows.values()) == pytest.approx(0.25, abs=whole_families)
    assert dataset.provenance["shared_with_train"] == {"test": 0}
    for split in dataset.splits.values():
        assert set(split.labels) == set(range(len(dataset.classes)))
        assert all(text == text.strip() != "" for text in split.texts)
    assert load_dataset(name).provenance == dataset.provenance


@pytest.mark.real
def test_trec_shares_one_split_and_privacyqa_no_question():
    coarse, fine = load_dataset("trec6"), load_dataset("trec50")
    assert fine.provenance["dropped"]["rare_class"] == 145
    assert fine.provenance["dropped"]["conflicting_labels"] == 1
    for split in ("train", "test"):
        kind = dict(pairs(coarse, split))
        assert all(label.startswith(kind[text] + ":") for text, label in pairs(fine, split))
    questions = [
        {text.split(" ? ")[0].casefold() for text in part.texts}
        for part in load_dataset("privacyqa").splits.values()
    ]
    assert not questions[0] & questions[1]


@pytest.mark.real
def test_some_real_texts_read_as_they_should():
    commonsense = load_dataset("commonsense_pypi")
    assert all(f"({i}) " in text for text in commonsense.splits["train"].texts for i in range(5))
    assert pairs(commonsense, "train")[0] == (
        "A revolving door is convenient for two direction travel, but it also serves as a security measure "
        "at a what? (0) bank (1) library (2) department store (3) mall (4) new york",
        "A",
    )
    spam = load_dataset("sms_spam_pypi")
    counts = Counter(label for split in spam.splits for _, label in pairs(spam, split))
    assert counts == {"ham": 4518, "spam": 642}
    diseases = load_dataset("icd10")
    assert ("Cholera", "I") in pairs(diseases, "train") + pairs(diseases, "test")


def test_half_a_character_is_replaced(tmp_path, describe):
    rows = [{"text": f"cut \ud83d {i}", "label": i % 2} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = describe(files={"train": "train.jsonl"}).splits["train"].texts
    assert all("cut \ufffd " in text for text in texts)


@pytest.mark.parametrize(
    ("names", "more", "labels"),
    [
        ({"True": "pos", "False": "neg"}, {}, ["TRUE", "false", "True", "FALSE"]),
        ({"1.0": "pos", "0.0": "neg"}, {}, ["1", "0", "1.0", "0.0"]),
        ({"Yes": "pos", "No": "neg"}, {"normalise_labels": True}, ["Yes", "no", "yes", "NO"]),
    ],
)
def test_label_names_hold_for_labels_of_another_type_or_case(describe, tmp_path, names, more, labels):
    for split in ("train", "test"):
        rows = "".join(f"text {split} {place},{label}\n" for place, label in enumerate(labels))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    files = {"train": "train.csv", "test": "test.csv"}
    dataset = describe(files=files, text="text", label="label", label_names=names, **more)
    assert dataset.classes == ["neg", "pos"]
    assert [label for _, label in pairs(dataset, "test")] == ["pos", "neg", "pos", "neg"]


def test_label_names_that_contradict_each_other(describe, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,2\n")
    with pytest.raises(UserError, match="label_names: keys that are '1' are named 'one' and 'other'"):
        describe(
            files={"train": "train.csv", "test": "train.csv"},
            text="text",
            label="label",
            label_names={"1": "one", "1.0": "other"},
        )


@pytest.mark.parametrize("target", ["numeric", "multilabel"])
def test_rows_of_a_group_stay_together_whatever_the_target(describe, tmp_path, target):
    label = (lambda i: str(i / 7)) if target == "numeric" else (lambda i: "a;b" if i % 3 else "c")
    rows = "".join(f"text {i},{label(i)},{i // 3}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label,g\n{rows}")
    more = {"label_separator": ";"} if target == "multilabel" else {}
    dataset = describe(
        files={"train": "rows.csv"}, text="text", label="label", group="g", target=target, **more
    )
    seen = {name: {int(text.split()[1]) // 3 for text in part.texts} for name, part in dataset.splits.items()}
    assert not seen["train"] & seen["test"] and len(seen["test"]) == 5
    assert "not stratified" in str(dataset.provenance)


def test_quotes_that_make_one_row_of_several_are_told(describe, tmp_path):
    rows = [f"w{i}\t{i % 2}" for i in range(9)]
    merged = ["text\tlabel", '"I loved it\t1', *rows, 'and the end"\t0', *rows]
    (tmp_path / "train.tsv").write_text("\n".join(merged))
    with pytest.raises(UserError, match="lines 2 to 12 are one row by the quotes around them"):
        describe(files={"train": "train.tsv"}, text="text", label="label")
    verse = 'text,label\n"one, two\nthree, four\nfive, six\n",1\n"a\nb\nc",0\n"x, y\nz, w",0\n'
    (tmp_path / "train.csv").write_text(verse)
    found = describe({"test.csv": "text,label\nq,1\nr,0\n"}, files=FILES, text="text", label="label")
    assert [text for text, _ in pairs(found, "train")] == [
        "one, two\nthree, four\nfive, six",
        "a\nb\nc",
        "x, y\nz, w",
    ]
