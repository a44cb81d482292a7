"""Wheels in the cache folder: fetched by the real pip from a local folder, checked, never half there."""

import base64
import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ntps.errors import UserError
from ntps.sources import wheels


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with one tiny wheel, texty 1.0; an empty cache folder; the wheel's hash."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "texty-1.0.dist-info"
    files = {
        "texty/data.txt": "hello\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: texty\nVersion: 1.0\nRequires-Dist: not-there\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    wheel = folder / "texty-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    monkeypatch.setenv("NTPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def never(*_):
    raise AssertionError("there was nothing to download")


def test_wheel_is_fetched_once_and_then_found(index, tmp_path, monkeypatch, capsys):
    wheel = wheels.pypi_wheel("texty", "1.0", index, megabytes=0.5)
    assert "downloading texty 1.0 (0.5 MB)" in capsys.readouterr().err
    assert wheel.is_relative_to(tmp_path / "cache")
    assert zipfile.ZipFile(wheel).read("texty/data.txt") == b"hello\n"
    monkeypatch.setattr(wheels, "_download", never)
    assert wheels.pypi_wheel("texty", "1.0", index) == wheel
    assert capsys.readouterr().err == ""


def test_damaged_wheel_is_reported_and_fetched_again(index, capsys):
    wheel = wheels.pypi_wheel("texty", "1.0", index)
    wheel.write_bytes(wheel.read_bytes()[:-10])
    assert wheels.pypi_wheel("texty", "1.0", index) == wheel
    assert wheels.file_sha256(wheel) == index
    assert "damaged" in capsys.readouterr().err


def test_other_content_than_recorded_is_refused(index, tmp_path):
    other = "00ff" * 16
    with pytest.raises(UserError, match=f"texty 1.0: .*{index}, not the recorded {other}"):
        wheels.pypi_wheel("texty", "1.0", other)
    assert list((tmp_path / "cache/wheels/texty-1.0").iterdir()) == []


def test_interrupted_download_leaves_nothing_that_could_be_used(index, tmp_path, monkeypatch):
    def interrupted(package, version, sha256, folder):
        (folder / "texty-1.0-py3-none-any.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheels, "_download", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wheels.pypi_wheel("texty", "1.0", index)
    assert list((tmp_path / "cache/wheels/texty-1.0").iterdir()) == []
    assert wheels.file_sha256(wheels.pypi_wheel("texty", "1.0", index)) == index


def test_package_that_cannot_be_had(index):
    with pytest.raises(UserError, match=r"cannot download texty 2\.0.*texty==2\.0.*network.*by hand"):
        wheels.pypi_wheel("texty", "2.0", index)


PLACES = [
    "file:evil",
    "./evil",
    "/tmp/evil",
    "evil @ file:///tmp/evil",
    "git+https://e/e",
    "-r",
    "-rlist.txt",
]
PLACES += [
    "--index-url=http://e",
    "a b",
    "a\n--pre",
    "a\n",
    "${HOME}",
    "a;b",
    "a[b]",
    "a==1",
    "",
    ".",
    "..",
    "ſ",
    "a#b",
]


@pytest.mark.parametrize("key", ["package", "version", "sha256"])
@pytest.mark.parametrize("text", PLACES)
def test_what_is_no_name_version_or_hash_never_reaches_pip(index, monkeypatch, key, text, tmp_path):
    monkeypatch.setattr(wheels.subprocess, "run", never)
    wanted = {"package": "texty", "version": "1.0", "sha256": index, key: text}
    with pytest.raises(UserError, match=f"^{key} is no "):
        wheels.pypi_wheel(**wanted)
    assert not (tmp_path / "cache").exists()


def test_a_source_distribution_is_not_built(index, tmp_path, monkeypatch):
    project, marker = tmp_path / "sdist-2.0", tmp_path / "ran"
    project.mkdir()
    (project / "setup.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: sdist\nVersion: 2.0\n")
    archive = tmp_path / "index" / "sdist-2.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(project, "sdist-2.0")
    with pytest.raises(UserError, match=r"cannot download sdist 2\.0"):
        wheels.pypi_wheel("sdist", "2.0", wheels.file_sha256(archive))
    assert not marker.exists()


def test_cache_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NTPS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="NTPS_CACHE"):
        wheels.cache_folder("wheels")


def test_two_processes_at_once(index, tmp_path):
    code = f"from ntps.sources.wheels import pypi_wheel; print(pypi_wheel('texty', '1.0', '{index}'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(wheels.__file__).parents[2])}
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    paths = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert paths[0] == paths[1]
    assert [path.name for path in (tmp_path / "cache/wheels/texty-1.0").iterdir()] == [
        os.path.basename(paths[0])
    ]
