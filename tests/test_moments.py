"""Moments against explicit matrices, the golden numbers and the properties that sums must have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from ntps.errors import UserError
from ntps.moments.sums import Batch, Moments, from_arrays, permuted_rows, targets_of
from ntps.scores.layer import ntps

NAMES = (
    "mean_second_moment",
    "mean_label_moment",
    "mean_state",
    "prefix_second_moment",
    "prefix_next_moment",
)


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


class NoFloat64There(TorchFunctionMode):
    """As with states on mps, which has no float64: a tensor changes its device first, then its type."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = [*args[1:], *(kwargs or {}).values()]
        if function is torch.Tensor.to and torch.float64 in given:
            assert len(given) == 1, "device and float64 in one step"
        return function(*args, **(kwargs or {}))


def explicit(states: torch.Tensor, lengths, labels, classes: int) -> dict[str, torch.Tensor]:
    """The definitions with L1 and L2 written out; states (n, T, d) float64."""
    n = len(states)
    sums: dict[str, torch.Tensor] = {}
    for X, count, label in zip(states, lengths, labels, strict=True):
        X = X[:count].T.double()  # (d, n_i)
        L1 = torch.ones(count, count - 1, dtype=torch.float64).triu()
        L2 = torch.zeros(count, count - 1, dtype=torch.float64)
        L2[1:] = torch.eye(count - 1)
        m, y = X.mean(1), targets_of([label], classes)[0]
        for name, value in (
            ("mean_second_moment", torch.outer(m, m)),
            ("mean_label_moment", torch.outer(m, y)),
            ("mean_state", m),
            ("prefix_second_moment", X @ L1 @ L1.T @ X.T),
            ("prefix_next_moment", X @ L1 @ L2.T @ X.T),
        ):
            sums[name] = sums.get(name, 0) + value / n
    return sums


def ragged(n=9, longest=7, d=5, classes=3, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=draw)
    lengths[0] = longest
    states = torch.randn(n, longest, d, generator=draw, dtype=torch.float64).to(dtype)
    return states, lengths, torch.randint(0, classes, (n,), generator=draw).numpy()


@pytest.fixture(scope="module")
def golden():
    return load_file("tests/golden/moments_tiny.safetensors")


def test_golden_moments_and_scores(golden):
    lengths = golden["attention_mask"].sum(1)
    moments = from_arrays(golden["hidden_states"], lengths, golden["labels"].numpy())
    for layer in range(2):
        for name in NAMES:
            if f"expected.{name}" in golden:
                assert relative(moments.average(name, layer), golden[f"expected.{name}"][layer]) < 1e-6
        curve = ntps(moments.averages(layer))  # ku = rank of the labels = 4
        assert torch.allclose(curve, golden["expected.ntps_descending"][layer, 3], atol=1e-5)


@pytest.mark.parametrize("longest", [1, 2, 7, 33, 70])
def test_float64_moments_equal_the_explicit_matrices(longest):
    states, lengths, labels = ragged(longest=longest)
    moments = from_arrays(states, lengths, labels, classes=3)
    for name, value in explicit(states, lengths, labels, 3).items():
        assert torch.allclose(moments.average(name, 0), value, rtol=1e-12, atol=1e-12), name
    assert moments.token_count == int(lengths.sum()) and moments.text_count == len(labels)
    assert moments.class_counts.tolist() == np.bincount(labels, minlength=3).tolist()


def test_sums_of_float32_states_are_made_as_mps_can():
    states, lengths, labels = ragged(dtype=torch.float32)
    with NoFloat64There():
        from_arrays(states, lengths, labels, 3, permutations=2)
    with pytest.raises(AssertionError, match="in one step"), NoFloat64There():
        states.to("cpu", torch.float64)


def test_float64_states_stay_float64_and_float32_states_do_not_gain_digits():
    states, lengths, labels = ragged(n=40, longest=20)
    exact = from_arrays(states, lengths, labels, 3)
    single = from_arrays(states.float(), lengths, labels, 3)
    gaps = [relative(single.average(name, 0), exact.average(name, 0)) for name in NAMES]
    assert all(1e-10 < gap < 1e-6 for gap in gaps)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 40))
def test_shards_add_up_and_order_does_not_matter(seed, cut, longest):
    states, lengths, labels = ragged(n=13, longest=longest, seed=seed, dtype=torch.float32)
    whole = from_arrays(states, lengths, labels, 3)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(seed))
    states, lengths, labels = states[order], lengths[order], labels[order.numpy()]
    parts = from_arrays(states[:cut], lengths[:cut], labels[:cut], 3).merge(
        from_arrays(states[cut:], lengths[cut:], labels[cut:], 3)
    )
    for name in NAMES:
        if whole.average(name, 0).any():
            assert relative(parts.average(name, 0), whole.average(name, 0)) < 1e-6
    assert parts.averages(0).label_second_moment == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50), st.floats(-1e4, 1e4))
def test_padding_length_and_content_do_not_matter(seed, extra, content):
    states, lengths, labels = ragged(seed=seed, dtype=torch.float32)
    whole = from_arrays(states, lengths, labels, 3)
    padded = torch.nn.functional.pad(states, (0, 0, 0, extra))
    padded[torch.arange(padded.shape[1])[None] >= lengths[:, None]] = content
    other = from_arrays(padded, lengths, labels, 3)
    for name in NAMES:
        if whole.average(name, 0).any():
            assert relative(other.average(name, 0), whole.average(name, 0)) < 1e-6


def test_padding_may_hold_nan():
    states, lengths, labels = ragged(longest=40)
    clean = from_arrays(states, lengths, labels, 3)
    states[torch.arange(40)[None] >= lengths[:, None]] = torch.nan
    assert torch.equal(
        from_arrays(states, lengths, labels, 3).average("mean_state", 0), clean.average("mean_state", 0)
    )
    for name in NAMES:
        assert torch.equal(from_arrays(states, lengths, labels, 3).average(name, 0), clean.average(name, 0))


def test_permuting_classes_permutes_the_label_moment():
    states, lengths, labels = ragged()
    swap = np.array([2, 0, 1])
    a = from_arrays(states, lengths, labels, 3).average("mean_label_moment", 0)
    b = from_arrays(states, lengths, swap[labels], 3).average("mean_label_moment", 0)
    assert torch.equal(a, b[:, swap])


def test_permuted_label_moments_are_those_of_the_shuffled_labels():
    states, lengths, labels = ragged()
    moments = from_arrays(states, lengths, labels, 3, permutations=4, seed=7)
    orders = permuted_rows(len(labels), 4, 7)
    assert len({tuple(order) for order in orders}) == 4
    for draw, order in enumerate(orders):
        again = from_arrays(states, lengths, labels[order], 3).average("mean_label_moment", 0)
        assert torch.allclose(moments.average("label_moment_permuted", 0)[draw], again, atol=1e-14)


def test_many_texts_are_taken_in_batches(monkeypatch):
    states, lengths, labels = ragged(n=11)
    whole = from_arrays(states, lengths, labels, 3, permutations=2)
    monkeypatch.setattr("ntps.moments.sums.TOKENS_AT_ONCE", 3 * states.shape[1])
    batches = from_arrays(states, lengths, labels, 3, permutations=2)
    assert batches.text_count == whole.text_count == 11
    for name, value in whole.sums.items():
        assert torch.allclose(batches.sums[name], value, rtol=1e-12, atol=1e-12), name


def test_one_token_texts_add_to_the_mean_moments_only():
    states, _, labels = ragged(longest=4)
    ones = from_arrays(states, np.ones(len(labels), dtype=int), labels, 3)
    assert (
        not ones.average("prefix_second_moment", 0).any() and not ones.average("prefix_next_moment", 0).any()
    )
    assert torch.allclose(ones.average("mean_state", 0), states[:, 0].mean(0))


@pytest.mark.parametrize(
    "lengths", [[1], [1, 1], [33], [5, 1, 28], [32, 1, 32, 2], [100, 3, 64, 65, 1, 9, 9, 9]]
)
def test_prefix_sums_are_cumulative_sums_of_each_text(lengths):
    states = torch.randn(sum(lengths), 4, dtype=torch.float64)
    batch = Batch(torch.tensor(lengths), torch.ones(len(lengths), 1, dtype=torch.float64))
    mean, texts = Moments([0], 4, 1).add(0, states, batch), states.split(lengths)
    expected = [torch.cat([text[:-1].cumsum(0), torch.zeros(1, 4)]) for text in texts]
    assert torch.allclose(batch.room[0][: sum(lengths), :4], torch.cat(expected), atol=1e-12)
    for row, text in enumerate(texts):
        assert torch.allclose(mean[row], text.mean(0), atol=1e-12)


def test_moments_of_other_layers_do_not_add_up():
    with pytest.raises(ValueError, match="do not add up"):
        Moments([0], 4, 2).merge(Moments([1], 4, 2))
    with pytest.raises(ValueError, match="do not add up"):
        Moments([0], 4, 2).merge(Moments([0], 4, 2, prefix=False))


@pytest.mark.parametrize(
    "lengths, labels",
    [
        ([3, 0], [0, 1]),
        ([3, 5], [0, 1]),
        ([3], [0, 1]),
        ([3, 3], [0]),
        ([3, 3], ["a", "b"]),
        ([3, 3], [0, -1]),
        ([3, 3], [0, 2]),
        ([3.0, 3.0], [0, 1]),
    ],
)
def test_lengths_and_labels_that_do_not_fit_are_refused(lengths, labels):
    with pytest.raises(UserError):
        from_arrays(torch.ones(2, 4, 3), lengths, labels, classes=2)


@pytest.mark.parametrize("states", [torch.ones(2, 4), torch.full((2, 4, 3), torch.nan)])
def test_states_of_another_shape_or_not_finite_are_refused(states):
    with pytest.raises(UserError, match="states"):
        from_arrays(states, [3, 3], [0, 1])
