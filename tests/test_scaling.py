"""docs/scaling.md says what docs/scaling.csv holds, and its estimates follow from the measurements."""

import pandas as pd
import pytest

from benchmarks import scaling
from ntps.errors import UserError
from ntps.models import loading


def refuse(*_):
    raise UserError("no hub is asked")


def test_the_tables_are_those_of_the_measurements(monkeypatch):
    monkeypatch.setattr(loading, "load_config", refuse)
    monkeypatch.setattr(loading, "load_tokenizer", refuse)
    page = scaling.PAGE.read_text(encoding="utf-8")
    shown = page.split(scaling.BEGIN)[1].split(scaling.END)[0].strip()
    assert shown == scaling.tables(pd.read_csv(scaling.CSV))
    assert set(pd.read_csv(scaling.CSV).d) == {256, 512, 1024, 2048}


def test_the_fit_finds_the_exponent_and_the_constant():
    table = pd.DataFrame({"part": "solve", "d": [10, 100, 200], "seconds": [1.0, 2e6, 1.6e7]})
    exponent, cubic = scaling.fitted(table)
    assert exponent == pytest.approx(3) and cubic == pytest.approx(2)


def test_a_solve_of_random_moments_runs(capsys):
    scaling.point("solve", 24, 0, 0)
    seconds, taken = map(float, capsys.readouterr().out.split())
    assert 0 < seconds < 60 and 0 <= taken < 1e9
