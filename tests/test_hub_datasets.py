"""The paper's twelve data sets: each shipped description on a small snapshot with the hub's layout, columns and quirks.

The hub itself is played by a folder as its cache has it: snapshots of links into blobs, below a hidden folder.
"""

import hashlib
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from datasets import ClassLabel, Features, List, Value
from huggingface_hub.utils import filter_repo_objects

from ntps.errors import UserError
from ntps.sources import hub as hub_module
from ntps.sources.yaml_files import config_folders
from ntps.texts.dataset import load_dataset

COMMIT = "0123456789abcdef" * 2 + "01234567"
TEXT = Value("string")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Fill with hub(repository, {path: bytes, or (columns, features) for a parquet file}); `.asked` of it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub_module.snapshot.cache_clear()
    root = tmp_path / ".cache" / "hub"

    class Hub:
        asked: list = []

        def __call__(self, repository: str, files: dict) -> None:
            folder = root / f"datasets--{repository.replace('/', '--')}"
            (folder / "blobs").mkdir(parents=True)
            for name, content in files.items():
                blob = folder / "blobs" / hashlib.sha256(name.encode()).hexdigest()
                if isinstance(content, bytes):
                    blob.write_bytes(content)
                else:
                    datasets.Dataset.from_dict(content[0], features=content[1]).to_parquet(str(blob))
                path = folder / "snapshots" / COMMIT / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(blob)

        def download(self, repository, *, repo_type, revision, allow_patterns, ignore_patterns):
            assert repo_type == "dataset" and allow_patterns == ["*"]
            self.asked.append((repository, revision))
            folder = root / f"datasets--{repository.replace('/', '--')}" / "snapshots" / COMMIT
            names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
            for name in set(names) - set(filter_repo_objects(names, ignore_patterns=ignore_patterns)):
                (folder / name).unlink()
            return str(folder)

    made = Hub()
    made.asked = []
    monkeypatch.setattr(hub_module, "snapshot_download", made.download)
    yield made
    hub_module.snapshot.cache_clear()


def card(**metadata) -> bytes:
    return f"---\n{yaml.safe_dump(metadata)}---\n# About\n".encode()


def pairs(dataset, split):
    part = dataset.splits[split]
    return [(text, dataset.classes[label]) for text, label in zip(part.texts, part.labels, strict=True)]


def sizes(dataset):
    return {name: len(part.texts) for name, part in dataset.splits.items()}


def numbered(n: int, labels: int = 2, first: str = "text", second: str = "label", what: str = "word") -> dict:
    return {first: [f"{what} {i}" for i in range(n)], second: [i % labels for i in range(n)]}


def test_intent_and_its_three_equal_files(hub, capsys):
    table = b"text,intent\nbook a table,restaurant\nplay jazz,music\nwill it rain,weather\nplay rock,music\n"
    hub("Bhuvaneshwari/intent_classification", {f"{name}.csv": table for name in ("train", "test", "valid")})
    dataset = load_dataset("intent")
    assert dataset.classes == ["music", "restaurant", "weather"]
    assert sizes(dataset) == {"train": 4, "validation": 4, "test": 4}
    assert dataset.provenance["same_rows"] == [["train", "validation", "test"]]
    assert "intent.yaml: splits train and validation and test hold the same rows" in capsys.readouterr().err


def test_equal_splits_are_found_in_any_order_and_unequal_ones_are_not(hub, capsys):
    files = {
        "train.csv": b"text,intent\na,x\nb,y\nc,x\n",
        "test.csv": b"text,intent\nc,x\na,x\nb,y\n",  # another order
        "valid.csv": b"text,intent\na,y\nb,y\nc,x\n",  # another label
    }
    hub("Bhuvaneshwari/intent_classification", files)
    assert load_dataset("intent").provenance["same_rows"] == [["train", "test"]]


def test_clickbait_has_no_test_split(hub):
    n = 40
    table = pd.DataFrame(numbered(n, first="title", second="clickbait")).to_csv(index=False)
    hub("marksverdhei/clickbait_title_classification", {"clickbait_data.csv": table.encode()})
    dataset = load_dataset("clickbait")
    published = datasets.Dataset.from_dict({"i": range(n)}).train_test_split(
        test_size=0.3, shuffle=True, seed=42
    )
    for split in ("train", "test"):
        assert dataset.splits[split].texts == [f"word {i}" for i in sorted(published[split]["i"])]
    assert dataset.classes == ["0", "1"] and "seed 42" in dataset.provenance["split_rule"]


def test_sst2_is_tested_on_its_validation_split(hub):
    features = Features(idx=Value("int32"), sentence=TEXT, label=ClassLabel(names=["negative", "positive"]))

    def part(labels, what):
        return {
            "idx": list(range(len(labels))),
            "sentence": [f"{what} {i} " for i in range(len(labels))],
            "label": labels,
        }

    parts = {"train": part([1, 0, 1], "a"), "validation": part([0, 1], "b"), "test": part([-1, -1], "c")}
    hub(
        "stanfordnlp/sst2",
        {f"data/{k}-00000-of-00001.parquet": (v, features) for k, v in parts.items()}
        | {"README.md": card(configs=[{"config_name": "default", "data_files": [
            {"split": k, "path": f"data/{k}-*"} for k in parts]}])},
    )  # fmt: skip
    dataset = load_dataset("sst2")
    assert pairs(dataset, "test") == [("b 0", "negative"), ("b 1", "positive")]
    assert sizes(dataset) == {"train": 3, "test": 2} and dataset.provenance["dropped"]["unlabelled"] == 0
    assert hub.asked == [("stanfordnlp/sst2", "main")]
    assert dataset.provenance["source"] == {"id": "stanfordnlp/sst2", "config": None, "revision": COMMIT}


def test_banking77_keeps_77_classes_though_test_lacks_some(hub):
    names = [f"intent_{i:02}" for i in reversed(range(77))]
    features = Features(text=TEXT, label=ClassLabel(names=names))
    hub(
        "legacy-datasets/banking77",
        {
            "data/train-00000-of-00001.parquet": (numbered(154, 77), features),
            "data/test-00000-of-00001.parquet": (numbered(20, 10, what="test"), features),
            "banking77.py": b"raise SystemExit('a loading script must not run')",
        },
    )
    dataset = load_dataset("banking77")
    assert dataset.classes == names and sizes(dataset) == {"train": 154, "test": 20}
    assert set(dataset.splits["test"].labels) == set(range(10))


def test_bias_with_a_stray_index_and_a_missing_label(hub):
    def table(n, what):
        frame = pd.DataFrame(
            {"context": [f"{what} {i}" for i in range(n)], "bias_type": [i % 10 for i in range(n)]}
        )
        return frame

    train = table(30, "a").astype({"bias_type": "Int64"})
    train.loc[3, "bias_type"] = pd.NA
    files = {"train": train, "validation": table(10, "b"), "test": table(10, "c")}
    hub("PriyaPatel/Bias_identification", {f"{k}.csv": v.to_csv().encode() for k, v in files.items()})
    dataset = load_dataset("bias")
    assert dataset.classes == [str(i) for i in range(10)]
    assert sizes(dataset) == {"train": 29, "validation": 10, "test": 10}
    assert dataset.provenance["dropped"]["unlabelled"] == 1
    assert pairs(dataset, "train")[2:4] == [("a 2", "2"), ("a 4", "4")]


def test_emotion_reads_the_subset_with_splits(hub):
    names = ["sadness", "joy", "love", "anger", "fear", "surprise"]
    features = Features(text=TEXT, label=ClassLabel(names=names))
    files = {
        f"split/{k}-00000-of-00001.parquet": (numbered(n, 6, what=k), features)
        for k, n in (("train", 12), ("validation", 6), ("test", 7))
    }
    files["unsplit/train-00000-of-00001.parquet"] = (numbered(25, 6, what="unsplit"), features)
    configs = [
        {
            "config_name": "split",
            "data_files": [{"split": k, "path": f"split/{k}-*"} for k in ("train", "validation", "test")],
        },
        {"config_name": "unsplit", "data_files": [{"split": "train", "path": "unsplit/train-*"}]},
    ]
    hub("dair-ai/emotion", files | {"README.md": card(configs=configs)})
    dataset = load_dataset("emotion")
    assert dataset.classes == names
    assert sizes(dataset) == {"train": 12, "validation": 6, "test": 7}
    assert not any("unsplit" in text for part in dataset.splits.values() for text in part.texts)


def test_sms_spam_loses_its_newline(hub):
    n = 20
    columns = numbered(n, first="sms")
    columns["sms"] = [text + "\n" for text in columns["sms"]]
    features = Features(sms=TEXT, label=ClassLabel(names=["ham", "spam"]))
    hub("ucirvine/sms_spam", {"plain_text/train-00000-of-00001.parquet": (columns, features)})
    dataset = load_dataset("sms_spam")
    assert dataset.classes == ["ham", "spam"] and sizes(dataset) == {"train": 14, "test": 6}
    assert sorted(dataset.splits["train"].texts + dataset.splits["test"].texts) == sorted(
        f"word {i}" for i in range(n)
    )


@pytest.mark.parametrize("name", ["medical", "medical_released"])
def test_medical_pairs_and_the_released_variant(hub, name):
    n = 3048
    columns = {
        "dr_id": [1] * n,
        "question_1": [f"first {i}?" for i in range(n)],
        "question_2": [f"second {i}?" for i in range(n)],
        "label": [i % 2 for i in range(n)],
    }
    features = Features(
        dr_id=Value("int32"), question_1=TEXT, question_2=TEXT, label=ClassLabel(names=["0", "1"])
    )
    hub("curaihealth/medical_questions_pairs", {"default/train/0000.parquet": (columns, features)})
    dataset = load_dataset(name)
    assert hub.asked == [("curaihealth/medical_questions_pairs", "refs/convert/parquet")]
    assert dataset.classes == ["0", "1"] and sizes(dataset) == {"train": 2133, "test": 915}
    texts = set(dataset.splits["train"].texts + dataset.splits["test"].texts)
    joined = {i for i in range(n) if f"first {i}? second {i}?" in texts}
    assert joined == (set(range(n)) if name == "medical" else {0, 1000, 2000, 3000})
    assert {f"first {i}?" for i in set(range(n)) - joined} <= texts and len(texts) == n


def test_commonsense_choices_and_answers(hub):
    names = [f"{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")]
    features = Features(
        id=TEXT,
        question=TEXT,
        question_concept=TEXT,
        choices={"label": List(TEXT), "text": List(TEXT)},
        answerKey=TEXT,
    )

    def part(answers):
        n = len(answers)
        choice = {"label": list("ABCDE"), "text": ["bank", "library", "mall", "new york", "door"]}
        return {
            "id": [str(i) for i in range(n)],
            "question": [f"Where is {i}?" for i in range(n)],
            "question_concept": ["where"] * n,
            "choices": [choice] * n,
            "answerKey": answers,
        }

    parts = [part(list("ABCDEA")), part(list("EDC")), part([""] * 3)]
    hub(
        "tau/commonsense_qa",
        {f"data/{name}": (part, features) for name, part in zip(names, parts, strict=True)},
    )
    dataset = load_dataset("commonsense")
    assert dataset.classes == ["0", "1", "2", "3", "4"]
    assert pairs(dataset, "train")[1] == (
        "Where is 1? (0) bank (1) library (2) mall (3) new york (4) door",
        "1",
    )
    assert [label for _, label in pairs(dataset, "test")] == ["4", "3", "2"]
    assert sizes(dataset) == {"train": 6, "test": 3}


def test_climate_and_rotten_tomatoes(hub):
    climate = Features(text=TEXT, label=ClassLabel(names=["risk", "neutral", "opportunity"]))
    hub(
        "climatebert/climate_sentiment",
        {
            f"data/{k}-00000-of-00001-a1b2.parquet": (numbered(9, 3, what=k), climate)
            for k in ("train", "test")
        },
    )
    dataset = load_dataset("climate")
    assert dataset.classes == ["risk", "neutral", "opportunity"] and sizes(dataset) == {"train": 9, "test": 9}
    films = Features(text=TEXT, label=ClassLabel(names=["neg", "pos"]))
    hub(
        "cornell-movie-review-data/rotten_tomatoes",
        {f"{k}.parquet": (numbered(8, what=k), films) for k in ("train", "validation", "test")},
    )
    dataset = load_dataset("rotten_tomatoes")
    assert dataset.classes == ["neg", "pos"] and sizes(dataset) == {"train": 8, "validation": 8, "test": 8}
    assert dataset.provenance["same_rows"] == []


def test_imdb_without_its_unsupervised_reviews(hub):
    features = Features(text=TEXT, label=ClassLabel(names=["neg", "pos"]))
    files = {
        f"plain_text/{k}-00000-of-00001.parquet": (numbered(6, what=k), features) for k in ("train", "test")
    }
    loose = {"text": ["u 1", "u 2"], "label": [-1, -1]}
    files["plain_text/unsupervised-00000-of-00001.parquet"] = (loose, features)
    parts = [{"split": k, "path": f"plain_text/{k}-*"} for k in ("train", "test", "unsupervised")]
    files["README.md"] = card(configs=[{"config_name": "plain_text", "data_files": parts, "default": True}])
    hub("stanfordnlp/imdb", files)
    dataset = load_dataset("imdb")
    assert sizes(dataset) == {"train": 6, "test": 6} and dataset.classes == ["neg", "pos"]


def test_provenance_is_json_and_the_commit_decides_what_is_read(hub, tmp_path):
    hub("org/name", {"train.csv": b"text,label\na,0\nb,1\n", "test.csv": b"text,label\nc,0\n"})
    where = tmp_path / "mine.yaml"
    where.write_text(f"id: org/name\nrevision: {COMMIT}\ntext: text\nlabel: label\n")
    dataset = load_dataset(str(where))
    assert hub.asked == [("org/name", COMMIT)]
    assert json.loads(json.dumps(dataset.provenance))["source"]["revision"] == COMMIT


def test_a_repository_that_cannot_be_had_or_holds_no_data(hub, tmp_path, monkeypatch):
    where = tmp_path / "mine.yaml"
    where.write_text("id: org/empty\ntext: text\nlabel: label\n")
    hub("org/empty", {"README.md": b"# nothing\n"})
    with pytest.raises(UserError, match=r"mine\.yaml: id: cannot load 'org/empty'"):
        load_dataset(str(where))

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    hub_module.snapshot.cache_clear()
    monkeypatch.setattr(hub_module, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"hub cannot be reached.*--repo-type dataset"):
        load_dataset(str(where))


def test_every_hub_description_has_a_test_here():
    here = Path(__file__).read_text()
    for where in config_folders("datasets")[1].glob("*.yaml"):
        if "id" in yaml.safe_load(where.read_text()):
            assert f'"{where.stem}"' in here, where
