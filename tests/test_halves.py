"""The two halves of the data sets."""

import json
import re
from pathlib import Path

import pytest

from ntps.sources.yaml_files import config_names
from ntps.texts.dataset import find_description, load_dataset
from ntps.texts.description import read_description

ROOT = Path(__file__).resolve().parent.parent
HALVES = json.loads((ROOT / "configs/experiments/halves.json").read_text(encoding="utf-8"))
DISCOVERY, CONFIRMATION, SHARED = HALVES["discovery"], HALVES["confirmation"], HALVES["shared_rows"]


def test_halves_are_descriptions_from_packages_in_one_half_each():
    names = DISCOVERY + CONFIRMATION
    assert len(set(names)) == len(names) and set(names) <= set(config_names("datasets"))
    for name in names:
        source, spec = read_description(find_description(name))
        assert source.name == "package" and spec.get("target") != "numeric"


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
