"""The plane of two leading directions, its scale and signs, and the line that divides two groups of points."""

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntps.errors import UserError
from ntps.scores.words import dividing_line, leading_pair, right_side, signs
from tests.synthetic_moments import moments_of, random_texts


@pytest.mark.parametrize("space", ["U", "V"])
def test_the_plane_is_that_of_the_leading_generalized_eigenvectors(space):
    texts, labels = random_texts(n=80, d=6, classes=3)
    moments, means, _ = moments_of(texts, labels)
    cross = (moments.mean_label_moment if space == "U" else moments.prefix_next_moment).numpy()
    B = (moments.mean_second_moment if space == "U" else moments.prefix_second_moment).numpy()
    _, vectors = eigh(cross @ cross.T, B)
    pair, arbitrary = leading_pair(moments, space)
    assert not arbitrary
    for found, expected in zip(pair.numpy().T, vectors[:, ::-1].T):
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert abs(cosine) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(((means @ pair.numpy()) ** 2).mean(0), 1)  # root mean square over the texts


def test_one_direction_makes_no_plane():
    texts, _ = random_texts(n=30, d=5)
    moments, _, _ = moments_of(texts, np.random.default_rng(0).normal(size=30))
    with pytest.raises(UserError, match="one direction only"):
        leading_pair(moments, "U")


def test_signs_put_the_first_group_right_and_above():
    points = np.random.default_rng(1).normal(size=(7, 2))
    first, second = np.arange(7) < 3, np.arange(7) >= 4
    for flip in ([1, 1], [-1, 1], [1, -1], [-1, -1]):
        turned = points * flip
        turned = turned * signs(turned, first, second)
        assert (turned[first].mean(0) >= turned[second].mean(0)).all()
        np.testing.assert_allclose(turned, points * signs(points, first, second))


def test_the_line_is_that_of_discriminant_analysis():
    draw = np.random.default_rng(2)
    first, second = draw.normal(size=(5, 2)) @ [[2, 1], [0, 0.5]] + [1, 0.5], draw.normal(size=(9, 2))
    w, b = dividing_line(first, second)
    peer = LinearDiscriminantAnalysis(priors=[0.5, 0.5]).fit(
        np.concatenate([second, first]), [0] * 9 + [1] * 5
    )
    ratio = peer.coef_[0] / w
    assert ratio[0] == pytest.approx(ratio[1]) and ratio[0] > 0
    assert b == pytest.approx(-peer.intercept_[0] / ratio[0])
    guesses = peer.predict(np.concatenate([first, second]))
    assert right_side(first, second) == (guesses[:5] == 1).sum() + (guesses[5:] == 0).sum()


@pytest.mark.parametrize("first, second", [([[1, 1]], [[0, 0]]), ([[1, 0], [1, 0]], [[0, 0], [0, 0]])])
def test_points_without_spread_are_divided_half_way(first, second):
    first, second = np.array(first, float), np.array(second, float)
    w, b = dividing_line(first, second)
    assert right_side(first, second) == len(first) + len(second)
    assert b == pytest.approx(w @ (first.mean(0) + second.mean(0)) / 2)


def test_equal_groups_have_no_line():
    w, _ = dividing_line(np.zeros((2, 2)), np.zeros((3, 2)))
    assert not w.any()
