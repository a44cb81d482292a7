"""The table of a pair's words: their places on the two leading directions of U and of V (figure 1 of the paper)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntps.errors import UserError
from ntps.flags import Words
from ntps.moments.file import MomentsFile
from ntps.moments.identity import of_words
from ntps.moments.lazy_model import LazyModel
from ntps.moments.pair import Pair
from ntps.results.tables import best_layers
from ntps.scores import words
from ntps.sources.yaml_files import read_yaml
from ntps.system import atomic_files, console, provenance
from ntps.system.output import Output

Groups = Mapping[str, list[str]]
Ends = tuple[str, str]  # the two groups that the dividing line and the signs are for
Draw = Callable[[pd.DataFrame, Path], Any]


def read_words(path: str | None) -> Groups:
    """Groups of words from a YAML file, or the paper's."""
    if path is None:
        return words.PAPER_WORDS
    groups = read_yaml(Path(path), "Joy: [lovely, amazing]")
    lists = groups.values()
    if len(lists) < 2 or not all(isinstance(group, list) and group for group in lists):
        raise UserError(f"--words {path}: give two or more lists of words, such as `Joy: [lovely, amazing]`")
    for word in (*groups, *(word for group in lists for word in group)):
        if not isinstance(word, str):  # YAML takes yes, no, on, off, 12, null for something else
            raise UserError(f"--words {path}: {word!r} is no text: quote it, such as 'yes'")
        if not word.strip():
            raise UserError(f"--words {path}: there is an empty word")
    return groups


def ends_of(groups: Groups, between: Sequence[str]) -> Ends:
    """The two groups requested, or the first two."""
    pair = tuple(between) or tuple(groups)[:2]
    if len(pair) != 2 or len(set(pair)) < 2 or not set(pair) <= set(groups):
        raise UserError(f"--between {' '.join(pair)}: name two of the groups {', '.join(groups)}")
    return pair[0], pair[1]


def place_words(pair: Pair, model: str, flags: Words, groups: Groups, ends: Ends, draw: Draw) -> None:
    """The table of a pair, its picture by `draw(table, stem)`, and its provenance; nothing where they are there.

    model: as the user named it.
    """
    file = pair.train_moments()
    layer = requested_layer(pair, file, flags.layer)
    dtype, max_length = flags.dtype or file.identity["dtype"], file.identity["max_length"]
    source = LazyModel(model, flags.adapter, flags.device, dtype, max_length, str(layer))
    what, remedy = f"{file.path} is of another model", "Use another --output"
    provenance.check_same(what, file.identity["model"], source.identity, remedy)
    table, stem = pair.table("words"), pair.stem("words")
    identity = of_words(file.identity, layer, groups, ends, source.dtype)
    pictures = [stem.with_name(stem.name + ending) for ending in (".png", ".pdf")]
    output = Output("words", stem, identity, {table: words.COLUMNS}, pictures)
    with output.alone():
        if output.there(flags.overwrite):
            console.say(f"already there: {table}")
            return
        frame = pd.DataFrame(points(source, file, layer, groups, ends))
        frame = frame.assign(model=pair.model, dataset=pair.dataset)[list(words.COLUMNS)]
        with output.written(flags=asdict(flags), moments=file.record):
            atomic_files.write_text(table, frame.to_csv(index=False))
            draw(frame, stem)
    sides = ", ".join(f"{space} {on_their_side(frame, space, ends)}" for space in words.SPACES)
    own = "" if flags.words else " (the paper's words, whatever the texts; others: --words FILE.yaml)"
    line = f"on their side of the line between {' and '.join(ends)}: {sides}{own}"
    console.say(f"wrote {table}, .png, .pdf: layer {layer}; {line}")


def requested_layer(pair: Pair, file: MomentsFile, layer: int | None) -> int:
    """The layer requested, or the best one by K_sweep.py's table; UserError for one that was not cached."""
    layer = best_layers(pair.output).get((pair.model, pair.dataset)) if layer is None else layer
    if layer is None:
        raise UserError(f"no best layer is known: run {pair.command('K_sweep.py')}, or give --layer")
    if layer not in file.layers:
        raise UserError(f"--layer {layer}: {file.path} has the layers {file.layers}")
    return layer


def on_their_side(frame: pd.DataFrame, space: str, ends: Ends) -> str:
    """How many words of the two groups lie on their own side of the dividing line, of how many."""
    of_space = frame[frame["space"] == space]
    groups = [of_space.loc[of_space["group"] == name, ["x", "y"]].to_numpy() for name in ends]
    return f"{words.right_side(*groups)} of {sum(map(len, groups))}"


def points(
    source: LazyModel, file: MomentsFile, layer: int, groups: Groups, ends: Ends
) -> list[dict[str, Any]]:
    """A row for each space and word."""
    listed = [(group, word) for group, members in groups.items() for word in members]
    ids, _ = source.tokenize([word for _, word in listed])
    states = source.states(ids, (provenance.UNSAID | file.identity)["pooling"])
    moments = file.averages(file.layers.index(layer), permuted=False)
    member = [np.array([group == name for group, _ in listed]) for name in ends]
    rows = []
    for space in words.SPACES:
        directions, arbitrary = words.leading_pair(moments, space)
        if arbitrary:
            console.say(f"warning: eigenvalues of {space} are equal: its plane is one of many")
        placed = states @ directions.cpu().numpy()
        placed *= words.signs(placed, *member)
        for (group, word), tokens, (x, y) in zip(listed, ids, placed, strict=True):
            row = {"layer": layer, "space": space, "group": group, "word": word}
            rows.append(row | {"tokens": len(tokens), "x": float(x), "y": float(y)})
    return rows
