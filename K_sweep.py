"""Scores from moments: NTPS for every layer, ku and kv, with chance, label null, excess loss and retention.

    python K_sweep.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python K_sweep.py --models smollm2-135m --datasets trec6 --output results --device cuda

Reads OUTPUT/moments/MODEL/DATASET/train.safetensors (and test, where it is there, for held-out figures). Writes
OUTPUT/ntps/MODEL/DATASET.csv, .curves.safetensors and .json, and one row a layer in OUTPUT/scores/MODEL/DATASET.csv.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ntps import cli, probes, storage
from ntps.data import dataset_name
from ntps.errors import UserError
from ntps.models import output_name, pick_device, resolve_model
from ntps.scores import LayerScores, layer_scores, map_layers
from ntps.subspaces import RANK_RTOL

COLUMNS = (
    "model dataset layer order rule fraction ku kv ntps chance chance_std z lift excess excess_lower excess_upper "
    "retention rank_mean rank_prefix rank_unstable n_texts null_mean null_std p_value retention_null label_free tie"
).split()


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    device: str = "cpu",
    adapter: str | None = None,
    rtol: float = RANK_RTOL,
    overwrite: bool = False,
) -> int:
    """Score every model x data set whose moments are in OUTPUT.

    Args:
        models: as for cache.py
        datasets: as for cache.py
        output: the folder that cache.py wrote to
        device: of the eigen-solves, float64: cpu, or cuda for large d
        adapter: as for cache.py
        rtol: eigenvalues of the equilibrated matrices below rtol times the largest count as zero
        overwrite: replace scores of other settings
    """
    flags = dict(locals())
    if not 0 < rtol < 1:
        raise UserError(f"--rtol {rtol}: must lie between 0 and 1")
    target = pick_device(device)
    if target.type == "mps":
        if device != "auto":
            raise UserError("--device mps has no float64: use cpu")
        target = torch.device("cpu")

    def work(model: str, dataset: str) -> None:
        name = output_name(resolve_model(model), adapter)
        sweep(Path(output), name, dataset_name(dataset), target, rtol, overwrite, flags)

    return cli.for_each_pair(models, datasets, work)


def sweep(
    output: Path, model: str, dataset: str, device: torch.device, rtol: float, overwrite: bool, flags: dict
) -> None:
    """Scores of one pair, all layers: a table, its curves, the other scores, and their provenance."""
    started = time.monotonic()
    source = output / "moments" / model / dataset / "train.safetensors"
    flagged = f"--models {flags['models'][0]} --datasets {dataset} --output {output}"
    if not source.exists():
        raise UserError(f"no moments at {source}: run python cache.py {flagged}")
    train, held_out = storage.MomentsFile(source), source.with_name("test.safetensors")
    test = storage.MomentsFile(held_out) if held_out.exists() else None
    if not train.prefix:
        raise UserError(f"{source} has no prefix moments: run cache.py again with --overwrite")
    if (train.class_counts > 0).sum() < 2:
        raise UserError(f"{source}: all {train.text_count} texts are of one class: cache more of them")
    if test:
        storage.check_same_run(train.about["identity"], test.about["identity"], source.parent)
    if train.text_count < train.width:
        cli.say(
            f"warning: {model} x {dataset} has {train.text_count} texts for {train.width} dimensions: "
            "scores describe this sample more than the task"
        )
    identities = {"train": train.about["identity"], "test": test.about["identity"] if test else None}
    identity = identities | {"rtol": rtol, "columns": COLUMNS}
    table = output / "ntps" / model / f"{dataset}.csv"
    peers = output / "scores" / model / f"{dataset}.csv"
    files = [table, table.with_suffix(".curves.safetensors"), peers]
    beside = table.with_suffix(".json")  # written last, removed first: it says that all is there
    if storage.same_output(beside, "scores", identity, overwrite) and all(path.exists() for path in files):
        cli.say(f"already there: {table}")
        return
    scores, rows, others = score_layers(train, test, device, rtol, {"model": model, "dataset": dataset})
    about = storage.provenance("scores", identity, flags=flags, moments=train.about["record"])
    beside.unlink(missing_ok=True)
    storage.write_text(peers, pd.DataFrame(others).to_csv(index=False))
    storage.write_text(peers.with_suffix(".json"), storage.to_json(about))
    storage.write_arrays(files[1], curves(train.layers, scores), about)
    storage.write_text(table, pd.DataFrame(rows)[COLUMNS].to_csv(index=False))
    storage.write_text(beside, storage.to_json(about))
    seconds = time.monotonic() - started
    cli.say(f"wrote {table}, {files[1].name} and {peers}: {len(scores)} layers in {seconds:.0f} s")


def score_layers(
    train: storage.MomentsFile,
    test: storage.MomentsFile | None,
    device: torch.device,
    rtol: float,
    pair: dict,
) -> tuple[list[LayerScores], list[dict], list[dict]]:
    """All scores, their table's rows, and the other scores' rows, one layer at a time from disk."""

    def one(place: int) -> tuple[LayerScores, dict[str, float]]:
        moments = on_device(train.averages(place), device)
        held_out = on_device(test.averages(place), device) if test else None
        try:
            return layer_scores(moments, rtol), other_scores(moments, held_out)
        except UserError as error:
            raise UserError(f"layer {train.layers[place]}: {error}") from None

    scores, rows, others = [], [], []
    with cli.progress(len(train.layers), "layer", f"{pair['model']} x {pair['dataset']}") as bar:
        found = map_layers(one, range(len(train.layers)), 1 if device.type == "cuda" else None)
        for number, (layer, peers) in zip(train.layers, found, strict=True):
            head = pair | {"layer": number, "n_texts": train.text_count}
            scores.append(layer)
            rows += [head | row for row in layer.rows]
            others.append(head | peers)
            bar.update()
    return scores, rows, others


def on_device(moments: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in moments.items()
    }


def curves(layers: list[int], scores: list[LayerScores]) -> dict[str, np.ndarray]:
    """ntps, retention, excess (layer, order, kv) and null (layer, order, R, kv); NaN past a layer's rank."""
    longest = max(layer.rank_prefix for layer in scores)
    arrays = {"layers": np.array(layers)}
    for name in ("ntps", "retention", "excess", "null"):
        values = [getattr(layer, name).cpu().numpy() for layer in scores]
        arrays[name] = np.stack(
            [
                np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, longest - v.shape[-1])], constant_values=math.nan)
                for v in values
            ]
        )
    return arrays


def other_scores(train: Mapping[str, Any], test: Mapping[str, Any] | None) -> dict[str, float]:
    """The closed-form ridge probe with intercept, its strength from generalized cross-validation on train."""
    probe = probes.ridge(train)
    row = {
        "gcv_error": probe.gcv_error,
        "ridge_penalty": probe.penalty,
        "ridge_train_mse": probes.mse(probe, train),
        "ridge_train_skill": probes.skill(probe, train, train),
        "ols_train_mse": probes.mse(probes.least_squares(train), train),
        "ridge_test_mse": math.nan,
        "ridge_test_skill": math.nan,
    }
    if test is not None:
        row |= {
            "ridge_test_mse": probes.mse(probe, test),
            "ridge_test_skill": probes.skill(probe, train, test),
        }
    return row


if __name__ == "__main__":
    sys.exit(cli.run(main))
