"""What a batch costs by itself, in padded tokens: the c of ntps.encoding.plan_batches, c = tokens_per_batch / 16.

    python -m benchmarks.batch_cost
    python -m benchmarks.batch_cost --model FOLDER --texts 100

The forward pass over the same questions in batches of several budgets; seconds = a (padded tokens) + b (batches) by least
squares, and c = b / a. The budgets are taken in turn, twice, and the lower time of each counts.
"""

import argparse
import time

import numpy as np
import torch

from ntps.caching import default_budget
from ntps.data import load_dataset
from ntps.encoding import pad, plan_batches, tokenize
from ntps.models import load_model, load_tokenizer, pick_device, pick_dtype, resolve_model

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the default budget


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=400)
    flags = parser.parse_args()
    spec, device = resolve_model(flags.model), pick_device("auto")
    model = load_model(spec, pick_dtype(None, spec, device), device)
    texts = load_dataset("trec6").splits["train"].texts[: flags.texts]
    ids, _ = tokenize(texts, load_tokenizer(spec), 64)
    lengths, budget = np.array([len(tokens) for tokens in ids]), default_budget(device)
    plans = [plan_batches(lengths, int(share * budget)) for share in SHARES]
    times = np.full(len(plans), np.inf)
    for number in [len(plans) - 1, *range(len(plans)), *range(len(plans))]:  # the first use is slower
        start = time.perf_counter()
        for rows in plans[number]:
            model(input_ids=pad([ids[row] for row in rows], device), use_cache=False)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times[number] = min(times[number], time.perf_counter() - start)
    padded = [sum(len(rows) * lengths[rows].max() for rows in plan) for plan in plans]
    counts = [len(plan) for plan in plans]
    (a, b), *_ = np.linalg.lstsq(np.column_stack([padded, counts]).astype(float), times)
    for tokens, count, seconds in zip(padded, counts, times):
        print(
            f"{count:5} batches  {tokens:7} padded tokens ({tokens / lengths.sum():.2f} x)  {seconds:6.2f} s"
        )
    print(f"a batch by itself costs {b / a:.0f} padded tokens; plan_batches takes {budget // 16}")


if __name__ == "__main__":
    main()
