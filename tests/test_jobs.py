"""The jobs of an experiment: their paths, what they request, and real runs of the Snakefile on tiny models."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ntps.errors import UserError
from ntps.models import loading
from ntps.run.jobs import Grid
from tests.tiny import tiny_dataset, tiny_model

ROOT = Path(__file__).resolve().parent.parent
needs_snakemake = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None,
    reason="snakemake is not installed: pip install -r requirements-cluster.txt",
)


@pytest.fixture
def experiment(tmp_path):
    """Two tiny models and two tiny data sets, the second without its file yet, in a folder that needs quotes."""
    tmp_path = tmp_path / "a b; c"
    tmp_path.mkdir()
    for name in ("one", "two"):
        tiny_model(tmp_path / name, seed=len(name))
        (tmp_path / f"{name}.yaml").write_text(f"path: {name}\nlora_targets: [q_proj]\n")
    for name in ("here", "late"):
        tiny_dataset(tmp_path, name=name)
    (tmp_path / "late-train.csv").rename(tmp_path / "kept.csv")
    grid = {"models": [str(tmp_path / f"{name}.yaml") for name in ("one", "two")]}
    grid |= {"datasets": [str(tmp_path / f"{name}.yaml") for name in ("here", "late")]}
    grid |= {"output": str(tmp_path / "out"), "cache": {"splits": ["train"], "label_permutations": 2}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return path


def test_the_papers_grid_is_eight_by_twelve_and_asks_more_for_more(monkeypatch):
    def refuse(*_):
        raise UserError("no hub is asked")

    monkeypatch.setattr(loading, "load_config", refuse)
    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    grid = Grid(str(ROOT / "configs/experiments/paper.yaml"), threads=8)
    assert (len(grid.models), len(grid.datasets)) == (8, 12)
    assert grid.scripts[:2] == ["cache", "K_sweep"] and set(grid.scripts) >= {
        "lora_finetuning",
        "linear_sklearn",
    }
    small, large = (grid.needs("cache", model, "sst2") for model in ("openelm-270m", "openelm-3b"))
    assert small["mem_mb"] < large["mem_mb"] and small["runtime"] < large["runtime"]
    # weights twice in bfloat16, as they pass through, and L d^2 of each of three moments in float64
    assert large["mem_mb"] * 1e6 > 2 * 2 * 3_036_647_424 + 3 * 37 * 3072**2 * 8
    assert small["gpu"] == 1 and grid.needs("K_sweep", "openelm-270m", "sst2")["gpu"] == 0
    assert grid.needs("cache", "openelm-270m", "sst2", gpus=0)["gpu"] == 0
    longer = grid.needs("cache", "openelm-270m", "imdb")
    assert longer["runtime"] > small["runtime"]


def test_jobs_have_the_paths_that_the_scripts_write(experiment):
    grid = Grid(str(experiment))
    assert list(grid.models) == ["one", "two"] and list(grid.datasets) == ["here", "late"]
    assert grid.scripts == ["cache", "K_sweep"]
    assert [Path(p).name for p in grid.cached("one", "here")] == ["train.safetensors"]
    assert grid.table("K_sweep", "one", "here").endswith("out/ntps/one/here.csv")
    assert grid.table("from_scratch", "one", "here").endswith("out/accuracy/from_scratch/one/here.csv")
    assert grid.flags("cache")["label_permutations"] == 2 and grid.flags("cache")["partitions"] == 1
    experiment.write_text("models: [one]\n")
    with pytest.raises(UserError, match="datasets"):
        Grid(str(experiment))


def test_a_section_has_its_own_pairs(experiment):
    text = yaml.safe_load(experiment.read_text())
    text["from_scratch"] = {"datasets": text["datasets"][:1], "models": text["models"][1]}
    experiment.write_text(yaml.safe_dump(text))
    grid = Grid(str(experiment))
    assert grid.pairs("from_scratch") == [("two", "here")] and len(grid.pairs("cache")) == 4
    assert len(Grid(str(ROOT / "configs/experiments/mini.yaml")).pairs("from_scratch")) == 3


def test_names_of_models_and_data_sets_may_be_equal_and_two_of_one_name_are_refused(experiment):
    text = yaml.safe_load(experiment.read_text())
    (experiment.parent / "d").mkdir()
    same = experiment.parent / "d/one.yaml"
    same.write_text((experiment.parent / "here.yaml").read_text().replace("here-", "../here-"))
    model = text["models"][0]
    again = str(experiment.parent / "d/../one.yaml")
    experiment.write_text(yaml.safe_dump(text | {"models": [model, again], "datasets": [str(same)]}))
    assert Grid(str(experiment)).pairs("cache") == [("one", "one")]
    (experiment.parent / "d/two.yaml").write_text("path: ../one\nlora_targets: [q_proj]\n")
    both = [text["models"][1], str(experiment.parent / "d/two.yaml")]
    experiment.write_text(yaml.safe_dump(text | {"models": both}))
    with pytest.raises(UserError, match="two.yaml and .*two.yaml are both called two in output paths"):
        Grid(str(experiment))


def test_states_are_made_where_they_are_kept_and_needed_by_linear_sklearn(experiment):
    text = yaml.safe_load(experiment.read_text())
    assert Grid(str(experiment)).kinds == ["moments"]
    experiment.write_text(yaml.safe_dump(text | {"linear_sklearn": {}}))
    with pytest.raises(UserError, match="linear_sklearn.*keep_states"):
        Grid(str(experiment))
    text["cache"]["keep_states"] = True
    experiment.write_text(yaml.safe_dump(text | {"linear_sklearn": {}}))
    grid = Grid(str(experiment))
    assert grid.kinds == ["moments", "states"]
    assert grid.cached("one", "here", "states")[0].endswith("out/states/one/here/train.safetensors")


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"cache": {"splits": ["train; touch gone #"]}}, "cache: splits: 'train; touch gone #' is no name of a split"),
        ({"cache": {"splits": ["train", "--output=elsewhere"]}}, "splits: '--output=elsewhere' is a flag, not a value"),
        ({"cache": {"shard": "1/2"}}, "cache: shard: jobs wait for whole splits"),
        ({"cache": {"adapter": "a/folder"}}, "adapter: a grid's models have none"),
        ({"adapter": "a/folder"}, "adapter: a grid's models have none"),
        ({"cache": {"label_permutations": "many"}}, "cache: .*label_permutations"),
        ({"lora_finetuning": {"batch_size": 0}}, "lora_finetuning: --batch_size 0: must be at least 1"),
        ({"lora_finetuning": {"max_steps": [1, 2]}}, "lora_finetuning: .*max_steps"),
    ],
)  # fmt: skip
def test_a_grid_takes_flags_as_the_scripts_do(experiment, section, named):
    """A split stands in a job's command line: it is a plain name."""
    text = yaml.safe_load(experiment.read_text())
    experiment.write_text(yaml.safe_dump(text | section))
    with pytest.raises(UserError, match=named):
        grid = Grid(str(experiment))
        grid.flags(next(iter(section)))


def test_one_value_is_a_list_of_one_in_a_grid_too(experiment):
    text = yaml.safe_load(experiment.read_text())
    more = {"cache": {"splits": "train", "layers": 1, "limit": "2"}, "lora_finetuning": {"seeds": 3}}
    experiment.write_text(yaml.safe_dump(text | more))
    grid = Grid(str(experiment))
    assert grid.splits == ["train"] and grid.flags("lora_finetuning")["seeds"] == [3]
    assert grid.needs("cache", "one", "here")["runtime"] > 0 and grid.flags("cache")["limit"] == 2


def test_an_output_of_a_sections_own_is_refused(experiment):
    text = yaml.safe_load(experiment.read_text())
    experiment.write_text(yaml.safe_dump(text | {"K_sweep": {"output": "elsewhere"}}))
    with pytest.raises(UserError, match="K_sweep: output: in a grid it stands at the top"):
        Grid(str(experiment))


def snakemake(experiment: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", *more]
    command += ["--config", f"experiment={experiment}", "threads=1"]
    return subprocess.run(command, cwd=experiment.parent, capture_output=True, text=True)


def counted(run: subprocess.CompletedProcess) -> dict[str, int]:
    """Snakemake's table of jobs."""
    found = re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    return {name: int(count) for name, count in found}


@pytest.mark.slow
@needs_snakemake
def test_a_failed_job_leaves_the_others_and_a_restart_does_what_is_missing(experiment):
    grid = yaml.safe_load(experiment.read_text())
    experiment.write_text(
        yaml.safe_dump(grid | {"models": grid["models"][:1]})
    )  # a job is a process of seconds
    tables = [experiment.parent / f"out/ntps/one/{data}.csv" for data in ("here", "late")]
    first = snakemake(experiment)
    assert first.returncode == 1, first.stderr
    assert counted(first) == {"cache": 2, "K_sweep": 2, "all": 1, "total": 5}
    assert [table.exists() for table in tables] == [True, False], first.stderr
    assert "late-train.csv" in first.stdout + first.stderr
    written = tables[0].stat().st_mtime_ns
    (experiment.parent / "kept.csv").rename(experiment.parent / "late-train.csv")
    second = snakemake(experiment)
    assert second.returncode == 0, second.stderr
    assert counted(second) == {"cache": 1, "K_sweep": 1, "all": 1, "total": 3}
    assert tables[1].exists() and written == tables[0].stat().st_mtime_ns
    third = snakemake(experiment, "-n")
    assert third.returncode == 0 and "Nothing to be done" in third.stdout + third.stderr


@pytest.mark.slow
@needs_snakemake
def test_a_dry_run_shows_the_whole_grid_of_the_paper(tmp_path):
    source = yaml.safe_load((ROOT / "configs/experiments/paper.yaml").read_text())
    scripts = [
        name
        for name in ("linear_sklearn", "linear_training", "lora_finetuning", "from_scratch")
        if name in source
    ]
    experiment = tmp_path / "paper.yaml"
    experiment.write_text((ROOT / "configs/experiments/paper.yaml").read_text())
    run = snakemake(experiment, "-n", "--quiet", "rules")
    assert run.returncode == 0, run.stderr
    expected = {"cache": 2 * 96, "K_sweep": 96} | dict.fromkeys(scripts, 96)
    assert counted(run) == expected | {"all": 1, "total": 1 + sum(expected.values())}
