"""Words in the plane of a layer's two leading directions: of perception (U) and of autoregression (V); figure 1.

    python cache.py --models smollm2-135m --datasets rotten_tomatoes_pypi --splits train --limit 1000
    python K_sweep.py --models smollm2-135m --datasets rotten_tomatoes_pypi
    python alignment_vis.py                                                  # of this model and data set
    python alignment_vis.py --models openelm-450m --datasets emotion --layer 20      # as the paper
    python alignment_vis.py --models smollm2-135m --datasets trec6 --words words.yaml --between Place Person

words.yaml holds lists of words by group: `Place: [river, city]`. A word is encoded as a text of its own, and its state
is the mean over its tokens, special tokens included. Writes OUTPUT/words/MODEL/DATASET.csv, .png, .pdf and .json.
Unit of an axis: the root mean square of the training texts' coordinates. Sign: the first group of --between lies
right of and above the second. Dashed line: linear discriminant analysis between these two, equal priors.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fig_plot.figures import save
from fig_plot.tables import best_layers
from fig_plot.words import word_figure
from ntps.errors import UserError
from ntps.models.description import resolve_model
from ntps.models.loading import output_name
from ntps.moments.batches import Corpus, plan_batches
from ntps.moments.encoder import encode
from ntps.moments.file import MomentsFile
from ntps.moments.pair import pair_flags, scorable_moments
from ntps.moments.source import Source, default_budget
from ntps.run import cli
from ntps.scores import words
from ntps.system import console, storage
from ntps.texts.dataset import dataset_name

Groups = dict[str, list[str]]


def main(
    models: Sequence[str] = ("smollm2-135m",),
    datasets: Sequence[str] = ("rotten_tomatoes_pypi",),
    output: str = "results",
    words: str | None = None,
    between: Sequence[str] = (),
    layer: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    adapter: str | None = None,
    overwrite: bool = False,
) -> int:
    """Draw words for every model x data set whose train moments are in OUTPUT.

    Args:
        models: as for cache.py
        datasets: as for cache.py
        output: the folder that cache.py wrote to
        words: YAML file with groups of words (default: the paper's Joy, Sad and Be)
        between: the two groups that the dividing line and the signs are for (default: the first two)
        layer: of the directions and states (default: the best layer, by the ridge probe of K_sweep.py)
        dtype: of the forward pass (default: that of the moments)
        device: of the forward pass: auto, cpu, cuda, cuda:1, mps
        adapter: as for cache.py
        overwrite: replace results of other settings
    """
    flags = dict(locals())
    groups = read_words(words)
    pair = tuple(between) or tuple(groups)[:2]
    if len(pair) != 2 or len(set(pair)) < 2 or not set(pair) <= set(groups):
        raise UserError(f"--between {' '.join(pair)}: name two of the groups {', '.join(groups)}")

    def work(model: str, dataset: str) -> None:
        place = Path(output), output_name(resolve_model(model), adapter), dataset_name(dataset)
        command = shlex.join(pair_flags(model, dataset, output, adapter))
        draw(model, command, *place, groups, (pair[0], pair[1]), flags)

    return cli.for_each_pair(models, datasets, work)


def read_words(path: str | None) -> Groups:
    """Groups of words from a YAML file, or the paper's."""
    if path is None:
        return words.PAPER_WORDS
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--words {path} cannot be read: {str(error).splitlines()[0]}") from None
    lists = found.values() if isinstance(found, dict) else []
    if len(lists) < 2 or not all(isinstance(group, list) and group for group in lists):
        raise UserError(f"--words {path}: give two or more lists of words, such as `Joy: [lovely, amazing]`")
    for word in (*found, *(word for group in lists for word in group)):
        if not isinstance(word, str):  # YAML takes yes, no, on, off, 12, null for something else
            raise UserError(f"--words {path}: {word!r} is no text: quote it, such as 'yes'")
        if not word.strip():
            raise UserError(f"--words {path}: there is an empty word")
    return found


def draw(
    asked: str,
    command: str,
    output: Path,
    model: str,
    dataset: str,
    groups: Groups,
    pair: tuple[str, str],
    flags: dict[str, Any],
) -> None:
    """The table, its figure and its provenance, of one pair; nothing where they are there."""
    file = scorable_moments(output, model, dataset, command)
    source = file.path
    layer = flags["layer"]
    if layer is None and (layer := best_layers(output).get((model, dataset))) is None:
        raise UserError(f"no best layer is known: run python K_sweep.py {command}, or give --layer")
    if layer not in file.layers:
        raise UserError(f"--layer {layer}: {source} has the layers {file.layers}")
    kept = file.about["identity"]
    encoder = Source(
        asked,
        flags["adapter"],
        flags["device"],
        flags["dtype"] or kept["dtype"],
        kept["max_length"],
        str(layer),
    )
    if lines := storage.differences(kept["model"], encoder.identity):
        raise UserError(f"{source} is of another model: {'; '.join(lines[:4])}. Use another --output.")
    table = output / "words" / model / f"{dataset}.csv"
    dtype = str(encoder.dtype).removeprefix("torch.")
    identity = {"moments": kept, "layer": layer, "words": groups, "between": pair, "dtype": dtype}
    pictures = [table.with_suffix(kind) for kind in (".png", ".pdf")]
    if storage.same_output(table.with_suffix(".json"), "words", identity, flags["overwrite"]):
        if all(path.exists() for path in (table, *pictures)):
            console.say(f"already there: {table}")
            return
    rows = points(encoder, file, layer, groups, pair)
    frame = pd.DataFrame([{"model": model, "dataset": dataset, **row} for row in rows])[list(words.COLUMNS)]
    table.with_suffix(".json").unlink(missing_ok=True)  # written last: it says that all is there
    storage.write_text(table, frame.to_csv(index=False))
    save(word_figure({(model, dataset): frame}, pair), table.with_suffix(""))
    about = storage.provenance("words", identity, flags=flags, moments=file.about["record"])
    storage.write_text(table.with_suffix(".json"), storage.to_json(about))
    told = []
    for space in words.SPACES:
        ends = [frame[(frame["space"] == space) & (frame["group"] == name)][["x", "y"]] for name in pair]
        right = words.right_side(*(end.to_numpy() for end in ends))
        told.append(f"{space} {right} of {sum(map(len, ends))}")
    console.say(f"wrote {table}, .png, .pdf: layer {layer}; on their side of the line: {', '.join(told)}")


def points(
    source: Source, file: MomentsFile, layer: int, groups: Groups, pair: tuple[str, str]
) -> list[dict[str, Any]]:
    """A row for each space and word."""
    texts = [(group, word) for group, listed in groups.items() for word in listed]
    ids, _ = source.tokenize([word for _, word in texts])
    corpus = Corpus(ids, np.zeros(len(ids), np.int64), 1, np.zeros((0, len(ids)), np.int64))
    states = np.empty((len(ids), source.encoder.width))

    def keep(rows: np.ndarray, mean: np.ndarray) -> None:
        states[rows] = mean[0]

    for _ in encode(
        source.encoder, corpus, plan_batches(corpus.lengths, default_budget(source.device)), keep=keep
    ):
        pass
    moments = file.averages(file.layers.index(layer))
    member = [np.array([group == name for group, _ in texts]) for name in pair]
    rows = []
    for space in words.SPACES:
        directions, arbitrary = words.leading_pair(moments, space)
        if arbitrary:
            console.say(f"warning: eigenvalues of {space} are equal: its plane is one of many")
        placed = states @ directions.cpu().numpy()
        placed *= words.signs(placed, *member)
        for (group, word), tokens, (x, y) in zip(texts, ids, placed, strict=True):
            row = {"layer": layer, "space": space, "group": group, "word": word}
            rows.append(row | {"tokens": len(tokens), "x": float(x), "y": float(y)})
    return rows


if __name__ == "__main__":
    sys.exit(cli.run(main))
