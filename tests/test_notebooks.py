"""The notebooks: each is what its entry of the registry says, without outputs, and runs on a small results folder, whole or with gaps."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fig_plot import notebook, registry, render
from ntps.run import cli
from ntps.system import atomic_files
from tests.fake_results import COUNTS, fake_grid

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "fig_plot").glob("*.ipynb"))


def test_every_entry_has_its_notebook():
    assert sorted(path.stem for path in NOTEBOOKS) == sorted(registry.FIGURES)
    assert f"notebooks: {', '.join(registry.FIGURES)} (default: all)" in str(render.main.__doc__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_what_its_entry_says_and_no_output_is_kept(path):
    committed = nbformat.read(path, as_version=4)
    nbformat.validate(committed)
    assert committed == notebook.build(registry.FIGURES[path.stem])
    for cell in committed.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 8  # the rest is in modules
    assert [cell.source for cell in committed.cells if "parameters" in cell.metadata.get("tags", [])] == [
        'RESULTS = os.environ.get("RESULTS", "../results")  # the folder that the scripts wrote to'
    ]


def test_the_command_writes_the_committed_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "HERE", tmp_path)
    assert cli.run(notebook.main, []) == 0
    for path in NOTEBOOKS:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_new_figure_is_one_function_and_one_entry(tmp_path, monkeypatch):
    def toy(folder):
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1])
        yield "toy_line", figure

    entry = registry.Entry("toy", "A toy", "A line.", toy)
    monkeypatch.setattr(registry, "ENTRIES", (*registry.ENTRIES, entry))
    monkeypatch.setattr(registry, "FIGURES", registry.FIGURES | {"toy": entry})
    monkeypatch.setattr(notebook, "HERE", tmp_path / "notebooks")
    assert cli.run(notebook.main, []) == 0
    cells = nbformat.read(tmp_path / "notebooks/toy.ipynb", as_version=4).cells
    assert cells[0].source == "# A toy\nA line."
    monkeypatch.setenv("RESULTS", str(tmp_path))
    exec("\n".join(cell.source for cell in cells[1:]), {})
    assert (tmp_path / "figures/toy_line.png").exists() and (tmp_path / "figures/toy_line.pdf").exists()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    fake_grid(folder, ["m"], ["a", "b", "c", "d"])
    rows = [
        ("Joy", "glad", 1.0, 2.0),
        ("Joy", "fine", 1.5, 1.0),
        ("Sad", "low", -1.0, 0.0),
        ("Sad", "grim", -2.0, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["group", "word", "x", "y"]).assign(layer=1)
    both = pd.concat([table.assign(space=space) for space in "UV"])
    atomic_files.write_text(folder / "words/m/a.csv", both.to_csv(index=False))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.FIGURES)
def test_each_notebook_runs_and_its_page_holds_its_figures(results, name):
    assert cli.run(render.main, [str(results), "--notebooks", name]) == 0
    page = (results / "figures" / f"{name}.html").read_text(encoding="utf-8")
    count = len(re.findall(r"<img[^>]+data:image/png", page))
    assert count == COUNTS.get(name, count) and count and "Traceback" not in page
    assert ("<table" in page) == (name == "table1")
    pictures = sorted(path.name for path in (results / "figures").glob(f"{name}*.png"))
    assert len(pictures) == count
    assert all((results / "figures" / picture).with_suffix(".pdf").exists() for picture in pictures)


@pytest.mark.slow
def test_a_folder_without_results_gives_a_page_that_says_so(tmp_path):
    assert cli.run(render.main, [str(tmp_path), "--notebooks", "fig3"]) == 0
    assert "fig3_fixed.png" in {path.name for path in (tmp_path / "figures").iterdir()}


@pytest.mark.slow
def test_a_broken_table_is_one_clear_error(tmp_path, capsys):
    fake_grid(tmp_path, ["m"], ["a", "b", "c"])
    (tmp_path / "ntps/m/a.csv").write_bytes(b"")
    assert cli.run(render.main, [str(tmp_path), "--notebooks", "fig3"]) == 1
    assert "a.csv" in capsys.readouterr().err


@pytest.mark.slow
def test_a_broken_table_stops_no_other_notebook_and_names_its_script(tmp_path, capsys):
    (tmp_path / "words/m").mkdir(parents=True)
    (tmp_path / "words/m/a.csv").write_bytes(b"")
    assert cli.run(render.main, [str(tmp_path), "--notebooks", "fig1", "fig3"]) == 1
    error = capsys.readouterr().err
    assert "alignment_vis.py" in error and "K_sweep.py" not in error and "Traceback" not in error
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.html")) == ["fig3.html"]


def test_names_and_folders_that_are_not_there(tmp_path, capsys):
    assert cli.run(render.main, [str(tmp_path / "nothing")]) == 1
    assert "no folder" in capsys.readouterr().err
    assert cli.run(render.main, [str(tmp_path), "--notebooks", "fig9"]) == 1
    assert "fig9" in capsys.readouterr().err
