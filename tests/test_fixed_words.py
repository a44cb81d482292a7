"""Sentences of README and the pages that are no placeholders: what they say is what the committed tables hold."""

from pathlib import Path

import pandas as pd
import pytest

from report.evidence import halves

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "results/evidence"
TRAINED = ["gemma3-270m", "smollm2-135m"]


@pytest.fixture(scope="module")
def readings():
    table = pd.read_csv(EVIDENCE / "confirmation.csv")
    here = (table["half"] == "confirmation") & (table["target"] == "accuracy") & table["model"].isin(TRAINED)
    return table[here]


def said(page: str, words: str) -> bool:
    return words in " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_neither_conditioned_ntps_nor_corrected_retention_was_confirmed(readings):
    words = "neither conditioned NTPS nor corrected retention was shown to tell on which data sets a linear probe does well"
    assert said("README.md", words)
    assert said("docs/reproduction.md", "conditioned NTPS was not confirmed")
    mine = readings[readings["score"].isin(["conditioned_lift", "retention_corrected"])]
    assert len(mine) == 8 and (mine["verdict"] == "not confirmed").all()


def test_principal_components_keep_more_on_each_data_set_of_the_test():
    assert said("README.md", "keep more of the label signal on each")
    assert said("docs/reproduction.md", "keep more of the label signal on every one of thirteen data sets")
    table = pd.read_csv(EVIDENCE / "best.csv")
    table = table[table["model"].isin(TRAINED) & table["dataset"].isin(halves()["confirmation"])]
    best = table.loc[table.groupby(["model", "dataset"])["gcv_error"].idxmin()]
    assert len(best) == 26 and (best["retention_corrected_minus_pca"] < 0).all()


def test_no_score_was_shown_to_predict_the_gain():
    assert said("docs/reproduction.md", "No score was shown to predict how much it adds")
    assert said("README.md", "no score was shown to do better than the average gain")
    (row,) = pd.read_csv(EVIDENCE / "gain_confirmation.csv").to_dict("records")
    assert row["rmse"] >= row["rmse_of_mean"] or row["p"] > 0.05


def test_the_central_claim_is_not_seen_on_all_rows_and_cannot_be_measured_at_two_a_dimension():
    assert said("README.md", "**is not seen here**")  # on all rows: tests/test_all_rows.py
    table = pd.read_csv(ROOT / "results/mini/selection/fixed.csv")
    row = table[(table["target"] == "probe_accuracy") & (table["score"] == "ntps")]
    assert row["reading"].str.startswith("not measurable: reliability").all() and len(row) == 2
    assert said("docs/reproduction-details.md", f": {row['reading'].iloc[0]}; held out")
