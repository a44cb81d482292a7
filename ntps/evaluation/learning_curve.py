"""What more labelled rows, or more steps, would bring: a power law fitted to a learning curve, with an interval."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from scipy.stats import f

from ntps.evaluation.correlation import LEVEL
from ntps.scores import probes
from ntps.scores.layer_moments import LayerMoments

EXPONENTS = np.geomspace(0.05, 5, 1000)
LEAST = 5  # points for a law of three numbers
FEW = 3  # rows a dimension: with fewer a ridge probe's skill can rise faster than any power law (tests/test_learning_curve.py)
PARTS = 5  # of the rows that FEW was found with: smaller ones bend the curve as fewer rows do


@dataclass(frozen=True)
class Extrapolation:
    """The law's value further on and its confidence interval; NaN, and why, where no law is fitted."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def extrapolate(
    x: Sequence[float], y: Sequence[float], at: float, level: float = LEVEL, since: float = math.inf
) -> Extrapolation:
    """y at `at` by y = a - b x^-c, least squares over a, b and c in [0.05, 5], with its confidence interval.

    With `since` it is the law's increase from there to `at`. The interval holds the expected y, by profile likelihood:
    every q that the F test at `level` with 1 and n - 3 degrees of freedom lets pass. It takes errors to be independent and of one variance; an error that all points share, as of the
    same few held-out rows, is not in it. No law is fitted to fewer than LEAST points, nor where the last point
    lies outside the 99 % prediction interval of the others' law; a curve of another shape that passes has a wide interval.
    """
    t, values = np.asarray(x, float), np.asarray(y, float)
    if len(t) < LEAST or not np.isfinite(values).all():
        return Extrapolation(reason=f"{np.isfinite(values).sum()} points; at least {LEAST} are needed")
    _, low, high = interval(t[:-1], values[:-1], t[-1], 0.99, new=True)
    if not low <= values[-1] <= high:
        found = f"the last point, {values[-1]:.3f}, is outside {low:.3f} to {high:.3f}"
        return Extrapolation(reason=f"no power law: {found}, which the others' law predicts")
    return Extrapolation(*interval(t, values, at, level, since=since))


def interval(
    t: np.ndarray, y: np.ndarray, at: float, level: float, new: bool = False, since: float = math.inf
) -> tuple[float, float, float]:
    """The law's value at `at` (its increase since `since`), and the interval of its expectation, or with `new` of one more point.

    With c fixed the law is linear: a prediction p(c) of variance v(c) sigma^2, and a residual sum of squares R(c). The
    least sum of squares of a law through q is min_c R(c) + (q - p(c))^2 / v(c); q passes where it is at most
    min_c R(c) (1 + F / (n - 3)).
    """
    scale = at ** -EXPONENTS[:, None]  # so that the law's curve is 1 at `at`
    design = np.stack([np.ones((len(EXPONENTS), len(t))), t ** -EXPONENTS[:, None] / scale], -1)
    Q, R = np.linalg.qr(design)
    target = Q.mT @ y
    before = (since / at) ** -EXPONENTS  # the curve there
    wanted = np.stack([np.full_like(before, math.isinf(since)), 1 - before], -1)
    leverage = np.linalg.solve(R.mT, wanted[..., None])[..., 0]
    p, v = (leverage * target).sum(-1), np.square(leverage).sum(-1) + new
    residual = np.square(y - (Q @ target[..., None])[..., 0]).sum(-1)
    spare = len(t) - 3
    reach = residual.min() * (1 + f.ppf(level, 1, spare) / spare) - residual
    inside, width = reach >= 0, np.sqrt(v * reach.clip(0))
    return float(p[residual.argmin()]), float((p - width)[inside].min()), float((p + width)[inside].max())


@dataclass(frozen=True)
class SkillCurve:
    """Rows, the skill on test of the ridge probe of so many, and how much skill twice all rows are expected to add."""

    rows: list[int]
    skill: list[float]
    gain: Extrapolation


def skill_curve(parts: Iterable[LayerMoments], test: LayerMoments, level: float = LEVEL) -> SkillCurve:
    """From one layer's moments of train in K partitions, read one after the other: no further pass over the rows.

    A point for each group of m = 1, 2, 4 ... consecutive partitions, and the last for all of them: points of one size share no
    train row, so that their spread is that of independent draws. Sets that grow share most of their rows, and intervals
    from them are far too short. Every probe's penalty is by generalized cross-validation on its own rows. Test chooses nothing.
    Of fewer than FEW rows a dimension, or PARTS times fewer in the smallest group, the law gives the lower end of the gain alone: the
    upper one is what is left to a skill of 1.
    """
    points, sums = list[tuple[int, float]](), list[tuple[int, LayerMoments]]()  # of m partitions, m falling

    def add_point(train: LayerMoments) -> None:
        # of one class, or one number: its probe is the guess
        constant = train.centred.power <= 1e-12 * train.label_second_moment
        skill = 0.0 if constant else probes.skill(probes.ridge(train), train, test)
        points.append((train.text_count, skill))

    for part in parts:
        sums.append((1, part))
        add_point(part)
        while len(sums) > 1 and sums[-1][0] == sums[-2][0]:
            (_, other), (m, one) = sums.pop(), sums.pop()
            sums.append((2 * m, one.joined(other)))
            add_point(sums[-1][1])
    if len(sums) > 1:
        add_point(reduce(LayerMoments.joined, (group for _, group in sums)))
    rows, skill = [n for n, _ in points], [value for _, value in points]
    n = rows[-1] if rows else 0
    gain = extrapolate(rows, skill, 2 * n, level, since=n)
    if rows and min(n, PARTS * rows[0]) < FEW * len(test.mean_state) and not math.isnan(gain.value):
        gain = replace(gain, high=max(gain.high, 1 - skill[-1]))
    return SkillCurve(rows, skill, gain)
