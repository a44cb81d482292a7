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
    assert "SmolLM2-135M" not in found["training"] and found["agreed"] == {"higher": [], "lower": []}
    assert 12 <= there < planned


def test_at_equal_layers_both_are_taken_at_the_same_one(tmp_path):
    """Trained is higher at the embeddings, lower at the last layer; its best one is layer 1, where one of nine is lower."""
    best, probes, facts = [], [], []
    for place in range(9):
        for model, higher in (("m", (1, 1 if place else -1, -1)), ("m-random", (0, 0, 0))):
            pair = {"model": model, "dataset": f"d{place}"}
            facts.append(pair | {"group": f"d{place}", "majority": 0.5})
            for layer in range(3):
                scores = dict.fromkeys(trained.SCORES, 0.5 + 0.1 * higher[layer])
                errors = {"m": (0.3, 0.1, 0.2), "m-random": (0.1, 0.2, 0.3)}[model]
                at = pair | {"layer": layer}
                best.append(
                    at
                    | scores
                    | {
                        "gcv_error": errors[layer],
                        "corrected_refusal": None,
                        "conditioned_rank_prefix": 9,
                        "kv": 5,
                    }
                )
                probes.append(
                    at | {"probe": "logistic_regression", "n": 400, "split": "test", "accuracy": 0.8}
                )
    for name, rows in (("best", best), ("probes", probes), ("facts", facts)):
        evidence.to_csv(pd.DataFrame(rows), tmp_path / f"{name}.csv")
    cells = trained.at_equal_layers(tmp_path, "m")
    lines = {line["layer of both"]: line["corrected retention"] for line in trained.in_lines(cells)}
    assert lines["the embeddings"].startswith("higher on 9 of 9, +0.10 on average")
    assert lines["the last"].startswith("lower on 9 of 9, −0.10")
    assert lines["the trained model's best"] == lines["half of the depth"]
    # Holm: of twelve cells six have a smaller p
    assert f"(p {6 * binomtest(8, 9).pvalue:.2f})" in lines["half of the depth"]
    assert f"(p {12 * binomtest(9, 9).pvalue:.3f})" in lines["the last"]
    assert trained.at_the_embeddings(trained.side_by_side(tmp_path, "m")) == {
        "trained": 0,
        "random": 9,
        "count": 9,
    }


def test_models_agree_where_all_are_significant_in_one_direction():
    few, up, down = np.array([1.0]), np.array([0.1]), np.array([-0.1])

    def cells(**last):
        return {layer: [(few, 1.0), (few, 1.0), own] for layer, own in last.items()}

    one = cells(first=(up, 0.01), middle=(down, 0.04), best=(down, 0.01), last=(down, 0.2))
    two = cells(first=(down, 0.01), middle=(down, 0.05), best=(down, 0.06), last=(down, 0.01))
    assert trained.agreed([one, two]) == {"higher": [], "lower": ["middle"]}
    assert trained.agreed([one]) == {"higher": [], "lower": []}
    assert trained.agreed([one, one])["higher"] == ["first"]
    mostly_lower = cells(
        first=(np.array([-0.01] * 19 + [0.9]), 0.001)
    )  # the test is of signs, not of the mean
    assert trained.agreed([mostly_lower, mostly_lower]) == {"higher": [], "lower": ["first"]}
    assert trained.clear_layers(mostly_lower) == ["lower on 19 of 20 at first (p 0.001)"]
