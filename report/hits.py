"""Which test rows settled LoRA runs and the probe of the best layer have right: what the error of a gain is made of.

    python -m report.hits results/evidence-run --models smollm2-135m --datasets trec6

Scores the adapters of RESULTS/adapters again, as their training did, and fits the logistic probe of linear_sklearn.py again.
Writes RESULTS/hits/MODEL/DATASET.csv: a row for the probe and for each seed's adapter, `right` with a 1 or 0 a test row, in order.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback

from ntps.accuracies import finetuning
from ntps.accuracies.layer_probes import fitting, state_rows
from ntps.accuracies.lora import lora_model
from ntps.accuracies.task import Task
from ntps.accuracies.training_order import collate
from ntps.errors import UserError
from ntps.flags import LayerProbes, Lora
from ntps.moments.lazy_model import LazyModel
from ntps.moments.pair import Pair
from ntps.results.tables import best_layers
from ntps.run import cli
from ntps.system import atomic_files, provenance
from ntps.texts.dataset import load_dataset

HEAD = "head.safetensors"


def main(results: str, models: list[str], datasets: list[str]) -> int:
    """Score the adapters and the probe of each pair, row by row.

    Args:
        results: the folder of `make evidence` and `make finetuning`
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
    """

    def work(model: str, dataset: str) -> None:
        pair = Pair.of(model, dataset, results)
        path, found = pair.table("hits"), adapters(pair)
        made = [(folder / HEAD).stat().st_mtime for folder in found.values()]
        if path.exists() and path.stat().st_mtime >= max(made) and len(pd.read_csv(path)) == len(found) + 1:
            print(f"already there: {path}")
            return
        rows = [lora_hits(folder, seed, model, dataset) for seed, folder in found.items()]
        rows.append(probe_hits(pair, model, dataset, found[min(found)]))
        fixed = {"model": pair.model, "dataset": pair.dataset}
        atomic_files.write_text(path, pd.DataFrame([fixed | row for row in rows]).to_csv(index=False))
        print(f"wrote {path}: {', '.join('{method} {accuracy:.4f}'.format(**row) for row in rows)}")

    return cli.for_each_pair(models, datasets, work)


def adapters(pair: Pair) -> dict[int, Path]:
    """The folder of each seed's adapter."""
    start = pair.stem("adapters")
    folders = {path.name.removeprefix(f"{start.name}-seed"): path for path in start.parent.glob("*-seed*")}
    found = {int(seed): folders[seed] for seed in sorted(folders) if seed.isdecimal()}
    if not found:
        raise UserError(f"{start}-seed0 is not there: run lora_finetuning.py first")
    return found


def identity_of(folder: Path) -> dict[str, Any]:
    return provenance.read(folder / HEAD, "head")["identity"]


def task_of(
    model: str, dataset: str, identity: dict[str, Any], layers: str, what: str = "the adapter"
) -> Task:
    """The rows that something of this identity was made of; UserError where model or texts are no longer the same."""
    lazy = LazyModel(model, None, "auto", identity["dtype"], identity["max_length"], layers)
    task = Task(lazy, load_dataset(dataset), identity["limit"])
    now = task.identity(identity["method"], identity["settings"])
    provenance.check_same(f"{what} of {model} x {dataset}", identity | {"seed": 0}, now | {"seed": 0})
    return task


def lora_hits(folder: Path, seed: int, model: str, dataset: str) -> dict[str, Any]:
    """By the loop that scored it: LoRA apart from the weights, rows of similar length together."""
    identity = identity_of(folder)
    task = task_of(model, dataset, identity, "all")
    settings = identity["settings"]
    own = {name: value for name, value in settings.items() if name != "lora_targets"}
    flags = Lora(models=[model], datasets=[dataset], dtype=identity["dtype"], **own)
    base: Any = lora_model(task.model, settings)
    set_peft_model_state_dict(base, load_file(folder / "adapter_model.safetensors"))
    classifier = finetuning.Classifier(
        base, task.model.config.hidden_size, len(task.data.classes), flags.dropout
    )
    classifier.head[-1].load_state_dict(load_file(folder / HEAD))
    rows: Any = finetuning.examples(task, "test", np.arange(len(task.labels["test"])))
    with TemporaryDirectory() as place:
        args = finetuning.arguments(Path(place), task, flags, seed)
        trainer = finetuning.Finetuner(
            model=classifier,
            args=args,
            data_collator=collate,
            eval_dataset=rows,
            compute_metrics=lambda _: {},
        )
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate()
    return row_of("lora_finetuning", seed, np.array(trainer.right))


def probe_hits(pair: Pair, model: str, dataset: str, adapter: Path) -> dict[str, Any]:
    """Of the logistic regression at the layer that generalized cross-validation chooses, fitted as linear_sklearn.py does."""
    layer = best_layers(pair.output).get((pair.model, pair.dataset))
    if layer is None:
        raise UserError(f"{pair.table('ntps')} is not there: run K_sweep.py first")
    task = task_of(model, dataset, identity_of(adapter), str(layer))
    train, test = ((task.model.states(task.ids(split)), task.labels[split]) for split in ("train", "test"))
    settings = LayerProbes(models=[model], datasets=[dataset], solver="lbfgs").settings
    with fitting():
        rows = state_rows(train, test, classes=len(task.data.classes), **settings)
    return row_of("logistic_regression", -1, np.array(rows[-1]["right"]))


def row_of(method: str, seed: int, right: np.ndarray) -> dict[str, Any]:
    digits = "".join(map(str, right.astype(int)))
    return {"method": method, "seed": seed, "accuracy": float(right.mean()), "n": len(right), "right": digits}


if __name__ == "__main__":
    sys.exit(cli.run(main))
