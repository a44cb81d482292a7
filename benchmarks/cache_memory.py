"""Peak memory of cache.py against its bound, and its independence of the number of texts.

    python -m benchmarks.cache_memory                 # SmolLM2-135M on trec6, nine processes, about ten minutes

Bound: model and one batch (measured: a process that loads texts and model and runs one forward pass of a full batch)
+ 4 L d^2 x 8 bytes + (R + 1) L d C x 8 bytes. Medians, for the heap of one process is not laid out as the next one's.
Texts enough to fill batches: fewer make smaller ones, and take less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ntps.models.description import resolve_model
from ntps.models.loading import load_config
from ntps.texts.dataset import load_dataset

ROOT = Path(__file__).resolve().parent.parent
PERMUTATIONS = 200
FORWARD = """
import sys, numpy, torch
from ntps.moments.lazy_model import LazyModel, default_budget
from ntps.system.console import keep_heap
from ntps.texts.dataset import load_dataset
keep_heap()
data = load_dataset(sys.argv[2])
source = LazyModel(sys.argv[1], None, "cpu", "float32", None, "all")
tokens = default_budget(source.device)
source.encoder.run(torch.randint(3, 1000, (tokens,)), numpy.full(tokens // 32, 32), lambda place, states: None)
"""


def peak(command: list[str]) -> float:
    """Peak resident memory of a finished process, in bytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cached(model: str, dataset: str, limit: int) -> float:
    """The same of cache.py, states kept."""
    with tempfile.TemporaryDirectory() as output:
        asked = {
            "models": model,
            "datasets": dataset,
            "splits": "train",
            "limit": str(limit),
            "label_permutations": str(PERMUTATIONS),
            "output": output,
        }
        flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
        return peak([sys.executable, str(ROOT / "cache.py"), "--keep_states", *flags])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dataset", default="trec6")
    parser.add_argument("--limits", type=int, nargs=2, default=(1000, 4000))
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
    config = load_config(resolve_model(flags.model))
    layers, width = config.num_hidden_layers + 1, config.hidden_size
    classes = len(load_dataset(flags.dataset).classes)
    sums = 4 * layers * width**2 * 8 + (PERMUTATIONS + 1) * layers * width * classes * 8
    forward = [sys.executable, "-c", FORWARD, flags.model, flags.dataset]
    alone = statistics.median(peak(forward) for _ in range(flags.runs))
    print(f"model and one batch {alone / 1e9:6.2f} GB\nbound for the sums  {sums / 1e9:6.2f} GB")
    for limit in flags.limits:
        used = statistics.median(cached(flags.model, flags.dataset, limit) for _ in range(flags.runs))
        print(
            f"cache.py, {limit:5d} texts {used / 1e9:6.2f} GB = {(used - alone) / sums:.2f} of the bound for the sums"
        )


if __name__ == "__main__":
    main()
