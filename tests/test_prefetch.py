"""Pinning and prefetching against a hub on this machine, then a run without any; and what is said when there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ntps.commands import pin, prefetch
from ntps.models.description import is_commit
from ntps.run import cli
from ntps.sources import hub
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


def test_commits_take_the_place_of_branches_and_comments_stay(answers, tmp_path, capsys):
    table, asked = answers
    table["org/name", "model", "main"] = COMMIT
    table["org/words", "model", "main"] = COMMIT[::-1]
    table["org/texts", "dataset", "refs/convert/parquet"] = COMMIT
    model, data = tmp_path / "model.yaml", tmp_path / "data.yaml"
    model.write_text(MODEL)
    data.write_text(DATA)
    flags = ["--models", str(model), "--datasets", str(data)]
    assert cli.run(pin.main, flags) == 0
    text = model.read_text()
    spec = yaml.safe_load(text)
    assert spec == yaml.safe_load(MODEL) | {"revision": COMMIT, "tokenizer_revision": COMMIT[::-1]}
    lines = [line for line in text.splitlines() if "revision: " not in line or line.startswith("note")]
    assert lines == [line for line in MODEL.splitlines() if not line.startswith("revision")]
    assert f"revision: {COMMIT}  # main on 2" in text
    assert text.index("tokenizer: ") < text.index("tokenizer_revision: ") < text.index("note:")
    assert f"revision: {COMMIT}  # refs/convert/parquet on 2" in data.read_text()
    assert data.read_text().splitlines()[1].endswith("; the branch that the hub made")
    capsys.readouterr()
    assert cli.run(pin.main, flags) == 0  # again: nothing to do, nobody is asked
    assert len(asked) == 3 and model.read_text() == text
    assert capsys.readouterr().out.count("already the commit") == 3


def test_every_shipped_hub_description_can_be_pinned(answers, tmp_path):
    table, _ = answers
    pinned = 0
    for folder in ("models", "datasets"):
        for path in (ROOT / "configs" / folder).glob("*.yaml"):
            copy = tmp_path / path.name
            copy.write_text(path.read_text())
            for _, repository, revision in pin.repositories(copy):
                table[repository, pin.REPOSITORIES[folder], revision] = COMMIT
            assert cli.run(pin.main, [f"--{folder}", str(copy)]) == 0
            spec = yaml.safe_load(copy.read_text())
            keys = [key for key in ("revision", "tokenizer_revision") if key in spec]
            assert all(is_commit(spec[key]) for key in keys)
            kept = [line.split("#")[1].strip() for line in path.read_text().splitlines() if "#" in line]
            assert all(comment in copy.read_text() for comment in kept)
            pinned += len(keys)
    assert pinned >= 8 + 4 + 12


def test_without_a_hub_pinning_is_one_clear_error_and_changes_nothing(answers, tmp_path, capsys):
    table, _ = answers
    table["org/name", "model", "main"] = ConnectionError("Name or service not known")
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    assert cli.run(pin.main, ["--models", str(path)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "cannot look up org/name" in message and "network" in message
    assert path.read_text() == MODEL
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
        for name, key in (("plain", "models/org/plain"), ("texts", "datasets/org/texts")):
            spec = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
            assert spec["revision"] == repositories[key].commit
        assert "# main on 2" in (tmp_path / "plain.yaml").read_text()
        names = ("plain.yaml", "bare.yaml", "closed.yaml")
        done = run("-m", "ntps.prefetch", "--config", str(experiment), "--models", *names, endpoint=endpoint)
        assert done.returncode == 1 and "closed.yaml is gated: ask for access" in done.stdout, done.stderr
        assert "gated: closed.yaml: org/closed is gated" in done.stderr and "hf auth login" in done.stderr
        assert all(f"{name}.yaml: " in done.stdout for name in ("plain", "bare", "texts", "again"))
        assert any("model.safetensors" in path for path in asked)
    done = run(str(ROOT / "cache.py"), "--config", str(experiment), offline="1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results" / "moments").rglob("train.safetensors"))) == 4
