"""A model whose GGUF lies in several wheels: joined, checked and converted once, only under an accepted licence."""

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import cache
from ntps.commands import prefetch, validate
from ntps.errors import UserError
from ntps.models import gguf
from ntps.models.description import resolve_model
from ntps.models.files import source_folder
from ntps.models.loading import load_model, model_identity
from ntps.run import cli
from ntps.sources import wheels
from ntps.system import atomic_files
from tests.tiny import tiny_model

PARTS = [b"GGUF one", b", two", b" and three"]
WHOLE = hashlib.sha256(b"".join(PARTS)).hexdigest()
TERMS = "https://example.org/terms"
FOLDER = f"toy-1.0-{WHOLE[:8]}-toy"


def wheel(folder: Path, package: str, files: dict[str, bytes]) -> dict[str, str]:
    """A wheel in the cache, as a description names it."""
    path = folder / "wheels" / f"{package}-1.0" / f"{package}-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return {"package": package, "version": "1.0", "sha256": wheels.file_sha256(path)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def keys(tiny, tmp_path, monkeypatch):
    """The description of a model in a wheel of its licence and three of its parts, which are in the cache.

    Its pretended GGUF is converted to the tiny model.
    """
    here = tmp_path / "cache"
    monkeypatch.setenv("NTPS_CACHE", str(here))
    monkeypatch.setenv("NTPS_ACCEPT_LICENSE", "other, toy-terms")
    monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("there is nothing to download"))

    def convert(source: Path, ready: Path):
        assert source.read_bytes() == b"".join(PARTS)
        shutil.copytree(tiny, ready)

    monkeypatch.setattr(gguf, "_convert", convert)
    own = {
        "toy/LICENSE": b"terms",
        "../../NOTICE.md": b"notice",
        "toy/LICENSE.safetensors": b"",
        "COPYING": bytes(2**20 + 1),
        "toy/a.py": b"",
    }
    parts = [
        wheel(here, f"toy-part{i}", {"toy/__init__.py": b"", f"toy/data/toy.gguf.part0{i}": part})
        for i, part in enumerate(PARTS)
    ]
    return {
        "pypi": wheel(here, "toy", own) | {"gguf": "toy.gguf"},
        "parts": parts,
        "gguf_sha256": WHOLE,
        "license": {"name": "toy-terms", "terms": TERMS},
    }


def described(folder: Path, keys: dict) -> str:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(keys))
    return str(path)


def made(tmp_path: Path, keys: dict) -> Path:
    return source_folder(resolve_model(described(tmp_path, keys)).source)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "models").iterdir())


def test_parts_are_joined_in_order_and_converted_once(keys, tmp_path, monkeypatch, capsys):
    spec = resolve_model(described(tmp_path, keys))
    assert model_identity(spec)["weights"] == f"{WHOLE}:toy.gguf"
    load_model(spec, torch.float32, "cpu")
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("it is there"))
    monkeypatch.delenv("NTPS_ACCEPT_LICENSE")  # it was accepted
    load_model(spec, torch.float32, "cpu")
    assert left(tmp_path) == [FOLDER]
    assert TERMS in capsys.readouterr().err


def test_licence_and_notice_lie_beside_the_weights_and_nothing_else_of_the_wheel(keys, tiny, tmp_path):
    folder = made(tmp_path, keys)
    own = {path.name for path in folder.iterdir()} - {path.name for path in tiny.iterdir()}
    assert own == {"LICENSE", "NOTICE.md", gguf.ORIGIN} and (folder / "LICENSE").read_bytes() == b"terms"
    assert not list(tmp_path.glob("NOTICE*")) and not list((tmp_path / "cache").glob("NOTICE*"))


def test_weights_that_were_changed_since_or_are_of_another_file_are_refused(keys, tmp_path):
    folder = made(tmp_path, keys)
    assert made(tmp_path, keys) == folder
    with pytest.raises(UserError, match="was made of another GGUF: delete the folder"):
        gguf.unchanged(folder, WHOLE[:8] + "0" * 56)  # of a hash that begins alike
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes([1, 2, 3, 4]))
    with pytest.raises(UserError, match="was changed since it was made: delete the folder"):
        made(tmp_path, keys)
    (folder / gguf.ORIGIN).unlink()  # as an earlier version left it
    assert made(tmp_path, keys) == folder and (folder / gguf.ORIGIN).is_file()


def refused(tmp_path: Path, keys: dict, *words: str) -> None:
    """One error of these words, and nothing left."""
    with pytest.raises(UserError) as caught:
        made(tmp_path, keys)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value
    assert not left(tmp_path)


def test_another_hash_order_or_part_is_refused(keys, tmp_path):
    refused(tmp_path, keys | {"gguf_sha256": "ab" * 32}, "toy.gguf", WHOLE, "ab" * 32, "parts")
    refused(tmp_path, keys | {"parts": keys["parts"][::-1]}, "not the recorded", "order")
    refused(tmp_path, keys | {"parts": keys["parts"][:2]}, "joined from 2 wheels", "not the recorded")
    empty = wheel(tmp_path / "cache", "toy-empty", {"toy/other.gguf.part02": PARTS[2]})
    refused(tmp_path, keys | {"parts": [*keys["parts"][:2], empty]}, "toy-empty", "toy.gguf")


def test_a_full_disk_is_one_error_before_anything_is_written(keys, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "free_space", lambda _: 5)
    refused(tmp_path, keys, "no space", "NTPS_CACHE")


@pytest.mark.parametrize("accepted", [None, "", "toy", "toy-terms2", "TOY-TERMS"])
def test_without_the_licence_nothing_is_fetched(keys, tmp_path, monkeypatch, capsys, accepted):
    monkeypatch.delenv("NTPS_ACCEPT_LICENSE")
    if accepted is not None:
        monkeypatch.setenv("NTPS_ACCEPT_LICENSE", accepted)
    shutil.rmtree(tmp_path / "cache" / "wheels")
    refused(tmp_path, keys, "toy.gguf", TERMS, "NTPS_ACCEPT_LICENSE=toy-terms")


def test_every_command_says_how_to_accept_the_licence(keys, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("NTPS_ACCEPT_LICENSE")
    model = described(tmp_path, keys)
    (tmp_path / "toy-random.yaml").write_text("random_of: toy.yaml\n")
    (tmp_path / "a.csv").write_text("text,label\n" + "a river,x\na boat,y\n" * 9)
    (tmp_path / "texts.yaml").write_text("files: {train: a.csv}\ntext: text\nlabel: label\n")
    wanted, remedy = ["--models", model, str(tmp_path / "toy-random.yaml")], "NTPS_ACCEPT_LICENSE=toy-terms"
    texts = ["--datasets", str(tmp_path / "texts.yaml"), "--output", str(tmp_path / "out")]
    assert cli.run(prefetch.main, wanted) == 1
    said = capsys.readouterr()
    assert said.out.count(remedy) == said.err.count(remedy) == said.err.count("error:") == 2
    assert cli.run(cache.main, [*wanted, *texts]) == 1
    said = capsys.readouterr()
    assert said.err.count(remedy) == said.err.count("error:") == 2
    assert cli.run(validate.main, [model]) == 0
    said = capsys.readouterr().out
    assert re.search(f"^licence +under the licence toy-terms: .*{remedy}$", said, re.MULTILINE), said
    assert cli.run(validate.main, [model, "--fetch"]) == 1


def dying(place: str):
    """Kill this process instead of what `place` does, in the middle of it."""
    kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    copy, convert = shutil.copyfileobj, gguf._convert

    def half(part, whole):
        copy(part, whole)
        if place == "join" and whole.tell() > len(PARTS[0]):
            whole.flush()
            kill()

    def begun(source, ready):
        convert(source, ready)
        (ready / "model.safetensors").unlink()
        kill()

    shutil.copyfileobj = half
    if place == "convert":
        gguf._convert = begun
    if place == "rename":
        os.rename = kill


@pytest.mark.parametrize("place", ["join", "convert", "rename"])
def test_a_kill_leaves_no_half_model_and_the_next_run_clears_up(keys, tmp_path, place):
    def work():
        dying(place)
        made(tmp_path, keys)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (half,) = left(tmp_path)
    assert half.startswith(f".{FOLDER}.") and half.endswith(".tmp")
    assert any((tmp_path / "cache" / "models" / half).iterdir())
    load_model(resolve_model(described(tmp_path, keys)), torch.float32, "cpu")
    assert left(tmp_path) == [FOLDER]


def test_what_another_process_made_in_the_meantime_stays(keys, tiny, tmp_path, monkeypatch):
    convert = gguf._convert

    def slow(source, ready):
        convert(source, ready)
        shutil.copytree(tiny, tmp_path / "cache" / "models" / FOLDER)
        (tmp_path / "cache" / "models" / FOLDER / "first").touch()

    monkeypatch.setattr(gguf, "_convert", slow)
    assert (made(tmp_path, keys) / "first").exists() and left(tmp_path) == [FOLDER]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": None}, ["parts", "gguf_sha256"]),
        ({"parts": []}, ["parts", "gguf_sha256"]),
        ({"gguf_sha256": None}, ["parts", "gguf_sha256"]),
        ({"gguf_sha256": "AB" * 32}, ["gguf_sha256", "SHA-256"]),
        ({"parts": [{"package": "p", "version": "1.0"}]}, ["parts", "sha256"]),
        ({"parts": [{"package": "-r x", "version": "1.0", "sha256": "ab" * 32}]}, ["parts: package", "name of a"]),
        ({"parts": [{"package": "p", "version": "1 -r x", "sha256": "ab" * 32}]}, ["parts: version", "PEP 440"]),
        ({"parts": [{"package": "p", "version": "1.0", "sha256": "ab"}]}, ["parts: sha256", "SHA-256"]),
        ({"parts": "toy"}, ["parts", "list"]),
        ({"license": {"name": "toy"}}, ["license", "terms"]),
        ({"license": {"name": "a b", "terms": TERMS}}, ["license: name", "name of a licence"]),
        ({"license": {"name": "toy", "terms": "file:///etc"}}, ["license: terms", "https://"]),
        ({"license": {"name": "toy", "terms": f"{TERMS} x"}}, ["license: terms", "https://"]),
        ({"pypi": None, "path": "."}, ["gguf_sha256", "pypi"]),
    ],
)  # fmt: skip
def test_wrong_descriptions_are_refused_with_file_and_key(keys, tmp_path, change, words):
    where = described(tmp_path, {key: value for key, value in (keys | change).items() if value is not None})
    with pytest.raises(UserError) as caught:
        resolve_model(where)
    assert all(word in str(caught.value) for word in (where, *words)), caught.value
