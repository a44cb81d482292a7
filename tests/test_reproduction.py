"""The committed report says what the committed tables say."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import combine_pvalues, t

from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files
from report import facts, pages, reproduction
from report.tables import Tables

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results" / "mini"
PAGES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in reproduction.PAGES}
REPORT = PAGES["reproduction.md"]


def test_report_and_readme_are_what_the_tables_say():
    assert reproduction.pages(TABLES) == PAGES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert reproduction.with_short(readme, REPORT) == readme


@pytest.mark.parametrize("page", PAGES)
def test_the_templates_hold_no_measured_number(page):
    assert not re.findall(r"\d\.\d\d", reproduction.template(page))


def test_another_table_makes_another_report(tmp_path):
    for name in ("fixed", "choices", "comparisons"):
        table = pd.read_csv(TABLES / "selection" / f"{name}.csv")
        numbers = table.select_dtypes("number").columns.difference(["n_groups", "layer"])
        atomic_files.write_text(
            tmp_path / "selection" / f"{name}.csv", table.assign(**(table[numbers] / 2)).to_csv()
        )
    own, other = (facts.correlations(Tables(path)) for path in (TABLES, tmp_path))
    for name in ("fixed", "p", "itself", "heldout", "gap"):
        assert own[f"probe_accuracy.{name}"] != other[f"probe_accuracy.{name}"]


def test_a_star_marks_what_is_significant():
    assert [facts.marked("0.50", word) for word in ("holds", "reversed", "not significant")] == [
        "0.50 *",
        "0.50 *",
        "0.50",
    ]


def test_changes_of_a_few_groups_are_judged_by_all_their_signs():
    change = pd.DataFrame({"up": [1.0, 2, 3, 4, 5, 6, 7, 8], "mixed": [1.0, -1, 2, -2, 3, -3, 4, -4]})
    (up, verdict, p), (_, other, _) = facts.mean_differences(change, pd.Series(list("abcdefgh")))
    assert (
        up.startswith("+4.500 [") and verdict == "holds" and other == "not significant"
    ) and p == pytest.approx(2 * 2 / 2**8)  # 2 x 2 / 2^8 = .016


def test_a_name_that_no_table_supplies_is_an_error():
    with pytest.raises(UserError, match="no fact nothing.of.this"):
        reproduction.filled("{{nothing.of.this}}", {})


def test_the_command_writes_the_page_and_its_figure(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("<!-- short -->\n<!-- /short -->\n")
    monkeypatch.setattr(reproduction, "ROOT", tmp_path)
    assert cli.run(reproduction.main, ["--folder", str(TABLES), "--docs", str(tmp_path)]) == 0
    assert {name: (tmp_path / name).read_text() for name in PAGES} == PAGES
    assert (tmp_path / "reproduction.png").stat().st_size > 20_000
    assert "(docs/" in (tmp_path / "README.md").read_text()


def test_scores_and_their_nulls_together_are_stouffers():
    """Each data set by Student's t of a further draw; of two data sets of one source the mean z counts once."""
    rng = np.random.default_rng(0)
    best = pd.DataFrame(
        {"ntps": rng.normal(-1, 1, 9), "null_mean": 0.1, "null_std": rng.uniform(0.5, 1, 9)},
        index=list("abcdefghi"),
    )
    scaled = (best["ntps"] - 0.1) / (best["null_std"] * np.sqrt(21 / 20))
    p = t.sf(scaled, 19)
    groups = pd.Series(list("abcdefghi"), best.index)
    together = 2 * combine_pvalues(p, method="stouffer").pvalue
    assert facts.together(best, groups, 20) == pytest.approx(min(together, 2 - together))
    twice = pd.concat([best, best.iloc[[0]].set_axis(["j"])])
    both = pd.Series([*groups, "a"], twice.index)
    assert facts.together(twice, both, 20) == pytest.approx(facts.together(best, groups, 20))


def test_p_values_are_read_by_the_side_that_their_tables_have():
    """Of 40 permutations: above all, below all, among them; the older tables' p is small above and 1 below all."""
    best = pd.DataFrame(
        {"ntps": [0.9, 0.1, 0.5], "null_mean": 0.5, "retention": [0.9, 0.1, 0.6], "retention_null": 0.5}
    )
    older = best.assign(p_value=[1 / 41, 1, 0.6], retention_p_value=[1 / 41, 1, 0.3])
    newer = best.assign(
        p_value=[2 / 41, 2 / 41, 1], retention_p_value=[2 / 41, 2 / 41, 1], retention_corrected=0.4
    )
    for table, side, by_chance in ((older, "one-sided", "0.2"), (newer, "two-sided", "0.1")):
        found = facts.against_null(table, 40)
        assert found["null.sided"] == side and found["ntps.by_chance"] == by_chance
        assert [found[name] for name in ("ntps.significant", "ntps.below_all", "retention.significant")] == [
            "1"
        ] * 3
    mixed = pd.concat([older, newer])
    with pytest.raises(UserError, match="one-sided in some tables and two-sided in others"):
        facts.against_null(mixed, 40)


def test_a_name_that_is_not_given_to_a_page_is_an_error():
    with pytest.raises(UserError, match="confirmation.template.md names what no table supplies: 'folder' is"):
        pages.filled("confirmation", {"measured": True})
