"""Scores from moments: NTPS for every layer, ku and kv, with chance, label null, excess loss and retention.

    python K_sweep.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python K_sweep.py --models smollm2-135m --datasets trec6 --output results --device cuda

Reads OUTPUT/moments/MODEL/DATASET/train.safetensors (where they are there, test for held-out figures and partitions
for error bars). Writes OUTPUT/ntps/MODEL/DATASET.csv, .curves.safetensors and .json, and one row a layer, with the
scores that others proposed, in OUTPUT/scores/MODEL/DATASET.csv.
"""

import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import output_name
from ntps.moments.file import MomentsFile
from ntps.moments.pair import pair_flags, partition_files, scorable_moments
from ntps.results import scoring
from ntps.run import cli
from ntps.scores.layer import LayerScores
from ntps.scores.peers import headroom
from ntps.scores.subspaces import RANK_RTOL
from ntps.system import console, storage
from ntps.texts.dataset import dataset_name

COLUMNS = (
    "model dataset layer order rule fraction ku kv ntps chance chance_std z lift excess excess_lower excess_upper "
    "retention rank_mean rank_prefix rank_unstable n_texts null_mean null_std p_value retention_null label_free tie "
    "null_lift retention_adjusted retention_p_value heldout_retention heldout_skill heldout_skill_full ntps_se "
    "retention_se n_over_d excess_lower_tight excess_upper_tight eigenvalue_gap"
).split()


def main(
    models: Sequence[str],
    datasets: Sequence[str],
    output: str = "results",
    device: str = "cpu",
    adapter: str | None = None,
    rtol: float = RANK_RTOL,
    error_bars: str = "best",
    overwrite: bool = False,
) -> int:
    """Score every model x data set whose moments are in OUTPUT.

    Args:
        models: as for cache.py
        datasets: as for cache.py
        output: the folder that cache.py wrote to
        device: of the eigen-solves, float64: cpu, or cuda for large d; what it cannot do, the CPU does, and says so
        adapter: as for cache.py
        rtol: eigenvalues of the equilibrated matrices below rtol times the largest count as zero
        error_bars: layers that get them, where cache.py kept --partitions K: best (the best layer and the last),
            all (K times the time) or none
        overwrite: replace scores of other settings
    """
    flags = dict(locals())
    if not 0 < rtol < 1:
        raise UserError(f"--rtol {rtol}: must lie between 0 and 1")
    if error_bars not in scoring.ERROR_BARS:
        raise UserError(f"--error_bars {error_bars}: must be one of {', '.join(scoring.ERROR_BARS)}")
    target = scoring.solver_device(device)

    def work(model: str, dataset: str) -> None:
        asked = shlex.join(pair_flags(model, dataset, output, adapter))
        name = output_name(resolve_model(model), adapter)
        score_pair(asked, Path(output), name, dataset_name(dataset), target, flags)

    return cli.for_each_pair(models, datasets, work)


def score_pair(asked: str, output: Path, model: str, dataset: str, device: torch.device, flags: dict) -> None:
    """Scores of one pair, all layers: a table, its curves, the other scores, and their provenance."""
    started = time.monotonic()
    train = scorable_moments(output, model, dataset, asked)
    source, held_out = train.path, train.path.with_name("test.safetensors")
    test = MomentsFile(held_out) if held_out.exists() else None
    error_bars = flags["error_bars"] if train.about["identity"]["partitions"] > 1 else "none"
    parts = partition_files(train) if error_bars != "none" else []
    common = float((train.class_counts / train.text_count).square().sum())
    if train.label_second_moment - common <= 1e-12 * common:
        raise UserError(f"{source}: all {train.text_count} texts are of one class: cache more of them")
    if test:
        storage.check_same_run(train.about["identity"], test.about["identity"], source.parent)
    if train.text_count < train.width:
        console.say(
            f"warning: {model} x {dataset} has {train.text_count} texts for {train.width} dimensions: "
            "scores describe this sample more than the task"
        )
    identities = {"train": train.about["identity"], "test": test.about["identity"] if test else None}
    identity = identities | {"rtol": flags["rtol"], "columns": COLUMNS, "error_bars": error_bars}
    table = output / "ntps" / model / f"{dataset}.csv"
    peers = output / "scores" / model / f"{dataset}.csv"
    files = [table, table.with_suffix(".curves.safetensors"), peers]
    beside = table.with_suffix(".json")  # written last, removed first: it says that all is there
    if storage.same_output(beside, "scores", identity, flags["overwrite"]) and all(
        path.exists() for path in files
    ):
        console.say(f"already there: {table}")
        return
    if error_bars != "none" and not parts:
        console.say(f"warning: the partitions of {source} are not all there: no error bars")
    title, rtol = f"{model} x {dataset}", flags["rtol"]
    scores, others = scoring.score_layers(train, test, rtol, device, title)
    if parts:
        best = min(range(len(scores)), key=lambda place: others[place]["gcv_error"])
        chosen = {best, len(scores) - 1} if error_bars == "best" else range(len(scores))
        scoring.error_bars(scores, sorted(chosen), train, parts, rtol, device, title)
    pair = {"model": model, "dataset": dataset}
    heads = [pair | {"layer": layer, "n_texts": train.text_count} for layer in train.layers]
    rows = [head | row for head, layer in zip(heads, scores, strict=True) for row in layer.rows]
    gain = {"headroom": headroom(others)}
    other_rows = [head | row | gain for head, row in zip(heads, others, strict=True)]
    record = train.about["record"] | {"class_counts": train.class_counts.tolist()}
    about = storage.provenance("scores", identity, flags=flags, moments=record)
    beside.unlink(missing_ok=True)
    storage.write_text(peers, pd.DataFrame(other_rows).to_csv(index=False))
    storage.write_text(peers.with_suffix(".json"), storage.to_json(about))
    storage.write_arrays(files[1], curves(train.layers, scores), about)
    storage.write_text(table, pd.DataFrame(rows)[COLUMNS].to_csv(index=False))
    storage.write_text(beside, storage.to_json(about))
    seconds = time.monotonic() - started
    console.say(f"wrote {table}, {files[1].name} and {peers}: {len(scores)} layers in {seconds:.0f} s")


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


if __name__ == "__main__":
    sys.exit(cli.run(main))
