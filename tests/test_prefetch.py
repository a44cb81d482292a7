"""Pinning and prefetching against a hub on this machine, then a run without any; and what is said when there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntps.commands import pin, prefetch
from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.run import cli
from ntps.sources import hub
from ntps.sources.hub import is_commit
from ntps.texts.description import read_description
from tests.fake_hub import Repository, serve
from tests.tiny import tiny_dataset, tiny_model

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "ab" * 20


@pytest.fixture
def answers(monkeypatch):
    """What HfApi says of a repository: {(repository, kind, revision): commit or error}; counts the questions."""
    table: dict = {}
    asked = []

    class Api:
        def repo_info(self, repository, *, repo_type, revision):
            asked.append(repository)
            answer = table[repository, repo_type, revision]
            if isinstance(answer, Exception):
                raise answer
            return type("Info", (), {"sha": answer})

    monkeypatch.setattr(pin, "HfApi", Api)
    pin.commit_of.cache_clear()
    yield table, asked
    pin.commit_of.cache_clear()


MODEL = """\
# What it is, in a line of its own.
id: org/name
revision: main
lora_targets: [q_proj]   # two spaces more
tokenizer: org/words   # an open copy
note: "revision: main"
"""
DATA = """\
id: org/texts
revision: "refs/convert/parquet"  # the branch that the hub made
text: text
label: label
"""


def test_commits_are_locked_beside_the_descriptions_which_stay(answers, tmp_path, capsys):
    table, asked = answers
    table["org/name", "model", "main"] = COMMIT
    table["org/words", "model", "main"] = COMMIT[::-1]
    table["org/texts", "dataset", "refs/convert/parquet"] = COMMIT
    model, data = tmp_path / "model.yaml", tmp_path / "data.yaml"
    model.write_text(MODEL)
    data.write_text(DATA)
    flags = ["--models", str(model), "--datasets", str(data)]
    assert cli.run(pin.main, flags) == 0
    assert model.read_text() == MODEL and data.read_text() == DATA
    lock = json.loads((tmp_path / "hub.lock.json").read_text())
    assert {name: entry["commit"] for name, entry in lock.items()} == {
        "model org/name main": COMMIT,
        "model org/words main": COMMIT[::-1],
        "dataset org/texts refs/convert/parquet": COMMIT,
    }
    assert all(entry["date"].startswith("2") for entry in lock.values())
    spec = resolve_model(str(model))
    assert spec.source["revision"] == COMMIT and spec.tokenizer == {
        "id": "org/words",
        "revision": COMMIT[::-1],
    }
    source, keys = read_description(data)
    assert source.revision(keys, data) == COMMIT
    capsys.readouterr()
    assert cli.run(pin.main, flags) == 0  # again: nothing to do, nobody is asked
    assert len(asked) == 3 and json.loads((tmp_path / "hub.lock.json").read_text()) == lock
    assert capsys.readouterr().out.count("already the commit") == 3


def test_a_commit_in_a_description_and_another_branch_are_not_what_is_locked(tmp_path):
    lock = {"model org/name main": {"commit": COMMIT, "date": "2026-01-01"}}
    (tmp_path / "hub.lock.json").write_text(json.dumps(lock))
    for revision, read in (("main", COMMIT), ("dev", "dev"), ("cd" * 20, "cd" * 20)):
        (tmp_path / "model.yaml").write_text(f"id: org/name\nrevision: {revision}\n")
        assert resolve_model(str(tmp_path / "model.yaml")).source["revision"] == read
    (tmp_path / "model.yaml").write_text("id: org/name\ntrust_remote_code: true\n")
    with pytest.raises(UserError, match="trust_remote_code: only with a commit"):  # in the description itself
        resolve_model(str(tmp_path / "model.yaml"))


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 9999, '{"a": 1}', '{"model org/name main": {"commit": "../x"}}']
)
def test_a_lock_file_that_is_none_is_one_error(tmp_path, text):
    (tmp_path / "hub.lock.json").write_text(text)
    (tmp_path / "model.yaml").write_text("id: org/name\n")
    with pytest.raises(UserError, match=r"hub\.lock\.json is no lock file"):
        resolve_model(str(tmp_path / "model.yaml"))


def test_every_shipped_hub_description_can_be_pinned(answers, tmp_path):
    table, _ = answers
    pinned = 0
    for folder in ("models", "datasets"):
        for path in (ROOT / "configs" / folder).glob("*.yaml"):
            copy = tmp_path / path.name
            copy.write_text(path.read_text())
            for repository, revision in pin.repositories(copy):
                table[repository, pin.REPOSITORIES[folder], revision] = COMMIT
            assert cli.run(pin.main, [f"--{folder}", str(copy)]) == 0
            assert copy.read_text() == path.read_text()
            spec = resolve_model(str(copy)) if folder == "models" else None
            sources = [spec.source, spec.tokenizer or {}] if spec else [{}]
            revisions = [source["revision"] for source in sources if "revision" in source]
            if spec is None:
                source, keys = read_description(copy)
                revisions = list(filter(None, [source.revision(keys, copy)]))
            assert all(map(is_commit, revisions))
            pinned += len(revisions)
    assert pinned >= 8 + 4 + 12


def test_of_random_weights_the_model_is_pinned(answers, tmp_path, capsys):
    table, _ = answers
    for name in ("org/name", "org/words"):
        table[name, "model", "main"] = COMMIT
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "control.yaml").write_text("random_of: model.yaml\n")
    assert cli.run(pin.main, ["--models", str(tmp_path / "control.yaml")]) == 0
    assert is_commit(resolve_model(str(tmp_path / "control.yaml")).base.source["revision"])
    (tmp_path / "other.yaml").write_text("random_of: org/other\n")
    assert cli.run(pin.main, ["--models", str(tmp_path / "other.yaml")]) == 0
    assert "org/other is no description" in capsys.readouterr().out
    (tmp_path / "self.yaml").write_text("random_of: self.yaml\n")
    assert cli.run(pin.main, ["--models", str(tmp_path / "self.yaml")]) == 1
    assert "random_of: self is random weights itself" in capsys.readouterr().err


def test_without_a_hub_pinning_is_one_clear_error_and_changes_nothing(answers, tmp_path, capsys):
    table, _ = answers
    table["org/name", "model", "main"] = ConnectionError("Name or service not known")
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    assert cli.run(pin.main, ["--models", str(path)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "cannot look up org/name" in message and "network" in message
    assert path.read_text() == MODEL and not (tmp_path / "hub.lock.json").exists()
    assert cli.run(pin.main, ["--models", "org/name"]) == 1
    assert "only a description" in capsys.readouterr().err


def test_without_a_hub_prefetching_is_one_clear_error(monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    hub.snapshot.cache_clear()
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    paper = str(ROOT / "configs" / "experiments" / "paper.yaml")
    assert cli.run(prefetch.main, ["--config", paper]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "the hub cannot be reached (Name or service not known)" in said.err
    assert all(name in said.err for name in ("qwen2-7b", "openelm-3b", "llama3-8b", "medical", "imdb"))
    assert (
        "llama3-8b is gated: ask for access at https://huggingface.co/meta-llama/Meta-Llama-3-8B" in said.out
    )


def test_what_is_there_already_is_counted(tmp_path, capsys):
    tiny_model(tmp_path / "tiny")
    (tmp_path / "model.yaml").write_text("path: tiny\n")
    data = tiny_dataset(tmp_path, n=12, classes=3)
    assert cli.run(prefetch.main, ["--models", str(tmp_path / "model.yaml"), "--datasets", str(data)]) == 0
    said = capsys.readouterr().out
    assert "12 train" in said and "3 classes" in said and "all is there" in said


@pytest.mark.slow
def test_pin_and_prefetch_from_a_hub_then_run_without_one(tmp_path):
    tiny_model(tmp_path / "plain")
    bare = tiny_model(tmp_path / "bare", "openelm")
    for file in bare.glob("*token*"):
        file.unlink()
    table = tiny_dataset(tmp_path / "texts").with_name("tiny-train.csv").read_bytes()
    repositories = {
        "models/org/plain": Repository.of(tmp_path / "plain"),
        "models/org/bare": Repository.of(bare),
        "models/org/closed": Repository.of(tmp_path / "plain", gated=True),
        "datasets/org/texts": Repository(
            {"train.csv": table, "README.md": b"# x\n"}, ("main", "refs/convert/parquet")
        ),
    }
    for name, text in {
        "plain": "id: org/plain\nrevision: main  # moves\n",
        "bare": "id: org/bare\ntokenizer: org/plain\n",
        "closed": "id: org/closed\ngated: true\n",
        "texts": "id: org/texts\nrevision: refs/convert/parquet\ntext: text\nlabel: label\n",
        "again": "id: org/texts\nrevision: refs/convert/parquet\ntext: text\nlabel: label\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(
        "models: [plain.yaml, bare.yaml]\ndatasets: [texts.yaml, again.yaml]\ncache: {limit: 20}\n"
    )

    def run(*command: str, endpoint: str = "http://127.0.0.1:9", offline: str = "0"):
        environment = os.environ | {
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": endpoint,
            "PYTHONPATH": str(ROOT),
        }
        environment |= {
            "HF_HUB_OFFLINE": offline,
            "NTPS_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = (sys.executable, *command)
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    with serve(repositories) as (endpoint, asked):
        done = run("-m", "ntps.pin", "--models", "plain.yaml", "--datasets", "texts.yaml", endpoint=endpoint)
        assert done.returncode == 0, done.stderr
        lock = json.loads((tmp_path / "hub.lock.json").read_text())
        assert lock["model org/plain main"]["commit"] == repositories["models/org/plain"].commit
        texts = lock["dataset org/texts refs/convert/parquet"]
        assert texts["commit"] == repositories["datasets/org/texts"].commit
        assert (tmp_path / "plain.yaml").read_text() == "id: org/plain\nrevision: main  # moves\n"
        names = ("plain.yaml", "bare.yaml", "closed.yaml")
        done = run("-m", "ntps.prefetch", "--config", str(experiment), "--models", *names, endpoint=endpoint)
        assert done.returncode == 1 and "closed.yaml is gated: ask for access" in done.stdout, done.stderr
        assert "gated: closed.yaml: org/closed is gated" in done.stderr and "hf auth login" in done.stderr
        assert all(f"{name}.yaml: " in done.stdout for name in ("plain", "bare", "texts", "again"))
        assert any("model.safetensors" in path for path in asked)
    done = run(str(ROOT / "cache.py"), "--config", str(experiment), offline="1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "moments").rglob("train.safetensors"))) == 4
