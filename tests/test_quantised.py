"""Weights of few bits: at most so many values a group, and none off by more than half a step."""

import torch

from report.quantised import GROUP, rounded


def test_groups_have_few_values_near_the_old_ones():
    weight = torch.randn(6, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    for bits in (2, 3, 8):
        groups, old = rounded(weight, bits).view(-1, GROUP), weight.view(-1, GROUP)
        steps = old.abs().amax(1) / (2 ** (bits - 1) - 1)
        assert max(len(group.unique()) for group in groups) <= 2**bits - 1
        assert ((groups - old).abs() <= steps[:, None] / 2 + 1e-6).all()
    assert rounded(weight[0], 2) is weight[0] or torch.equal(rounded(weight[0], 2), weight[0])
    assert not rounded(torch.zeros(2, GROUP), 3).any()
