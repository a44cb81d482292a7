"""Power laws fitted to learning curves: known truth, coverage of the interval, refusals; skill over partitions."""

import math
from functools import reduce

import numpy as np
import pytest
from scipy.optimize import curve_fit

from ntps.evaluation.learning_curve import Extrapolation, SkillCurve, extrapolate, skill_curve
from ntps.prescreening import measure
from ntps.scores import probes
from ntps.scores.layer_moments import LayerMoments
from tests.synthetic_moments import moments_of, moments_of_numbers, random_texts


def law(x, a, b, c):
    return a - b * np.asarray(x, float) ** -c


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.9, 0.8, 0.5), (0.7, 2.0, 1.0), (0.5, -1.0, 0.7), (0.8, 0.0, 1.0)]
)
def test_a_law_without_noise_is_continued(a, b, c):
    x = np.arange(1, 9) * 100
    found = extrapolate(x, law(x, a, b, c), 1600)
    assert found.value == pytest.approx(law(1600, a, b, c), abs=2e-4) and not found.reason
    assert found.low <= found.value <= found.high and found.high - found.low < 2e-3


def test_value_is_that_of_scipys_least_squares():
    x, noise = np.arange(1, 13) * 50, 0.01 * np.random.default_rng(1).normal(size=12)
    y = law(x, 0.9, 3, 0.6) + noise
    fitted, _ = curve_fit(law, x, y, p0=(0.8, 2, 0.5), bounds=([-9, -99, 0.05], [9, 99, 5]))
    assert extrapolate(x, y, 1200).value == pytest.approx(law(1200, *fitted), abs=1e-4)  # a grid of c


@pytest.mark.parametrize("points", [6, 8, 20])
@pytest.mark.parametrize(("a", "b", "c"), [(0.9, 2.0, 0.4), (0.7, 5.0, 1.0), (0.8, 0.0, 1.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(points, a, b, c):
    draw, x, hits, refused = np.random.default_rng(5), np.arange(1, points + 1) * 100, [], 0
    for _ in range(400):
        found = extrapolate(x, law(x, a, b, c) + 0.01 * draw.normal(size=points), 2 * x[-1])
        refused += bool(found.reason)
        hits += [] if found.reason else [found.low <= law(2 * x[-1], a, b, c) <= found.high]
    assert refused <= 400 * 0.03  # 1 % of true laws, and chance
    assert 0.86 <= np.mean(hits) <= 0.97


def test_what_is_no_power_law_is_refused_or_left_wide():
    x, wiggle = np.arange(1, 11), 1e-3 * np.cos(9 * np.arange(1, 11))
    for y in (1 / (1 + np.exp(-3.0 * (x - 9))), 0.5 + 0.3 * (x == 10)):
        found = extrapolate(x, y + wiggle, 20)
        assert math.isnan(found.value) and math.isnan(found.low)
        assert "no power law: the last point" in found.reason
    rise_and_fall = extrapolate(x, np.minimum(0.1 * x, 2.1 - 0.2 * x) + wiggle, 20)
    assert rise_and_fall.reason or rise_and_fall.high - rise_and_fall.low > 0.3


def test_too_few_points_are_refused():
    assert "4 points; at least 5" in extrapolate([1, 2, 3, 4], [1, 2, 3, 4], 8).reason
    assert "5 points" not in extrapolate([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 10).reason
    with_gap = extrapolate([1, 2, 3, 4, 5], [math.nan, 2, 3, 4, 5], 10)
    assert "4 points" in with_gap.reason and math.isnan(with_gap.value)


def test_an_increase_is_the_difference_of_two_values_and_its_interval_covers_it():
    draw, x, hits = np.random.default_rng(3), np.arange(1, 13) * 100, []
    for _ in range(200):
        y = law(x, 0.9, 2.0, 0.4) + 0.01 * draw.normal(size=12)
        increase = extrapolate(x, y, 2400, since=1200)
        if increase.reason:
            continue
        assert increase.value == pytest.approx(extrapolate(x, y, 2400).value - extrapolate(x, y, 1200).value)
        hits.append(increase.low <= law(2400, 0.9, 2, 0.4) - law(1200, 0.9, 2, 0.4) <= increase.high)
    assert 0.86 <= np.mean(hits) <= 0.97


def test_skill_over_partitions_is_that_of_the_rows_together():
    texts, labels = random_texts(n=400, d=6, seed=2)
    test = moments_of(*random_texts(n=200, d=6, seed=2))[0]
    parts = [moments_of(texts[i::8], labels[i::8])[0] for i in range(8)]
    found = skill_curve(iter(parts), test)
    assert found.rows == [50, 50, 100, 50, 50, 100, 200, 50, 50, 100, 50, 50, 100, 200, 400]
    assert skill_curve(parts[:5], test).rows == [50, 50, 100, 50, 50, 100, 200, 50, 250]
    for place, group in ((0, [0]), (2, [0, 1]), (5, [2, 3]), (6, [0, 1, 2, 3]), (14, list(range(8)))):
        own = [i for part in group for i in range(part, 400, 8)]
        train = moments_of([texts[i] for i in own], labels[own])[0]
        skill = probes.skill(probes.ridge(train), train, test)
        assert found.skill[place] == pytest.approx(skill, abs=1e-9)
    both = parts[0].joined(parts[1])
    assert both.text_count == 100 and both.class_counts.sum() == 100


def test_of_few_rows_a_dimension_in_the_smallest_part_the_gain_is_open_upwards():
    """In rows of as many dimensions as a part has rows skill rises ever faster: sixteen parts hid it (nominal 95 %)."""
    draw, d, held = np.random.default_rng(0), 24, []
    directions = draw.normal(size=(d, 2))

    def rows(n):
        x = draw.normal(size=(n, d))
        return moments_of(
            [row[None] for row in x], (x @ directions + 3 * draw.normal(size=(n, 2))).argmax(1)
        )[0]

    many = rows(4000)
    for _ in range(10):
        found = skill_curve([rows(5) for _ in range(16)], many, 0.95)
        if not found.gain.reason:
            held.append(found.gain.high == pytest.approx(1 - found.skill[-1]))
    assert len(held) >= 3 and all(held)
    parts = [rows(20) for _ in range(16)]
    assert skill_curve(parts, many, 0.95).gain.high < 0.5


def test_what_partitions_cannot_show():
    texts, labels = random_texts(n=40, d=4, seed=2)
    one, two = (moments_of(texts[i::2], labels[i::2])[0] for i in range(2))
    assert (
        "0 points" in skill_curve([], one).gain.reason
        and "3 points" in skill_curve([one, two], one).gain.reason
    )
    same = moments_of(texts, np.zeros(40, int))[0]  # one class, as in test: the guess is never wrong
    assert skill_curve([same, same], same).skill == [0, 0, 0]


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_a_numeric_target_has_no_say(unit):
    texts, labels = random_texts(n=400, d=6, seed=2)
    numbers = labels - labels.mean()
    found = []
    for scale in (1, unit):
        parts = [moments_of_numbers(texts[i::8], scale * numbers[i::8]) for i in range(8)]
        found.append(skill_curve(parts[1:], parts[0]))
    assert found[1].skill == pytest.approx(found[0].skill, abs=1e-9) and found[0].skill[-1] > 0.1
    assert found[1].gain.high == pytest.approx(found[0].gain.high, abs=1e-6)


@pytest.mark.parametrize(("partitions", "noise"), [(5, 4.0), (8, 4.0), (5, 1e6)])
def test_the_interval_of_twice_as_many_rows_covers(partitions, noise):
    """What twice the rows bring on average, of 90 % intervals, and that without signal few promise anything."""
    draw, d, n = np.random.default_rng(0), 20, 480
    directions = draw.normal(size=(d, 3))

    def rows(count):
        x = draw.normal(size=(count, d))
        return moments_of(
            [row[None] for row in x], (x @ directions + noise * draw.normal(size=(count, 3))).argmax(1)
        )[0]

    gains, found, many = [], [], rows(20_000)
    for _ in range(40):
        parts = [rows(n // partitions) for _ in range(2 * partitions)]
        halves = [reduce(LayerMoments.joined, parts[:partitions]), reduce(LayerMoments.joined, parts)]
        once, twice = (probes.skill(probes.ridge(train), train, many) for train in halves)
        gains.append(twice - once)
        found.append(skill_curve(parts[:partitions], rows(300)).gain)
    truth = np.mean(gains)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.85
    promising = np.mean([one.low > 0 for one in found])
    assert promising <= 0.1 if noise > 1e3 else promising >= 0.8


def test_twice_as_many_rows_bring_what_was_said():
    """Labels of a linear law with noise: the skill of twice the rows is measured, too."""
    draw, hits = np.random.default_rng(0), []
    directions, d = draw.normal(size=(30, 3)), 30

    def rows(n):
        x = draw.normal(size=(n, d))
        return [row[None] for row in x], (x @ directions + 4 * draw.normal(size=(n, 3))).argmax(1)

    test = moments_of(*rows(20_000))[0]
    for _ in range(20):
        parts = [moments_of(*rows(60))[0] for _ in range(16)]
        found = skill_curve(parts[:8], test)
        hits.append(abs(skill_curve(parts, test).skill[-1] - found.skill[-1] - found.gain.value) < 0.03)
        assert found.gain.low < found.gain.value < found.gain.high
    assert np.mean(hits) >= 0.9


def test_no_gain_is_above_what_is_left_to_a_skill_of_one(monkeypatch):
    curve = SkillCurve([100, 200], [0.6, 0.7], Extrapolation(0.06, -0.06, 0.68))
    monkeypatch.setattr(measure, "skill_curve", lambda *_: curve)
    row = measure.doubling([], None)
    found = [row["doubling_gain"], row["doubling_gain_low"], row["doubling_gain_high"]]
    assert found == pytest.approx([0.06, -0.06, 0.3])


def of_states(X: np.ndarray, Y: np.ndarray) -> LayerMoments:
    n = len(X)
    return LayerMoments(
        mean_second_moment=X.T @ X / n, mean_label_moment=X.T @ Y / n, mean_state=X.mean(0), class_counts=Y.sum(0),
        label_second_moment=float((Y**2).sum() / n), text_count=n,
    )  # fmt: skip


@pytest.mark.parametrize(("per_dimension", "law_holds"), [(1.5, False), (4, True)])
def test_with_few_rows_a_dimension_the_law_is_a_lower_end_alone(per_dimension, law_holds):
    d, draw = 60, np.random.default_rng(0)
    n, scale = int(d * per_dimension), np.arange(1, d + 1) ** -0.5
    direction = draw.normal(size=d) / np.linalg.norm(scale)

    def rows(count):
        X = draw.normal(size=(count, d)) * scale
        return X, np.eye(2)[(X @ direction + 0.7 * draw.normal(size=count) > 0).astype(int)]

    test = of_states(*rows(20_000))

    def expected(count):
        some = (of_states(*rows(count)) for _ in range(60))
        return np.mean([probes.skill(probes.ridge(one), one, test) for one in some])

    truth, own, given = expected(2 * n) - expected(n), [], []
    while len(own) < 40:
        X, Y = rows(n)
        curve = skill_curve([of_states(X[k::5], Y[k::5]) for k in range(5)], test, 0.95)
        law = extrapolate(curve.rows, curve.skill, 2 * n, 0.95, since=n)
        if law.reason:
            assert curve.gain == law
            continue
        own.append(law.low <= truth <= law.high)
        given.append(curve.gain.low <= truth <= curve.gain.high)
        assert (curve.gain.value, curve.gain.low) == (law.value, law.low)

    assert np.mean(given) >= 0.9
    assert (np.mean(own) >= 0.9) == law_holds
