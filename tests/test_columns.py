"""docs/columns.md is what the registries of scores say."""

from pathlib import Path

from ntps.commands.columns import filled, markdown
from ntps.run import cli
from ntps.scores.registry import COLUMNS, COORDINATES, EVERY, LAYER_COLUMNS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "columns.md"


def test_the_page_is_made_from_the_registry():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run python -m ntps.columns --page docs/columns.md"


def test_every_column_is_explained(capsys):
    from ntps.commands import columns

    assert cli.run(columns.main, []) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == markdown()
    for name in (*COLUMNS[len(COORDINATES) :], *LAYER_COLUMNS[4:-1]):
        assert f"`{name}`" in shown and EVERY[name].meaning
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in (*COORDINATES[2:], *LAYER_COLUMNS[2:]))
