"""Experiment files: what each script takes from one, what is refused, and that the shipped ones fit every script."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import pytest

from ntps.errors import UserError
from ntps.run import cli, experiments
from ntps.run.experiments import read_experiment, script_path
from ntps.sources.yaml_files import config_names

ROOT = Path(__file__).resolve().parent.parent
taken: dict = {}


def main(
    models: Sequence[str],
    datasets: Sequence[str] = ("a",),
    output: str = "results",
    limit: int | None = 5,
    rate: float = 1.0,
    keep: bool = False,
) -> int:
    """Keep what was asked for.

    Args:
        models: names
        datasets: names
        output: folder
        limit: texts
        rate: of learning
        keep: something
    """
    taken.update(locals())
    return 0


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs main above, as the script cache, with the YAML as --config and more flags."""
    monkeypatch.setattr(inspect, "getfile", lambda _: str(ROOT / "cache.py"))

    def call(text: str, *flags: str) -> dict:
        (tmp_path / "e.yaml").write_text(text)
        taken.clear()
        assert cli.run(main, ["--config", str(tmp_path / "e.yaml"), *flags]) == 0
        return dict(taken)

    return call


def test_own_section_over_the_top_and_the_command_line_over_both(run):
    text = (
        "about: words\nmodels: [m, n]\nlimit: 9\nseeds: [1, 2]\nmax_length: 3\noutput: top\n"
        "cache: {limit: 7, keep: true, rate: 1e-4}\nK_sweep: {rtol: 1}\nlinear_training:\n"
    )
    assert run(text) == {
        "models": ["m", "n"],
        "datasets": ["a"],
        "output": "top",
        "limit": 7,
        "rate": 1e-4,
        "keep": True,
    }
    again = run(text, "--limit", "2", "--models", "x", "--output=other")
    assert (again["models"], again["limit"], again["output"]) == (["x"], 2, "other")


def test_a_flag_may_be_named_as_a_script_is(tmp_path):
    (tmp_path / "e.yaml").write_text("gain: mine.json\nlimit: 5\n")
    known = {"gain", "limit"}
    assert read_experiment(tmp_path / "e.yaml").flags("prescreen", known) == {"gain": "mine.json", "limit": 5}


def test_a_file_of_flags_alone(run):
    assert run("models: m\nkeep: false\nlimit: null\n")["models"] == ["m"]
    assert taken["keep"] is False and taken["limit"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [m]\nlimmit: 3\n", "e.yaml: limmit: no flag of cache; did you mean 'limit'"),
        ("models: [m]\nseeds: [1]\n", "e.yaml: seeds: no flag of cache"),
        ("models: [m]\nlimmit: 3\ncache: {}\n", "e.yaml: limmit: no flag of cache; did you mean 'limit'"),
        ("models: [m]\ncache: {kep: true}\n", "e.yaml: cache: kep: no flag of cache; did you mean 'keep'"),
        (
            "models: [m]\ncahce: {keep: true}\n",
            "e.yaml: cahce: no script has this name; did you mean 'cache'",
        ),
        ("models: [m]\ndata/pack/evil: {}\n", "e.yaml: data/pack/evil: no script has this name"),
        (f"models: [m]\n{'x' * 300}: {{}}\n", "no script has this name"),
        ("models: [m]\ncache: 3\n", "e.yaml: cache: a section holds `flag: value` lines, not 3"),
        ('"\\e[31mred": 1\n', "e.yaml: \\x1b[31mred: no flag"),
        ("- models\n", "e.yaml: it must be made of `key: value` lines"),
        ("models: [m]\nlimit: many\n", "many"),
        ("limit: 3\n", "models"),
    ],
)
def test_what_is_refused(run, capsys, text, message):
    with pytest.raises(SystemExit):
        run(text)
    assert message in capsys.readouterr().err


def test_a_section_is_no_path_to_code(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    for place in ("data/evil.py", "fine.py"):
        (tmp_path / place).write_text("# cli.run(main)\n")
    assert experiments.script_path("fine") == tmp_path / "fine.py"
    for name in ("data/evil", "../x", str(tmp_path / "fine"), "data.evil", ""):
        assert experiments.script_path(name) is None


def test_a_file_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        cli.run(main, ["--config", "gone.yaml"])
    assert "gone.yaml: cannot be read" in capsys.readouterr().err


SHIPPED = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("where", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_fits_every_script(where):
    experiment = read_experiment(where)
    scripts = {path.stem for path in ROOT.glob("*.py")}
    assert set(experiment.top["models"]) <= set(config_names("models"))
    assert set(experiment.top["datasets"]) <= set(config_names("datasets"))
    for name in scripts | set(experiment.sections):
        path = script_path(name)
        assert path is not None
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        known = cli.flags_of(importlib.import_module(module).main)
        flags = experiment.flags(name, known)
        assert all(flags[key] for key in ("models", "datasets", "output") if key in known)


def test_pairs_are_the_sections_own_and_pin_and_prefetch_take_all(tmp_path):
    (tmp_path / "e.yaml").write_text(
        "models: m\ndatasets: [a, b]\ncache: {}\nfrom_scratch: {datasets: b}\nlora_finetuning: {models: [n, m], datasets: c}\n"
    )
    found = read_experiment(tmp_path / "e.yaml")
    assert found.pairs("cache") == found.pairs("K_sweep") == [("m", "a"), ("m", "b")]
    assert found.pairs("from_scratch") == [("m", "b")]
    assert found.pairs("lora_finetuning") == [("n", "c"), ("m", "c")]
    for script in ("pin", "prefetch"):
        flags = found.flags(script, ("models", "datasets"))
        assert flags == {"models": ["m", "n"], "datasets": ["a", "b", "c"]}


@pytest.mark.parametrize("names", ["", "[1]", "3", "[]", "[[a]]"])
@pytest.mark.parametrize("where", ["models: {}\n", "cache: {{models: {}}}\n"])
def test_a_list_of_names_is_one(tmp_path, names, where):
    (tmp_path / "e.yaml").write_text(where.format(names))
    with pytest.raises(UserError, match="models: .* is not a list of names"):
        read_experiment(tmp_path / "e.yaml")
