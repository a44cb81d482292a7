"""Partial files of one run added up, from however many machines: python -m ntps.merge results

A partial file SPLIT.i-of-n.safetensors holds every n-th text of a split, from text i on: a partition, or the shard
that `cache.py --shard i/n` made elsewhere. Bring all below one folder; each set is written as SPLIT.safetensors
beside its first file, as `cache.py --partitions n` would have.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ntps.errors import UserError
from ntps.moments.file import MomentsFile, StatesFile, check_together, states_layout, write_moments
from ntps.system import array_files, provenance

RENEWED = {"date", "versions"}  # of the record, when a file is written


def part_name(number: int, parts: int) -> str:
    """`2-of-4` for the texts 1, 5, 9 ... (counted from 0)."""
    return f"{number}-of-{parts}"


def part_names(parts: int) -> Iterator[str]:
    """Of all parts, one by one: a broken header may name any number of them."""
    return (part_name(number + 1, parts) for number in range(parts))


def merge(paths: Sequence[Path], overwrite: bool = False) -> Path:
    """Add partial files and write the whole beside the first, unless it is there; its path.

    UserError unless they are all the parts of one run, each once.
    """
    found: dict[str, Path] = {}
    shared: dict = {}  # the identity without the part, and the format
    for path in paths:
        about = provenance.read(path)
        own = about["identity"] | {"format": about["format"]}
        part = own.pop("part", None)
        if not isinstance(part, str) or not re.fullmatch(r"\d{1,9}-of-\d{1,9}", part):
            raise UserError(f"{path} is no partial file of this version: run cache.py --shard i/n again")
        if path.name != f"{own.get('split')}.{part}.safetensors":
            raise UserError(
                f"{path} is called otherwise than what it holds: give it its name again, SPLIT.i-of-n.safetensors"
            )
        provenance.check_same(
            f"{paths[0]} and {path} are of different runs (there, here)", shared or own, own
        )
        if part in found:
            raise UserError(f"{found[part]} and {path} are both part {part}: take one away")
        found[part], shared = path, own
    count = int(part.rpartition("-")[2])
    missing = (name for name in part_names(count) if name not in found)
    if first := list(itertools.islice(missing, 10)):
        raise UserError(f"beside {paths[0]} there is no {', '.join(first)}: all parts are needed")
    kind = shared.pop("format").split()[1]
    target = paths[0].with_name(f"{shared['split']}.safetensors")
    if provenance.same_output(target, kind, shared, overwrite):
        return target
    ordered = [found[name] for name in part_names(count)]
    record = provenance.read(ordered[0])["record"]
    about = provenance.of(kind, shared, **{key: record[key] for key in record.keys() - RENEWED})
    if kind == "states":
        _interleave(ordered, target, about)
    else:
        files = [MomentsFile(path) for path in ordered]
        check_together(*files)
        total = files[0].load()
        for file in files[1:]:
            file.add_to(total)
        write_moments(target, total, about)
    return target


def _interleave(paths: Sequence[Path], target: Path, about: dict) -> None:
    """Write the states of a split from those of its parts, in order."""
    files = [StatesFile(path) for path in paths]
    check_together(*files)
    first, texts = files[0], sum(len(file.labels) for file in files)
    double = first.identity["dtype"] == "float64"
    shape = (len(first.layers), texts, first.width)
    layout = states_layout(*shape, double, first.numeric, first.label_shape)
    with array_files.written(target, layout, about) as temporary:
        whole = array_files.maps(temporary)
        for number, file in enumerate(files):
            rows = slice(number, None, len(files))
            whole["labels"][rows] = file.labels
            for place in range(len(file.layers)):
                whole["states"][place, rows] = file.layer(place)
