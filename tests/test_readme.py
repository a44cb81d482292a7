"""The commands of README and docs/commands.md run as they stand, with a tiny model and tiny data sets in place of the real ones."""

import importlib
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import nbformat
import pytest

from ntps.run import cli
from report import readme
from tests.tiny import tiny_dataset, tiny_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/commands.md", "docs/processes.md")
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGES[page], re.DOTALL)


def commands(page: str) -> list[str]:
    lines = (line for language, text in blocks(page) if language == "bash" for line in text.splitlines())
    return [line for line in lines if line.strip() and not line.startswith("#")]


# What takes long with its published defaults is cut short.
SHORTER = {
    "linear_training": ["--epochs", "2"],
    "lora_finetuning": ["--max_steps", "3"],
    "from_scratch": ["--max_steps", "3"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    tiny_model(folder / "tiny")
    for name in ("trec6", "sms_spam_pypi", "my_texts"):
        tiny_dataset(folder, n=60, name=name)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("prescreen"))
    (folder / "model.yaml").write_text("path: tiny\nlora_targets: [q_proj, k_proj, v_proj]\n")
    (folder / "smollm2-135m.yaml").write_text((folder / "model.yaml").read_text())
    (folder / "smollm2-135m-random.yaml").write_text("random_of: tiny\n")
    return folder


def substituted(word: str) -> str:
    """A name of a shipped model or data set becomes the tiny one of that name."""
    return (
        f"{word}.yaml" if word in ("smollm2-135m", "smollm2-135m-random", "trec6", "sms_spam_pypi") else word
    )


def with_tiny(code: str) -> str:
    return re.sub(r'"([\w-]+)"', lambda word: f'"{substituted(word[1])}"', code)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_order(page, world, monkeypatch):
    monkeypatch.chdir(world)
    seen = set()
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if words[:1] != ["python"]:
            continue
        module = words[2] if words[1] == "-m" else words[1].removesuffix(".py")
        flags = [substituted(word) for word in words[3 if words[1] == "-m" else 2 :]] + SHORTER.get(
            module, []
        )
        main = importlib.import_module(module).main
        assert cli.run(main, flags) == 0, command
        seen.add(module)
    if page == "README.md":
        assert {"cache", "K_sweep", "prescreen", "ntps.show", "fig_plot.summary"} <= seen


def test_readme_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = {shlex.split(c, comments=True)[1] for c in commands("README.md") if c.startswith("make ")}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_python_runs(world, monkeypatch):
    monkeypatch.chdir(world)
    listed = [text for language, text in blocks("README.md") if language == "python"]
    assert listed
    for text in listed:
        exec(compile(with_tiny(text), "README.md", "exec"), {})


def test_the_notebook_of_examples_runs(world, monkeypatch):
    monkeypatch.chdir(world / "examples")
    monkeypatch.delenv("NTPS_ACCEPT_LICENSE", raising=False)
    notebook = nbformat.read(ROOT / "examples/rank.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(cell.get("execution_count", 1) for cell in notebook.cells)  # it is kept as it ran
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "gemma3-270m is first" in said and "smollm2-135m is usable" in said
    names: dict[str, object] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            code = with_tiny(cell.source).replace('"smoll', '"../smoll')
            exec(compile(code, "rank.ipynb", "exec"), names)


def test_readme_names_every_script_and_only_files_that_exist():
    both = "".join(PAGES.values())
    for script in ROOT.glob("*.py"):
        assert script.name in both, script.name
    for name in re.findall(r"`((?:ntps|configs|benchmarks|tests|fig_plot|report|docs)/[\w./-]+)`", both):
        made = "MODEL" in name or name.endswith("hub.lock.json")
        assert made or (ROOT / name).exists(), name


def test_readme_is_short_and_says_what_its_commands_print():
    page = PAGES["README.md"]
    assert len(page.splitlines()) <= 170
    for command, text in re.findall(r"<!-- prints: (.*?) -->\n(.*?)<!-- /prints -->", page, re.DOTALL):
        assert readme.TABLE.search(textwrap.dedent(text)), command


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
