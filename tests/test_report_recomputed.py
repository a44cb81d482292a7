"""Points, intervals and p of docs/reproduction.md, computed again from the committed tables by pandas, numpy and scipy alone."""

import re
import warnings
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, linregress, norm, rankdata, t

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "results/mini"
EVIDENCE = ROOT / "results/evidence"
PUBLISHED = ROOT / "results/published"
MODEL = "smollm2-135m"
PAGE = (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
DETAILS = (ROOT / "docs/reproduction-details.md").read_text(encoding="utf-8")
TEXT, DETAILS_TEXT = (" ".join(text.split()) for text in (PAGE + DETAILS, DETAILS))  # on one line
OF_SUBSPACES = ["excess", "ntps", "null_lift", "retention", "retention_adjusted"]
OF_LAYERS = [
    *["gcv_error", "gcv_skill", "h_score", "logme"],
    *["ols_train_mse", "rankme", "ridge_train_mse", "ridge_train_skill"],
]
SCORES = OF_SUBSPACES + OF_LAYERS
SIGN = {"excess": -1, "ridge_train_mse": -1, "ols_train_mse": -1, "gcv_error": -1}  # lower is better
CLAIMS = {  # words of a claim's row: the column of `points` that is larger for a higher NTPS if the claim holds
    "tracks the linear probe's accuracy": "accuracy",
    "tracks the probe's MSE": "less_mse",
    "small gain by LoRA, over the probe": "less_gain",
    "over the last layer's head": "less_gain_over_head",
}
COLUMNS = {"accuracy": "probe accuracy", "less_gain": "LoRA's gain"}  # of the table of scores


def orders_of(n):
    """The orders of n groups that are drawn."""
    return np.random.default_rng(42).permuted(np.tile(np.arange(n), (10_000, 1)), axis=1)


ORDERS = orders_of(11)


# --- tables and pages -----------------------------------------------------------------------------------------------


def read(kind, model=MODEL):
    parts = [pd.read_csv(path) for path in sorted(TABLES.glob(f"{kind}/{model}/*.csv"))]
    return pd.concat(parts, ignore_index=True)


def swept(run="", model=MODEL, order="descending", rule="task_rank"):
    """Every layer and k, which are shares and, with rule task_rank, also d/10, there without a fraction."""
    sweep = read(f"{run}ntps", model)
    return sweep[(sweep["order"] == order) & (sweep["rule"] == rule)]


def at_tenth(run="", model=MODEL):
    """A row a data set and layer: its scores, those of subspaces at kv = d/10."""
    sweep = swept(run, model)
    sweep = sweep[sweep["fraction"].isna()]
    assert (sweep["chance"] - 0.1).abs().max() < 0.01
    return read(f"{run}scores", model).merge(sweep, on=["dataset", "layer"], suffixes=("", "_"))


def at_best(table):
    """The rows of each data set's layer of the lowest gcv_error."""
    table = table.dropna(subset="gcv_error")
    return table.loc[table.groupby("dataset")["gcv_error"].idxmin()].set_index("dataset")


def at_last(table):
    return table[table["layer"] == table["layer"].max()].set_index("dataset")


def probed(best, probe, split="test", value="accuracy"):
    """What a probe reaches at each data set's best layer."""
    probes = read("accuracy/linear_sklearn")
    probes = probes[(probes["split"] == split) & (probes["probe"] == probe)].set_index(["dataset", "layer"])
    return probes.loc[list(zip(best.index, best["layer"])), value].to_numpy()


def trained(method):
    """A trainer's final accuracies on test, means over seeds."""
    runs = read(f"accuracy/{method}")
    return runs[(runs["split"] == "test") & runs["final"]].groupby("dataset")["accuracy"].mean()


def group_of(datasets):
    return datasets.replace({"trec6": "trec", "trec50": "trec"})


def by_group(table):
    """Means over data sets of the same questions."""
    return table.groupby(group_of(table.index.to_series())).mean(numeric_only=True)


@pytest.fixture(scope="module")
def datasets():
    """A row a data set: every score at its best layer, accuracies and gains there."""
    table = at_best(at_tenth())
    assert len(table) == 12
    table = table.assign(
        accuracy=probed(table, "logistic_regression"),
        train_accuracy=probed(table, "logistic_regression", "train"),
        less_mse=-probed(table, "linear_regression", value="mse"),
        head=trained("linear_training"),
        lora=trained("lora_finetuning"),
    )
    gains = {"less_gain": "accuracy", "less_gain_over_head": "head"}
    return table.assign(**{name: table[less] - table["lora"] for name, less in gains.items()})


@pytest.fixture(scope="module")
def points(datasets):
    """Their means over the 11 groups."""
    return by_group(datasets)


def scores_of(points, target):
    """What is judged by a target, higher being better; what LoRA gains, by accuracies too."""
    x = points[SCORES] * pd.Series(SIGN).reindex(SCORES, fill_value=1)
    accuracies = {"probe_accuracy": points["accuracy"], "linear_accuracy": points["head"]}
    return x.assign(**accuracies) if "gain" in target else x


def claim(words):
    """The claim's row of the table."""
    (line,) = (line for line in DETAILS.splitlines() if line.startswith("|") and words in line.split("|")[1])
    return line


def says(where, text):
    """Whether this text is there, and its numbers are no parts of longer ones."""
    return bool(re.search(rf"(?<![\w.+−]){re.escape(text)}(?!\w|\.\d)", where))


def table_of_scores():
    """Its cells, by score and heading."""
    (rows,) = re.findall(
        r"^\| score \| probe accuracy: fixed beforehand.*\n(?:\|.*\n)*", PAGE + DETAILS, re.MULTILINE
    )
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()]
    return pd.DataFrame(rows, columns=head).set_index("score")


def two(value):
    return f"{value:.2f}".replace("-", "−")


# --- statistics -----------------------------------------------------------------------------------------------------


def spearman(x, y, axis=-1):
    """To 12 digits, so that equal ones tie; NaN where one side is all the same."""
    ranks = [rankdata(values, axis=axis) for values in (x, y)]
    a, b = (values - values.mean(axis, keepdims=True) for values in ranks)
    with np.errstate(invalid="ignore"):
        r = (a * b).sum(axis) / np.sqrt((a**2).sum(axis) * (b**2).sum(axis))
    return r.round(12)


def correlation(x, y, axis=-1):
    return np.nan_to_num(spearman(x, y, axis))


def ends(statistic, *samples):
    """Of the 90 % BCa interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            confidence_level=0.9,
            n_resamples=10_000,
            rng=42,
        )
    return found.confidence_interval


def printed(x, y):
    """As the page has it: 0.96 [0.76, 1.00]."""
    x, y = np.asarray(x), np.asarray(y)
    low, high = ends(correlation, x, y)
    return f"{two(correlation(x, y))} [{two(low)}, {two(high)}]"


def p_value(found, drawn):
    """Two-sided: twice the smaller side's share, what was found counted as one draw; an undefined draw is on both sides."""
    drawn = np.where(np.isnan(drawn), found, drawn)
    smaller = min(np.sum(drawn >= found), np.sum(drawn <= found))
    return min(1, 2 * (1 + smaller) / (1 + len(drawn)))


def holm(p):
    """From the smallest on: p times the number of tests that are left, and at least what the one before has."""
    p = p.sort_values()
    return (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1)


def p_text(tests, score):
    return f"p {tests['p'][score]:.2g}, after Holm {tests['holm'][score]:.2g}"


def permuted(points, target):
    """p of every score, by the orders of the groups."""
    y = points[target].to_numpy()
    p = {
        name: p_value(spearman(x, y), spearman(x, y[ORDERS])) for name, x in scores_of(points, target).items()
    }
    return pd.DataFrame({"p": p, "holm": holm(pd.Series(p))})


# --- layer and k fixed beforehand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", COLUMNS)
def test_a_scores_correlations_are_those_of_the_tables(points, target):
    cells = table_of_scores()[f"{COLUMNS[target]}: fixed beforehand"]
    x, y = scores_of(points, target), points[target].to_numpy()
    significant = permuted(points, target)["holm"] <= 0.05
    assert set(cells[cells != "-"].index) == set(x)
    for score in x:
        low, high = ends(correlation, x[score].to_numpy(), y)
        star = " *" * bool(significant[score] and not low <= 0 <= high)
        assert cells[score] == printed(x[score], y) + star, score


@pytest.mark.parametrize("words", CLAIMS)
def test_the_claims_are_those_of_the_tables(points, words):
    target = CLAIMS[words]
    text = f"{printed(points['ntps'], points[target])}, {p_text(permuted(points, target), 'ntps')}"
    assert says(claim(words), text)


def test_a_claim_is_not_measurable_where_ntps_is_too_noisy(datasets, points):
    """Its squared standard errors against its variance over groups, and the least correlation that Holm's first step would pass."""
    groups = (datasets["ntps_se"] ** 2).groupby(group_of(datasets.index.to_series()))
    reliability = 1 - (groups.mean() / groups.count()).mean() / points["ntps"].var()
    for words, target in CLAIMS.items():
        tests = permuted(points, target)
        drawn = spearman(points["ntps"].to_numpy(), points[target].to_numpy()[ORDERS])
        least = min(r for r in np.unique(drawn) if r > 0 and p_value(r, drawn) <= 0.05 / len(tests))
        assert tests["holm"]["ntps"] > 0.05 and reliability**0.5 < least
        assert says(claim(words), f"not measurable: reliability {two(reliability)}")


# --- layer and k held out -------------------------------------------------------------------------------------------


def candidates(order="descending", rule="task_rank"):
    """Every score at every layer and k (d/10 is last), by group, higher being better."""
    sweep = swept(order=order, rule=rule)
    parts = (
        (sweep.assign(k=sweep["fraction"].fillna(1)), OF_SUBSPACES),
        (read("scores").assign(k=0), OF_LAYERS),
    )
    long = pd.concat([table.melt(["dataset", "layer", "k"], names, "score") for table, names in parts])
    long["value"] *= long["score"].map(SIGN).fillna(1)
    long["group"] = group_of(long["dataset"])
    return long.groupby(["score", "layer", "k", "group"])["value"].mean().unstack().dropna()


def whole_ranks(values):
    """Doubled and centred: sums of their products are whole, so that equal correlations tie."""
    return (2 * rankdata(values, axis=-1) - values.shape[-1] - 1).astype("float32")


def goodness(x, y):
    """Correlation of each row of x with each of y, but for a factor of the row of y; none where x is all the same."""
    x, y = whole_ranks(x), whole_ranks(y)
    size = np.linalg.norm(x, axis=-1)
    r = y @ x.T
    r /= np.where(size == 0, 1, size)
    r[..., size == 0] = -np.inf
    return r


def held_out(x, y, parts):
    """For each part of x (rows of candidates): which of them goes best with y without a group, the first of those that tie,
    puts a share of the other groups below it. The correlation of these shares with y."""
    shares = {name: [] for name in parts}
    for place in range(x.shape[1]):
        others, own = np.delete(x, place, axis=1), x[:, [place]]
        below = (others < own).mean(1) + (others == own).mean(1) / 2
        good = goodness(others, np.delete(y, place, axis=-1))
        for name, part in parts.items():
            shares[name].append(below[part][good[..., part].argmax(-1)])
    return {name: spearman(np.stack(each, -1), y) for name, each in shares.items()}


def drawn_held_out(x, y, parts):
    """Under the orders drawn."""
    found = [held_out(x, y[orders], parts) for orders in np.split(ORDERS, 20)]
    return {name: np.concatenate([each[name] for each in found]) for name in parts}


@pytest.fixture(scope="module")
def chosen(points):
    """By target: every score's held-out correlation, that of all scores' candidates together, and their p."""
    table = candidates()[points.index]
    names = table.index.get_level_values("score")
    parts = {score: slice(*np.flatnonzero(names == score)[[0, -1]] + [0, 1]) for score in SCORES}
    parts["any"] = slice(None)
    found = {}
    for target in CLAIMS.values():
        y = points[target].to_numpy()
        held, drawn = held_out(table.to_numpy(), y, parts), drawn_held_out(table.to_numpy(), y, parts)
        p = pd.Series({name: p_value(held[name], drawn[name]) for name in parts})
        found[target] = pd.DataFrame({"rho": held, "p": p, "holm": holm(p)})
    return found


@pytest.mark.parametrize("target", COLUMNS)
def test_held_out_correlations_are_those_of_the_tables(chosen, target):
    cells = table_of_scores()[f"{COLUMNS[target]}: held out"]
    own = chosen[target]
    said = {name: two(row["rho"]) + " *" * bool(row["holm"] <= 0.05) for name, row in own.iterrows()}
    assert cells[cells != "-"].to_dict() == said
    best = own["rho"].drop("any").idxmax()
    assert f"{best} ({two(own['rho'][best])}) for " in TEXT


@pytest.mark.parametrize("words", CLAIMS)
def test_held_out_claims_are_those_of_the_tables(chosen, words):
    own = chosen[CLAIMS[words]]
    text = f"{two(own['rho']['ntps'])}, {p_text(own, 'ntps')}"
    assert says(claim(words), text)
    assert own["holm"]["ntps"] > 0.05
    assert re.search(rf"{re.escape(text)}[^|;]*not significant", claim(words))


def searched(x, y):
    """The largest correlation of a row of x with y, and its p, the search repeated under every order drawn."""
    found, drawn = (spearman(x[goodness(x, targets).argmax(-1)], targets) for targets in (y, y[ORDERS]))
    return found, p_value(found, drawn)


def test_what_a_search_adds_is_that_of_the_tables(points, chosen):
    own, train = candidates().loc["ntps"], points["train_accuracy"].to_numpy()
    best, p = searched(own.to_numpy(), points["accuracy"].to_numpy())
    held = chosen["accuracy"]["rho"]["ntps"]
    said = f"search gives {two(best)} (p {two(p)} once the search is counted), held out {two(held)}: the gap of {two(best - held)} is"
    assert said in TEXT
    released = candidates("released", "fraction").loc["ntps"].to_numpy()
    best, p = searched(released, train)
    assert f"gives NTPS {two(best)} (p {two(p)} once the search is counted)" in TEXT
    held = held_out(released, train, {"ntps": slice(None)})["ntps"]
    assert f"Chosen on the other data sets the same score reaches {two(held)}." in TEXT


def test_what_choices_of_the_released_code_change_is_that_of_the_tables(datasets, points):
    sweep = swept(order="released", rule="fraction").set_index("dataset")
    far = [(rows["ntps"] - rows["label_free"]).abs().median() for rows in (sweep, swept())]
    assert f"tr(P M⁺)/tr(M⁺): {far[0]:.1e}, of ours {far[1]:.1e} |" in TEXT
    sweep = sweep[(sweep["fraction"] == 0.1) & (sweep["layer"] == datasets["layer"].loc[sweep.index])]
    released, accuracy = by_group(sweep[["ntps"]])["ntps"], points["accuracy"]
    said = f"{printed(released, accuracy)}, instead of {printed(points['ntps'], accuracy)} |"
    assert f"fixed beforehand: {said}" in TEXT
    assert f"with the released score {printed(released, points['train_accuracy'])} on train |" in TEXT
    train, test, gain, over_head = (
        datasets[name].mean() for name in ("train_accuracy", "accuracy", "less_gain", "less_gain_over_head")
    )
    perfect = (datasets["train_accuracy"] >= 0.99).sum()
    assert f"{train:.3f} on train and {test:.3f} on test; {perfect} of 12 data sets at 99 % or more" in TEXT
    assert f"mean gain {-over_head:.3f}; over a probe of the best layer {-gain:.3f} |" in TEXT


# --- controls -------------------------------------------------------------------------------------------------------


def test_ntps_beside_its_null_is_that_of_the_tables(datasets, points):
    ntps, null = datasets["ntps"], datasets["null_mean"]
    assert f"null at ρ = {printed(points['ntps'], points['null_mean'])}, n = 11" in TEXT
    above = (datasets["p_value"] <= 0.05) & (ntps > null)
    below_all = (datasets["p_value"] == 1) & (ntps < null)  # one-sided, of 20
    assert f"permutations) on {above.sum()} of 12 data sets (0.6 would be by chance), below all" in TEXT
    below = (ntps < null).sum()
    assert f"below all permutations on {below_all.sum()} and below their mean on {below} (" in TEXT
    chance = datasets["chance"].median()
    said = f"runs from {ntps.min():.3f} to {ntps.max():.3f}, random directions would give {chance:.3f}:"
    assert said in TEXT
    drawn = (ntps - null) / datasets["null_std"] / (1 + 1 / 20) ** 0.5
    z = by_group(pd.DataFrame({"z": norm.ppf(t.cdf(drawn, 19))}, datasets.index))["z"]
    assert f"(together p {2 * norm.sf(abs(z.sum()) / len(z) ** 0.5):.2g}, Stouffer's, two-sided)" in TEXT
    kept = (datasets["retention_p_value"] <= 0.05) & (datasets["retention"] > datasets["retention_null"])
    assert f"Retention is above on {kept.sum()}, at a layer" in TEXT
    length = pd.read_csv(TABLES / "label_length.csv").set_index("dataset")
    length = by_group(pd.DataFrame({"length": length["labels"] - length["shuffled"]}))["length"]
    assert f"small directions, ρ = {printed(length, points['ntps'] - points['null_mean'])}, n = 11" in TEXT


def test_ntps_at_other_layers_is_that_of_the_tables(points):
    layers = at_tenth()
    last = by_group(at_last(layers))["ntps"]
    assert f"with probe accuracy at ρ = {printed(last, points['accuracy'])}, n = 11" in TEXT
    first = by_group(layers[layers["layer"] == 0].set_index("dataset"))["null_lift"]
    assert f"where it reaches ρ = {printed(first, points['accuracy'])}, n = 11 here" in TEXT


def mean_change(values):
    """As the page has it: +0.007 [−0.01, 0.03], of the groups' values."""
    low, high = ends(np.mean, values)
    return f"{values.mean():+.3f}".replace("-", "−") + f" [{two(low)}, {two(high)}]"


def flipped(values):
    """p of the mean, by all signs that the values could have."""
    means = (np.array(list(product((-1, 1), repeat=len(values)))) @ values).round(12)
    return min(1, 2 * min(np.mean(means >= means[-1]), np.mean(means <= means[-1])))


def test_the_changes_after_lora_are_those_of_the_tables():
    before, after = at_tenth(), at_tenth("after_lora/", "*")
    scores = ["ntps", "retention", "null_lift", "gcv_skill"]
    at = {
        place: pick(after)[scores] - pick(before)[scores]
        for place, pick in (("best", at_best), ("last", at_last))
    }
    change = pd.concat(at, axis=1).drop(columns=[("last", "gcv_skill")])
    assert change.shape == (12, 7) and change.notna().all(axis=None)
    means = by_group(change)
    p = holm(pd.Series({name: flipped(means[name].to_numpy()) for name in means}))
    said, up, verdict = {}, {}, {}
    for name in means:
        low, high = ends(np.mean, means[name].to_numpy())
        said[name], up[name] = mean_change(means[name].to_numpy()), f"{(change[name] > 0).sum()} of 12"
        shown = p[name] <= 0.05 and not low <= 0 <= high
        verdict[name] = ("holds" if means[name].mean() > 0 else "reversed") if shown else "not significant"
        assert f"{said[name]} ({up[name]}" in DETAILS_TEXT, name
    row = claim("NTPS rises after LoRA")
    for place, layer in (("best", "best layer"), ("last", "last")):
        name = place, "ntps"
        text = re.escape(f"{said[name]} at the {layer} ({up[name]} up)")
        assert re.search(rf"(?<![\w.]){text}[^|;]*{verdict[name]}", row), name


# --- published values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "file", "target"),
    [
        ("tracks the linear probe's accuracy", "fig2_accuracy", "probe_train_accuracy"),
        ("tracks the probe's MSE", "fig2_mse", "probe_train_mse"),
        ("over the last layer's head", "fig3", "lora_gain_linear"),
    ],
)
def test_what_is_said_of_published_values_is_of_their_tables(words, file, target):
    """The values themselves are not there: models' mean, Holm's correction and verdicts are computed again, no p and no interval."""
    table = pd.read_csv(PUBLISHED / f"{file}.csv")
    table = table[table["target"] == target].set_index(["model", "score"])
    p = pd.concat([holm(own["p"]) for _, own in table.groupby("model")])[table.index]
    holds = (table["rho"] > 0) & (p <= 0.05) & ((table["low"] > 0) | (table["high"] < 0))
    own, holds = table.xs("ntps", level="score"), holds.xs("ntps", level="score")
    mean, alone = own.loc["mean of 8 models"], own.drop("mean of 8 models")
    assert len(alone) == 8 and mean["rho"] == pytest.approx(alone["rho"].mean(), abs=1e-9)
    said = f"{two(mean['rho'])} [{two(mean['low'])}, {two(mean['high'])}]"
    verdict = f"holds ({holds[alone.index].sum()} of 8"
    assert holds["mean of 8 models"]
    assert re.search(rf"{re.escape(said)}[^|]*: {re.escape(verdict)}", claim(words))
    if file == "fig2_accuracy":
        assert f"once the search is counted); published {said}." in TEXT and f"({said})" in TEXT


# --- a second model -------------------------------------------------------------------------------------------------


def gains_of(model, seeds):
    """LoRA's mean test accuracy over these seeds less that of the logistic probe at the layer of lowest gcv_error, and retention there."""
    runs, probes, best, facts = (
        pd.read_csv(EVIDENCE / f"{name}.csv") for name in ("lora", "probes", "best", "facts")
    )
    runs = runs[
        (runs["model"] == model) & runs["final"] & (runs["split"] == "test") & runs["seed"].isin(seeds)
    ]
    best = (
        best[best["model"] == model].sort_values("gcv_error").drop_duplicates("dataset").set_index("dataset")
    )
    probes = probes[(probes["model"] == model) & (probes["probe"] == "logistic_regression")]
    probe = probes.set_index(["dataset", "layer"])["accuracy"]
    rows = {}
    for dataset, own in runs.groupby("dataset"):
        layer = best["layer"][dataset]
        refused = isinstance(best["corrected_refusal"][dataset], str)
        rows[dataset] = [
            own["accuracy"].mean() - probe[dataset, layer],
            float("nan") if refused else best["retention_corrected"][dataset],
        ]
    groups = facts[facts["model"] == model].set_index("dataset")["group"]
    return pd.DataFrame(rows, index=["gain", "retention"]).T.assign(group=groups)


def left_out_error(x, y):
    """Root mean square of left_out_errors."""
    return float(np.sqrt(np.mean(np.square(left_out_errors(x, y)))))


def left_out_errors(x, y):
    """What a line through the others misses of each; x None: their mean."""
    missed = []
    for place in range(len(y)):
        others = np.arange(len(y)) != place
        if x is None:
            missed.append(y[place] - y[others].mean())
        else:
            line = linregress(x[others], y[others])
            missed.append(y[place] - line.intercept - line.slope * x[place])
    return np.array(missed)


@pytest.mark.parametrize(("file", "seed"), [("second_model", 0), ("second_model_again", 1)])
def test_the_test_on_a_second_model_is_that_of_the_tables(file, seed):
    first, second = gains_of("smollm2-135m", [0, 1]), gains_of("gemma3-270m", [seed])  # as planned
    both = second.join(first["gain"].rename("first"), how="inner").dropna().groupby("group").mean()
    gain, smaller, retention = (both[name].to_numpy() for name in ("gain", "first", "retention"))
    table = pd.read_csv(EVIDENCE / f"{file}.csv").set_index("predictor")
    assert set(table["groups"]) == {len(both)}
    assert table["rmse_of_mean"].to_numpy() == pytest.approx(left_out_error(None, gain), rel=1e-5)
    for name, x in (("first_gain", smaller), ("retention_corrected", retention)):
        assert table["rmse"][name] == pytest.approx(left_out_error(x, gain), rel=1e-5)
        design = np.column_stack([np.ones_like(x), x])
        hat = design @ np.linalg.pinv(design)
        orders = gain[np.array(list(permutations(range(len(gain)))))]
        missed = (orders - orders @ hat) / (1 - hat.diagonal())  # of left-out groups, of least squares
        reached = np.sqrt(np.square(missed).mean(1)) <= left_out_error(x, gain) * (1 + 1e-9)
        p = reached.mean()  # the page's is of ten thousand orders
        assert table["p"][name] == pytest.approx(p, abs=4 * (p * (1 - p) / 10_000) ** 0.5)
    page = (ROOT / "docs/finetuning.md").read_text()
    if seed:
        mean, other = (f"{100 * left_out_error(x, gain):.1f}" for x in (None, smaller))
        assert (
            f"With them the mean gain is off by {mean} points, SmolLM2-135M's gain on the same data set by {other} (p"
            in page
        )
        return
    apart = left_out_errors(smaller, gain) ** 2 - left_out_errors(None, gain) ** 2
    signs = np.array(list(product((-1, 1), repeat=len(gain))))
    p = np.mean(signs @ apart <= apart.sum() + 1e-15)
    assert f"(p {p:.2g}: one-sided, the signs of the {len(gain)} groups' differences" in page
    assert p > 0.05 and "looked at afterwards, is not significant for" in page
