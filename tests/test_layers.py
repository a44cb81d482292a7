"""The rooms of ntps/ build on each other in one direction, and scores/ is pure."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# a room imports those before it; texts and models do not know each other, nor do system and scores
ROOMS = "errors flags scores system sources texts models moments accuracies results evaluation prescreening run commands".split()
STRANGERS = {("models", "texts"), ("system", "scores")}
PURE = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "math",
    "typing",
    "numpy",
    "scipy",
    "torch",
    "concurrent",
}
FILES = sorted((ROOT / "ntps").rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{name.name}" for name in node.names) if module == "ntps" else [module]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_those_below_it(path):
    room = path.relative_to(ROOT / "ntps").parts[0].removesuffix(".py")
    scripts = {script.stem for script in ROOT.glob("*.py")} | {"fig_plot", "report", "tests", "benchmarks"}
    for name in imported(path):
        top, *rest = name.split(".")
        assert top not in scripts, f"ntps imports no script and no figure: {name}"
        if room == "scores" and top != "ntps":
            assert top in PURE, name
        if top == "ntps" and room != "__init__":
            other = rest[0]
            assert ROOMS.index(other) <= ROOMS.index(room) and (room, other) not in STRANGERS, name
            assert room != "scores" or other in ("scores", "errors"), name


def test_no_modules_import_each_other():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        froms = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom)
        ]
        every = {f"{node.module}.{one.name}" for node in froms for one in node.names} | {
            node.module for node in froms
        }
        graph[name] = every & names.keys()
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)  # CycleError for a circle


def test_the_panel_that_figures_share_is_quick_to_import():
    assert not list(imported(ROOT / "ntps/prescreening/__init__.py"))
    tops = {name.split(".")[0] for name in imported(ROOT / "ntps/prescreening/curve_panel.py")}
    assert tops <= {"collections", "pathlib", "typing", "numpy", "matplotlib"}
