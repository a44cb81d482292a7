"""Every estimator on samples of known populations: one row of docs/estimators.csv for each cell and estimator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import reduce

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, spearmanr, t
from torch import Tensor

from ntps.scores.conditioning import Tolerances, chosen, fold_errors, path
from ntps.scores.error_bars import jackknife_error
from ntps.scores.label_signal import LabelSignal, residual_moment
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import RANK_RTOL, Nested, head
from ntps.scores.permutation_null import above, null_mean
from report import known_truth as known

PARTITIONS, PERMUTATIONS = 10, 20
TOLERANCES = (1e-12, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
TRUTHS = (0.1, 0.9)  # between which retention and NTPS are drawn, uniformly and of each other independently
NORMAL, STUDENT = float(norm.isf(0.05)), float(t.isf(0.05, PARTITIONS - 1))


@dataclass(frozen=True)
class Cell:
    """A kind of sample. directions: V is known (the population's), or drawn (P0 and P1 are those of the sample)."""

    ratio: float  # n / d
    targets: int  # 1: a number; otherwise classes
    r2: float
    directions: str = "known"
    freedom: float = math.inf  # of the states: multivariate t, or normal
    # PARTITIONS: jackknife errors where V is known, cross-validated tolerances where it is drawn
    partitions: int = 1


@dataclass(frozen=True)
class Estimate:
    """What a sample says, and the population; reach: half the 90 % interval's width."""

    estimator: str
    truth: float
    value: float
    reach: float = math.nan


def trial(base: Layer, cell: Cell, rng: np.random.Generator) -> list[Estimate]:
    """One population, one sample of it, every estimator."""
    retention, ntps = rng.uniform(*TRUTHS, 2)
    world = known.population(base, retention, ntps, cell.targets, cell.r2, rng)
    truth = solved(known.with_permutations(world.moments, PERMUTATIONS, rng), base)
    n = round(cell.ratio * base.d)
    if cell.freedom < math.inf:
        moments, *rows = known.draw_states(world, n, rng, cell.freedom)
        parts = [replace(moments, residual_second_moment=residual_moment(moments, *rows))]
    else:
        sizes = [len(part) for part in np.array_split(np.arange(n), cell.partitions)]
        parts = [known.draw(world, size, rng) for size in sizes]
    given = base if cell.directions == "known" else None
    if given is None:
        tokens = base.moments.token_count / base.moments.text_count
        parts = [known.with_prefixes(part, world, tokens, rng) for part in parts]
    whole = reduce(LayerMoments.joined, parts)
    sample = solved(known.with_permutations(whole, PERMUTATIONS, rng), given)
    estimates = [*subspace_estimates(world, truth, sample, cell)]
    rests = [(whole.without(part), part) for part in parts] if len(parts) > 1 else []
    if rests and given is not None:
        estimates += jackknifed(truth, sample, [solved(rest, given) for rest, _ in rests])
    elif rests:
        counts = [part.text_count for part in parts]
        estimates += conditioned(truth, sample, chosen([fold_errors(*pair) for pair in rests], counts))
    return estimates


def solved(moments: LayerMoments, given: Layer | None) -> Layer:
    """A Layer; with the directions V of another one, whose prefix moments are the same."""
    layer = Layer(moments)
    if given is not None:
        layer.auto = given.auto
    return layer


def subspace_estimates(
    world: known.Population, truth: Layer, sample: Layer, cell: Cell
) -> Iterator[Estimate]:
    a, b = (score_values(layer) for layer in (truth, sample))
    signal, k = sample.label_signal, sample.tenth
    assert signal is not None
    error = NORMAL * sample.orders["descending"].corrected_error(k)
    for name in a:
        own = a["retention_corrected" if name == "retention_adjusted" else name]  # the latter has no limit
        yield Estimate(name, own, b[name], error if name == "retention_corrected" else math.nan)
    if cell.directions == "drawn":
        own = of_directions(truth, sample.auto.vectors[:, :k])
        yield Estimate("retention_corrected, of the V estimated", own, b["retention_corrected"], error)
    if signal.noise_moment is not None:
        yield Estimate(
            "retention_corrected_unequal", a["retention_corrected"], at(sample, "corrected_unequal")
        )
    if cell.freedom == math.inf:  # of other states classes have another R2
        yield Estimate("adjusted_r2", world.r2, signal.adjusted_r2)
        yield Estimate("signal_share", true_share(world, truth, signal), signal.signal_share)


def at(layer: Layer, curve: str) -> float:
    return float(getattr(layer.orders["descending"], curve)[layer.tenth - 1])


def of_directions(truth: Layer, V: Tensor) -> float:
    """Corrected retention of directions V (d, k) in the population."""
    signal = truth.label_signal
    assert signal is not None
    energies = Nested(signal.white.F @ V).energies(signal.T).sum(1)
    return float(signal.retained(head(energies, V.shape[1]))[-1])


def score_values(layer: Layer) -> dict[str, float]:
    k = layer.tenth - 1
    order, pca = layer.orders["descending"], float(layer.pca.corrected[k])
    ntps, retention, corrected = (at(layer, name) for name in ("ntps", "retention", "corrected"))
    return {
        "ntps": ntps,
        "null_lift": above(ntps, float(order.null[:, k].mean())),
        "retention": retention,
        "retention_adjusted": above(retention, float(order.retained.null[k])),
        "retention_corrected": corrected,
        "retention_corrected_pca": pca,
        "retention_corrected_minus_pca": corrected - pca,
    }


def true_share(world: known.Population, truth: Layer, signal: LabelSignal) -> float:
    """||B||^2 / E||B^||^2 of least squares on n normal rows: E||B^ - B||^2 = s2 tr(Mc^-1) / (n - r - 2)."""
    own = truth.label_signal
    assert own is not None
    B, inverse = own.white.push(own.T).square().sum(), own.white.W.square().sum()
    noise = own.total * (1 - world.r2) * inverse / max(signal.n - signal.rank - 2, 1)
    return float(B / (B + noise))


def jackknifed(truth: Layer, sample: Layer, rests: list[Layer]) -> Iterator[Estimate]:
    """Corrected retention and its difference to PCA with intervals from partitions; none where a rest is too small."""
    names = ("retention_corrected", "retention_corrected_minus_pca")
    a, b = (score_values(layer) for layer in (truth, sample))
    if any(layer.label_signal is None or layer.label_signal.refusal for layer in rests):
        return
    values = torch.tensor(
        [[at(layer, "corrected"), at(layer, "corrected") - float(layer.pca.corrected[layer.tenth - 1])] for layer in rests],
        dtype=torch.float64,
    )  # fmt: skip
    for name, error in zip(names, jackknife_error(values).tolist()):
        yield Estimate(f"{name}, jackknife", a[name], b[name], STUDENT * error)


def conditioned(truth: Layer, sample: Layer, folds: tuple[Tolerances, Tolerances]) -> Iterator[Estimate]:
    """NTPS and its lift at tolerances chosen by cross-validation and at fixed ones; the truth is at the same tolerances."""
    of_mean = Tolerances(folds[0].rtol, RANK_RTOL, "cv of M alone")
    wanted = [*folds, of_mean, *(Tolerances(tau, tau, f"{tau:.0e}") for tau in TOLERANCES)]
    for own, found in zip(*(path(layer, wanted, layer.tenth) for layer in (truth, sample)), strict=True):
        choice = own.tolerances.choice
        yield Estimate(f"conditioned_ntps {choice}", own.ntps, found.ntps)
        yield Estimate(f"conditioned_lift {choice}", own.lift, found.lift)
        # what the tolerances alone say
        yield Estimate(f"conditioned_null {choice}", own.ntps, null_mean(found.null))
    for one in folds:  # not estimates: which tolerances were chosen, as powers of ten
        yield Estimate(f"log10 rtol {one.choice}", math.nan, math.log10(one.rtol))
        yield Estimate(f"log10 prefix_rtol {one.choice}", math.nan, math.log10(one.prefix_rtol))


def judged(cell: Cell, trials: list[list[Estimate]]) -> pd.DataFrame:
    """Bias, RMSE, coverage of the 90 % interval, and rank correlations with the own truth and with the population's NTPS."""
    table = pd.DataFrame(
        [asdict(one) | {"trial": number} for number, found in enumerate(trials) for one in found]
    )
    ntps = table[table["estimator"] == "ntps"].set_index("trial")["truth"]
    rows = []
    for name, group in table.groupby("estimator", sort=False):
        group = group.set_index("trial")
        told = group.dropna(subset="value")
        error, reach = told["value"] - told["truth"], told["reach"]
        rows.append(
            asdict(cell)
            | {
                "estimator": name,
                "trials": len(trials),
                "refused": len(trials) - len(told),
                "truth": told["truth"].mean(),
                "truth_std": told["truth"].std(),
                "value": told["value"].mean(),
                "value_std": told["value"].std(),
                "bias": error.mean(),
                "rmse": math.sqrt(error.pow(2).mean()),
                "coverage": float((error.abs() <= reach).mean()) if reach.notna().any() else math.nan,
                "reach": reach.mean(),
                "rank": rank(told["value"], told["truth"]),
                "rank_ntps": rank(told["value"], ntps[told.index]),
            }
        )
    return pd.DataFrame(rows)


def rank(a: pd.Series, b: pd.Series) -> float:
    """Spearman's; NaN where there is none."""
    return float(spearmanr(a, b)[0]) if len(a) > 2 and a.nunique() > 1 and b.nunique() > 1 else math.nan
