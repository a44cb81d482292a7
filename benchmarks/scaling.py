"""Time and memory of the moments and of K_sweep.py's solve against the width d, and what follows for larger models.

    python -m benchmarks.scaling            # measures, on random moments: about 3 minutes on a free core; docs/scaling.csv
    python -m benchmarks.scaling --tables   # only writes the tables of docs/scaling.md from docs/scaling.csv again

Every point is a process of its own, on one thread, as K_sweep.py has a thread for each layer: one layer, float64 as in
K_sweep.py (6 classes, 200 permutations, held-out moments), float32 token products as in cache.py, 2048
tokens at a time. CPU seconds, so that other work on the machine hardly counts: the median of three after a first run, or the
first if it is long.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ntps.flags import Scoring
from ntps.moments.file import moments_layout
from ntps.moments.sums import Batch, Moments, permuted_rows, targets_of
from ntps.run.plan import Batches, Outline, moments_flops
from ntps.scores.layer_moments import LayerMoments
from ntps.system import array_files

ROOT = Path(__file__).resolve().parent.parent
CSV, PAGE = ROOT / "docs" / "scaling.csv", ROOT / "docs" / "scaling.md"
WIDTHS = (256, 512, 1024, 2048)
CLASSES, PERMUTATIONS = 6, 200
BATCHES = ((64, 32), (8, 256))  # texts, tokens of each: short texts and long ones
LONG = 5.0  # seconds of a run that is not repeated
PAPER = (
    "qwen2-0.5b",
    "qwen2-1.5b",
    "qwen2-7b",
    "openelm-270m",
    "openelm-450m",
    "openelm-1.1b",
    "openelm-3b",
    "llama3-8b",
)
BEGIN, END = "<!-- tables: python -m benchmarks.scaling --tables -->", "<!-- end of tables -->"


# --- one point, in a process of its own ----------------------------------------------------------------------------


def random_moments(d: int, seed: int) -> LayerMoments:
    """Moments of 2 d random texts with correlated coordinates of unequal scale."""
    g = torch.Generator().manual_seed(seed)
    n = 2 * d
    labels = torch.randint(CLASSES, (n,), generator=g)
    scale = torch.logspace(1, -1, d, dtype=torch.float64)
    states = (
        torch.randn(n, d, generator=g, dtype=torch.float64) * scale
        + torch.randn(CLASSES, d, generator=g).double()[labels]
    )
    sums = torch.randn(n, d, generator=g, dtype=torch.float64) * scale
    following = 0.5 * sums + torch.randn(n, d, generator=g, dtype=torch.float64)
    targets = targets_of(labels.numpy(), CLASSES)
    orders = permuted_rows(n, PERMUTATIONS, seed)
    return LayerMoments(
        mean_second_moment=states.T @ states / n,
        mean_label_moment=states.T @ targets / n,
        mean_state=states.mean(0),
        prefix_second_moment=sums.T @ sums / n,
        prefix_next_moment=sums.T @ following / n,
        label_moment_permuted=torch.stack([states.T @ targets[order] / n for order in orders]),
        class_counts=targets.sum(0),
        label_second_moment=1.0,
        text_count=n,
        token_count=10 * n,
    )


def solve(d: int) -> Callable[[], object]:
    """What K_sweep.py does for a layer by default, but for error bars."""
    from ntps.scores.conditioning import Tolerances
    from ntps.scores.layer import Layer
    from ntps.scores.table import conditioned_rows, layer_row, subspace_scores

    train, test = random_moments(d, 0), random_moments(d, 1)
    flags = Scoring(models=[], datasets=[])
    tolerances = [Tolerances(*both) for both in product(flags.rtols, flags.prefix_rtols)]

    def one_layer() -> object:
        layer = Layer(replace(train), replace(test))  # copies: nothing is remembered from an earlier call
        return layer_row(layer), subspace_scores(layer), conditioned_rows(layer, tolerances)

    return one_layer


def add(d: int, texts: int, tokens: int) -> Callable[[], object]:
    """What cache.py does for a layer of a batch, beside the forward pass."""
    targets = targets_of(np.arange(texts) % CLASSES, CLASSES)
    lengths = torch.full((texts,), tokens)
    batch = Batch(lengths, targets, targets.repeat(1, PERMUTATIONS))
    states, moments = torch.randn(texts * tokens, d), Moments([0], d, CLASSES, PERMUTATIONS)
    return lambda: moments.add(0, states, batch)


def point(part: str, d: int, texts: int, tokens: int) -> None:
    """Print the CPU seconds of a run on one thread, and the bytes it took on top of what was there."""
    torch.set_num_threads(1)
    run = solve(d) if part == "solve" else add(d, texts, tokens)
    before = peak(reset=True)
    seconds = [timed(run)]
    taken = peak() - before
    if seconds[0] < LONG:  # else a warm-up is not worth its time
        seconds = [timed(run) for _ in range(3)]
    print(statistics.median(seconds), taken)


def timed(run: Callable[[], object]) -> float:
    """CPU seconds: what else the machine does hardly counts."""
    started = time.process_time()
    run()
    return time.process_time() - started


def peak(reset: bool = False) -> float:
    """Peak resident bytes of this process; on Linux since the last reset, which returns what is resident now."""
    if reset and Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    if Path("/proc/self/status").exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- the table of measurements -------------------------------------------------------------------------------------


def measure() -> pd.DataFrame:
    rows = []
    for d in WIDTHS:
        for part, texts, tokens in [("solve", 0, 0), *(("moments", *batch) for batch in BATCHES)]:
            command = [
                sys.executable,
                "-m",
                "benchmarks.scaling",
                "--point",
                part,
                str(d),
                str(texts),
                str(tokens),
            ]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                sys.exit(done.stderr)
            seconds, taken = map(float, done.stdout.split())
            row = {
                "part": part,
                "d": d,
                "texts": texts,
                "tokens_each": tokens,
                "seconds": float(f"{seconds:.4g}"),
            }
            rows.append(row | {"megabytes": round(taken / 1e6, 1), "threads": 1})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows).assign(torch=torch.__version__, machine=platform.machine())


# --- the page ------------------------------------------------------------------------------------------------------


def fitted(table: pd.DataFrame) -> tuple[float, float]:
    """Exponent of d in the seconds of a solve over the two largest widths, and seconds at the largest over d^3."""
    solves = table[table.part == "solve"].sort_values("d")
    (a, b), (x, y) = np.log(solves.d.to_numpy()[-2:]), np.log(solves.seconds.to_numpy()[-2:])
    return float((y - x) / (b - a)), float(solves.seconds.iloc[-1] / solves.d.iloc[-1] ** 3)


def tables(table: pd.DataFrame) -> str:
    """The two tables in Markdown: what was measured, and what follows for the paper's models."""
    exponent, cubic = fitted(table)
    solves = table[table.part == "solve"].set_index("d")
    adds = table[table.part == "moments"]
    matrices = float((solves.megabytes * 1e6 / (8 * solves.index**2)).iloc[-1])
    first = table.iloc[0]
    lines = [
        f"**Measured**: one layer of {CLASSES} classes and {PERMUTATIONS} label permutations, CPU seconds of one thread on {first.machine}, torch {first.torch}.",
        "",
        "| d | solve, CPU seconds | solve, memory beside the moments | in d x d matrices | "
        + " | ".join(f"moments, texts of {t} tokens: µs a token (GFLOP/s)" for _, t in BATCHES)
        + " |",
        "|" + "---|" * (4 + len(BATCHES)),
    ]
    for d in map(int, solves.index):
        cells = []
        for texts, tokens in BATCHES:
            chosen = (adds.d == d) & (adds.tokens_each == tokens)
            seconds = float(adds.seconds[chosen].iloc[0])
            work = moments_flops(d, CLASSES, PERMUTATIONS, True, Batches.of([np.full(texts, tokens)]))
            cells.append(f"{1e6 * seconds / (texts * tokens):.3g} ({work / seconds / 1e9:.0f})")
        seconds, taken = float(solves.seconds[d]), float(solves.megabytes[d])
        lines.append(
            f"| {d} | {seconds:.3g} | {taken:.0f} MB | {taken * 1e6 / (8 * d**2):.0f} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        f"Between the two largest widths the seconds of a solve grow as d^{exponent:.2f}.",
        "",
        f"**Counted** (parameters, operations, bytes: exact, from the configurations, C = {CLASSES} and R = {PERMUTATIONS}) **and estimated** (the last two "
        f"columns: {cubic * 2048**3:.3g} CPU seconds x (d / 2048)^3 a layer, and {matrices:.0f} d x d matrices for each layer in work). "
        "Divide the time by the cores; memory is for one layer at a time:",
        "",
        "| model | d | layers | weights in bf16 | moments in memory | moments on disk | operations a token: forward | moments | "
        "solves, estimated | memory of a solve, estimated |",
        "|" + "---|" * 10,
    ]
    for name in PAPER:
        model = Outline(name, {"layers": "all", "dtype": "bfloat16"}, torch.device("cpu"))
        d, L = model.width, len(model.layers)
        empty = Moments(model.layers, d, CLASSES, PERMUTATIONS, device="meta")
        held = empty.nbytes
        disk = array_files.layout_bytes(moments_layout(empty))
        moments = L * moments_flops(d, CLASSES, PERMUTATIONS, True, Batches.of([np.full(64, 32)])) / 2048
        lines.append(
            f"| {name} | {d} | {L} | {model.weight_bytes / 1e9:.2f} GB | {held / 1e9:.2f} GB | {disk / 1e9:.2f} GB | "
            f"{2 * sum(model.block_weights):.2g} | {moments:.2g} | {L * cubic * d**3 / 3600:.2g} core hours | {matrices * 8 * d**2 / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def write_page(table: pd.DataFrame) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(table)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", action="store_true", help="do not measure")
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.point:
        point(flags.point[0], *map(int, flags.point[1:]))
        return
    if not flags.tables:
        measure().to_csv(CSV, index=False)
    write_page(pd.read_csv(CSV))


if __name__ == "__main__":
    main()
