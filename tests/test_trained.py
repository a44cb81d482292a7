"""Trained beside random weights: the line of a known answer against scipy, and only what both have."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, spearmanr

from report import evidence, trained

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/evidence"


def made(n=14, seed=0):
    rng = np.random.default_rng(seed)
    table = {
        "dataset": [f"data{i:02d}" for i in range(n)],
        "group": [f"data{max(i, 1):02d}" for i in range(n)],
    }
    for name in ("accuracy", "retention_corrected"):
        table |= {name: rng.uniform(size=n), f"{name}-random": rng.uniform(size=n)}
    return pd.DataFrame(table)


def test_a_line_is_that_of_scipy_over_groups():
    """The first two data sets are of one source."""
    both = made()
    line = trained.compared(both, "retention_corrected")
    means = both.groupby("group").mean(numeric_only=True)
    rho, control = (
        spearmanr(means[f"retention_corrected{end}"], means[f"accuracy{end}"]).statistic
        for end in ("", "-random")
    )
    shown = [
        float(line[name].split(" [")[0].replace("−", "-"))
        for name in ("ρ, trained", "ρ, random", "difference")
    ]
    assert shown == pytest.approx([rho, control, rho - control], abs=0.0051)
    higher = int((means["retention_corrected"] > means["retention_corrected-random"]).sum())
    assert trained.sign_p(trained.gaps(both, "retention_corrected")) == pytest.approx(
        binomtest(higher, 13).pvalue
    )
    assert line["higher when trained"] == f"{higher} of 13" and line["groups"] == "13"


def test_what_is_refused_with_either_has_no_part():
    both = made()
    both.loc[5, "retention_corrected-random"] = math.nan
    assert trained.compared(both, "retention_corrected")["groups"] == "12"


def test_a_clear_difference_has_an_interval_beside_zero():
    both = made(40)
    both["retention_corrected"] = both["accuracy"] + 0.1 * both["retention_corrected"]
    both["retention_corrected-random"] = 0.1 * both["retention_corrected-random"] - both["accuracy-random"]
    low, high = (
        trained.compared(both, "retention_corrected")["difference"].split("[")[1].rstrip("]").split(", ")
    )
    assert float(low) > 1 and float(high) <= 2


def test_without_all_data_sets_it_is_not_complete(tmp_path):
    for name in ("best.csv", "probes.csv", "facts.csv"):
        table = pd.read_csv(TABLES / name)
        evidence.to_csv(
            table[(table["dataset"] != "boolq") | (table["model"] != "smollm2-135m-random")], tmp_path / name
        )
    halves = json.loads((ROOT / "configs/experiments/halves.json").read_text())
    planned = len(halves["discovery"] + halves["confirmation"])
    there = len(trained.side_by_side(tmp_path))
    found = trained.sections(tmp_path)
    assert found["trained"]["SmolLM2-135M"] == (
        f"**Not complete**: {there} of the {planned} data sets are scored with random weights."
    )
    assert "SmolLM2-135M" not in found["training"]
    assert 12 <= there < planned
