"""Moments of small synthetic texts, by the definitions: explicit matrices, one text at a time."""

import numpy as np
import torch

from ntps.scores.layer_moments import LayerMoments


def random_texts(n=60, d=8, classes=3, seed=0, length=(2, 7), spread=1.0):
    """n texts of tokens with d coordinates of unequal scale whose mean depends on the class; the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    scales = np.logspace(0, spread, d)
    centres = rng.normal(size=(classes, d))
    mixing = rng.normal(size=(d, d)) / np.sqrt(d) + np.eye(d)
    texts = [
        ((rng.normal(size=(rng.integers(*length), d)) + centres[label] * 0.5 + 0.3) @ mixing) * scales
        for label in labels
    ]
    return texts, labels


def moments_of(texts, targets, permutations=0, seed=0):
    """targets: class indices (n,) of integers, or numbers (n,) of floats."""
    n, d = len(texts), texts[0].shape[1]
    targets = np.asarray(targets)
    Y = np.eye(targets.max() + 1)[targets] if targets.dtype.kind == "i" else targets[:, None]
    means = np.array([text.mean(0) for text in texts])
    P0, P1 = np.zeros((d, d)), np.zeros((d, d))
    for text in texts:
        length = len(text)
        sums = np.triu(np.ones((length, length)))[:, :-1]  # L1
        shift = np.eye(length)[:, 1:]  # L2
        P0 += text.T @ sums @ sums.T @ text / n
        P1 += text.T @ sums @ shift.T @ text / n
    rng = np.random.default_rng(seed)
    moments = {
        "mean_second_moment": means.T @ means / n,
        "mean_label_moment": means.T @ Y / n,
        "mean_state": means.mean(0),
        "prefix_second_moment": P0,
        "prefix_next_moment": P1,
        "class_counts": Y.sum(0),
        "label_second_moment": (Y**2).sum() / n,
        "text_count": n,
    }
    if permutations:
        moments["label_moment_permuted"] = np.array(
            [means.T @ Y[rng.permutation(n)] / n for _ in range(permutations)]
        )
    return LayerMoments(**moments), means, Y


def moments_of_numbers(texts, numbers):
    """Moments of states and a numeric target, about its mean."""
    states = np.stack([text.mean(0) for text in texts])
    n = len(states)
    return LayerMoments(
        mean_second_moment=torch.from_numpy(states.T @ states / n),
        mean_label_moment=torch.from_numpy(states.T @ numbers[:, None] / n),
        mean_state=torch.from_numpy(states.mean(0)),
        class_counts=torch.tensor([numbers.sum()]),
        label_second_moment=float(np.square(numbers).mean()),
        text_count=n,
    )
