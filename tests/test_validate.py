"""python -m ntps.validate: says what a YAML file is, and what is wrong in it."""

import re
import zipfile
from pathlib import Path

import pytest

from ntps.commands import validate
from ntps.errors import UserError
from ntps.run import cli
from ntps.texts import sources
from tests.tiny import tiny_dataset, tiny_model

ROOT = Path(__file__).resolve().parent.parent
FILES = "files: {train: a.csv}\ntext: a\nlabel: b\n"
HASH = "ab" * 32
WHEEL = (
    f"package: p\nversion: '1'\nsha256: {HASH}\nfile: a\nreader: lines\npattern: (.*)\ntext: a\nlabel: b\n"
)
SHIPPED = sorted((ROOT / "configs").glob("*/*.yaml"))


@pytest.fixture
def check(tmp_path, capsys):
    """Runs it on the text of a YAML file, or on a path; exit code, and what it printed by name."""

    def run(content: str | Path, *flags: str) -> tuple[int, dict[str, str], str]:
        path = content if isinstance(content, Path) else tmp_path / "mine.yaml"
        if isinstance(content, str):
            path.write_text(content)
        code = cli.run(validate.main, [str(path), *flags])
        said = capsys.readouterr()
        return code, {line[:16].strip(): line[17:] for line in said.out.splitlines()}, said.err

    return run


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid(check, path):
    code, lines, error = check(path)
    assert code == 0, error
    kind = {"models": "model", "datasets": "data set", "experiments": "experiment"}[path.parent.name]
    assert lines[kind] == path.stem


def test_a_data_set_of_files_is_read(check, tmp_path):
    code, lines, _ = check(tiny_dataset(tmp_path, n=12, classes=3))
    assert code == 0 and lines["rows"] == "train: 12, test: 6"
    assert lines["classes"] == "3: class0, class1, class2" and lines["test split"] == "as given"


def test_control_characters_of_labels_do_not_reach_the_terminal(check, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\nx\x1b[2J,1\ny,\x1b]0;t\x07\n")
    code, lines, _ = check("files: {train: a.csv, test: a.csv}\ntext: a\nlabel: b\n")
    assert code == 0 and lines["classes"] == r"2: \x1b]0;t\x07, 1"


def test_a_model_in_a_folder_is_looked_into(check, tmp_path):
    tiny_model(tmp_path / "tiny", pad=False)
    code, lines, _ = check("path: tiny\nlora_targets: [q_proj]\n")
    assert code == 0 and lines["model"] == "mine" and lines["architecture"] == "llama, 3 blocks, d = 32"
    assert lines["longest text"] == "64 tokens" and lines["put right"] == "pad_token was None"


def test_an_experiment_and_each_thing_it_names(check):
    code, lines, _ = check("models: qwen2-0.5b\ndatasets: [trec6]\nlimit: 9\nK_sweep: {rtol: 1e-10}\n")
    assert code == 0 and lines["models"] == "1: qwen2-0.5b" and lines["K_sweep"] == "rtol: 1e-10"
    code, lines, _ = check("models: [qwen2-0.5b]\ndatasets: [trec6]\nkeep_states: true\n")
    assert code == 0 and lines["flags of"] == "cache"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello: 1\n", "neither a data set (text, label), nor a model"),
        ("text: a\nlabel: b\n", "exactly one of package, id, files is needed"),
        ("files: {train: gone.csv}\ntext: a\nlabel: b\n", "there is no file"),
        ("id: a/b\nlabels: b\n", "labels: not a key"),
        ("id: a/b\nlora_target: [q_proj]\n", "did you mean 'lora_targets'"),
        ("path: gone\n", "there is no folder"),
        ("models: [qwen2-0.5]\n", "did you mean 'qwen2-0.5b'"),
        ("models: [qwen2-0.5b]\ndatasets: [sst3]\n", "did you mean 'sst2'"),
        ("models: [qwen2-0.5b]\nlimitt: 3\n", "limitt: no flag of"),
        ("models: [qwen2-0.5b]\ndatasets: [trec6]\nlimit: many\n", "limit"),
        (
            "models: [qwen2-0.5b]\ndatasets: [trec6]\nlora_finetuning: {max_steps: -5}\n",
            "--max_steps -5: must be at least 1",
        ),
        (
            "models: [qwen2-0.5b]\ndatasets: [trec6]\ncache: {pooling: median}\n",
            "--pooling median: must be mean or last",
        ),
        (
            "models: [qwen2-0.5b]\ncache: {limitt: 3}\n",
            "cache: limitt: no flag of cache; did you mean 'limit'",
        ),
        ("models: [qwen2-0.5b]\ncache: {}\nepoch: 3\n", "above the sections may stand"),
        ("models:\n", "models: None is not a list of names"),
        ("models: [qwen2-0.5b]\nlimit: 1\nlimit: 2\n", "'limit' stands twice, again in line 3"),
        (FILES + "replace: {a: '\\9'}\n", "invalid group reference"),
        (FILES + "replace: {a: '\\g<b>'}\n", "unknown group name"),
        (FILES + "size: {train: lots}\n", "size: {'train': 'lots'} is not dict[str, int]"),
        (FILES + "size: {train: 0}\n", "size: {'train': 0} has no whole number above 0 for train"),
        (FILES + "label_names: {no: 1}\n", "label_names: {False: 1} is not dict"),
        (FILES + "drop_labels: [null]\n", "drop_labels: [None] is not list"),
        (FILES + "where: {a: [on]}\n", "the words yes, no, on, off and null"),
        ("files: {train: a.csv, ../../evil: b.csv}\ntext: a\nlabel: b\n", "has a split '../../evil'"),
        (WHEEL + "encoding: nonsense\n", "encoding: 'nonsense' is no encoding"),
        (WHEEL + "encoding: hex\n", "encoding: 'hex' is no encoding"),
        ("id: mine\n", "'mine' is no organisation/name of the hub"),
        ("id: a/b\narchitecture: {vocab_size: 3}\n", "architecture: needs model_type"),
        (
            "id: a/b\narchitecture: {model_type: nonsense}\n",
            "mine: architecture: transformers cannot build it",
        ),
        ("id: a/b\narchitecture: {model_type: llama, hidden_size: x}\n", "mine: architecture: transformers"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(check, text, message):
    code, _, error = check(text)
    assert code == 1 and message in error and error.count("\n") == 1, error
    assert "mine" in error or "gone" in error or "did you mean" in error


def test_the_files_in_docs_extending_are_valid(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("review,stars\nGood stay,5\nBad,1\n,2\nFine,\n")
    (tmp_path / "test.csv").write_text("review,stars\nGreat,5\n")
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
    (tmp_path / "my_texts.yaml").write_text(blocks[0])
    kinds = []
    for block in blocks:
        code, lines, error = check(block)
        assert code == 0, error
        kinds.append(next(iter(lines)))
    assert kinds == ["data set", "data set", "model", "model", "model", "experiment"]


def test_a_folder_beside_the_yaml_is_a_data_set_though_text_and_label_are_missing(check, tmp_path):
    (tmp_path / "texts").mkdir()
    code, _, error = check("id: texts\n")
    assert code == 1 and "mine.yaml: text: missing" in error


def test_bytes_of_another_encoding_name_the_file(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as archive:
        archive.writestr("p/a.txt", "né\n")
    monkeypatch.setattr(sources, "pypi_wheel", lambda *_: tmp_path / "p.whl")
    wheel = sources.SOURCES["package"]
    spec = {
        "package": "p",
        "version": "1",
        "sha256": "0",
        "file": "p/*",
        "reader": "lines",
        "pattern": "(?P<a>.*)",
    }
    assert wheel.read(spec, tmp_path / "mine.yaml")[0]["train"][0]["a"] == "né"
    with pytest.raises(UserError, match="mine.yaml: encoding: ascii: not that of p/a.txt"):
        wheel.read(spec | {"encoding": "ascii"}, tmp_path / "mine.yaml")
