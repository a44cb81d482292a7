"""docs/finetuning.md: the judgement against scikit-learn's folds, and a page from made tables whose answer is known."""

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import norm, t
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from ntps.evaluation.correlation import Draws
from ntps.evaluation.gain import Points
from ntps.prescreening.page import SETTLED
from report import evidence, finetuning, finetuning_page, gains
from tests.finetuning_tables import committed, page_with

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/evidence"
FEW = Draws(permutations=200)
GROUPS = [f"data{i:02d}" for i in range(12)]


def runs_judged(lora):
    """The runs whose gains are judged: final ones on test; of the second half seed 0 alone, as its plan says."""
    planned = (lora["seed"] == 0) | ~lora["dataset"].isin(gains.halves()["confirmation"])
    return lora[lora["final"] & (lora["split"] == "test") & planned]


def made(noise, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(1, 12, 3))
    gain = 0.02 + 0.2 * x[..., 0] + noise * rng.normal(size=(1, 12))
    return Points(["m"], GROUPS, ["ntps", "kernel_gain", "headroom"], x, gain, 1 - x[..., 2])


def costs(found):
    return dict.fromkeys([*found.predictors, gains.MEAN, gains.STACK], 1.0)


def take(x, columns):
    return x[:, columns]


def test_errors_are_those_of_scikit_learn_on_left_out_groups():
    found = made(0.05)
    X, y, groups = found.x[0], found.gain[0], np.arange(12)
    fold = LeaveOneGroupOut()
    table = gains.judgement(found, costs(found), FEW).set_index("predictor")
    for place, name in enumerate(found.predictors):
        predicted = cross_val_predict(LinearRegression(), X[:, [place]], y, groups=groups, cv=fold)
        assert table.loc[name, "rmse"] == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)))
        assert table.loc[name, "mae"] == pytest.approx(np.mean(np.abs(predicted - y)))
        assert table.loc[name, "sign"] == pytest.approx(np.mean((predicted > 0.01) == (y > 0.01)))
    predicted = []
    for train, test in fold.split(X, y, groups):
        subsets = [[0], [1], [2], [0, 1], [0, 2], [1, 2]]
        model = make_pipeline(FunctionTransformer(take, kw_args={"columns": [0]}), LinearRegression())
        ways = {"functiontransformer__kw_args": [{"columns": part} for part in subsets]}
        search = GridSearchCV(model, ways, cv=fold, scoring="neg_mean_squared_error")
        predicted.append(search.fit(X[train], y[train], groups=groups[train]).predict(X[test])[0])
    assert table.loc[gains.STACK, "rmse"] == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)))


def test_an_interval_comes_from_the_other_groups_alone():
    found = made(0.05)
    y = found.gain[0]
    inside = []
    for g in range(12):
        others = np.delete(y, g)
        errors = [np.mean(np.delete(others, i)) - others[i] for i in range(11)]
        half = t.ppf(0.95, 10) * math.sqrt(np.mean(np.square(errors)))
        inside.append(abs(others.mean() - y[g]) <= half)
    table = gains.judgement(found, costs(found), FEW).set_index("predictor")
    assert table.loc[gains.MEAN, "covered"] == pytest.approx(np.mean(inside))


def test_a_relation_is_found_and_noise_is_not():
    clear = gains.judgement(made(0.01), costs(made(0.01)), FEW).set_index("predictor")
    assert clear.loc["ntps", "better"] and clear.loc[gains.STACK, "better"]
    assert not clear.loc["headroom", "better"]
    noise = made(0.05)
    noise.gain[...] = np.random.default_rng(3).normal(size=noise.gain.shape)
    assert not gains.judgement(noise, costs(noise), FEW)["better"].any()


def test_p_counts_the_orders_of_as_small_an_error():
    found = made(0.02)
    part = Points(
        found.models, GROUPS[:6], ["ntps"], found.x[:, :6, :1], found.gain[:, :6], found.probe[:, :6]
    )
    costs_of_it = dict.fromkeys(["ntps", gains.MEAN, gains.STACK], 1.0)
    table = gains.judgement(part, costs_of_it, Draws()).set_index("predictor")

    def error(y):
        predicted = cross_val_predict(LinearRegression(), part.x[0], y, cv=6)
        return np.mean((predicted - y) ** 2)

    y = part.gain[0]
    orders = [error(np.array(order)) for order in permutations(y)]
    assert table.loc["ntps", "p"] == pytest.approx(np.mean(np.array(orders) <= error(y) + 1e-12))


def test_groups_needed_is_the_power_of_fishers_z():
    assert gains.groups_needed(0.5, 1) == 24  # 23 by the exact distribution
    assert gains.groups_needed(0.5, 10) > 40


@pytest.fixture
def tables(tmp_path):
    """Twelve pairs of one model; LoRA's gain is half of what is seen at step 100."""
    rng, model = np.random.default_rng(1), gains.MODEL
    frames: dict[str, list] = {
        name: [] for name in ("best", "probes", "facts", "rows", "lora", "finetune_probe", "short", "hits")
    }
    for name in GROUPS:
        pair, probe, gain = {"model": model, "dataset": name}, rng.uniform(0.5, 0.8), rng.uniform(-0.05, 0.15)
        scores = dict.fromkeys(
            ("ntps", "conditioned_lift", "retention_corrected", "gcv_skill", "headroom", "ridge_train_mse")
        )
        scores = {score: rng.uniform() for score in scores} | {"corrected_refusal": None}
        frames["best"].append(pair | scores | {"layer": 1, "kv": 5, "gcv_error": 0.1, "n_texts": 100})
        frames["probes"].append(
            pair | {"layer": 1, "probe": "logistic_regression", "n": 400, "split": "test", "accuracy": probe}
        )
        frames["facts"].append(
            pair | {"group": name, "n_texts": 100, "tokens_per_text": 10.0, "majority": 0.5, "classes": 4}
        )
        for partitions in (5, 10):
            frames["rows"].append(
                pair | {"which": "best", "partitions": partitions, "gcv_skill": rng.uniform()}
            )
        for seed in (0, 1):
            at = {"seed": seed, "settled": True, "n": 400, "tokens": 2000, "seconds": 1800}
            early = {"step": 100, "split": "validation", "final": False, "accuracy": probe + 2 * gain}
            last = {
                "step": 500,
                "split": "test",
                "final": True,
                "accuracy": probe + gain + 0.002 * seed - 0.001,
            }
            frames["lora"] += [pair | at | early, pair | at | last]
        for step in range(20, 101, 20):
            at = {
                "seed": 0,
                "step": step,
                "split": "validation",
                "final": False,
                "n": 40,
                "tokens": 10 * step,
            }
            frames["short"].append(pair | at | {"accuracy": probe + gain - 1 / step})
        frames["hits"].append(pair | {"method": "logistic_regression", "seed": -1, "right": "0110" * 100})
        for seed, right in enumerate(("0111" * 100, "0011" * 100)):
            frames["hits"].append(pair | {"method": "lora_finetuning", "seed": seed, "right": right})
        kernel = {"unit_norm": True, "accuracy_gain": rng.normal(), "forward_passes": 3.0, "n_train": 50}
        frames["finetune_probe"].append(pair | kernel)
    for name, rows in frames.items():
        evidence.to_csv(pd.DataFrame(rows), tmp_path / f"{name}.csv")
    return tmp_path


def test_the_page_of_a_known_answer(tables, tmp_path, capsys):
    finetuning.main(str(tables), str(tmp_path), permutations=1000)
    page = (tmp_path / "finetuning.md").read_text()
    assert (
        "**On these data sets significantly better than the mean gain:" in page
        and "100 steps of LoRA" in page
    )
    assert (tmp_path / "finetuning.png").stat().st_size > 10_000
    judged = pd.read_csv(tables / "finetuning.csv").set_index("predictor")
    assert judged.loc["short_gain", "rmse"] < 1e-3 and judged.loc["short_gain", "better"]
    passes = 1 + gains.TRAINING * 2000 / 1000 + 1 / 10  # scored once on a tenth of the rows
    assert judged.loc["short_gain", "passes"] == pytest.approx(passes)
    assert judged.loc["kernel_gain", "passes"] == pytest.approx(1 + 1.5)
    assert "short_gain" in capsys.readouterr().out


def test_the_committed_page_is_what_the_committed_tables_say():
    assert page_with() == (ROOT / "docs/finetuning.md").read_text()


@pytest.mark.parametrize(
    ("name", "of"), [("finetuning.csv", ["discovery"]), (finetuning.BOTH, ["discovery", "confirmation"])]
)
def test_the_committed_errors_are_those_of_scikit_learn(name, of):
    """Gains and one predictor from the tables by pandas; trec6 and trec50 are one group."""
    best, probes, lora = (pd.read_csv(TABLES / f"{name}.csv") for name in ("best", "probes", "lora"))
    best = best.loc[best.groupby(["model", "dataset"])["gcv_error"].idxmin()]
    probes = probes[(probes["probe"] == "logistic_regression") & (probes["split"] == "test")]
    runs = runs_judged(lora).groupby(["model", "dataset"])["accuracy"].mean()
    table = best.merge(probes[["model", "dataset", "layer", "accuracy"]]).merge(
        runs.rename("lora").reset_index()
    )
    table = table[table["model"] == "smollm2-135m"]
    table = table[table["dataset"].isin([data for half in of for data in gains.halves()[half]])]
    table["gain"] = table["lora"] - table["accuracy"]
    table = table.groupby(table["dataset"].replace({"trec50": "trec6"}))[
        ["gain", "retention_corrected"]
    ].mean()
    table = table.dropna()  # corrected retention is refused on commonsense: no predictor is judged there
    judged = pd.read_csv(TABLES / name).set_index("predictor")["rmse"]
    y = table["gain"].to_numpy()
    left_out = [np.delete(y, i).mean() - y[i] for i in range(len(y))]
    assert judged[gains.MEAN] == pytest.approx(np.sqrt(np.mean(np.square(left_out))), rel=1e-6)
    predicted = cross_val_predict(LinearRegression(), table[["retention_corrected"]].to_numpy(), y, cv=len(y))
    assert judged["retention_corrected"] == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)), rel=1e-6)


def test_both_halves_are_judged_once_every_predictor_is_there():
    """By the function of the first half, over the groups of both; until then the page says how much is there."""
    table, further = (gains.measured(TABLES, half) for half in ("discovery", "confirmation"))
    rng = np.random.default_rng(0)
    full = further.assign(**{name: rng.normal(size=len(further)) for name in gains.MEASURED})
    partial = full.assign(kernel_gain=[math.nan, *full["kernel_gain"][1:]])
    assert gains.over_both(table, partial, FEW) is None
    assert f"{len(full) - 1} of the {len(full)} data sets" in page_with(further=partial, both=None)
    judged = gains.over_both(table, full, FEW)
    known = pd.concat([table, full]).dropna(subset=[*gains.STATIC, *gains.MEASURED])
    assert judged["groups"].eq(known["group"].nunique()).all()
    means = known.groupby("group")["lora_gain"].mean().to_numpy()
    assert judged["rmse"][0] == pytest.approx(means.std() * len(means) / (len(means) - 1))
    section = page_with(further=full, both=judged).split("## All predictors over both halves")[1]
    assert f"**Over both halves, {len(means)} groups" in section and "| gradient kernel" in section


def test_the_short_run_is_read_at_its_end_and_by_its_law(tables):
    table = gains.measured(tables)
    assert table["own_gain"].to_numpy() == pytest.approx(table["lora_gain"] - 1 / 100)
    assert table["law_gain"].to_numpy() == pytest.approx(table["lora_gain"] - 1 / gains.LONG, abs=1e-4)
    cost = gains.costs(table)
    assert cost["own_gain"] == pytest.approx(1 + gains.TRAINING * 1000 / 1000 + 5 / 10)
    assert cost["law_gain"] == cost["own_gain"]


def test_a_curve_that_no_law_fits_counts_with_its_end_and_no_accuracy_is_above_one(tables):
    runs = pd.read_csv(tables / "short.csv")
    first, second = ({"dataset": name} for name in GROUPS[:2])
    runs.loc[runs["dataset"] == first["dataset"], "accuracy"] = [0.5, 0.6, 0.65, 0.68, 0.2]
    runs.loc[runs["dataset"] == second["dataset"], "accuracy"] = [0.5, 0.7, 0.85, 0.96, 1.0]
    evidence.to_csv(runs, tables / "short.csv")
    found = gains.own(tables).set_index("dataset")["law_accuracy"]
    assert found[GROUPS[0]] == 0.2 and found[GROUPS[1]] == 1


def test_what_seeds_leave_is_said_with_the_data_sets_whose_seeds_are_farthest_apart(tables):
    table = gains.measured(tables)
    table["seed_variance"] = [1e-4] * 10 + [0.04, 0.12]
    found = finetuning_page.seeds(table, 0.08)
    assert found["error"] == 0.08 and found["median"] == pytest.approx(0.01)
    assert [name for name, _ in found["far"]] == [GROUPS[-1], GROUPS[-2]]
    assert [apart for _, apart in found["far"]] == pytest.approx([0.12**0.5, 0.2])
    assert finetuning_page.seeds(table.assign(seed_variance=math.nan), math.nan) is None
    alone = table.assign(seeds=1, seeds_error=math.nan, seed_variance=math.nan, n_test=400, classes=range(12))
    assert "from seeds: not known, each has one seed. They" in page_with(table=alone)


def test_gains_that_are_clear_are_counted_one_by_one_and_after_holm():
    """On the committed tables, by scipy and by hand: z of rows and seeds, Holm's steps."""
    table = committed()["table"]
    error = np.sqrt(table["test_error"] ** 2 + table["seed_variance"].mean() / table["seeds"])
    p = norm.sf(table["lora_gain"] / error)
    steps = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    page = page_with()
    assert (
        f"significantly on {(p <= 0.05).sum()}, allowing for errors of test rows and seeds (each" in page
        and f"5 %; {(steps <= 0.05).sum()} after Holm, as if seeds varied" in page
    )
    further = committed()["further"]
    one_seed = np.sqrt(further["test_error"] ** 2 + table["seed_variance"].mean())
    p = norm.sf(further["lora_gain"] / one_seed)
    steps = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    assert (
        f"with seed 0 (significantly on {(p <= 0.05).sum()}, allowing for errors of test rows and for seeds"
        in page
    )
    assert f"as in the first half; {(steps <= 0.05).sum()} after Holm)" in page


def test_the_gain_to_expect_is_that_of_all_trainings():
    """On the committed tables; nothing is said to be unpredictable once a predictor is better."""
    lora = pd.read_csv(TABLES / "lora.csv")
    tests = lora[(lora["model"] == "smollm2-135m") & lora["final"] & (lora["split"] == "test")]
    probe = pd.concat([committed()["table"], committed()["further"]]).set_index("dataset")["probe_accuracy"]
    gain = 100 * (tests.groupby("dataset")["accuracy"].mean() - probe)
    first = page_with().splitlines()[2]
    assert first.startswith(f"**{gain.median():.1f} points in the median**: on {len(gain)} data sets")
    above, worth = (gain > 0).sum(), (gain > 1).sum()
    words = (
        "on each of these by more than one point" if above == worth else f"by more than one point on {worth}"
    )
    assert f"is above the linear probe of the best layer on {above}, {words} (mean" in first
    quarters = " and ".join(f"{value:.1f}" for value in np.quantile(gain, [0.25, 0.75]))
    assert (
        f"mean {gain.mean():.1f}; half of them between {quarters};" in first
        and "No score was shown to predict" in first
    )
    better = committed()["judged"].assign(better=True)
    assert "No score was shown to predict" not in page_with(judged=better).splitlines()[2]


def test_the_settings_that_are_advised_are_those_of_the_evidence():
    words = SETTLED.split()[1:]
    flags = {name.removeprefix("--"): float(value) for name, value in zip(words[::2], words[1::2])}
    for half in ("discovery", "confirmation"):
        file = yaml.safe_load((ROOT / f"configs/experiments/evidence_{half}.yaml").read_text())[
            "lora_finetuning"
        ]
        assert {name: float(file[name]) for name in flags} == flags


def test_the_gain_over_words_alone_is_that_of_the_better_of_both():
    """Words' accuracies from the page of data sets, by a plain split."""
    lines = (ROOT / "docs/datasets.md").read_text().split("<!-- baselines -->")[1].splitlines()
    words = {
        cells[1]: float(cells[8])
        for line in lines
        if len(cells := [c.strip() for c in line.split("|")]) > 9 and "0." in cells[8]
    }
    both = committed()["every"]
    alone = both["dataset"].map(words)
    less = (both["lora_accuracy"] - np.maximum(both["probe_accuracy"], alone)).mean()
    page = page_with()
    assert (
        alone.notna().all()
        and f"is {100 * less:.1f} points, not {100 * both['lora_gain'].mean():.1f}." in page
    )
    assert f"are above the probe on {(alone > both['probe_accuracy']).sum()} of {len(both)}. Over" in page


def test_seeds_and_test_rows_leave_the_floor(tables):
    table = gains.measured(tables)
    found, _ = gains.points(table, ["ntps"], "lora_gain")
    floor = gains.floors(table, found)
    assert floor["seeds"] == pytest.approx(0.001, rel=0.02)  # two seeds .002 apart: s / sqrt(2) = .001
    rows = np.tile([0, 0.5 - 1, 1 - 1, 1], 100)  # each seed has it right less the probe, a mean of two seeds
    assert floor["test"] == pytest.approx(rows.std(ddof=1) / 20)
    assert floor["reliability"] == pytest.approx(1 - floor["both"] ** 2 / found.gain.var(ddof=1))
    (tables / "hits.csv").unlink()
    table = gains.measured(tables)
    a, b = table["lora_accuracy"], table["probe_accuracy"]
    apart = gains.floors(table, found)
    assert apart["test"] == pytest.approx(np.sqrt(np.mean((a * (1 - a) + b * (1 - b)) / 400)))


def test_gains_on_halves_of_the_test_rows_agree_as_their_error_allows():
    """Halves of n/2 rows of variance s^2 each about true gains of variance v correlate at v / (v + 2 s^2 / n)."""
    rng = np.random.default_rng(5)
    rows = [rng.normal(mean, 1, 400) for mean in rng.normal(0, 0.1, 3000)]
    split = gains.retest([*rows, math.nan], splits=5)
    assert split == pytest.approx(0.01 / (0.01 + 2 / 400), abs=0.04) and np.ptp(split) > 0
    assert len(gains.retest(rows[:2])) == 0


def test_the_floor_has_the_mean_of_many_splits(tables):
    rng = np.random.default_rng(5)
    hits = evidence.read_csv(tables / "hits.csv")
    share = rng.uniform(0.2, 0.9, len(hits))
    hits["right"] = ["".join(map(str, rng.binomial(1, each, 400))) for each in share]
    evidence.to_csv(hits, tables / "hits.csv")
    table = gains.measured(tables)
    found, _ = gains.points(table, ["ntps"], "lora_gain")
    floor, r = gains.floors(table, found), gains.retest(table["row_gains"]).mean()
    assert floor["low"] < floor["retest"] < floor["high"] and floor["retest"] == pytest.approx(r)
    assert floor["twice_as_many"] == pytest.approx(2 * r / (1 + r))


def test_the_committed_rows_add_up_to_the_committed_accuracies():
    """hits.csv, from adapters and probes once more, against the tables of the trainers."""
    hits, lora = evidence.read_csv(TABLES / "hits.csv"), pd.read_csv(TABLES / "lora.csv")
    lora = runs_judged(lora[lora["model"] == "smollm2-135m"])
    lora = lora.set_index(["dataset", "seed"])["accuracy"]
    best = gains.rows_of(TABLES)
    best = best[(best["which"] == "best") & (best["model"] == "smollm2-135m")]
    probe = best.set_index("dataset")["accuracy"]
    assert len(hits) == len(lora) + hits["dataset"].nunique()
    for row in hits.itertuples():
        wanted = lora[row.dataset, row.seed] if row.method == "lora_finetuning" else probe[row.dataset]
        assert str(row.right).count("1") / row.n == pytest.approx(wanted, abs=1e-6)


def test_the_error_that_the_plan_names_is_judged_by_itself_and_summed_over_the_classes(tables):
    """Where it is the gain itself, its held-out error is 0, though what the table calls headroom is noise."""
    table = gains.measured(tables)
    assert np.allclose(table[gains.TRAIN_ERROR], 4 * pd.read_csv(tables / "best.csv")["ridge_train_mse"])
    found = gains.train_error(table.assign(train_error=table[gains.GAIN]), Draws(200))
    assert found["rmse"] < 1e-12 and found["p"] == pytest.approx(1 / 201) and found["groups"] == len(table)
