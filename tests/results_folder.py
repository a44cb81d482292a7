"""A results folder of made-up scores and accuracies, with the files and columns of K_sweep.py and the trainers."""

from pathlib import Path
from typing import Any

import pandas as pd

from ntps.system import atomic_files, provenance

LAYERS, FRACTIONS, WIDTH, TEXTS = (0, 1, 2), (0.1, 0.2), 20, 100
BEST = 1  # the layer whose ridge probe errs least


def write_table(
    path: Path, kind: str, rows: list[dict[str, Any]], identity: dict | None = None, **record: Any
) -> None:
    atomic_files.write_text(path, pd.DataFrame(rows).to_csv(index=False))
    about = provenance.of(kind, identity or {}, **record)
    atomic_files.write_text(path.with_suffix(".json"), atomic_files.to_json(about))


def write_pair(
    folder: Path, model: str, dataset: str, *, ntps: float, retention: float = 0.5, probe: float | None = 0.7,
    lora: float | None = None, classes: int = 2, tokens: int = 1000, source: dict | None = None, file: str = "",
) -> None:  # fmt: skip
    """One pair. At every layer and k its scores are those given, plus 0.01 a layer above 0 and 0.001 for fraction 0.2."""
    pair, scores, layers = {"model": model, "dataset": dataset}, [], []
    for layer in LAYERS:
        for place, fraction in enumerate((*FRACTIONS, float("nan"))):
            kv = 2 + place % 2
            more = 0.01 * layer + 0.001 * (place == 1)
            point = {
                "layer": layer,
                "order": "descending",
                "rule": "task_rank",
                "fraction": fraction,
                "kv": kv,
            }
            row = {"ntps": ntps + more, "retention": retention + more, "chance": kv / WIDTH, "n_texts": TEXTS}
            scores.append(pair | point | row)
        error = 0.1 + 0.01 * abs(layer - BEST)
        layers.append(
            pair
            | {
                "layer": layer,
                "gcv_error": error,
                "gcv_skill": 1 - 4 * error,
                "ridge_train_mse": 0.1,
                "ridge_train_skill": 0.6,
            }
        )
    data = {"name": dataset, "classes": [str(c) for c in range(classes)]}
    facts = {"source": source or {"id": dataset}, "description": {"file": file}}
    write_table(
        folder / "ntps" / model / f"{dataset}.csv", "scores", scores, {"train": {"data": data}},
        moments={"data": facts, "texts": TEXTS, "tokens": tokens},
    )  # fmt: skip
    write_table(folder / "scores" / model / f"{dataset}.csv", "scores", layers)
    if probe is not None:
        rows = [
            pair | {"method": "linear_sklearn", "layer": layer, "split": split, "final": True, "probe": kind}
            | {"accuracy": probe - 0.1 * (layer != BEST) + 0.2 * (split == "train")}
            for layer in LAYERS for split in ("train", "test") for kind in ("logistic_regression",)
        ]  # fmt: skip
        write_table(folder / "accuracy" / "linear_sklearn" / model / f"{dataset}.csv", "accuracy", rows)
    if lora is not None:
        rows = [
            pair | {"method": "lora_finetuning", "layer": 2, "seed": seed, "split": split, "final": split == "test"}
            | {"accuracy": lora + 0.02 * seed - 0.01}
            for seed in (0, 1) for split in ("validation", "test")
        ]  # fmt: skip
        settings = {"limit": 100, "settings": {"max_steps": 50}}
        write_table(
            folder / "accuracy" / "lora_finetuning" / model / f"{dataset}.csv", "accuracy", rows, settings
        )
