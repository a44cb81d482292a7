"""docs/reading-the-score.md is written by hand: its numbers that committed tables hold are those of the tables."""

from pathlib import Path

import pandas as pd

from tests.finetuning_tables import committed

ROOT = Path(__file__).resolve().parent.parent
PAGE = " ".join((ROOT / "docs/reading-the-score.md").read_text(encoding="utf-8").split())
TRAINED = ("smollm2-135m", "gemma3-270m")


def best():
    """Every trained pair's layer of lowest gcv_error."""
    table = pd.read_csv(ROOT / "results/evidence/best.csv")
    table = table[table["model"].isin(TRAINED)]
    return table.loc[table.groupby(["model", "dataset"])["gcv_error"].idxmin()]


def test_trec6_on_all_rows():
    row = best().set_index(["model", "dataset"]).loc[("smollm2-135m", "trec6")]
    assert (
        f"({100 * row['retention_corrected_random']:.0f} % on all rows, where the best layer is {row['layer']}; "
        in PAGE
    )
    values = f"on all {row['n_texts']} rows it is {row['signal_share']:.2f}, and NTPS is still its null"
    assert f"{values} ({row['ntps']:.3f} and {row['null_mean']:.3f})" in PAGE and row["p_value"] > 0.5


def test_pairs_whose_signal_share_is_one_half():
    table = best()
    table = table[table["signal_share"] >= 0.5]
    clear = table[table["p_value"] <= 0.05]
    assert not (clear["null_lift"] > 0).any()
    assert f"on none of the {len(table)} pairs of trained model and data set" in PAGE
    assert f"and more, and below it on {len(clear)}." in PAGE


def test_principal_components_keep_more_on_every_data_set():
    known = best()[lambda table: table["corrected_refusal"].isna()]
    assert (known["retention_corrected_minus_pca"] < 0).all()
    assert "Below 0, as at the best layer of two trained models on every data set measured so far" in PAGE


def test_words_alone_and_the_gains_of_lora():
    lines = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    assert (
        "are above the probe on 11 of 25." in lines
        and "they are above the probe on 11 of 25 data sets" in PAGE
    )
    gains = committed()["every"]["lora_gain"]
    low, median, high = 100 * gains.quantile([0.25, 0.5, 0.75])
    said = f"by {median:.1f} points in the median of {len(gains)} data sets, half of them between {low:.1f} and {high:.1f}"
    assert f"{said}, and on {(gains <= 0).sum()} not at all" in PAGE
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ends = f"{100 * gains.min():.1f} to {100 * gains.max():.1f}".replace("-", "−")
    assert f"{median:.1f} points in the median of {len(gains)} data sets, {ends})" in readme


def test_twice_the_labels():
    rows = pd.read_csv(ROOT / "results/evidence/rows.csv")
    rows = rows[(rows["which"] == "best") & rows["model"].isin(TRAINED)]
    skill = rows.pivot(index=["model", "dataset"], columns="partitions", values="ridge_test_skill")
    gain = 100 * (skill[10] - skill[5])
    ends = f"{gain.min():.1f} to {gain.max():.1f}".replace("-", "−")
    assert (
        f"On {len(gain)} pairs of model and data set skill rose from half of the rows to all by {gain.median():.1f} points in the median, {ends}"
        in PAGE
    )
