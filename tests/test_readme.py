"""README's commands run as they stand, with a tiny model and tiny texts in place of the real ones."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from ntps.run import cli
from tests.tiny import tiny_dataset, tiny_model

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "bash"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
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
    (folder / "my.csv").write_text(
        (folder / "my_texts-train.csv").read_text().replace("text,label", "review,stars", 1)
    )
    (folder / "model.yaml").write_text("path: tiny\nlora_targets: [q_proj, k_proj, v_proj]\n")
    (folder / "smollm2-135m.yaml").write_text((folder / "model.yaml").read_text())
    (folder / "smollm2-135m-random.yaml").write_text("random_of: tiny\n")
    return folder


def substituted(word: str) -> str:
    """A name of a shipped model or data set becomes the tiny one of that name."""
    return (
        f"{word}.yaml" if word in ("smollm2-135m", "smollm2-135m-random", "trec6", "sms_spam_pypi") else word
    )


def test_readme_commands_in_order(world, monkeypatch):
    monkeypatch.chdir(world)
    seen = set()
    for command in COMMANDS:
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
    assert {"cache", "K_sweep", "ntps.show", "fig_plot.summary"} <= seen


def test_readme_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = {shlex.split(c, comments=True)[1] for c in COMMANDS if c.startswith("make ")}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_python_runs(world, monkeypatch):
    monkeypatch.chdir(world)
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    for text in blocks:
        exec(compile(text.replace('"HuggingFaceTB/SmolLM2-135M"', '"tiny"'), "README.md", "exec"), {})


def test_readme_names_every_script_and_only_files_that_exist():
    for script in ROOT.glob("*.py"):
        assert script.name in README, script.name
    for name in re.findall(r"`((?:ntps|configs|benchmarks|tests|fig_plot)/[\w./-]+)`", README):
        assert "MODEL" in name or (ROOT / name).exists(), name
