"""docs/columns.md is what the registries of scores say."""

from pathlib import Path

import pytest

from ntps.commands.columns import MARKS, filled, markdown
from ntps.errors import UserError
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


@pytest.mark.parametrize("page", ["no marks", f"{MARKS[0]} open", f"{MARKS[1]} {MARKS[0]}"])
def test_a_page_without_both_marks_is_left_as_it_is(page):
    with pytest.raises(UserError, match="the page lacks"):
        filled(page)
