"""Speed of the score and of the eigen-solve against the plain way, on synthetic moments; and what one layer costs.

    python -m benchmarks.k_sweep_speed            # d = 576, SmolLM2-135M's width; about a minute on 2 cores
    python -m benchmarks.k_sweep_speed --d 1024
    python -m benchmarks.k_sweep_speed --d 1024 --layer      # one layer alone, on one thread: time and memory
    python -m benchmarks.k_sweep_speed --path                # the same with and without the path over tolerances

Plain way, the formulas as they are written: per subspace two dense eigen-solves (B, then the whitened A),
and for each of the paper's nineteen kv a pseudo-inverse and the projector V V^+. Ours gives every kv. Both
use torch in float64 with the same threads, run in turn; medians are printed.

One layer of K_sweep.py is all scores of both orders, 20 label permutations, held-out scores and the scores of others;
it is compared with one torch.linalg.eigh of the same size, and its memory is the peak above the moments, in d x d matrices.
The path is NTPS at six tolerances of M by six of P0, with its permutation null. Seconds of both are this process's own.
"""

import argparse
import ctypes
import itertools
import statistics
import sys
import time
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.scaling import peak
from ntps.flags import Scoring
from ntps.scores.conditioning import Tolerances
from ntps.scores.layer import Layer
from ntps.scores.layer_moments import LayerMoments
from ntps.scores.linear_algebra import Nested, head, whiten
from ntps.scores.subspaces import Perception, autoregression
from ntps.scores.table import conditioned_rows, layer_row, layer_scores, subspace_scores
from ntps.system.threads import map_layers

PERMUTATIONS = 20
MMAP_THRESHOLD = -3  # of glibc's malloc.h


def synthetic_moments(d: int, texts: int = 2000, classes: int = 6, seed: int = 0) -> LayerMoments:
    """Moments of correlated, anisotropic states: prefix moments from random sequences."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    # anisotropic, and of full rank at the usual tolerance, as moments of language models are
    mixing = (normal(d, d) / d**0.5 + torch.eye(d, dtype=torch.float64)) * torch.logspace(
        0, -1.5, d, dtype=torch.float64
    )
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
    permuted = [one_hot[torch.randperm(texts, generator=g)] for _ in range(PERMUTATIONS)]
    return LayerMoments(
        mean_second_moment=states.T @ states / texts,
        mean_label_moment=states.T @ one_hot / texts,
        mean_state=states.mean(0),
        class_counts=one_hot.sum(0),
        label_second_moment=1.0,
        text_count=texts,
        prefix_second_moment=prefix.T @ prefix / walks,
        prefix_next_moment=prefix.T @ following / walks,
        label_moment_permuted=torch.stack([states.T @ labels / texts for labels in permuted]),
    )


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
    rows = Nested(V).energies(U).sum(1)
    return head(rows, len(rows)) / rows.sum()


def plain_way(m: LayerMoments) -> list[float]:
    assert m.prefix_next_moment is not None and m.prefix_second_moment is not None
    U = plain_solve(m.mean_label_moment @ m.mean_label_moment.T, m.mean_second_moment)
    V = plain_solve(m.prefix_next_moment @ m.prefix_next_moment.T, m.prefix_second_moment)
    return plain_scores(U[:, : m.targets], V)


def directions(m: LayerMoments) -> tuple[Tensor, Tensor]:
    U = Perception(whiten(m.mean_second_moment), m.mean_label_moment).U
    return U, autoregression(m).vectors


def our_way(m: LayerMoments) -> Tensor:
    return our_scores(*directions(replace(m)))  # a copy: nothing is remembered from an earlier call


def one_layer(train: LayerMoments, test: LayerMoments) -> object:
    """What K_sweep.py does for a layer; copies, so that nothing is remembered from an earlier call."""
    layer = Layer(replace(train), replace(test))
    return layer_row(layer), subspace_scores(layer)


def layer_cost(d: int, repeats: int) -> None:
    """Print one layer's time against one eigen-solve's, on one thread, and its memory."""
    torch.set_num_threads(1)
    train, test = synthetic_moments(d), replace(synthetic_moments(d, seed=1), label_moment_permuted=None)
    solve, layer = medians(
        lambda: torch.linalg.eigh(train.mean_second_moment),
        lambda: one_layer(train, test),
        repeats=repeats,
        clock=time.process_time,
    )
    if sys.platform == "linux":  # freed memory goes back at once, or it would hide what the next layer takes
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 1 << 16), libc.malloc_trim(0)
    before = peak(reset=True)
    one_layer(train, test)
    memory = peak() - before
    print(f"one layer, d = {d}, one thread: {layer:.3f} s, one eigh {solve:.3f} s, ratio {layer / solve:.1f}; "
          f"memory above the moments' {memory / 1e6:.0f} MB, {memory / (8 * d * d):.0f} d x d matrices")  # fmt: skip


def path_cost(d: int, repeats: int) -> None:
    """Print what the path over tolerances adds to one layer, with 20 and with 200 permutations."""
    torch.set_num_threads(1)
    train, test = synthetic_moments(d), replace(synthetic_moments(d, seed=1), label_moment_permuted=None)
    rtols = Scoring(models=[], datasets=[]).rtols
    grid = [Tolerances(*both) for both in itertools.product(rtols, rtols)]
    noise = torch.randn(200, *train.mean_label_moment.shape, dtype=torch.float64) / 100
    for moments in (train, replace(train, label_moment_permuted=train.mean_label_moment + noise)):

        def scored(path: bool, moments: LayerMoments = moments) -> None:
            layer = Layer(replace(moments), replace(test))
            layer_row(layer), subspace_scores(layer), conditioned_rows(layer, grid if path else [])

        without, with_path = medians(
            lambda: scored(False), lambda: scored(True), repeats=repeats, clock=time.process_time
        )
        print(f"one layer, d = {d}, {len(moments.permuted)} permutations, one thread: {without:.3f} s, with {len(grid)} pairs "
              f"of tolerances {with_path:.3f} s, ratio {with_path / without:.2f}")  # fmt: skip


def medians(*functions, repeats: int = 5, clock=time.perf_counter) -> list[float]:
    """Median seconds of each, run in turn so that a busy moment of the machine hits all of them."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):  # the first round warms up
        for function, kept in zip(functions, seconds, strict=True):
            start = clock()
            function()
            kept.append(clock() - start)
    return [statistics.median(kept[1:]) for kept in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d", type=int, default=576, help="width of the states")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layer", action="store_true", help="one layer against one eigen-solve")
    parser.add_argument("--path", action="store_true", help="the path over tolerances")
    args = parser.parse_args()
    if args.path:
        path_cost(args.d, args.repeats)
        return
    if args.layer:
        layer_cost(args.d, args.repeats)
        return
    m = synthetic_moments(args.d)
    U, V = directions(m)
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
        lambda: [layer_scores(replace(x)) for x in layers],
        lambda: list(map_layers(lambda x: layer_scores(replace(x)), layers)),
        repeats=3,
    )
    print(f"{'all scores of 4 layers, in turn and in a pool':46}{one:9.4f}s{pool:9.4f}s{one / pool:7.1f}x")


if __name__ == "__main__":
    main()
