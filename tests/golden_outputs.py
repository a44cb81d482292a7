"""Every kind of output of a tiny pair, and the identity that each one carries."""

from pathlib import Path
from typing import Any

import alignment_vis
import cache
import from_scratch
import K_sweep
import linear_sklearn
import linear_training
import lora_finetuning
import prescreen
from ntps.run import cli
from ntps.system import provenance
from tests.tiny import tiny_world, world_flags

TRAINING = ["--max_steps", "2", "--batch_size", "4"]
COMMANDS: list[tuple[Any, list[str]]] = [
    (cache, ["--keep_states", "--label_permutations", "3", "--partitions", "2"]),
    (K_sweep, []),
    (linear_sklearn, []),
    (alignment_vis, []),
    (linear_training, ["--epochs", "1"]),
    (lora_finetuning, [*TRAINING, "--eval_every", "2", "--lora_targets", "q_proj", "v_proj", "--rank", "4"]),
    (from_scratch, [*TRAINING, "--eval_every", "2"]),
]


def identities(folder: Path) -> dict[str, Any]:
    """The identity of every file that the scripts leave, by its path below OUTPUT (the model's hash left out)."""
    world, output = tiny_world(folder / "world"), folder / "out"
    for script, flags in COMMANDS:
        assert cli.run(script.main, world_flags(world, output, *flags)) == 0, script.__name__
    shard = world_flags(world, folder / "shards", "--shard", "1/2", "--splits", "train")
    assert cli.run(cache.main, shard) == 0
    train = [
        "--train",
        str(world / "data" / "tiny-train.csv"),
        "--test",
        str(world / "data" / "tiny-test.csv"),
    ]
    models = ["--models", str(world / "model"), "--layers", "all"]
    assert cli.run(prescreen.main, [*models, *train, "--output", str(folder / "pre")]) == 0
    found = {}
    for root in ("out", "shards", "pre"):
        for path in sorted((folder / root).rglob("*")):
            if path.suffix == ".safetensors" or (path.suffix == ".json" and "config" not in path.name):
                if path.name != "adapter_model.safetensors":
                    place = path.relative_to(folder).as_posix()
                    found[place.replace(str(_model(folder)), "MODEL")] = provenance.read(path)["identity"]
    return found


def _model(folder: Path) -> str:
    """The model's folder in output paths."""
    return next((folder / "out" / "moments").iterdir()).name
