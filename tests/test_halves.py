"""The two halves of the data sets, and what docs/datasets.md says of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ntps.run import cli
from ntps.sources.yaml_files import config_names
from ntps.texts.dataset import Dataset, Split, find_description, load_dataset
from ntps.texts.description import read_description
from report import baselines

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/datasets.md"
HALVES = json.loads((ROOT / "configs/experiments/halves.json").read_text(encoding="utf-8"))
DISCOVERY, CONFIRMATION, SHARED = HALVES["discovery"], HALVES["confirmation"], HALVES["shared_rows"]


def test_halves_are_descriptions_from_packages_in_one_half_each():
    names = DISCOVERY + CONFIRMATION
    assert len(set(names)) == len(names) and set(names) <= set(config_names("datasets"))
    for name in names:
        source, spec = read_description(find_description(name))
        assert source.name == "package" and spec.get("target") != "numeric"
        assert name in PAGE.read_text(encoding="utf-8") and spec["version"] in PAGE.read_text(
            encoding="utf-8"
        )


def test_data_sets_that_share_rows_are_in_one_half():
    for group in map(set, SHARED):
        assert group <= set(config_names("datasets")) and len(group) > 1
        assert not (group & set(DISCOVERY) and group & set(CONFIRMATION))


@pytest.mark.real
def test_data_sets_share_rows_only_where_it_says_so():
    names = (*DISCOVERY, *CONFIRMATION, "toxic_insult_score")
    texts = {name: set[str]() for name in names}
    for name in names:
        for split in load_dataset(name).splits.values():
            texts[name] |= {re.sub(r"\W+", " ", text.casefold()).strip() for text in split.texts}
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            recorded = any({one, other} <= set(group) for group in SHARED)
            assert recorded == (len(texts[one] & texts[other]) > 5), (one, other)


@pytest.mark.real
def test_the_table_counts_the_rows():
    lines = [
        line.split(" | ")
        for line in PAGE.read_text(encoding="utf-8").split("<!-- baselines -->")[1].splitlines()
    ]
    rows = {line[0][2:]: line[1:] for line in lines if line[1:] and line[1] in ("discovery", "confirmation")}
    assert list(rows) == DISCOVERY + CONFIRMATION
    for name, (half, train, test, classes, *_) in rows.items():
        data = load_dataset(name)
        assert name in HALVES[half] and data.provenance["rows"] == {"train": int(train), "test": int(test)}
        assert len(data.classes) == int(classes)


def test_baselines_of_words_that_tell_the_classes(tmp_path, monkeypatch):
    texts = [f"{'good' if i % 3 else 'bad'} word{i % 7} thing{i}" for i in range(60)]
    labels = np.array([int(i % 3 > 0) for i in range(60)])
    test = Split("test", [texts[0] + ".", "Bad!", "good", "bad"], np.array([0, 0, 1, 1]))
    data = Dataset("tiny", ["a", "b"], {"train": Split("train", texts, labels), "test": test}, {})
    *counts, majority, folds, held_out, alike = baselines.cells(data)
    assert counts == ["60", "4", "2"] and majority == "0.66" and float(folds) > 0.9
    assert held_out == "0.75" and alike == "25.0 %"
    (tmp_path / "configs/experiments").mkdir(parents=True)
    (tmp_path / "configs/experiments/halves.json").write_text('{"discovery": ["x"], "confirmation": ["y"]}')
    (tmp_path / "page.md").write_text("before\n<!-- baselines -->\nold\n<!-- /baselines -->\nafter\n")
    monkeypatch.setattr(baselines, "ROOT", tmp_path)
    monkeypatch.setattr(baselines, "load_dataset", lambda name: data)
    assert cli.run(baselines.main, ["--page", "page.md"]) == 0
    page = (tmp_path / "page.md").read_text()
    assert "\nold\n" not in page and page.startswith("before\n") and page.endswith("-->\nafter\n")
    assert "| x | discovery | 60 | 4 | 2 |" in page and "| y | confirmation | 60 |" in page
