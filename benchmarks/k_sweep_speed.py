"""Speed of the score and of the eigen-solve against the plain way, on synthetic moments.

    python -m benchmarks.k_sweep_speed            # d = 576, SmolLM2-135M's width; about a minute on 2 cores
    python -m benchmarks.k_sweep_speed --d 1024

Plain way, the formulas as they are written: per subspace two dense eigen-solves (B, then the whitened A),
and for each of the paper's nineteen kv a pseudo-inverse and the projector V V^+. Ours gives every kv. Both
use torch in float64 with the same threads, run in turn; medians are printed.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from ntps.scores.layer import layer_scores, map_layers
from ntps.scores.subspaces import Perception, head, nested_energies, solve, whiten


def synthetic_moments(d: int, texts: int = 2000, classes: int = 6, seed: int = 0) -> dict:
    """Moments of correlated, anisotropic states: prefix moments from random sequences."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mixing = normal(d, d) / d**0.5 * torch.logspace(0, -1.5, d, dtype=torch.float64)  # anisotropic
    mixing[: d // 200 + 1] *= 100  # a few huge coordinates, as language models have
    labels = torch.randint(classes, (texts,), generator=g)
    one_hot = torch.nn.functional.one_hot(labels, classes).to(torch.float64)
    states = (normal(texts, d) + (normal(classes, d) / 2)[labels]) @ mixing.T + normal(d) / 10
    steps, walks = 8, max(texts, 2 * d) // 4
    noise = normal(walks, steps, d)
    for t in range(1, steps):
        noise[:, t] += 0.7 * noise[:, t - 1]
    tokens = noise @ mixing.T
    prefix, following = tokens.cumsum(1)[:, :-1].reshape(-1, d), tokens[:, 1:].reshape(-1, d)
    return {
        "mean_second_moment": states.T @ states / texts,
        "mean_label_moment": states.T @ one_hot / texts,
        "mean_state": states.mean(0),
        "prefix_second_moment": prefix.T @ prefix / walks,
        "prefix_next_moment": prefix.T @ following / walks,
        "class_counts": one_hot.sum(0),
        "label_second_moment": 1.0,
        "text_count": texts,
    }


def plain_solve(A: Tensor, B: Tensor) -> Tensor:
    values, Q = torch.linalg.eigh(B)
    W = Q / values.sqrt()
    return W @ torch.linalg.eigh(W.T @ A @ W)[1].flip(1)


def plain_scores(U: Tensor, V: Tensor) -> list[float]:
    d = len(V)
    scores = []
    for j in range(1, 20):
        basis = V[:, : j * d // 20]
        projector = basis @ torch.linalg.pinv(basis)
        scores.append(float((projector @ U).square().sum() / U.square().sum()))
    return scores


def our_scores(U: Tensor, V: Tensor) -> Tensor:
    rows = nested_energies(V, U).sum(1)
    return head(rows, len(rows)) / rows.sum()


def plain_way(m: dict) -> list[float]:
    U = plain_solve(m["mean_label_moment"] @ m["mean_label_moment"].T, m["mean_second_moment"])
    V = plain_solve(m["prefix_next_moment"] @ m["prefix_next_moment"].T, m["prefix_second_moment"])
    return plain_scores(U[:, : m["mean_label_moment"].shape[1]], V)


def our_way(m: dict) -> Tensor:
    U = Perception(m["mean_second_moment"], m["mean_label_moment"]).U
    return our_scores(U, solve(m["prefix_next_moment"], whiten(m["prefix_second_moment"])).vectors)


def medians(*functions, repeats: int = 5) -> list[float]:
    """Median seconds of each, run in turn so that a busy moment of the machine hits all of them."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):  # the first round warms up
        for function, kept in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return [statistics.median(kept[1:]) for kept in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d", type=int, default=576, help="width of the states")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    m = synthetic_moments(args.d)
    U = Perception(m["mean_second_moment"], m["mean_label_moment"]).U
    V = solve(m["prefix_next_moment"], whiten(m["prefix_second_moment"])).vectors
    worst = max(
        abs(float(our_scores(U, V)[j * args.d // 20 - 1]) - value)
        for j, value in enumerate(plain_scores(U, V), start=1)
    )
    print(f"d = {args.d}, torch {torch.__version__}, {torch.get_num_threads()} threads, float64; "
          f"largest difference of the 19 scores {worst:.1e}\n")  # fmt: skip
    print(f"{'part':46}{'plain':>10}{'ours':>10}{'ratio':>8}")
    plain, ours = medians(lambda: plain_scores(U, V), lambda: our_scores(U, V), repeats=args.repeats)
    print(f"{'score, 19 kv plain and every kv ours':46}{plain:9.4f}s{ours:9.4f}s{plain / ours:7.1f}x")
    plain, ours = medians(lambda: plain_way(m), lambda: our_way(m), repeats=args.repeats)
    print(f"{'eigen-solves and score of one order':46}{plain:9.4f}s{ours:9.4f}s{plain / ours:7.1f}x")
    layers = [m] * 4
    one, pool = medians(
        lambda: [layer_scores(x) for x in layers], lambda: list(map_layers(layer_scores, layers)), repeats=3
    )
    print(f"{'all scores of 4 layers, in turn and in a pool':46}{one:9.4f}s{pool:9.4f}s{one / pool:7.1f}x")


if __name__ == "__main__":
    main()
