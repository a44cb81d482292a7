"""What would fine-tuning add? A short LoRA training of one model, scored on the rows that its linear probe is scored on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from scipy.stats import binomtest, linregress, t

from ntps.accuracies.finetuning import fitter
from ntps.accuracies.lora import chosen_targets, lora_model
from ntps.accuracies.table import measure
from ntps.accuracies.task import Row, Task
from ntps.errors import UserError
from ntps.evaluation.paired import LEVEL, Difference, mcnemar, share_difference
from ntps.flags import Forward, Lora, Prescreening
from ntps.moments.lazy_model import lazy_models
from ntps.prescreening.measure import Measured
from ntps.system import array_files, processes, provenance
from ntps.texts.dataset import Dataset

POINTS = 10  # of the curve


@dataclass(kw_only=True)
class ShortLora(Lora):
    """The first steps of a long training: the learning rate stays, so that a curve flattens by what is learnt alone."""

    schedule = "constant_with_warmup"


def finetune(model: str, data: Dataset, flags: Prescreening, measured: Measured) -> Row:
    """Columns of `measured.row`: LoRA's accuracy after `flags.finetune_probe` steps, the probe's on the same rows, the curve.

    Settings are those of the repository's evidence (configs/experiments), the seed that of the flags. A tenth of train validates;
    nothing is chosen on test. A training that is there is not repeated, a killed one goes on. UserError where it cannot be.
    """
    shared = {one.name: getattr(flags, one.name) for one in fields(Forward)}
    steps = flags.finetune_probe or 0
    training = ShortLora(
        models=[model], datasets=[data.name], **shared, seeds=[flags.seed], max_steps=steps, eval_every=-(-steps // POINTS),
        batch_size=16, learning_rate=1e-3, lora_dropout=0.0,
    )  # fmt: skip
    method = f"lora_{steps}_steps"  # of OUTPUT/accuracy: other steps are another table
    task = Task(lazy_models(training)(model), data, flags.limit, flags.seed)
    targets = chosen_targets(task.model.spec, (), task.model.config)
    settings = training.settings | processes.several() | {"lora_targets": targets}
    train = fitter(task, method, training, lambda seed: lora_model(task.model, settings))
    folder = Path(flags.output) / "accuracy" / method / task.model.name
    hits = folder / f"{data.name}.safetensors"  # written before the table: it is there if that is

    def fit(seed: int, progress: Path, identity: dict[str, Any]) -> list[Row]:
        rows = train(seed, progress, identity)
        if processes.first():
            about = provenance.of("lora probe", identity)
            array_files.write(hits, {"right": np.array(rows[-1]["right"])}, about)
        return rows

    measure(task, method, settings, training, fit)
    if not hits.exists():
        raise UserError(f"{hits} is gone, though the table beside it is there: run it again with --overwrite")
    provenance.read(hits, "lora probe")  # an error for one that is cut short
    array_files.verify(hits)
    return columns(pd.read_csv(folder / f"{data.name}.csv"), load_file(hits)["right"].astype(bool), measured)


def columns(table: pd.DataFrame, right: np.ndarray, measured: Measured) -> Row:
    """Of a training's table, which test rows it has right (n,), and which the probe has.

    lora_accuracy: with its exact binomial interval. lora_over_probe: minus the probe's, paired; lora_p_value: of McNemar's exact
    test. lora_rise: of the validation accuracy over the second half of the steps. lora_passes: the training's seconds over those
    of the model's forward pass.
    """
    curve, test = table[table["split"] == "validation"], table.iloc[-1]
    steps, accuracy = curve["step"].tolist(), curve["accuracy"].tolist()
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(LEVEL)
    return {
        "lora_steps": steps[-1],
        **Difference(float(right.mean()), low, high).columns("lora_accuracy"),
        **share_difference(right, measured.right).columns("lora_over_probe"),
        "lora_p_value": mcnemar(right, measured.right),
        **rise(steps, accuracy).columns("lora_rise"),
        "lora_seconds": float(test["seconds"]),
        "lora_passes": float(test["seconds"]) / measured.row["seconds"],
        "lora_curve": {"steps": steps, "accuracy": accuracy, "n": int(curve["n"].iloc[0])},
    }


def rise(steps: Sequence[int], accuracy: Sequence[float]) -> Difference:
    """Of the least-squares line through the second half of the scores, from its first step to its last, with its t interval.

    All scores are of the same rows, whose error is not in it. NaN of fewer than three scores.
    """
    x, y = np.array([pair for pair in zip(steps, accuracy) if 2 * pair[0] >= steps[-1]]).T
    if len(x) < 3:
        return Difference(math.nan, math.nan, math.nan)
    if not np.ptp(y):  # linregress has no standard error of it
        return Difference(0.0, 0.0, 0.0)
    line, span = linregress(x, y), x[-1] - x[0]
    reach = t.isf((1 - LEVEL) / 2, len(x) - 2) * line.stderr
    value, low, high = (float(span * slope) for slope in (line.slope, line.slope - reach, line.slope + reach))
    return Difference(value, low, high)
