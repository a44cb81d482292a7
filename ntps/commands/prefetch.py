"""Download all that models and data sets need, so that afterwards HF_HUB_OFFLINE=1 and no network will do.

    python -m ntps.prefetch --config configs/experiments/paper.yaml        (make prefetch EXPERIMENT=paper)
    python -m ntps.prefetch --models qwen2-0.5b --datasets sst2 imdb

Says first what is gated or under a licence and how to get access, and at the end what is missing. What is there stays.
"""

import sys
from collections.abc import Sequence
from itertools import product

from ntps.errors import UserError, one_line
from ntps.models.description import resolve_model
from ntps.models.files import source_folder
from ntps.models.loading import load_tokenizer
from ntps.run import cli
from ntps.sources.hub import Gated, Unreachable
from ntps.sources.licences import how_to_accept
from ntps.system import console
from ntps.texts.dataset import load_dataset


def main(models: Sequence[str] = (), datasets: Sequence[str] = ()) -> int:
    """Download models and data sets.

    Args:
        models: config names, YAML files or hub ids
        datasets: config names or YAML files
    """
    for name in models:
        spec = resolve_model(name)
        if spec.gated:
            page = f"https://huggingface.co/{spec.source.get('id', '')}"
            console.say(f"{name} is gated: ask for access at {page}, then log in with `hf auth login`")
        if license := (spec.base or spec).source.get("license"):
            console.say(f"{name} is {how_to_accept(**license)}")
    unreachable: dict[str, Unreachable] = {}
    failed = 0
    for fetch, name in (*product([fetch_model], models), *product([fetch_texts], datasets)):
        try:
            console.say(f"{name}: {fetch(name)}")
        except Unreachable as error:
            unreachable[name] = error
        except (UserError, OSError) as error:
            failed += 1
            what = "gated" if isinstance(error, Gated) else "error"
            print(console.visible(f"{what}: {name}: {error}"), file=sys.stderr)
    if unreachable:
        first = next(iter(unreachable.values()))
        missing = f"and these are not complete in the cache: {', '.join(unreachable)}"
        why = one_line(first.__cause__ or first)
        raise UserError(f"the hub cannot be reached ({why}), {missing}. Run this where there is a network")
    if not failed:
        console.say("all is there: with HF_HUB_OFFLINE=1 no network is needed")
    return int(failed > 0)


def fetch_model(name: str) -> str:
    """Weights and tokenizer of a model, or of the one that its random weights are shaped after."""
    spec = resolve_model(name)
    folder = source_folder((spec.base or spec).source)
    load_tokenizer(spec)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e9:.1f} GB in {folder}"


def fetch_texts(name: str) -> str:
    """A data set, read once from end to end: what is wrong with it shows now."""
    dataset = load_dataset(name)
    rows = ", ".join(f"{count} {split}" for split, count in dataset.provenance["rows"].items())
    kind = f"{len(dataset.classes)} classes" if dataset.classes else "a numeric target"
    return f"{rows}; {kind}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
