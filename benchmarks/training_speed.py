"""Speed of the trainers on texts of mixed length (random tokens: only their lengths matter).

    python -m benchmarks.training_speed --model smollm2-135m --texts 1000

Four claims: (a) the 50 epochs of linear_training.py, forward pass included, cost at most 1/20 of encoding the texts
again in each epoch; (b) what LoRA takes of a token, in forward passes, and its padding; (c) grouping by length at least halves the padding;
(d) the gradients of python -m ntps.finetune_probe cost at most 3.5 forward passes.
The forward pass is timed on --sample texts and scaled up to --texts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from ntps.accuracies import finetuning, linear_head
from ntps.accuracies import lora as adapters
from ntps.accuracies.gradients import PILOT, Gradients
from ntps.accuracies.training_order import grouped_order
from ntps.flags import LinearHead, Training
from ntps.models.loading import load_model
from ntps.moments.batches import Corpus, plan_batches
from ntps.moments.encoder import encode
from ntps.moments.lazy_model import LazyModel, default_budget
from ntps.system import console

CLASSES, EPOCHS, BATCH = 6, 50, 16


def clock_of(source: LazyModel) -> Callable[[], float]:
    """Of this process alone where it computes itself: others may be at work."""
    return time.process_time if source.device.type == "cpu" else time.perf_counter


def linear(source: LazyModel, ids: list[np.ndarray], labels: np.ndarray, sample: int) -> float:
    """(a) one forward pass and 50 epochs on its states, against 50 forward passes; seconds of a token's forward pass."""
    clock = clock_of(source)
    part = ids[:sample]
    corpus = Corpus(part, labels[:sample], CLASSES)
    budget = default_budget(source.device)
    encoder = source.encoder
    started = clock()
    for _ in encode(encoder, corpus, plan_batches(corpus.lengths, budget)):
        pass
    seconds, scale = clock() - started, sum(map(len, ids)) / sum(map(len, part))
    once = seconds * scale
    states = torch.randn(len(ids), encoder.width, device=source.device)
    head = linear_head.new_head(encoder.width, CLASSES, 0.05).to(source.device)
    targets = torch.as_tensor(labels, device=source.device)
    started = clock()
    flags = LinearHead(models=[], datasets=[], epochs=EPOCHS)
    linear_head.train_head(states, targets, head, flags, 0, lambda step, final: None)
    trained = clock() - started
    again = EPOCHS * once + trained
    print(
        f"(a) forward pass {once:.1f} s ({sum(map(len, part)) / seconds:.0f} tokens/s), head {trained:.1f} s"
    )
    print(f"    once + {EPOCHS} epochs on states {once + trained:.1f} s, encoding each epoch {again:.1f} s")
    print(f"    share {(once + trained) / again:.4f} (at most 0.05)")
    return seconds / sum(map(len, part))


def lora(source: LazyModel, ids: list[np.ndarray], labels: np.ndarray, steps: int, forward: float) -> None:
    """(b) real tokens in Trainer's loop; forward: seconds of a token's forward pass."""
    clock = clock_of(source)
    texts = [{"input_ids": row, "labels": int(label)} for row, label in zip(ids, labels, strict=True)]
    flags = Training(models=[], datasets=[], max_steps=steps, batch_size=BATCH, eval_every=steps)
    settings: dict = {
        "rank": 32,
        "alpha": 32,
        "lora_dropout": 0.05,
        "start_layer": 0,
        "lora_targets": source.spec.lora_targets or ["q_proj", "k_proj", "v_proj"],
    }
    base = adapters.add_lora(load_model(source.spec, source.dtype, source.device), source.name, settings)
    model = finetuning.Classifier(base, source.config.hidden_size, CLASSES, 0.05)
    task = SimpleNamespace(model=source, data=SimpleNamespace(name="random"))
    with tempfile.TemporaryDirectory() as folder:
        args = finetuning.arguments(Path(folder), task, flags, 0)  # type: ignore[arg-type]
        args.eval_strategy = type(args.eval_strategy)("no")
        trainer = finetuning.Finetuner(
            model=model, args=args, data_collator=finetuning.collate, train_dataset=texts
        )
        trainer.remove_callback(finetuning.PrinterCallback)
        trainer.started = time.monotonic()
        started = clock()
        trainer.train()
        seconds = clock() - started
    order = list(trainer._get_train_sampler())[: steps * BATCH]
    share = padding(np.array([len(ids[row]) for row in order]), np.arange(len(order)))
    real = trainer.state.num_input_tokens_seen
    print(f"(b) LoRA, {steps} steps of {BATCH} texts: {real / seconds:.0f} tokens/s, padding {share:.1%};")
    print(f"    a token takes {seconds / real / forward:.2f} of its forward passes")


def grouping(ids: list[np.ndarray]) -> None:
    """(c) padding among all tokens, grouped and in random order."""
    lengths = np.array([len(row) for row in ids])
    grouped = padding(lengths, np.array(grouped_order(lengths.tolist(), BATCH, 0)))
    shuffled = padding(lengths, np.random.default_rng(0).permutation(len(lengths)))
    print(f"(c) batches of {BATCH} of {len(ids)} texts, {lengths.min()} to {lengths.max()} tokens:")
    print(f"    padding {grouped:.1%} grouped, {shuffled:.1%} random: {grouped / shuffled:.2f} (at most 0.5)")


def gradient_probe(source: LazyModel, ids: list[np.ndarray], sample: int) -> None:
    """(d) forward passes and gradients in turn, batch by batch, with two directions and a sketch of 8 by 8; and the pilot."""
    encoder, part = source.encoder, ids[:sample]
    corpus = Corpus(part, np.zeros(len(part), int), CLASSES)
    names = adapters.target_modules(
        encoder.model, source.spec.lora_targets or ["q_proj", "k_proj", "v_proj"], 0
    )
    gradients = Gradients(encoder, names, torch.randn(2, encoder.width), 8, 8, 0)
    budget = default_budget(source.device) // 4
    clock = clock_of(source)
    forward = backward = 0.0
    for whole in plan_batches(corpus.lengths, budget):
        started = clock()
        for _ in encode(encoder, corpus, [whole]):
            pass
        between = clock()
        for some in encoder.passes(corpus.lengths[whole]):
            gradients.of([part[row] for row in whole[some]])[0].cpu()
        forward, backward = forward + between - started, backward + clock() - between
    pilot = min(1, PILOT / len(ids))
    print(f"(d) a forward pass {forward:.1f} s, gradients {backward:.1f} s, the pilot {pilot:.2f} of a pass:")
    print(f"    {backward / forward + pilot:.2f} forward passes (at most 3.5)")


def padding(lengths: np.ndarray, order: np.ndarray) -> float:
    batches = [lengths[order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
    return 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m", help="config name, YAML file, hub id or folder")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=60, help="texts that are encoded")
    parser.add_argument("--steps", type=int, default=4, help="LoRA steps, of 16 texts")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", help="default: float32 on a CPU")
    flags = parser.parse_args()
    console.quiet()
    console.keep_heap()  # as every script does
    draw = np.random.default_rng(0)
    source = LazyModel(flags.model, None, flags.device, flags.dtype, 128, "all")
    source.layers = source.layers[-1:]
    lengths = np.clip(draw.lognormal(3.0, 0.8, flags.texts).astype(int), 2, source.max_length)
    ids = [draw.integers(3, source.config.vocab_size, length) for length in lengths]
    labels = draw.integers(0, CLASSES, flags.texts)
    forward = linear(source, ids, labels, flags.sample)
    gradient_probe(source, ids, flags.sample)
    lora(source, ids, labels, flags.steps, forward)
    grouping(ids)


if __name__ == "__main__":
    main()
