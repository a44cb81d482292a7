"""What sketch, rank, directions and draw are to the gradient kernel: parts of the features that are kept, no further pass.

    python -m report.kernel_variants results/evidence-run --models smollm2-135m --datasets trec6

After ntps.finetune_probe. Writes RESULTS/kernel_variants/MODEL/DATASET.csv: the gain with unit-norm gradients from all features and
from parts of them. Columns of the sketch and rows of A are drawn independently, so that a part of them is a smaller sketch, or a
LoRA of smaller rank, and two parts without a common one are two draws.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from scipy.stats import sem
from torch import Tensor

from ntps.accuracies.gradient_kernel import GradientKernel
from ntps.accuracies.gradients import KIND, feature_blocks
from ntps.moments.pair import Pair
from ntps.results.tables import PAIR
from ntps.run import cli
from ntps.system import atomic_files, provenance
from report.hits import task_of
from report.words import markdown, points_of, two

SHOWN = ("accuracy_states", "accuracy_joint", "accuracy_gain", "skill_gain", "gcv_skill_gain", "weight")
ALL = slice(None)
LEAST, ANOTHER = 6, ", another draw"  # data sets


@dataclass(frozen=True)
class Part:
    """Which numbers of a gradient (sketch, rank), and of the directions, are used."""

    name: str
    sketch: slice = field(default_factory=lambda: ALL)
    rank: slice = field(default_factory=lambda: ALL)
    directions: slice = field(default_factory=lambda: ALL)


def parts(sketch: int, rank: int, directions: int) -> list[Part]:
    """All, then one setting at a time: halved again and again, and each half as a draw of its own."""
    found = [Part("all")]
    for name, size in (("sketch", sketch), ("rank", rank)):
        halves = [size >> step for step in range(1, 4) if size >> step]
        found += [Part(f"{name} {half}", **{name: slice(half)}) for half in halves]
        if size > 1:
            half = size // 2
            found.append(Part(f"{name} {half}{ANOTHER}", **{name: slice(half, 2 * half)}))
    if directions > 1:
        ones = (
            Part(f"direction {place + 1} alone", directions=slice(place, place + 1))
            for place in range(directions)
        )
        found += ones
    return found


def main(results: str, models: list[str], datasets: list[str]) -> int:
    """Compare parts of the features of each pair.

    Args:
        results: the folder of `make finetuning`
        models: config names, YAML files, hub ids or folders
        datasets: config names or YAML files
    """

    def work(model: str, dataset: str) -> None:
        pair = Pair.of(model, dataset, results)
        path = pair.table("kernel_variants")
        features = pair.stem("finetune_probe").with_suffix(".safetensors")
        if path.exists() and path.stat().st_mtime >= features.stat().st_mtime:
            print(f"already there: {path}")
            return
        table = pd.DataFrame(rows(features, model, dataset))
        fixed = {"model": pair.model, "dataset": pair.dataset}
        table = table.assign(**fixed)[[*fixed, *(name for name in table if name not in fixed)]]
        atomic_files.write_text(path, table.to_csv(index=False, float_format="%.7g"))
        print(
            f"wrote {path}: gains {', '.join(f'{row.part} {row.accuracy_gain:+.3f}' for row in table.itertuples())}"
        )

    return cli.for_each_pair(models, datasets, work)


def rows(features: Path, model: str, dataset: str) -> Iterator[dict[str, object]]:
    identity = provenance.read(features, KIND)["identity"]
    settings = identity["settings"]
    task = task_of(model, dataset, identity, "all", str(features))
    kernel, sketch, rank = GradientKernel(features, task), settings["sketch"], settings["rank"]
    for part in parts(sketch, rank, kernel.directions):
        chosen = range(kernel.directions)[part.directions]
        found = kernel.compare(
            (of_part(features, direction, part, sketch, rank) for direction in chosen), unit_norm=True
        )
        yield {"part": part.name, "n_train": len(kernel.labels), **{name: found[name] for name in SHOWN}}


def of_part(features: Path, direction: int, part: Part, sketch: int, rank: int) -> Iterator[Tensor]:
    """Blocks of columns; a module's numbers are (sketch, rank)."""
    for block in feature_blocks(features, direction, sketch * rank):
        modules = block.unflatten(1, (-1, sketch, rank))
        yield modules[:, :, part.sketch, part.rank].flatten(1)


def summary(variants: pd.DataFrame, lora: pd.DataFrame) -> str:
    """The table of docs/finetuning.md, in points, over the data sets of `lora` (model, dataset, lora_gain) that have every part."""
    target = lora.set_index(PAIR)["lora_gain"]
    wide = variants.pivot(index=PAIR, columns="part", values="accuracy_gain").dropna()
    wide = wide.join(target, how="inner")
    if len(wide) < LEAST:
        return f"Not run yet on {LEAST} data sets."
    order = list(dict.fromkeys(variants["part"]))
    rows = [
        {
            "features": part, "kernel's gain": points_of(wide[part].mean()),
            "less that of all": "-" if part == order[0] else with_error(wide[part] - wide[order[0]]),
            "r with LoRA's gain": two(wide[part].corr(wide["lora_gain"])),
        }
        for part in order
    ]  # fmt: skip
    return f"Over {len(wide)} data sets:\n\n{markdown(pd.DataFrame(rows))}\n{draws(wide)}"


def draws(wide: pd.DataFrame) -> str:
    """How far two draws without a common number differ."""
    others = [part for part in wide if str(part).endswith(ANOTHER)]
    return "".join(
        f"\nTwo draws of {(part := str(other).removesuffix(ANOTHER))}: gains correlate at {two(wide[part].corr(wide[other]))} over the data sets and differ by "
        f"{points_of(float(((wide[part] - wide[other]) ** 2).mean() ** 0.5))} points (root mean square)."
        for other in others
    )


def with_error(differences: pd.Series) -> str:
    return f"{points_of(differences.mean())} ± {points_of(sem(differences))}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
