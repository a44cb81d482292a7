"""The gradient kernel: a ridge probe on mean states joined with sketched LoRA gradients, beside the states' own.

Nothing is trained; prescreen.py --finetune_probe is another thing, a short LoRA training.

    python -m ntps.finetune_probe --models smollm2-135m --datasets trec6 --limit 1000
    python -m ntps.finetune_probe --models smollm2-135m --datasets trec6 --directions_of random --seed 1 --output results/random1

Writes OUTPUT/finetune_probe/MODEL/DATASET.csv, a line with the gradients as they are and one with each scaled to length 1,
.json, and the features, .safetensors. About four forward passes; an interrupted run goes on where it stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ntps.flags import Count, Forward, Natural, OptionalCount, Pairs, flag, one_of, setting
from ntps.run import cli

COLUMNS = (
    "model", "dataset", "unit_norm", "n_train", "n_test", "accuracy_states", "accuracy_joint", "accuracy_gain",
    "accuracy_gain_error", "skill_states", "skill_joint", "skill_gain", "gcv_skill_states", "gcv_skill_joint",
    "gcv_skill_gain", "weight", "penalty_states", "penalty_joint", "seconds", "forward_passes",
)  # fmt: skip


@dataclass(kw_only=True)
class Flags(Pairs, Forward):
    """The gain on test of every model x data set; LoRA as lora_finetuning.py starts it, of a smaller rank."""

    directions: Count = setting(2, "numbers <r, mean state> whose gradients are taken, a backward pass each")
    directions_of: Annotated[str, one_of("principal", "random")] = setting(
        "principal", "the states: principal (components) or random"
    )
    rank: Count = setting(8, "of LoRA's A")
    sketch: Count = setting(8, "numbers that the output side of each gradient is projected to")
    lora_targets: Sequence[str] = flag(
        (), "modules to adapt (default: the model description's, else its attention's)"
    )
    tokens_per_batch: OptionalCount = flag(None, "tokens in a batch (default: 512 on a CPU, 4096 elsewhere)")
    seed: Natural = setting(42, "of A, the sketch and random directions")


def main(flags: Flags) -> int:
    import pandas as pd  # after the flags: these imports take seconds

    from ntps.accuracies import gradients
    from ntps.accuracies.gradient_kernel import GradientKernel
    from ntps.accuracies.lora import chosen_targets
    from ntps.accuracies.task import Task
    from ntps.system import atomic_files, console, processes, provenance
    from ntps.system.output import Output

    def table(task: Task, features: Path) -> pd.DataFrame:
        kernel, rows = GradientKernel(features, task), []
        fixed = {
            "model": task.model.name, "dataset": task.data.name, "n_train": len(kernel.labels), "n_test": len(kernel.held_out),
            "seconds": kernel.seconds, "forward_passes": kernel.forward_passes,
        }  # fmt: skip
        for unit_norm in (False, True):
            every = (gradients.feature_blocks(features, direction) for direction in range(kernel.directions))
            rows.append(fixed | {"unit_norm": unit_norm} | kernel.compare(every, unit_norm))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def work(task: Task) -> None:
        targets = chosen_targets(task.model.spec, flags.lora_targets, task.model.config)
        identity = task.identity("finetune_probe", flags.settings | {"lora_targets": targets})
        folder = Path(flags.output) / "finetune_probe" / task.model.name
        name, features = task.data.name, folder / f"{task.data.name}.safetensors"
        path = folder / f"{name}.csv"
        output = Output("finetune probe", folder / name, identity, {path: COLUMNS}, [features])
        with output.alone():
            if processes.from_first(lambda: output.there(flags.overwrite)):
                console.say(f"already there: {path}")
                return
            same = provenance.same_output
            if not processes.from_first(lambda: same(features, gradients.KIND, identity, flags.overwrite)):
                gradients.FeaturePass(task, features, identity, flags.tokens_per_batch).run()
            if not processes.first():
                return
            found = table(task, features)
            with output.written(**task.record()):
                atomic_files.write_text(path, found.to_csv(index=False))
        for row in found.itertuples():
            kind = "unit-norm" if row.unit_norm else "raw"
            console.say(
                f"{path}: {kind} gradients add {row.accuracy_gain:+.3f} ± {row.accuracy_gain_error:.3f} to accuracy "
                f"{row.accuracy_states:.3f}, {row.skill_gain:+.3f} to skill {row.skill_states:.3f}, for {row.forward_passes:.1f} "
                "forward passes"
            )

    return cli.for_each_task(flags, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
