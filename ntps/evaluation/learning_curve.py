"""What more labelled rows, or more steps, would bring: a power law fitted to a learning curve, with an interval."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f

from ntps.evaluation.correlation import LEVEL
from ntps.scores import probes
from ntps.scores.layer_moments import LayerMoments

EXPONENTS = np.geomspace(0.05, 5, 1000)
LEAST = 5  # points for a law of three numbers


@dataclass(frozen=True)
class Extrapolation:
    """The law's value further on and its confidence interval; NaN, and why, where no law is fitted."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""


def extrapolate(x: Sequence[float], y: Sequence[float], at: float, level: float = LEVEL) -> Extrapolation:
    """y at `at` by y = a - b x^-c, least squares over a, b and c in [0.05, 5], with its confidence interval.

    The interval holds the expected y, by profile likelihood: every q that the F test at `level` with 1 and n - 3 degrees
    of freedom lets pass. It takes errors to be independent and of one variance; an error that all points share, as of the
    same few held-out rows, is not in it. No law is fitted to fewer than LEAST points, nor where the last point
    lies outside the 99 % prediction interval of the others' law; a curve of another shape that passes has a wide interval.
    """
    t, values = np.asarray(x, float), np.asarray(y, float)
    if len(t) < LEAST or not np.isfinite(values).all():
        return Extrapolation(reason=f"{np.isfinite(values).sum()} points; at least {LEAST} are needed")
    expected, low, high = interval(t[:-1], values[:-1], t[-1], 0.99, new=True)
    if not low <= values[-1] <= high:
        found = f"the last point, {values[-1]:.3f}, is outside {low:.3f} to {high:.3f}"
        return Extrapolation(reason=f"no power law: {found}, which the others' law predicts")
    return Extrapolation(*interval(t, values, at, level))


def interval(
    t: np.ndarray, y: np.ndarray, at: float, level: float, new: bool = False
) -> tuple[float, float, float]:
    """The law's value at `at`, and the interval of its expectation, or with `new` of one more point.

    With c fixed the law is linear: a prediction p(c) of variance v(c) sigma^2, and a residual sum of squares R(c). The
    least sum of squares of a law through q is min_c R(c) + (q - p(c))^2 / v(c); q passes where it is at most
    min_c R(c) (1 + F / (n - 3)).
    """
    scale = at ** -EXPONENTS[:, None]  # so that the law's curve is 1 at `at`
    design = np.stack([np.ones((len(EXPONENTS), len(t))), t ** -EXPONENTS[:, None] / scale], -1)
    Q, R = np.linalg.qr(design)
    target = Q.mT @ y
    leverage = np.linalg.solve(R.mT, np.ones((len(EXPONENTS), 2, 1)))[..., 0]
    p, v = (leverage * target).sum(-1), np.square(leverage).sum(-1) + new
    residual = np.square(y - (Q @ target[..., None])[..., 0]).sum(-1)
    spare = len(t) - 3
    reach = residual.min() * (1 + f.ppf(level, 1, spare) / spare) - residual
    inside, width = reach >= 0, np.sqrt(v * reach.clip(0))
    return float(p[residual.argmin()]), float((p - width)[inside].min()), float((p + width)[inside].max())


@dataclass(frozen=True)
class SkillCurve:
    """Rows, the skill on test of the ridge probe of so many, and what twice as many are expected to bring."""

    rows: list[int]
    skill: list[float]
    doubled: Extrapolation


def skill_curve(parts: Iterable[LayerMoments], test: LayerMoments) -> SkillCurve:
    """From one layer's moments of train in K partitions, read one after the other: no further pass over the rows.

    Every probe's penalty is by generalized cross-validation on its own rows. Test chooses nothing.
    """
    rows, skills, total = list[int](), list[float](), None
    for part in parts:
        total = joined(total, part) if total else part
        rows.append(total.text_count)
        skills.append(probes.skill(probes.ridge(total), total, test))
    return SkillCurve(rows, skills, extrapolate(rows, skills, 2 * rows[-1]))


def joined(one: LayerMoments, other: LayerMoments) -> LayerMoments:
    """The moments of the rows of both, as far as probes need them."""
    n = one.text_count + other.text_count
    share = other.text_count / n
    means = {
        name: (1 - share) * getattr(one, name) + share * getattr(other, name)
        for name in ("mean_second_moment", "mean_label_moment", "mean_state", "label_second_moment")
    }
    return LayerMoments(**means, class_counts=one.class_counts + other.class_counts, text_count=n)
