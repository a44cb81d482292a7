"""Populations of known scores, and samples of their moments.

A layer's own mu, Cov(m) = F^T F, P0 and P1 are the population's. States are m = mu + F^T g with g white, and labels
depend on f = Q^T g alone, Q (r, C) orthonormal: one target is y = sqrt(R2) f + sqrt(1 - R2) e, of C classes the label is the
largest coordinate of sqrt(a) f + sqrt(1 - a) e. By symmetry the best linear prediction spans Q whatever R2 is, so that Q
sets retention and NTPS. Normal states cost O(d^3) a sample, not O(n d^2), for their sums of squares are Wishart matrices.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from ntps.errors import UserError
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.subspaces import Perception

ROWS = 10**9  # of a population: as good as infinitely many
SLOPE = 0.5  # |Q_i| ~ (eigenvalue of Cov(m))^slope: measured on trec6, layers 8, 16, 24 and 30, as .51 .33 .51 .46
TILTS = tuple(np.linspace(-SLOPE, 1, 31))  # tried for the NTPS asked for
PREFIXES = 3  # independent prefixes a row: with 3, V of 1000 and 2000 rows of trec6 loses as much retention as it does


@dataclass(frozen=True, eq=False)
class Population:
    """States and labels to draw from; `moments` are the population's own."""

    moments: LayerMoments
    F: Tensor  # (r, d), its first C rows those of the signal
    share: float  # of the latent variance that is signal: R2, or a

    @property
    def targets(self) -> int:
        return self.moments.targets

    @property
    def r2(self) -> float:
        return self.share * most(self.targets)


def population(
    layer: Layer, retention: float, ntps: float, targets: int, r2: float, rng: np.random.Generator
) -> Population:
    """One with this retention (centred) and NTPS at kv = d/10; the latter as near to what is asked as TILTS come.

    r2: the share of the labels' variance that the states explain, `most(targets)` where that is less. Q is sqrt(retention)
    Q_in + sqrt(1 - retention) Q_out, of V_k and of its complement where Cov(m) is the identity. Coefficients are long where
    eigenvalues are small, so a tilt of Q_in to these and of Q_out to the large ones raises NTPS: the nearest is taken.
    """
    signal, m, V = layer.label_signal, layer.moments, layer.auto.vectors[:, : layer.tenth]
    assert signal is not None
    if targets > min(layer.tenth, signal.rank - layer.tenth):
        raise UserError(f"{targets} targets: d/10 = {layer.tenth} directions cannot hold as many")
    share, F = min(1.0, r2 / most(targets)), signal.white.F
    mean, K = label_moments(targets, share)
    within, basis = torch.linalg.qr(F @ V)[0], torch.linalg.qr(V)[0]
    values = m.centred.spectrum.values[-signal.rank :, None]
    inner, outer = normal(rng, 2, signal.rank, targets)

    def directions(tilt: float) -> Tensor:
        inside, outside = values ** (SLOPE - tilt) * inner, values ** (SLOPE + tilt) * outer
        inside, outside = within @ (within.mT @ inside), outside - within @ (within.mT @ outside)
        Q_in, Q_out = (torch.linalg.qr(part)[0] for part in (inside, outside))
        return math.sqrt(retention) * Q_in + math.sqrt(1 - retention) * Q_out

    def cross(Q: Tensor) -> Tensor:
        return F.mT @ Q @ K + torch.outer(m.mean_state, mean)

    def away(tilt: float) -> float:
        U = Perception(m.plain.spectrum.full, cross(directions(tilt))).U
        return abs(float((basis.mT @ U).square().sum() / U.square().sum()) - ntps)

    Q = directions(min(TILTS, key=away))
    whole, triangle = torch.linalg.qr(Q, "complete")
    whole[:, :targets] *= triangle.diagonal().sign()  # its first columns are Q
    own = replace(m, mean_label_moment=cross(Q), class_counts=mean * ROWS, label_second_moment=1.0, text_count=ROWS,
                  label_moment_permuted=None, residual_second_moment=None)  # fmt: skip
    return Population(own, whole.mT @ F, share)


def label_moments(targets: int, share: float) -> tuple[Tensor, Tensor]:
    """E[y] (C,) and E[f y^T] (C, C): of classes proportional to I - 1 1^T / C, its trace the mean of the largest f."""
    if targets == 1:
        return torch.zeros(1, dtype=torch.float64), torch.full((1, 1), math.sqrt(share), dtype=torch.float64)
    centred = torch.eye(targets, dtype=torch.float64) - 1 / targets
    return centred.new_full((targets,), 1 / targets), centred * math.sqrt(share) * top_mean(targets) / (
        targets - 1
    )


@cache
def top_mean(classes: int) -> float:
    """Mean of the largest of that many standard normal numbers."""
    return float(quad(lambda x: x * classes * norm.pdf(x) * norm.cdf(x) ** (classes - 1), -12, 12)[0])


def most(targets: int) -> float:
    """The R2 of the latent numbers themselves: tr K^T K / tr Cov(y)."""
    return 1.0 if targets == 1 else targets * top_mean(targets) ** 2 / (targets - 1) ** 2


# --- samples ---------------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def wishart_root(n: int, d: int, rng: np.random.Generator) -> Tensor:
    """R (min(n, d), d) with R^T R the sum of g g^T over n white rows g: Bartlett's factor where n >= d."""
    if n < d:
        return normal(rng, n, d)
    return normal(rng, d, d).triu(1) + torch.from_numpy(
        np.diag(np.sqrt(rng.chisquare(np.arange(n, n - d, -1))))
    )


def targets_of(world: Population, f: Tensor, rng: np.random.Generator) -> Tensor:
    """y (n, C) of f (n, C)."""
    latent = math.sqrt(world.share) * f + math.sqrt(1 - world.share) * normal(rng, *f.shape)
    return latent if world.targets == 1 else torch.eye(world.targets).to(f)[latent.argmax(1)]


def draw(world: Population, n: int, rng: np.random.Generator) -> LayerMoments:
    """Moments of n rows with normal states; prefix moments are the population's.

    Of A = [1, f, y] = Q R and the other coordinates Z of g: A^T Z = R^T G with G = Q^T Z white, and Z^T Z = G^T G + a
    Wishart matrix of the degrees of freedom that are left.
    """
    C, r = world.targets, len(world.F)
    f = normal(rng, n, C)
    A = torch.cat([torch.ones_like(f[:, :1]), f, targets_of(world, f, rng)], 1)
    triangle = torch.linalg.qr(A, "r")[1]
    G = normal(rng, len(triangle), r - C)
    rest = wishart_root(n - len(triangle), r - C, rng)
    sums = torch.cat([torch.cat([A.mT @ A, triangle.mT @ G], 1),  # of A^T [A, Z]
                      torch.cat([G.mT @ triangle, G.mT @ G + rest.mT @ rest], 1)])  # fmt: skip
    y = torch.arange(C + 1, 2 * C + 1)
    g = torch.tensor([*range(1, C + 1), *range(2 * C + 1, len(sums))])
    return averaged(
        world, n, sums[g[:, None], g], sums[g[:, None], y], sums[0, g], sums[0, y], float(sums[y, y].sum())
    )


def draw_states(
    world: Population, n: int, rng: np.random.Generator, freedom: float
) -> tuple[LayerMoments, Tensor, Tensor]:
    """Moments, states (n, d) and targets (n, C) of n rows; states multivariate t with that many degrees of freedom."""
    g = normal(rng, n, len(world.F)) * torch.from_numpy(
        np.sqrt((freedom - 2) / rng.chisquare(freedom, (n, 1)))
    )
    y = targets_of(world, g[:, : world.targets], rng)
    moments = averaged(world, n, g.mT @ g, g.mT @ y, g.sum(0), y.sum(0), float(y.square().sum()))
    return moments, world.moments.mean_state + g @ world.F, y


def averaged(
    world: Population, n: int, gg: Tensor, gy: Tensor, g: Tensor, y: Tensor, power: float
) -> LayerMoments:
    """From sums over n rows of g g^T, g y^T, g, y and ||y||^2."""
    F, mu = world.F, world.moments.mean_state
    shift = F.mT @ g / n
    M = F.mT @ gg @ F / n + torch.outer(mu + shift, mu) + torch.outer(mu, shift)
    return replace(world.moments, mean_second_moment=(M + M.mT) / 2, mean_state=mu + shift, class_counts=y, text_count=n,
                   mean_label_moment=F.mT @ gy / n + torch.outer(mu, y / n), label_second_moment=power / n)  # fmt: skip


def with_prefixes(
    moments: LayerMoments, world: Population, tokens: float, rng: np.random.Generator
) -> LayerMoments:
    """The same with prefix moments of as many rows: next state = P1^T P0^+ prefix + noise.

    PREFIXES normal prefixes a row, and noise of covariance `tokens` Cov(m), which independent tokens would have.
    """
    m, count = world.moments, PREFIXES * moments.text_count
    assert m.prefix_next_moment is not None
    white, spread = m.prefix_spectrum.full, m.centred.spectrum.full.F
    prefixes = wishart_root(count, white.rank, rng) @ white.F
    noise = normal(rng, len(prefixes), len(spread)) @ spread * math.sqrt(tokens)
    P0 = prefixes.mT @ prefixes / count
    P1 = P0 @ white.push(white.pull(m.prefix_next_moment)) + prefixes.mT @ noise / count
    return replace(moments, prefix_second_moment=P0, prefix_next_moment=P1)


def with_permutations(moments: LayerMoments, draws: int, rng: np.random.Generator) -> LayerMoments:
    """The same with S of permuted labels: mean mu p^T, covariance Cov(m) x Cov(y) / (n - 1), here normal.

    Cov(m) must have full rank; the targets must be one-hot or one number.
    """
    p, fit = moments.label_mean, moments.centred
    first = torch.diag(p) if len(p) > 1 else p.new_full((1, 1), moments.label_second_moment)
    values, vectors = torch.linalg.eigh((first - torch.outer(p, p)) / (moments.text_count - 1))
    noise = torch.linalg.cholesky(fit.M) @ normal(rng, draws, len(fit.M), len(p))
    S = noise @ vectors * values.clamp(min=0).sqrt() @ vectors.mT + torch.outer(moments.mean_state, p)
    return replace(moments, label_moment_permuted=S)
