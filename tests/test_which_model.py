"""docs/which-model.md: orders whose answer is known, the tests against all orders, and points computed again by pandas and scipy."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ntps.errors import UserError
from ntps.evaluation.correlation import Draws
from report import evidence, which_model, within
from report.which_model import BASE, SCORES
from report.within import Rankings

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/evidence"
HALF = json.loads((ROOT / "configs/experiments/halves.json").read_text())["discovery"]
FEW = Draws(permutations=500, resamples=1000)


def group_of(name):
    return "trec50,trec6" if name.startswith("trec") else name


def made(count=13, seed=0):
    """A row a candidate, data set and layer: gcv_skill is the accuracy, the other scores are noise, one is refused on a data set."""
    rng, names = np.random.default_rng(seed), [BASE, *HALF][:count]
    good = dict(zip(names, rng.normal(scale=0.02, size=count)))
    rows = []
    for which, dataset, name in itertools.product(("best", "last"), HALF, names):
        accuracy = rng.binomial(1000, 0.7 + good[name] + rng.normal(scale=0.03)) / 1000
        seen = name != BASE and group_of(name) == group_of(dataset)
        scores = dict(zip(SCORES, rng.normal(size=len(SCORES)))) | {"gcv_skill": accuracy}
        if dataset == "commonsense_pypi":
            scores["retention_corrected"] = np.nan
        at = {"adapter": name, "dataset": dataset, "group": group_of(dataset), "seen": seen, "which": which}
        rows.append(
            at | {"layer": 30, "n": 1000, "accuracy": min(1.0, accuracy + 0.2 * seen), **scores, "model": "m"}
        )
    return pd.DataFrame(rows)


def ranked(accuracy, *scores, groups=None):
    accuracy = np.array(accuracy, float)
    names = [str(place) for place in range(len(accuracy))]
    scores = np.stack([np.array(each, float) for each in scores], 1)
    rows = np.full(len(accuracy), 1000.0)
    of_scores = [f"s{place}" for place in range(scores.shape[1])]
    return Rankings(names, groups or names, accuracy, rows, of_scores, scores)


# --- statistics ----------------------------------------------------------------------------------------------------


def test_correlation_over_what_is_known_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(2, 40, 9)).astype(float)
    x[rng.uniform(size=x.shape) < 0.2], y[rng.uniform(size=y.shape) < 0.2] = np.nan, np.nan
    for ours, a, b in zip(within.rank_correlation(x, y), x, y):
        assert ours == pytest.approx(spearmanr(a, b, nan_policy="omit").statistic, nan_ok=True)
    assert np.isnan(within.rank_correlation(np.array([1, 2, np.nan]), np.array([1.0, 2, 3])))


def test_regret_and_hits_by_hand():
    y = np.array([0.7, 0.9, 0.8, np.nan])
    for x, lost, right in [
        ([1, 3, 2, 9], 0, 1),  # the last one is not ranked
        ([3, 1, 2, 0], 0.2, 0),
        ([2, 2, 1, 0], 0.1, 0.5),  # the first two as likely
        ([1, 1, 1, 1], 0.1, 1 / 3),
        ([3, np.nan, 2, 1], np.nan, np.nan),  # two left
    ]:
        x = np.array(x, float)
        assert within.regret(x, y) == pytest.approx(lost, nan_ok=True)
        assert within.hit(x, y) == pytest.approx(right, nan_ok=True)
    refused = np.array([3, np.nan, 2, 1.0])  # the best one, which the score cannot choose
    assert within.regret(refused, np.array([0.7, 0.9, 0.8, 0.6])) == pytest.approx(0.2)


def test_data_sets_of_a_group_count_once():
    accuracy = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
    rankings = ranked(accuracy, [[1, 2, 3], [3, 2, 1], [1, 2, 3]], groups=["a", "a", "b"])
    assert rankings.own[0][:, 0] == pytest.approx([0, 1])


def test_the_static_order_is_the_centred_mean_of_the_other_groups():
    table = made()
    rankings = which_model.rankings(table, "best", which_model.OUT)
    found = within.static_order(rankings)
    fair = table[(table["which"] == "best") & ~table["seen"]]
    centred = fair["accuracy"] - fair.groupby("dataset")["accuracy"].transform("mean")
    for place, dataset in enumerate(rankings.datasets):
        others = fair["group"] != group_of(dataset)
        means = centred[others].groupby(fair["adapter"][others]).mean()
        assert found[place] == pytest.approx(means[which_model.candidates(table)].to_numpy())


def test_p_counts_all_orders_of_the_candidates():
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    y[0, 2] = np.nan
    of_rho, of_regret = ranked(y, x).permuted(Draws())

    def values(order):
        known = [~np.isnan(row) for row in y]
        rho = [spearmanr(a[list(order)][k], b[k]).statistic for a, b, k in zip(x, y, known)]
        lost = [np.nanmax(b) - b[k][np.argmax(a[list(order)][k])] for a, b, k in zip(x, y, known)]
        return np.mean(rho), -np.mean(lost)

    null = np.array([values(order) for order in itertools.permutations(range(5))]) + 0.0
    for family, column in ((of_rho, 0), (of_regret, 1)):
        own, tiny = null[0, column], 1e-9
        sides = (null[:, column] <= own + tiny).mean(), (null[:, column] >= own - tiny).mean()
        assert family.p[0] == pytest.approx(min(1, 2 * min(sides)))


def test_signs_are_changed_in_all_ways():
    differences = np.array([[0.3, 0.1], [0.2, -0.2], [np.nan, 0.1], [0.1, 0.4], [0.5, 0.0]])
    found = within.signs_changed(differences, Draws())
    for place, own in enumerate(np.nan_to_num(differences).T):
        null = np.array([np.dot(own, signs) for signs in itertools.product((1, -1), repeat=5)])
        sides = (null <= own.sum() + 1e-9).mean(), (null >= own.sum() - 1e-9).mean()
        assert found.p[place] == pytest.approx(min(1, 2 * min(sides)))
    assert np.isnan(within.signs_changed(np.full((5, 1), np.nan), Draws()).p[0])


def test_one_order_by_accident_on_all_data_sets_is_no_evidence():
    """Scores and accuracies have one value a candidate each, the diagonal is not ranked: the level of both tests is near .05."""
    rng, own = np.random.default_rng(2), np.eye(12, 13, dtype=bool)
    significant = np.zeros(2)
    for _ in range(150):
        accuracy, score = (
            np.where(own, np.nan, rng.normal(size=13) + 0.1 * rng.normal(size=(12, 13))) for _ in range(2)
        )
        tests = ranked(accuracy, score).permuted(Draws(permutations=199))
        significant += [family.p[0] <= 0.05 for family in tests]
    assert (significant <= 15).all()


def test_the_limit():
    accuracy = np.array([[0.5, 0.6, 0.7, np.nan]])
    rankings = ranked(accuracy, accuracy)
    errors = [a * (1 - a) / 1000 for a in (0.5, 0.6, 0.7)]
    assert within.reliability(rankings) == pytest.approx(
        1 - np.mean(errors) / np.var([0.5, 0.6, 0.7], ddof=1)
    )
    clear, pairs = within.clear_pairs(rankings)
    assert clear.tolist() == pairs.tolist() == [3]
    assert within.least_regret(rankings) < 0.001  # a chooser who knows them has the best one
    same = ranked(np.full((1, 5), 0.6), np.ones((1, 5)))
    assert within.reliability(same)[0] == 0 and within.clear_pairs(same)[0].sum() == 0
    of_five = 1.163 * np.sqrt(0.24 / 1000)  # expected maximum of five normals
    assert within.least_regret(same) == pytest.approx(of_five, rel=0.1)


# --- the table -----------------------------------------------------------------------------------------------------


def write(folder, kind, model, dataset, rows):
    path = folder / kind / model / f"{dataset}.csv"
    evidence.to_csv(pd.DataFrame(rows).assign(model=model, dataset=dataset), path)


@pytest.fixture
def run(tmp_path):
    """Results of two candidates on two data sets, and of one of another seed."""
    models = {
        "smollm2-135m": 0.5,
        "smollm2-135m+trec6-seed0-abc123": 0.6,
        "smollm2-135m+nyt3-seed1-abc123": 0,
    }
    for (model, value), dataset in itertools.product(models.items(), ("trec50", "nyt3")):
        layers = [{"layer": layer, "value": value + layer / 100} for layer in (10, 30)]
        ours = [
            {"layer": at["layer"], "order": "descending", "rule": "task_rank", "fraction": fraction, "kv": 57, "ntps": at["value"],
             "null_lift": at["value"], "n_texts": 100, "retention_corrected": at["value"], "retention_corrected_pca": at["value"],
             "corrected_refusal": "few rows" if dataset == "nyt3" else None}
            for at in layers for fraction in (0.1, None)
        ]  # fmt: skip
        names = ("gcv_skill", "logme", "h_score", "rankme", "gcv_error")
        of_layers = [dict.fromkeys(names, at["value"]) | {"layer": at["layer"], "n_texts": 100} for at in layers]  # fmt: skip
        conditioned = [
            {"layer": at["layer"], "choice": choice, "kv": 57, "conditioned_lift": at["value"], "conditioned_rank_prefix": 57 - (dataset == "nyt3")}
            for at in layers for choice in ("cv", "grid")
        ]  # fmt: skip
        probes = [
            {"layer": at["layer"], "probe": probe, "split": split, "accuracy": at["value"] + 0.1, "n": 200}
            for at in layers for probe in ("logistic_regression", "ridge") for split in ("train", "test")
        ]  # fmt: skip
        write(tmp_path, "ntps", model, dataset, ours)
        write(tmp_path, "scores", model, dataset, of_layers)
        write(tmp_path, "conditioned", model, dataset, conditioned)
        write(tmp_path, "accuracy/linear_sklearn", model, dataset, probes)
    return tmp_path


def test_a_run_becomes_one_row_a_candidate_data_set_and_layer(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = which_model.measured(run)
    assert len(table) == 8 and set(table["adapter"]) == {BASE, "trec6"}
    table = table.set_index(["which", "dataset", "adapter"])
    assert table.loc[("best", "trec50", "trec6"), ["seen", "layer", "n"]].tolist() == [True, 10, 200]
    assert table["seen"].sum() == 2 and table.loc[("last", "nyt3", BASE), "layer"] == 30
    assert table.loc[("best", "trec50", BASE), "accuracy"] == pytest.approx(0.7)
    assert table.loc[("best", "trec50", BASE), list(SCORES)].to_numpy(float) == pytest.approx(0.6)
    refused = ["retention_corrected", "retention_corrected_pca", "conditioned_lift"]
    assert table.loc[("best", "nyt3"), refused].isna().all(axis=None)
    write(
        run,
        "ntps",
        "smollm2-135m+trec6-seed0-000000",
        "nyt3",
        pd.read_csv(run / "ntps/smollm2-135m/nyt3.csv"),
    )
    for kind in ("scores", "conditioned", "accuracy/linear_sklearn"):
        write(
            run,
            kind,
            "smollm2-135m+trec6-seed0-000000",
            "nyt3",
            pd.read_csv(run / kind / "smollm2-135m/nyt3.csv"),
        )
    with pytest.raises(UserError, match="two adapters of trec6, seed 0"):
        which_model.measured(run)


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def page(table):
        evidence.to_csv(table, tmp_path / "which.csv")
        which_model.main(folder=str(tmp_path), docs=str(tmp_path), permutations=1000)
        judged = pd.read_csv(tmp_path / "which_judged.csv")
        return (tmp_path / "which-model.md").read_text(encoding="utf-8"), judged

    return page


def recomputed(table, judged):
    """Points of every score, layer and reading by pandas, scipy and loops."""
    for (which, seen), rows in judged.groupby(["layer", "adapters"]):
        here = table[(table["which"] == which) & ((seen == "in") | ~table["seen"])]
        here = here[(seen != "alone") | (here["adapter"] != BASE)]
        for score in SCORES:
            found = []
            for (group, _), part in here.groupby(["group", "dataset"]):
                known = part[part[score].notna()]
                if len(known) >= 3:
                    lost = part["accuracy"].max() - known.loc[known[score].idxmax(), "accuracy"]
                    rho = spearmanr(known[score], known["accuracy"]).statistic
                    found.append({"group": group, "rho": rho, "regret": lost, "hits": lost == 0})
            means = pd.DataFrame(found).groupby("group").mean()
            row = rows.set_index("score").loc[score]
            assert row["groups"] == len(means)
            for name in ("rho", "regret", "hits"):
                assert row[name] == pytest.approx(means[name].mean(), abs=1e-5)
        chance = here.groupby(["group", "dataset"])["accuracy"].agg(
            lambda values: values.max() - values.mean()
        )
        lost = rows.set_index("score").loc["chance", "regret"]
        assert lost == pytest.approx(chance.groupby("group").mean().mean(), abs=1e-5)


def test_the_page_of_a_known_answer(page_of):
    table = made()
    page, judged = page_of(table)
    assert "Not complete" not in page and "better than chance: `gcv_skill`; better" in page
    assert "better than the static order: `gcv_skill`; better than the ridge probe: none.**" in page
    assert "What to do: to order models take the cross-validated skill of a ridge probe" in page
    rows = which_model.of(judged, "best", "left out")
    assert rows.loc["gcv_skill", ["rho", "regret", "hits"]].tolist() == [1, 0, 1]
    noise = [name for name in SCORES if name != "gcv_skill"]
    assert (rows.loc[noise, "rho_p_holm"] > 0.05).all() and rows.loc[noise, "rho"].abs().max() < 0.3
    assert rows.loc["retention_corrected", "groups"] == 10 and rows.loc["ntps", "groups"] == 11
    recomputed(table, judged)


def test_three_candidates_are_a_page_that_says_what_is_missing(page_of):
    page, judged = page_of(made(count=3))
    assert "\n\n**Not complete: 3 of 13 candidates** (not yet: trec6, " in page
    assert "With so few candidates no mean ρ would be significant." in page and "not known yet" in page
    assert "nan" not in page
    assert set(judged["score"]) == {*SCORES, "static order", "no adapter always", "chance"}


def test_pairs_that_are_missing_are_left_out(page_of):
    table = made()
    part = table[(table["adapter"] != "icd10") | (table["dataset"] != "trec6")]
    page, judged = page_of(part)
    assert "**Not complete: 13 of 13 candidates**, 155 of their 156 pairs with a data set." in page
    recomputed(part, judged)


def test_the_model_without_an_adapter_may_be_missing(page_of):
    page, judged = page_of(made(count=5).query(f"adapter != '{BASE}'"))
    assert "(not yet: no adapter, " in page and "- by always keeping the model" in page and "nan" not in page
    assert judged.set_index("score").loc["no adapter always", "regret"].isna().all()


def test_fewer_than_three_candidates_are_an_error(page_of, tmp_path):
    with pytest.raises(UserError, match="3 candidates and two groups of data sets are needed"):
        page_of(made(count=2))
    with pytest.raises(UserError, match="run make which"):
        which_model.main(folder=str(tmp_path / "none"), docs=str(tmp_path))


def test_the_plan_is_on_the_page_as_it_was_committed():
    files = (ROOT / "docs/which-model.md", ROOT / "report/which_model.template.md")
    page, template = (path.read_text(encoding="utf-8").partition("**Candidates.**")[2] for path in files)
    assert page == template != ""


@pytest.mark.skipif(not (TABLES / "which.csv").exists(), reason="not run yet")
def test_the_committed_page_is_what_the_committed_tables_say():
    table, judged = pd.read_csv(TABLES / "which.csv"), pd.read_csv(TABLES / "which_judged.csv")
    assert which_model.page(table, judged) == (ROOT / "docs/which-model.md").read_text(encoding="utf-8")
    recomputed(table, judged)


def test_the_two_models_are_compared_at_their_own_best_layers():
    """By pandas and scipy from the committed tables: the layer of lowest gcv_error, the logistic probe's accuracy there."""
    best, probes, facts = (pd.read_csv(TABLES / f"{name}.csv") for name in ("best", "probes", "facts"))
    best = best.sort_values("gcv_error").drop_duplicates(["model", "dataset"])
    probes = probes[probes["probe"] == "logistic_regression"][["model", "dataset", "layer", "accuracy"]]
    both = best.merge(probes, on=["model", "dataset", "layer"]).pivot(index="dataset", columns="model")
    groups = facts.drop_duplicates("dataset").set_index("dataset")["group"]
    gap = (both["accuracy", "gemma3-270m"] - both["accuracy", "smollm2-135m"]).dropna()
    page = (ROOT / "docs/which-model.md").read_text()
    assert (
        f"is above that of SmolLM2-135M on {(gap > 0).sum()}, by {100 * gap.mean():.1f} points on average "
        f"(standard error {100 * gap.std() / len(gap) ** 0.5:.1f};" in page
    )
    skill = both["gcv_skill", "gemma3-270m"] - both["gcv_skill", "smollm2-135m"]
    means = pd.concat([skill, gap], axis=1).groupby(groups).mean()
    assert f"higher for it on {(skill > 0).sum()} of {len(gap)}, NTPS" in page
    assert f"+{spearmanr(*means.to_numpy().T)[0]:.2f} for skill ({len(means)} groups)" in page
