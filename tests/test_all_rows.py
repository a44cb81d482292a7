"""What docs/reproduction.md says of all rows, computed again from results/evidence by pandas and scipy alone; and its words for it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from report import all_rows
from tests.test_report_recomputed import ends, held_out, holm, orders_of, p_value, printed, spearman, two

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "results/evidence"
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
MODELS = ["smollm2-135m", "gemma3-270m"]
LOWER_IS_BETTER = ["excess", "gcv_error", "ridge_train_mse", "ols_train_mse"]
SCORES = """ntps excess retention null_lift retention_adjusted retention_corrected retention_corrected_pca conditioned_ntps
conditioned_lift gcv_error gcv_skill ridge_train_mse ridge_train_skill ols_train_mse adjusted_r2 h_score logme rankme""".split()
CLAIMS = {
    "NTPS tracks the linear probe's accuracy": "accuracy",
    "NTPS tracks the probe's MSE": "mse",
    "over the probe": "gain",
    "over the last layer's head, as published": "gain over the head",
}


def groups_of(model):
    """A row a group of data sets: scores at the layer of lowest gcv_error and what they are judged by, signed as the page says."""
    tables = [pd.read_csv(EVIDENCE / f"{name}.csv") for name in ("best", "probes", "head", "lora", "facts")]
    best, probes, head, lora, facts = (table[table["model"] == model] for table in tables)
    table = best.sort_values("gcv_error", kind="stable").drop_duplicates("dataset").set_index("dataset")
    logistic = probes[probes["probe"] == "logistic_regression"].set_index(["dataset", "layer"])["accuracy"]
    table["accuracy"] = [logistic[pair] for pair in table["layer"].items()]
    table["mse"] = -table["ridge_test_mse"]
    last, trained = (
        runs[runs["final"] & (runs["split"] == "test")].groupby("dataset")["accuracy"].mean()
        for runs in (head, lora)
    )
    table["gain"] = table["accuracy"] - trained  # a positive correlation: a higher score, a smaller gain
    table["gain over the head"] = last - trained
    table["linear_accuracy"], table["probe_accuracy"] = last, table["accuracy"]
    table.loc[table["corrected_refusal"].notna(), ["retention_corrected", "retention_corrected_pca"]] = np.nan
    table.loc[table["conditioned_rank_prefix"] < table["kv"], "conditioned_lift"] = np.nan
    table[LOWER_IS_BETTER] *= -1
    table[["group", "classes"]] = facts.set_index("dataset")[["group", "classes"]]
    assert len(table) == 25
    return table


def means(table, *columns):
    return table.dropna(subset=columns).groupby("group")[list(columns)].mean().to_numpy().T


@pytest.fixture(scope="module", params=MODELS)
def measured(request):
    return request.param, groups_of(request.param)


def p_of(x, y):
    return p_value(spearman(x, y), spearman(x, y[orders_of(len(y))]))


def claim(name, model):
    (line,) = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and line.split("|")[1].strip().endswith(name)
    ]
    return line.split("|")[2 + MODELS.index(model)].strip()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claims_cell_is_that_of_the_tables(measured, name):
    """Point, interval, p, p after Holm's correction over all scores, and the verdict."""
    model, table = measured
    target = CLAIMS[name]
    scores = SCORES + ["probe_accuracy", "linear_accuracy"] * target.startswith("gain")
    pairs = [means(table, score, target) for score in scores]
    p = [p_of(*pair) for pair in pairs]
    point, adjusted = printed(*pairs[0]), holm(pd.Series(p, scores))["ntps"]
    cell = claim(name, model)
    assert cell.startswith(f"{point}, p {p[0]:.2g}, after Holm {adjusted:.2g}: **")
    low, high = (float(end.replace("−", "-")) for end in re.search(r"\[(.*), (.*)\]", point).groups())
    expected = "holds" if adjusted <= 0.05 and low > 0 else "not significant"
    assert f"**{expected}**" in cell


def test_held_out_correlations_are_those_of_the_tables():
    """For each group the layer and share of directions that are best on the others; p after Holm's correction over all eight."""
    sweep = pd.read_parquet(EVIDENCE / "sweep.parquet")
    sweep = sweep[
        (sweep["order"] == "descending") & (sweep["rule"] == "task_rank") & sweep["fraction"].notna()
    ]
    found = {}
    for model in MODELS:
        table = groups_of(model)
        for name, target in CLAIMS.items():
            known = table.dropna(subset=target)
            own = sweep[(sweep["model"] == model) & sweep["dataset"].isin(known.index)]
            own = own.assign(k=own["fraction"].round(2), group=known["group"].loc[own["dataset"]].to_numpy())
            x = own.groupby(["layer", "k", "group"])["ntps"].mean().unstack().dropna().to_numpy()
            y = known.groupby("group")[target].mean().to_numpy()
            drawn = [held_out(x, y[part], {"": slice(None)})[""] for part in np.split(orders_of(len(y)), 20)]
            rho = float(held_out(x, y, {"": slice(None)})[""])
            found[name, model] = rho, p_value(rho, np.concatenate(drawn))
    adjusted = holm(pd.Series({pair: p for pair, (_, p) in found.items()}))
    for (name, model), (rho, p) in found.items():
        said = f"held out {two(rho)}, p {p:.2g}, after Holm {adjusted[name, model]:.2g}: not significant"
        assert claim(name, model).endswith(said) and adjusted[name, model] > 0.05


@pytest.mark.parametrize("score", SCORES)
def test_the_table_of_scores_is_that_of_the_tables(measured, score):
    model, table = measured
    (line,) = re.findall(rf"^\| {score} \|.*$", PAGE, re.MULTILINE)
    cells = [cell.strip(" *") for cell in line.strip("|").split("|")][1:]
    for place, target in ((0, "accuracy"), (2, "gain")):
        assert cells[place + MODELS.index(model)] == printed(*means(table, score, target))


def test_the_noise_of_ntps_its_null_and_its_counts(measured):
    model, table = measured
    place = MODELS.index(model)
    squares = table.assign(square=table["ntps_se"] ** 2).groupby("group")["square"]
    share = 1 - (squares.mean() / squares.size()).mean() / table.groupby("group")["ntps"].mean().var()
    said = re.search(r"a reliability of (\S+) and (\S+) here", PAGE).groups()
    assert said[place] == f"{share:.2f}"
    said = re.search(r"the two correlate at (\S+ \[.*?\]) and (\S+ \[.*?\])\.", PAGE).groups()
    assert said[place] == printed(*means(table, "ntps", "null_mean"))
    random = groups_of(f"{model}-random")
    for target, name in (("accuracy", "accuracy"), ("mse", "MSE")):
        (line,) = [
            line
            for line in PAGE.splitlines()
            if re.match(rf"\| NTPS tracks the (linear )?probe's {name} ", line)
        ]
        controls = {"mean NTPS of permuted labels": printed(*means(table, "null_mean", target))}
        controls["NTPS of random weights"] = printed(*means(random, "ntps", target))
        if target == "mse":
            controls["the number of classes"] = printed(*means(table, "classes", target))
            controls["NTPS less that, as `null_lift`"] = printed(*means(table, "null_lift", target))
        for words, expected in controls.items():
            assert re.search(rf"{words}: (\S+ \[.*?\]) and (\S+ \[.*?\])", line).groups()[place] == expected
    x, y, z = (rankdata(values) for values in means(table, "ntps", "accuracy", "n_over_d"))
    rests = [values - np.poly1d(np.polyfit(z, values, 1))(z) for values in (x, y)]  # of ranks on ranks
    said = re.search(
        r"With these held constant NTPS goes with the probe's accuracy at (\S+) .*? and (\S+) ", PAGE
    ).groups()
    assert said[place] == two(np.corrcoef(*rests)[0, 1])
    published = pd.read_csv(ROOT / "results/published/fig2_accuracy.csv").query("score == 'ntps'")
    (rho,) = published[published["model"].str.startswith("mean of")]["rho"]
    said = re.search(r"would be seen at (\S+) and (\S+),", PAGE).groups()
    assert said[place] == two(rho * share**0.5)
    significant, above = table["p_value"] <= 0.05, table["ntps"] > table["null_mean"]
    for word, side in (("above that of permuted labels on", above), ("and below it on", ~above)):
        said = re.search(rf"{word} (\d+) and (\d+)", PAGE).groups()
        assert int(said[place]) == (significant & side).sum()


def test_what_settled_lora_changes():
    """The mean change over groups of NTPS and of null_lift on the adapter's own data set, and how many rise."""
    which = pd.read_csv(EVIDENCE / "which.csv")
    for layer, words in (("best", "at the best of four layers"), ("last", "at the last")):
        rows = which[which["which"] == layer].set_index("dataset")
        own = rows[rows["adapter"] == rows.index]
        change = own["ntps"] - rows[rows["adapter"] == "no adapter"]["ntps"][own.index]
        means = change.groupby(own["group"]).mean().to_numpy()
        low, high = ends(lambda x, axis: x.mean(axis), means)
        text = f"{means.mean():+.3f}".replace("-", "−") + f" [{two(low)}, {two(high)}]"
        assert (
            f"{text} ({(change > 0).sum()} of {len(change)} up; p " in PAGE
            and f" after Holm) {words}: **not" in PAGE
        )


def test_words_that_rest_on_verdicts():
    """The advice, the first lines and the heading's claim are true of these verdicts only."""
    found = all_rows.facts(None)
    for model in MODELS:
        for target in ("probe_accuracy", "lora_gain", "lora_gain_linear"):
            assert found[f"rows.{model}.{target}.verdict"] == "not significant"
    assert found["rows.seen"] == "is not seen here"


def test_models_that_do_not_agree_are_not_one_verdict():
    claim = pd.DataFrame({"reading": ["holds", "not measurable: 5 groups"]})
    assert all_rows.seen(claim)["rows.seen"] == "hangs on the model here"
    assert all_rows.seen(claim.assign(reading="reversed"))["rows.seen"] == "is reversed here"
