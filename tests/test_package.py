"""`pip install .`, the command that it gives, and the citation file."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installation without the checkout; nothing is downloaded."""
    pytest.importorskip("setuptools")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("ntps", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        *ROOT.glob("*.py"),
        *(ROOT / name for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE")),
    ):
        shutil.copy(path, source)
    alone = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *alone, str(source)], check=True)
    return target


def run(installed, folder, *words):
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_every_file_of_the_package_is_installed(installed):
    ours = {path.relative_to(ROOT) for path in (ROOT / "ntps").rglob("*") if path.is_file()}
    ours = {path for path in ours if "__pycache__" not in path.parts}
    ours |= {"ntps" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*") if path.is_file()}
    ours |= {Path("ntps/scripts") / path.name for path in ROOT.glob("*.py")}
    there = {path.relative_to(installed) for path in (installed / "ntps").rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path.parts} == ours
    assert {path.name for path in installed.iterdir()} == {
        "bin",
        "ntps",
        f"ntps-{PROJECT['version']}.dist-info",
    }


@pytest.mark.slow
def test_ntps_prescreen_runs_without_the_checkout(installed, tmp_path):
    tiny_model(tmp_path / "tiny")
    script, csv = installed / "bin" / "ntps-prescreen", ROOT / "examples" / "support.csv"
    flags = "--models tiny --text message --label team --limit 80 --layers 0,1 --label_permutations 0".split()
    done = run(installed, tmp_path, str(script), *flags, "--train", str(csv))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prescreen" / "support.html").exists()
    shown = run(installed, tmp_path, "-m", "ntps.validate", "smollm2-135m-random")  # a shipped name
    assert shown.returncode == 0 and "random_of=smollm2-135m" in shown.stdout


def test_the_citation_file_says_what_pyproject_says():
    assert CITATION["version"] == PROJECT["version"] and CITATION["license"] == PROJECT["license"]
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    # what the schema of the Citation File Format 1.2.0 needs and allows, of the fields used here
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    known = {
        "abstract",
        "authors",
        "cff-version",
        "keywords",
        "license",
        "message",
        "references",
        "title",
        "type",
        "version",
    }
    assert set(CITATION) <= known
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert set(paper) <= {"authors", "identifiers", "month", "notes", "title", "type", "url", "year"}
    assert [set(who) for who in CITATION["authors"]] == [{"name"}]
    names = {"family-names", "given-names"}
    assert [set(who) for who in paper["authors"]] == [names] * 4 and paper["authors"][0][
        "family-names"
    ] == "Cheng"
    number = "2505.17169"  # submitted in May 2025, as arXiv numbers say
    assert (paper["year"], paper["month"]) == (2025, 5) and paper["url"] == f"https://arxiv.org/abs/{number}"
    assert [one["value"] for one in paper["identifiers"]] == [f"arXiv:{number}"]
