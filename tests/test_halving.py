"""Successive halving: simulated races whose truth is known, and real ones of tiny models against full measurement."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import ntps
import prescreen
from ntps.errors import UserError
from ntps.evaluation.halving import ERROR_RATE, race, schedule
from ntps.flags import Prescreening
from ntps.models import loading
from ntps.moments.lazy_model import LazyModel
from ntps.prescreening.ranking import Ranking, reach
from ntps.run import cli
from tests.tiny import tiny_model, tiny_texts

RACES, PARTS, ROWS = 200, 8, 40  # held-out rows in a part


class Simulated:
    """Losses of candidates on held-out rows, skewed and correlated as squared errors are; falling with the parts seen."""

    def __init__(self, truths, seed):
        draw = np.random.default_rng(seed)
        shared = draw.exponential(size=(PARTS * ROWS, 1)) - 1
        own = draw.exponential(size=(PARTS * ROWS, len(truths))) - 1
        self.rows = np.asarray(truths) + 0.3 * shared + 0.3 * own
        self.passes = 0

    def measure(self, name, new):
        self.passes += len(new) / PARTS
        return self.rows[: new.stop * ROWS, int(name)] + 0.5 / new.stop

    @property
    def equals(self):
        """The winner of full measurement, and those that it calls tied with it, as the ranked table does."""
        winner = self.rows.mean(0).argmin()
        gaps = self.rows - self.rows[:, [winner]]
        error = gaps.std(0, ddof=1) / math.sqrt(len(gaps))
        return [str(winner), *map(str, np.flatnonzero(gaps.mean(0) <= reach(len(error)) * error))]


def races(truths, budget):
    """Shares of races in which all of `equals` are dropped, the winner is dropped as significantly behind, the truly best is; and
    the mean number of full passes."""
    found = []
    for seed in range(RACES):
        world = Simulated(truths, seed)
        dropped = race([*map(str, range(len(truths)))], PARTS, budget, world.measure)
        behind = {name for name, one in dropped.items() if one.significant}
        winner, *_ = equals = world.equals
        lost = all(name in dropped for name in equals)
        found.append((lost, winner in behind, str(np.argmin(truths)) in behind, world.passes))
        assert world.passes <= budget + 1e-9
    return np.mean(found, 0)


SPREAD = np.linspace(0.3, 0.8, 20)
TIES = np.where(np.arange(20) < 8, 0.3 + 1e-4 * np.arange(20), SPREAD)
FEW_AT_THE_TOP = np.where(np.arange(20) < 3, 0.3 + 0.01 * np.arange(20), 0.6)


@pytest.mark.parametrize("truths", [SPREAD, TIES, FEW_AT_THE_TOP, np.full(20, 0.5)])
@pytest.mark.parametrize("budget", [math.inf, 20 / 3])
def test_the_winner_is_not_lost(truths, budget):
    """Lost is the winner of full measurement that is dropped together with all that full measurement cannot rank below it."""
    lost, winner_behind, best_behind, _ = races(truths, budget)
    assert lost <= ERROR_RATE and winner_behind <= ERROR_RATE
    assert best_behind <= binom.isf(0.01, RACES, ERROR_RATE) / RACES


def test_what_is_clearly_behind_costs_little_without_a_budget():
    assert races(FEW_AT_THE_TOP, math.inf)[-1] < 20 / 3


def test_rounds_double():
    assert [schedule(parts) for parts in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 3, 5], [1, 2, 4, 8]]


def test_equal_candidates_go_on_until_the_budget_is_spent():
    seen = dict.fromkeys("abcd", 0)

    def measure(name, new):
        seen[name] += len(new)
        return np.ones(10)

    assert race("abcd", 4, math.inf, measure) == {} and set(seen.values()) == {4}
    seen.update(dict.fromkeys("abcd", 0))
    dropped = race("abcd", 4, 2, measure)
    assert seen == {
        "a": 4,
        "b": 1,
        "c": 1,
        "d": 1,
    }  # 4 of 8 parts in the first round; a second one would leave none for the end
    assert all(not one.significant and (one.round, one.leader) == (1, "a") for one in dropped.values())
    with pytest.raises(
        UserError, match="4 models on 1/4 of the rows.*take 1.8 passes.*budget is 1.5: raise --budget"
    ):
        race("abcd", 4, 1.5, measure)


def test_one_that_fails_ends_its_own_race():
    failing = {("a", 1), ("b", 2)}
    dropped = race("abc", 4, math.inf, lambda name, new: None if (name, new.stop) in failing else np.ones(9))
    assert dropped == {}
    assert race("abc", 4, math.inf, lambda name, new: None) == {}


# --- real passes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models, two that are too narrow, and one that is not there, in a race: (folder, models, rows, ranking)."""
    folder = tmp_path_factory.mktemp("race")
    for name, width, seed in (("a", 48, 0), ("b", 48, 1), ("c", 8, 2), ("d", 8, 3)):
        tiny_model(folder / name, d=width, seed=seed)
    models, rows = [*(str(folder / name) for name in "abcd"), "nowhere"], tiny_texts(800, 3, 0)
    race = ntps.rank(models, *rows, output=str(folder / "out"), name="my", budget=3, label_permutations=39)
    return folder, models, rows, race


def test_what_is_not_dropped_is_measured_as_without_a_budget(world, tmp_path):
    _, models, rows, race = world
    parts = race.flags.partitions
    full = ntps.rank(
        models[:2], *rows, output=str(tmp_path), name="my", label_permutations=39, partitions=parts
    )
    assert len(race.measured) == 2
    for ours, theirs in zip(race.measured, full.measured):
        assert ours.row.keys() == theirs.row.keys()
        for name, value in theirs.row.items():
            if isinstance(value, float) and name != "seconds":
                value = pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True)
            if name == "learning_curve":
                assert ours.row[name]["rows"] == value["rows"]
                assert ours.row[name]["skill"] == pytest.approx(value["skill"], rel=1e-6)
            else:
                assert name in ("seconds", "layer_skills") or ours.row[name] == value, name
    assert race.probe().score(rows[0][:60], rows[1][:60]) > 0.8


def test_dropped_and_failed_models_are_rows_with_their_reasons(world):
    folder, _, _, race = world
    table, parts = race.table.set_index("model"), race.flags.partitions
    for name in ("c", "d"):
        (row,) = (one for one in race.others if one["model"].startswith(name))
        assert row["round"] == 1 and row["n_train"] == 600 // parts and row["n_test"] == 200 // parts
        assert "behind" in row["dropped"] and f"round 1, on {600 // parts} train" in row["dropped"]
        assert row["behind"] > 2 * row["behind_se"] > 0 and table["dropped"][row["model"]] == row["dropped"]
    assert table["dropped"]["nowhere"].startswith("failed: unknown model")
    assert table["n_train"].tolist()[:4] == [600, 600, 600 // parts, 600 // parts]
    page = race.report(folder / "page.html").read_text()
    assert all(row["model"] in page and row["dropped"][:20] in page for row in race.others)


def test_again_no_pass_is_made_from_the_command_line(world, capsys):
    folder, models, _, race = world
    flags = [
        "--models",
        *models,
        "--train",
        str(folder / "out/data/my.jsonl"),
        "--text",
        "text",
        "--label",
        "label",
    ]
    flags += ["--output", str(folder / "out"), "--label_permutations", "39", "--budget", "3"]
    for _ in range(2):
        assert cli.run(prescreen.main, flags) == 1  # one model is not there
        said = capsys.readouterr()
        assert "tokens/s" not in said.out and "error: nowhere: unknown model" in said.err
        assert "not measured on all rows: 0." in said.out
    found = json.loads((folder / "out/my.json").read_text())["record"]
    assert [row["model"] for row in found["dropped"]] == [row["model"] for row in race.others]
    assert [row["model"] for row in found["models"]] == [one.row["model"] for one in race.measured]
    csv = pd.read_csv(folder / "out/my.csv")
    assert csv["rank"].notna().tolist() == [True, True, False, False, False]
    assert csv["round"].fillna(0).tolist() == [0, 0, 1, 1, 0]


def test_results_of_other_settings_are_refused_before_any_pass(world, tmp_path, capsys):
    _, models, rows, _ = world
    few = {"output": str(tmp_path), "name": "my", "label_permutations": 0, "limit": 80, "layers": "3"}
    ntps.rank(models[0], *rows, partitions=2, **few)
    capsys.readouterr()
    race = ntps.rank(models[:2], *rows, budget=1.5, **few)
    assert "partitions" in race.failed[models[0]] and "Use another --output" in race.failed[models[0]]
    again = ntps.rank(models[:2], *rows, budget=1.5, overwrite=True, **few)
    assert not again.failed and again.measured


def test_between_rounds_a_candidate_keeps_its_tokens_but_neither_weights_nor_tokenizer(
    world, tmp_path, monkeypatch
):
    reads, calls = loading.load_tokenizer, []
    monkeypatch.setattr(
        loading,
        "load_tokenizer",
        lambda spec, *rest, **more: calls.append(spec) or reads(spec, *rest, **more),
    )
    ranking = Ranking(
        Prescreening(
            models=world[1][:2],
            train=str(world[0] / "out/data/my.jsonl"),
            output=str(tmp_path),
            budget=1.5,
            limit=80,
            label_permutations=0,
        )
    )
    ranking.race(world[1][0], range(1))
    (read,) = calls
    ranking.race(world[1][0], range(1, 2))
    candidate = ranking.candidates[world[1][0]]
    assert calls == [read] and candidate.row["n_train"] == 2 * (80 // ranking.parts)
    assert not {"encoder", "tokenizer"} & vars(candidate.source).keys()
    ranking.race(world[1][1], range(1))  # a model with the same tokenizer
    assert calls == [read] and ranking.candidates[world[1][1]].row["n_train"] == 80 // ranking.parts
    shorter = LazyModel(world[1][1], None, "cpu", None, 5, "0", [candidate.source])
    assert shorter.max_length == 5 and not shorter.tokenized
    same = LazyModel(world[1][1], None, "cpu", None, None, "0", [shorter, candidate.source])
    assert same.tokenized is candidate.source.tokenized  # not of the first alone
    calls.pop()
    candidate.source.tokenize(["of other texts"])
    assert len(calls) == 2


def test_first_rows_of_one_class_tell_nothing_of_a_model(world, tmp_path):
    texts = world[2][0]
    labels = ["other" if place in (100, 500) else "same" for place in range(len(texts))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        race = ntps.rank(world[1][:3], texts, labels, output=str(tmp_path), budget=1.5, label_permutations=0)
    assert race.others
    for row in race.others:
        assert math.isnan(row["heldout_skill"]) and row["dropped"].endswith("test rows of one class")


def test_a_round_has_two_test_rows_at_least(world, tmp_path):
    rows = [part[:40] for part in world[2]]  # of which 10 are test's
    race = ntps.rank(
        world[1][:2], *rows, output=str(tmp_path), budget=1.3, partitions=20, label_permutations=0
    )
    assert race.parts == 5 and all(row["n_test"] >= 2 for row in race.others)


def test_a_budget_that_no_race_can_keep(world, tmp_path):
    with pytest.raises(UserError, match="--budget 1.0: must be above 1"):
        ntps.rank(world[1], *world[2], output=str(tmp_path), budget=1.0)
    assert prescreen.Flags(models=[*"abcdefghijklmnopqrst"], budget=5).partitions == 16
    assert prescreen.Flags(models=["a"], budget=5).partitions == 5


@pytest.mark.parametrize(
    ("parts", "count", "budget"), [(25, 5, 1.16), (50, 9, 1.16), (45, 19, 1.4), (85, 35, 1.4)]
)
def test_of_the_least_budget_one_reaches_the_end(parts, count, budget):
    """budget * parts is rounded, and may fall short of a whole number of parts by a last digit."""
    seen = dict.fromkeys(map(str, range(count)), 0)

    def measure(name, new):
        seen[name] += len(new)
        return np.random.default_rng(int(name)).normal(size=new.stop)

    dropped = race(list(seen), parts, budget, measure)
    assert set(seen) - set(dropped) and max(seen.values()) == parts
    assert sum(seen.values()) <= budget * parts + 1e-9
