"""The moments of one layer: the one value that every score is computed from.

M = E[m m^T], S = E[m y^T], mu = E[m], P0 and P1 the prefix moments (ntps/moments/sums.py has the definitions);
d coordinates, C targets (classes, or 1 for a number), R label permutations, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ntps.scores.linear_algebra import Spectrum


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Averages over the rows, as float64 tensors; numpy arrays are taken too. Prefix moments may be absent."""

    mean_second_moment: Tensor  # M (d, d)
    mean_label_moment: Tensor  # S (d, C)
    mean_state: Tensor  # mu (d,)
    class_counts: Tensor  # rows of each class or label (C,), or the sum of a numeric target (1,)
    label_second_moment: float  # E||y||^2
    text_count: int  # n
    token_count: int = 0
    prefix_second_moment: Tensor | None = None  # P0 (d, d)
    prefix_next_moment: Tensor | None = None  # P1 (d, d)
    label_moment_permuted: Tensor | None = None  # S with the labels permuted (R, d, C)
    label_products: Tensor | None = None  # E[y y^T] (C, C) of sets of labels; of classes it is diagonal
    residual_second_moment: Tensor | None = None  # E[||e||^2 m m^T] (d, d), of `label_signal.residual_moment`

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if value is not None and field.type.startswith("Tensor"):
                object.__setattr__(self, field.name, torch.as_tensor(value).to(torch.float64))

    @property
    def width(self) -> int:
        return len(self.mean_second_moment)

    @property
    def targets(self) -> int:
        return self.mean_label_moment.shape[1]

    @property
    def permuted(self) -> Tensor:
        """label_moment_permuted, (0, d, C) where there is none."""
        S = self.mean_label_moment
        return S.new_zeros(0, *S.shape) if self.label_moment_permuted is None else self.label_moment_permuted

    @property
    def label_mean(self) -> Tensor:
        """E[y] (C,): the class frequencies."""
        return self.class_counts.to(self.mean_state) / self.text_count

    def to(self, device: torch.device | str) -> LayerMoments:
        names = [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved)

    def joined(self, part: LayerMoments, sign: int = 1) -> LayerMoments:
        """The moments of the rows of both, without permuted labels: sums add."""
        n, others = self.text_count, sign * part.text_count

        def mean(name: str) -> Any:
            return (n * getattr(self, name) + others * getattr(part, name)) / (n + others)

        names = ["mean_second_moment", "mean_label_moment", "mean_state", "label_second_moment"]
        if self.prefix_next_moment is not None and part.prefix_next_moment is not None:
            names += ["prefix_second_moment", "prefix_next_moment"]
        names += ["label_products"] if self.label_products is not None else []
        return replace(
            self,
            **{name: mean(name) for name in names},
            class_counts=self.class_counts + sign * part.class_counts,
            text_count=n + others,
            token_count=self.token_count + sign * part.token_count,
            label_moment_permuted=None,
            residual_second_moment=None,
        )

    def without(self, part: LayerMoments) -> LayerMoments:
        """The moments of all rows but those of `part`, likewise: sums subtract."""
        return self.joined(part, -1)

    @cached_property
    def plain(self) -> Regression:
        """Regression of y on m without an intercept."""
        means = torch.zeros_like(self.mean_state), torch.zeros_like(self.label_mean)
        M, S = self.mean_second_moment, self.mean_label_moment
        return Regression(M, S, self.label_second_moment, *means, self.text_count)

    @cached_property
    def centred(self) -> Regression:
        """Regression of y on m with an intercept: the moments are centred."""
        M, mu, label_mean = self.mean_second_moment, self.mean_state, self.label_mean
        C = M - torch.outer(mu, mu)
        # A constant coordinate's variance is rounding error of a sum of n squares: the intercept says what it could.
        rounding = max(10, self.text_count) * torch.finfo(M.dtype).eps
        constant = C.diagonal() <= rounding * M.diagonal()
        C = torch.where(constant[:, None] | constant, 0.0, C)
        cross = torch.where(constant[:, None], 0.0, self.mean_label_moment - torch.outer(mu, label_mean))
        power = self.label_second_moment - float(label_mean.square().sum())
        ratios = torch.where(constant, 0.0, (M.diagonal() / C.diagonal()).sqrt())
        return Regression(C, cross, power, mu, label_mean, self.text_count, ratios)

    @cached_property
    def prefix_spectrum(self) -> Spectrum:
        """Of P0, which must be there."""
        assert self.prefix_second_moment is not None
        return Spectrum.of(self.prefix_second_moment)

    @cached_property
    def principal(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) and eigenvectors (d, d) of Cov(m), not scaled, largest first: principal components."""
        values, vectors = torch.linalg.eigh(self.centred.M)
        return values.flip(0).clamp(min=0), vectors.flip(1)

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of M as it is, not scaled (d,), ascending."""
        return torch.linalg.eigvalsh(self.mean_second_moment)


@dataclass(frozen=True, eq=False)
class Regression:
    """What least squares of y on m needs: second moment M (d, d), cross moment S (d, C), E||y||^2, E[m], E[y], n.

    With an intercept all are centred and mean and label_mean are E[m] and E[y]; without one these two are 0.
    ratios (d,): root mean square of a coordinate over its standard deviation, where they are centred.
    """

    M: Tensor
    S: Tensor
    power: float
    mean: Tensor
    label_mean: Tensor
    text_count: int
    ratios: Tensor | None = None

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of M. Centring leaves a rounding of a few eps |mu_i mu_j| in M_ij, so of (sum_i |q_i| ratio_i)^2 times that in the
        eigenvalue of q: what is not above it is zero."""
        found = Spectrum.of(self.M)
        if self.ratios is None:
            return found
        noise = 4 * torch.finfo(found.Q.dtype).eps * (self.ratios @ found.Q.abs()).square()
        return replace(found, rounding=float(torch.where(found.values <= noise, found.values, 0.0).amax()))
