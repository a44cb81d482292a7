"""Made-up results of a whole grid in the real format: scores, curves and the accuracies of all four methods."""

import numpy as np
import pandas as pd

from tests.test_figures import fake_pair

METHODS = ("linear_sklearn", "linear_training", "lora_finetuning", "from_scratch")


def fake_grid(folder, models, datasets, layers=4, scores=True, **columns):
    """Every pair, whole. Returns test accuracies of the probe by (model, dataset)."""
    draw, known = np.random.default_rng(7), {}
    for place, model in enumerate(models):
        for number, dataset in enumerate(datasets):
            if scores:
                fake_pair(folder, model, dataset, layers=layers, seed=100 * place + number, **columns)
            known[model, dataset] = fake_accuracies(folder, model, dataset, draw, layers)
    return known


COUNTS = {  # pictures of the figures that are shipped
    "fig1": 1, "fig2": 6, "fig3": 3, "table1": 1, "layer_map": 2, "kv_curves": 3, "tolerances": 1, "retention": 1, "accuracy_mse": 1,
}  # fmt: skip


def fake_accuracies(folder, model, dataset, draw, layers=4):
    """The tables of the methods; at layer 2, the best by gcv_error, the probe's test accuracy is the one returned."""
    quality = draw.uniform(0.3, 0.9)
    probes = []
    for layer in range(layers):
        for split, better in (("train", 0.05), ("test", 0.0)):
            accuracy = quality + better - 0.02 * abs(layer - 2)
            common = {"layer": layer, "split": split, "final": True, "gcv_error": [3, 2, 1, 2][layer]}
            probes.append(common | {"probe": "logistic_regression", "accuracy": accuracy})
            probes.append(common | {"probe": "linear_regression", "mse": (1 - accuracy) / 3})
    tested = {"split": "test", "final": True}
    tables = {
        "linear_sklearn": probes,
        "linear_training": [tested | {"accuracy": quality - 0.05}],
        "lora_finetuning": [tested | {"accuracy": quality + draw.uniform(-0.05, 0.1)}],
        "from_scratch": [tested | {"accuracy": quality * draw.uniform(0.5, 1)}],
    }
    for method, rows in tables.items():
        path = folder / "accuracy" / method / model / f"{dataset}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    return quality
