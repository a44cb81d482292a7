"""What the moments cost beside the forward pass, and against the textbook way, side by side in one run.

    python -m benchmarks.cache_speed                      # SmolLM2-135M, twenty minutes on two cores
    python -m benchmarks.cache_speed --model FOLDER --texts 96

Unit: the plain forward pass of the base model over the same texts, no hidden states kept, in batches of similar length
with as little padding as pays (`padded_batches`). The loop is faster than that by what padding costs, for its texts
share a row (ntps/moments/packing.py), and slower by the moments: their seconds against the rest of the loop are printed too.
Loop only: no loading, no writing. All three ways take all texts; their batches take turns, and the faster of two runs of
each counts, so that a machine's moods fall on all. A hundred texts at least: of fewer, hardly any are of similar length
and share a batch.
"""

import argparse
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from ntps.accuracies.training_order import pad
from ntps.models.description import resolve_model
from ntps.models.files import source_folder
from ntps.models.loading import load_tokenizer
from ntps.moments.batches import Corpus, plan_batches, tokenize
from ntps.moments.encoder import Encoder, encode
from ntps.moments.lazy_model import default_budget
from ntps.moments.sums import Batch, Moments, targets_of
from ntps.system.console import keep_heap
from ntps.texts.dataset import load_dataset

PERMUTATIONS = 200


class Timed(Moments):
    """Moments that count the seconds they take."""

    seconds = 0.0

    def add(self, index: int, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        start = time.perf_counter()
        mean = super().add(index, states, batch)
        self.seconds += time.perf_counter() - start
        return mean


def spread_texts(count: int) -> tuple[list[str], np.ndarray]:
    """Reviews joined to 3 to 420 words, about 500 tokens, in random order: log-uniform, at its evenly spaced quantiles.

    So few random draws can lie far from their distribution, and how much is padded with them.
    """
    quantiles = np.random.default_rng(0).permutation((np.arange(count) + 0.5) / count)
    return joined(np.exp(np.log(3) + quantiles * np.log(420 / 3)).astype(int))


def mostly_short_texts(count: int) -> tuple[list[str], np.ndarray]:
    """Reviews of 3 to 40 words and, one in sixteen, a long text of 250 to 420 words, in random order."""
    draw = np.random.default_rng(0)
    long = draw.permutation(np.arange(count) % 16 == 0)
    return joined(np.where(long, draw.integers(250, 420, count), draw.integers(3, 40, count)))


def joined(lengths: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Real reviews joined and cut to these numbers of words."""
    split = load_dataset("rotten_tomatoes_pypi").splits["train"]
    texts, place = [], 0
    for words in lengths:
        text: list[str] = []
        while len(text) < words:
            text += split.texts[place].split()
            place = (place + 1) % len(split.texts)
        texts.append(" ".join(text[:words]))
    return texts, split.labels[: len(texts)]


def short_texts(count: int) -> tuple[list[str], np.ndarray]:
    """Questions of about a dozen tokens, in file order."""
    split = load_dataset("trec6").splits["train"]
    return split.texts[:count], split.labels[:count]


def textbook(model, ids: list[np.ndarray], labels: np.ndarray, classes: int, sums: dict) -> None:
    """The plain way, one batch: texts in file order padded to their longest, head included, all layers' states stacked,
    L1 and L2 written out for every text. Adds to `sums`."""
    padded = pad(ids)
    mask = torch.zeros_like(padded)
    for row, text in enumerate(ids):
        mask[row, : len(text)] = 1
    output = model(input_ids=padded, attention_mask=mask, output_hidden_states=True)
    states = torch.stack(output.hidden_states)  # (L, B, T, d)
    for row, text in enumerate(ids):
        n = len(text)
        X = states[:, row, :n].transpose(1, 2)  # (L, d, n)
        y = targets_of(labels[row : row + 1], classes).float()
        L1 = torch.ones(n, n - 1).triu()
        L2 = torch.zeros(n, n - 1)
        L2[1:] = torch.eye(n - 1)
        mean = X.mean(2, keepdim=True)
        for name, value in (
            ("mean_second_moment", mean @ mean.transpose(1, 2)),
            ("mean_label_moment", mean @ y),
            ("prefix_second_moment", X @ L1 @ L1.T @ X.transpose(1, 2)),
            ("prefix_next_moment", X @ L1 @ L2.T @ X.transpose(1, 2)),
        ):
            sums[name] = sums.get(name, 0) + value.double()


def padded_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Rows of every batch, longest texts first: rows x longest <= tokens_per_batch (one row may exceed it).

    Of all ways to cut the sorted texts, the one with the smallest sum of rows x longest + tokens_per_batch / 16; the last
    is what a batch costs by itself, about. So this is as little padding as pays.
    """
    order = np.argsort(-lengths, kind="stable")
    count = len(order)
    least, ends = np.zeros(count + 1), np.zeros(count, int)  # of the texts from each place on
    for start in range(count - 1, -1, -1):
        longest = int(lengths[order[start]])
        rows = min(max(1, tokens_per_batch // longest), count - start)
        costs = np.arange(1, rows + 1) * longest + least[start + 1 : start + 1 + rows]
        ends[start] = start + 1 + costs.argmin()
        least[start] = costs.min() + tokens_per_batch / 16
    batches, start = [], 0
    while start < count:
        batches.append(order[start : ends[start]])
        start = ends[start]
    return batches


def matmul_rate(size: int = 2048) -> float:
    """FLOP/s of a large float32 matrix product."""
    a = torch.randn(size, size)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


@torch.inference_mode()
def compare(name: str, model, tokenizer, texts: list[str], labels: np.ndarray, budget: int) -> None:
    base = model.base_model
    classes = int(labels.max()) + 1
    ids, _ = tokenize(texts, tokenizer, 512, base.config.vocab_size)
    corpus = Corpus(ids, labels, classes, permutations=PERMUTATIONS)
    lengths = corpus.lengths
    encoder = Encoder(base)
    moments = Timed(encoder.layers, encoder.width, classes, PERMUTATIONS)
    sums: dict[str, torch.Tensor] = {}

    def loop(rows: np.ndarray) -> None:
        list(encode(encoder, corpus, [rows], moments))

    def plain_pass(rows: np.ndarray) -> None:
        base(input_ids=pad([ids[row] for row in rows]), use_cache=False)

    def textbook_way(rows: np.ndarray) -> None:
        textbook(model, [ids[row] for row in rows], labels[rows], classes, sums)

    plans = {
        loop: plan_batches(lengths, budget),
        plain_pass: padded_batches(lengths, budget),
        textbook_way: [np.arange(len(ids))[start : start + 32] for start in range(0, len(ids), 32)],
    }
    warm = Moments(encoder.layers, encoder.width, classes, PERMUTATIONS)
    list(encode(encoder, corpus, [plans[loop][0], plans[loop][-1]], warm))
    times = {run: np.zeros((2, len(plan))) for run, plan in plans.items()}
    turns = [
        ((number + 0.5) / len(plan), run, number, rows)
        for run, plan in plans.items()
        for number, rows in enumerate(plan)
    ]
    turns.sort(key=lambda turn: turn[0])
    for repeat in range(2):
        for _, run, number, rows in turns:
            start = time.perf_counter()
            run(rows)
            times[run][repeat, number] = time.perf_counter() - start
    ours, forward, plain = (float(times[run].min(0).sum()) for run in plans)
    all_runs = float(times[loop].sum())
    gap = max(
        float((moments.average(key, layer) - mean).norm() / mean.norm())
        for key, value in sums.items()
        for layer, mean in enumerate(value / (2 * len(ids)))
    )
    padded_tokens, file_tokens = (
        sum(len(rows) * int(lengths[rows].max()) for rows in plans[run]) for run in (plain_pass, textbook_way)
    )
    weights = sum(p.numel() for block in encoder.blocks for p in block.parameters())
    rate = 2 * weights * padded_tokens / forward
    print(
        f"{name}: {len(ids)} texts, {lengths.sum()} tokens ({lengths.min()} to {lengths.max()}, mean {lengths.mean():.0f}), {len(plans[loop])} batches, padded {len(plans[plain_pass])} of {padded_tokens} tokens\n"
        f"  forward pass alone      {forward:7.2f} s   {lengths.sum() / forward:6.0f} tokens/s   {rate / 1e9:.0f} GFLOP/s"
        f" = {rate / matmul_rate():.2f} of a large matrix product\n"
        f"  cache loop              {ours:7.2f} s   {ours / forward:.3f} x the forward pass; moments {moments.seconds / (all_runs - moments.seconds):.3f} of the rest of the loop\n"
        f"  textbook way            {plain:7.2f} s   {plain / ours:.1f} x the cache loop"
        f" (its {len(plans[textbook_way])} batches pad the texts to {file_tokens} tokens)\n"
        f"  largest relative difference of a moment between the two: {gap:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=128, help="mixed texts; six times as many short ones")
    parser.add_argument("--tokens_per_batch", type=int, default=default_budget(torch.device("cpu")))
    flags = parser.parse_args()
    keep_heap()  # as the scripts do
    spec = resolve_model(flags.model)
    model = AutoModelForCausalLM.from_pretrained(source_folder(spec.source), dtype=torch.float32).eval()
    tokenizer = load_tokenizer(spec)
    for name, texts in (
        ("mixed lengths, log-uniform", spread_texts(flags.texts)),
        ("mixed lengths, mostly short", mostly_short_texts(2 * flags.texts)),
        ("short texts", short_texts(6 * flags.texts)),
    ):
        compare(name, model, tokenizer, *texts, flags.tokens_per_batch)


if __name__ == "__main__":
    main()
