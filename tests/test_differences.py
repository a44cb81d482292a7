"""docs/differences.md: the tables of pooling, of few bits and of pairs run again, and that the page is what the tables say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from report import differences, evidence

ROOT = Path(__file__).resolve().parent.parent
SCORES = ("ridge_test_skill", "ntps", "null_lift", "retention_corrected")


def lines_of(markdown):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.strip().splitlines()]
    return pd.DataFrame(rows[2:], columns=rows[0]).set_index(rows[0][0])


def pooling_table():
    """Eight data sets; the last token's probe is .1 above the mean's on each, that of the 2-bit copy .2 below."""
    rows = []
    for place in range(8):
        for model, pooling, change in (
            ("smollm2-135m", "last", 0.1),
            ("smollm2-135m", "mean", 0.0),
            ("smollm2-135m-2bit", "mean", -0.2),
        ):
            row = dict.fromkeys(SCORES, 0.1 * place) | {
                "dataset": f"data{place}",
                "model": model,
                "pooling": pooling,
            }
            accuracy = 0.5 + 0.02 * place + change
            rows.append(row | {"probe_accuracy": accuracy})
    return pd.DataFrame(rows)


def test_each_way_stands_beside_the_first_over_the_same_data_sets():
    table = pooling_table()
    table.loc[table["pooling"].eq("last") & table["dataset"].eq("data0"), "retention_corrected"] = None
    found = differences.pooled(table)
    poolings, bits = lines_of(found["pooling"]), lines_of(found["bits"])
    assert list(poolings.index) == ["mean", "last"] and list(bits.index) == [
        "smollm2-135m",
        "smollm2-135m-2bit",
    ]
    assert poolings["accuracy, less the first's"].tolist() == ["-", "+0.100 ± 0.000"]
    assert bits["accuracy, less the first's"].tolist() == ["-", "−0.200 ± 0.000"]
    assert poolings["NTPS, less the first's"].tolist() == ["-", "+0.000 ± 0.000"]
    assert set(poolings["ρ of NTPS with accuracy"]) == {"+1.00"}
    assert poolings.loc["last", "probe's accuracy"] == "0.670"
    assert poolings["corrected retention"].tolist() == ["0.350", "0.400 (7)"]


@pytest.mark.parametrize(
    "values,said",
    [
        (["+0.10", "-", "+0.30", "−0.02"], "on both sides of zero (a +0.10 to +0.30, b −0.02 to −0.02)"),
        (["+0.10", "+0.05", "-", "+0.2"], "above zero throughout (a +0.05 to +0.10, b +0.2 to +0.2)"),
        (["−0.9", "−1.0", "−0.5", "-"], "below zero throughout (a −1.0 to −0.5)"),
    ],
)
def test_a_line_says_the_sign_before_the_numbers(values, said):
    table = pd.DataFrame({"model": ["a", "a", "a", "b"], "ρ": values})
    assert differences.spread(table, "ρ") == said


def test_the_largest_difference_of_a_pair_run_again(tmp_path):
    for folder, change in ((tmp_path, 0.0), (tmp_path / "rerun", 0.002)):
        pair = {"model": "m", "dataset": "d"}
        best = [
            pair
            | {
                "layer": layer,
                "ntps": 0.3 + change * layer,
                "ntps_se": 0.01 if layer else None,
                "retention_corrected": 0.5,
                "retention_corrected_se": 0.05,
                "gcv_skill": 0.4,
            }
            for layer in range(3)
        ]
        probes = [
            pair | {"layer": layer, "probe": "logistic_regression", "n": 400, "accuracy": 0.8}
            for layer in range(3)
        ]
        lora = [pair | {"seed": 0, "final": True, "split": "test", "accuracy": 0.9 - change, "n": 900}]
        for name, rows in (("best", best), ("probes", probes), ("lora", lora)):
            evidence.to_csv(pd.DataFrame(rows), folder / f"{name}.csv")
    row = lines_of(differences.run_again(tmp_path)).iloc[0]
    assert row["layers"] == "3" and float(row["NTPS"]) == pytest.approx(0.004)
    assert float(row["in standard errors"]) == pytest.approx(0.4)
    assert row["LoRA's accuracy"] == "0.002" and float(row["probe's accuracy"]) == 0


def test_all_linear_modules_stand_beside_the_attention_projections_of_the_same_seed(tmp_path):
    pair, final = {"model": "m", "dataset": "d"}, {"final": True, "split": "test", "n": 400, "step": 500}
    best = pair | {"layer": 1, "gcv_error": 0.1}
    probes = pair | {"layer": 1, "probe": "logistic_regression", "n": 400, "split": "test", "accuracy": 0.7}
    lora = [pair | final | {"seed": seed, "accuracy": 0.8 + seed / 10} for seed in (0, 1)]
    every = pair | final | {"seed": 0, "accuracy": 0.9, "settled": False}
    rows = {
        "best": [best],
        "probes": [probes],
        "facts": [pair | {"majority": 0.5}],
        "lora": lora,
        "all_linear": [every],
    }
    for name, lines in rows.items():
        evidence.to_csv(pd.DataFrame(lines), tmp_path / f"{name}.csv")
    (row,) = lines_of(differences.by_targets(tmp_path)).to_dict("records")
    error = ((0.8 * 0.2 + 0.9 * 0.1) / 400) ** 0.5
    assert row["more"] == f"+0.100 ± {error:.3f}" and row["probe"] == "0.700" and row["settled"] == "no"
    (tmp_path / "all_linear.csv").unlink()
    assert differences.by_targets(tmp_path) == differences.NOT_RUN


def test_the_committed_page_is_what_the_committed_tables_say(tmp_path):
    assert differences.main(str(ROOT / "results/evidence"), str(tmp_path)) == 0
    assert (tmp_path / "differences.md").read_text() == (ROOT / "docs/differences.md").read_text()


def test_data_sets_are_compared_at_the_part_nearest_to_equal_rows():
    """Ten data sets of 4, 6 and 20 rows a dimension: at 6 the second part; one of which no part is near has none."""
    accuracy = np.random.default_rng(0).uniform(size=10)
    parts = [
        {"model": "m", "dataset": f"d{i}", "which": "best", "n_over_d": size, "ntps": accuracy[i] if size == 6 else -accuracy[i],
         "retention_corrected": 0.5, "retention_corrected_pca": 0.5, "gcv_skill": accuracy[i]}
        for i in range(10) for size in (4, 6, 20)
        if i or size != 6
    ]  # fmt: skip
    parts = [part for part in parts if part["dataset"] != "d0" or part["n_over_d"] == 20]
    both = pd.DataFrame(
        {"model": "m", "dataset": [f"d{i}" for i in range(10)], "which": "best", "accuracy": accuracy}
    )
    table = differences.at_equal_rows(pd.DataFrame(parts), both)
    (row,) = table[table["n/d about"] == "6"].to_dict("records")
    assert row["data sets"] == "9" and row["ρ of NTPS"] == "+1.00" and row["ρ of corrected retention"] == "-"
    assert set(table["layer"]) == {"best"} and set(table["n/d about"]) == {"6"}


def test_a_data_set_of_which_too_few_directions_of_p0_are_left_has_no_part():
    accuracy = np.random.default_rng(0).uniform(size=9)
    pairs = [{"model": "m", "dataset": f"d{i}", "layer": 1} for i in range(9)]
    rows = pd.DataFrame([pair | {"kv": 5, "accuracy": own} for pair, own in zip(pairs, accuracy)])
    cut = [
        pair | {"choice": "grid", "rtol": tau, "prefix_rtol": tau, "kv": 5, "conditioned_rank_prefix": 20 if i or tau < 1e-3 else 4,
                "conditioned_ntps": own if i else 9.0, "conditioned_null_mean": 0.1, "conditioned_ntps_pca": 0.2, "conditioned_lift": -own,
                "conditioned_p_value": 0.01}
        for tau in (1e-4, 1e-2) for i, (pair, own) in enumerate(zip(pairs, accuracy))
    ]  # fmt: skip
    table = differences.by_tolerance(pd.DataFrame(cut), rows).set_index("tolerance of M and P0")
    assert table["data sets"].tolist() == ["9", "8"]
    assert table["above and below the null"].tolist() == ["0 and 9 of 9", "0 and 8 of 8"]
    assert (
        table.loc["1e-02", "ρ of NTPS with accuracy"]
        == "+1.00"
        != table.loc["1e-04", "ρ of NTPS with accuracy"]
    )


def test_what_twice_the_rows_add_is_that_of_the_tables():
    rows = pd.read_csv(ROOT / "results/evidence/rows.csv")
    rows = rows[(rows["which"] == "best") & ~rows["model"].str.endswith("-random")]
    half, whole = (rows[rows["partitions"] == count].set_index(["model", "dataset"]) for count in (5, 10))
    gain = 100 * (whole["ridge_test_skill"] - half["ridge_test_skill"])
    page = (ROOT / "docs/differences.md").read_text()
    assert f"rises by {gain.median():.1f} points in the median of {len(gain)} pairs" in page
    assert f"to {gain.max():.1f}), by more than one point on {(gain > 1).sum()}." in page
