"""What pre-screening costs beside the forward passes alone: three models over one set of short texts.

    python -m benchmarks.prescreen_speed                # SmolLM2-135M and two of random weights, 2000 questions
    python -m benchmarks.prescreen_speed --texts 200 --model FOLDER

The unit is what a person would do without us: load each model, cut the texts into tokens, and run the base model over
batches of similar length, keeping nothing. Pre-screening is prescreen.py from its first line to the page, loading,
scores, probes, figures and files included, into an empty folder. Both are run in one process, prescreen.py's first imports
of matplotlib and the like included; the passes alone come before and after, and the mean of the two counts, so that a
machine's moods fall on both sides. CPU seconds are printed beside, which other programs disturb less.
"""

import argparse
import contextlib
import csv
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import prescreen
from benchmarks.cache_speed import padded_batches
from ntps.accuracies.training_order import pad
from ntps.models.description import resolve_model
from ntps.models.loading import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from ntps.moments.batches import tokenize
from ntps.moments.lazy_model import default_budget
from ntps.run import cli
from ntps.system import console
from ntps.texts.dataset import load_dataset


def candidates(folder: Path, model: str) -> list[str]:
    """The model and two of its architecture with random weights, as descriptions."""
    base = str(Path(model).resolve()) if Path(model).exists() else model
    for seed in (1, 2):
        (folder / f"random{seed}.yaml").write_text(f"random_of: {base}\nseed: {seed}\n")
    return [model, *(str(folder / f"random{seed}.yaml") for seed in (1, 2))]


def write_texts(folder: Path, count: int) -> Path:
    """The first questions of trec6, those of its test part after those of train."""
    data = load_dataset("trec6")
    rows = [
        (text, data.classes[label])
        for part in (data.splits["train"], data.splits["test"])
        for text, label in zip(part.texts, part.labels)
    ]
    with open(folder / "questions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows[:count]])
    return folder / "questions.csv"


def clocks() -> np.ndarray:
    """Seconds by the clock, and of this process on all cores."""
    return np.array([time.perf_counter(), time.process_time()])


@torch.inference_mode()
def forward_alone(name: str, texts: list[str]) -> np.ndarray:
    """Clocks (2, 2): loading, tokens and passes together, and the passes alone."""
    started = clocks()
    spec, device = resolve_model(name), pick_device("auto")
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    model = load_model(spec, pick_dtype(None, spec, device), device)
    ids, _ = tokenize(texts, tokenizer, context_length(tokenizer, config, None), config.vocab_size)
    begun = clocks()
    for rows in padded_batches(np.array([len(tokens) for tokens in ids]), default_budget(device)):
        model(input_ids=pad([ids[row] for row in rows]).to(device), use_cache=False)
    if device.type == "cuda":
        torch.cuda.synchronize()
    ended = clocks()
    return np.stack([ended - started, ended - begun])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--texts", type=int, default=2000)
    flags = parser.parse_args()
    console.keep_heap()  # as prescreen.py does: all passes run alike
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models, train = candidates(folder, flags.model), write_texts(folder, flags.texts)
        with train.open(newline="", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        forward_alone(models[0], texts[:32])  # first use is slower
        before = [forward_alone(model, texts) for model in models]
        asked = ["--models", *models, "--train", str(train), "--output", str(folder / "out")]
        started = clocks()
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.run(prescreen.main, asked)
        ours = clocks() - started
        if code:
            raise SystemExit(code)
        after = [forward_alone(model, texts) for model in models]
    whole, passes = np.sum([*before, *after], axis=0) / 2
    print(f"{len(texts)} texts, 3 models like {flags.model}")
    for at, clock in enumerate(("clock", "CPU")):
        print(
            f"  {clock:5} forward passes alone {whole[at]:7.1f} s with loading and tokens, {passes[at]:.1f} s without"
        )
        print(
            f"  {clock:5} prescreen.py         {ours[at]:7.1f} s   {ours[at] / whole[at]:.2f} x, "
            f"or {ours[at] / passes[at]:.2f} x the passes without loading"
        )


if __name__ == "__main__":
    main()
