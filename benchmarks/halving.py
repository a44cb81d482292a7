"""What a race of twenty candidates costs beside measuring all of them in full, in tokens and in seconds, and who wins.

    python -m benchmarks.halving                # about ten minutes of one free core
    python -m benchmarks.halving --limit 400 --width 64 --steps 20

Candidates: ten checkpoints of one small Llama, of ever more steps of next-token training on the train texts of a data set, and ten
models of random weights and one to ten blocks. Both rankings are made in one process, into folders of their own, the race
first; seconds are all of prescreen.py's, those of its processor beside them for a machine that others use, too. The budget bounds
the tokens; a model is loaded in every round, so passes must take most of the time.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ntps.accuracies.training_order import pad
from ntps.flags import Prescreening
from ntps.models.description import resolve_model
from ntps.models.loading import load_tokenizer
from ntps.moments.file import MomentsFile
from ntps.prescreening.ranking import Ranking
from ntps.system import console
from ntps.texts.dataset import load_dataset

RIVALS = 10  # of each kind


def small(blocks: int, width: int, vocabulary: int, seed: int) -> Any:
    """A Llama of random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=blocks,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def candidates(folder: Path, texts: list[str], width: int, steps: int) -> list[str]:
    """Folders of checkpoints, more of them early in the training, and of random weights."""
    tokenizer = load_tokenizer(resolve_model("smollm2-135m"))
    ids = [torch.tensor(tokenizer(text)["input_ids"][:64]).numpy() for text in texts]
    found = []

    def keep(model: Any, name: str) -> None:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        found.append(str(folder / name))

    model, draw = small(8, width, len(tokenizer), 0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    saved = [place + round((steps - RIVALS) * (place / (RIVALS - 1)) ** 2) for place in range(RIVALS)]
    for step in range(steps + 1):
        if step in saved:
            keep(model, f"checkpoint{step}")
        rows: Any = pad([ids[row] for row in torch.randint(len(ids), (32,), generator=draw)])
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for blocks in range(1, RIVALS + 1):
        keep(small(blocks, width, len(tokenizer), blocks), f"random{blocks}")
    return found


def ranked(models: list[str], output: Path, files: str, **flags) -> tuple[Ranking, float, float, int]:
    """The ranking, its seconds, those of the processor, and the tokens of the passes that left these moments."""
    started, busy = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ranking = Ranking(Prescreening(models=models, output=str(output), **flags))
        ranking.run()
        ranking.write()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    paths = output.glob(f"moments/*/*/{files}")
    return ranking, seconds, busy, sum(MomentsFile(path).token_count for path in paths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="trec6")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--budget", type=float, default=5)
    flags = parser.parse_args()
    console.keep_heap()
    rows = {"dataset": flags.dataset, "limit": flags.limit}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        texts = load_dataset(flags.dataset).select("train", flags.limit).texts
        models = candidates(folder, texts, flags.width, flags.steps)
        ranked(models[:1], folder / "first", "*", **rows)  # first use is slower
        race, *of_race = ranked(models, folder / "race", "*-of-*", budget=flags.budget, **rows)
        full, *of_full = ranked(models, folder / "full", "t*[nt].safetensors", **rows)
    winner = full.table.iloc[0]["model"]
    equal = [one.row["model"] for one in full.measured if one.row["tied"]]  # the winner among them
    kept = [one.row["model"] for one in race.measured]
    print(
        f"{flags.dataset}: {len(models)} models, a budget of {flags.budget:.2f} passes, {race.flags.partitions} parts"
    )
    for what, ours, theirs in zip(("seconds", "of CPU", "tokens"), of_race, of_full):
        print(f"  {what:8s} race {ours:10.0f}   in full {theirs:10.0f}   ratio {ours / theirs:.3f}")
    print(f"  the winner in full, {winner}, is {'kept' if winner in kept else 'dropped'} by the race; of {len(equal)} that "
          f"measuring in full calls tied with it (it included) {len(set(equal) & set(kept))} are kept")  # fmt: skip
    for row in race.others:
        print(f"    {row['model']}: {row['dropped']}")


if __name__ == "__main__":
    main()
