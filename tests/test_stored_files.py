"""Moments and states files as a disk, another program or an attacker leaves them: one error each, before any score."""

import json
import random
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import alignment_vis
import cache
import K_sweep
import linear_sklearn
from ntps.commands import show
from ntps.errors import UserError
from ntps.run import cli
from ntps.system import array_files, provenance
from tests.tiny import tiny_world, world_flags

CACHE = [
    "--keep_states",
    "--label_permutations",
    "3",
    "--partitions",
    "2",
    "--limit",
    "30",
    "--layers",
    "0,2",
]
MOMENTS = [
    "class_counts", "label_moment_permuted", "label_second_moment", "layers", "mean_label_moment", "mean_second_moment",
    "mean_state", "prefix_next_moment", "prefix_second_moment", "text_count", "token_count",
]  # fmt: skip
VALUES = [None, "x", {}, -1, 10**30, [0.5, 2]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tiny_world(tmp_path_factory.mktemp("world"))
    assert cli.run(cache.main, world_flags(folder, folder / "out", *CACHE)) == 0
    return folder


class Folder:
    """A copy of the results, to be broken; `original` is the file that will be."""

    def __init__(self, made, output):
        self.made, self.output = made, shutil.copytree(made / "out", output)

    def file(self, kind, name="train"):
        path = next((self.output / kind).glob(f"*/tiny/{name}.safetensors"))
        self.original = self.made / "out" / path.relative_to(self.output)
        return path

    def run(self, script, *flags):
        cheap = ["--max_iter", "1"] if script is linear_sklearn else []
        return cli.run(script.main, world_flags(self.made, self.output, "--overwrite", *cheap, *flags))


@pytest.fixture
def folder(made, tmp_path, capsys):
    folder = Folder(made, tmp_path / "out")

    def refused(script, *parts):
        capsys.readouterr()
        assert folder.run(script) == 1, (script.__name__, parts)
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in said.err, said.err
        assert all(part in lines[0] for part in (str(folder.output), *parts)), lines[0]
        assert not [path for path in folder.output.rglob("*.csv") if path.stat().st_size]

    folder.refused = refused
    return folder


def array_edits(value):
    """The same numbers under another type or in another shape, and other numbers; None where there is no array."""
    yield None
    yield value[:-1]
    yield np.concatenate([value, value[:1]])
    yield value[..., :-1]
    yield value[None]
    yield value.reshape(-1)[:1].reshape(())
    yield value.astype(np.float32)
    yield value.astype(np.int64 if value.dtype.kind == "f" else np.float64)
    yield np.zeros((0, *value.shape[1:]), value.dtype)


def number_edits(value):
    """Numbers that cannot be, in every array."""
    for bad in (np.nan, np.inf, -np.inf) if value.dtype.kind == "f" else (-1, 2**62):
        yield np.where(np.arange(value.size).reshape(value.shape) == value.size - 1, bad, value)


def same(edited, value):
    return edited is not None and edited.dtype == value.dtype and np.array_equal(edited, value)


@pytest.mark.parametrize("script", [K_sweep, linear_sklearn], ids=["K_sweep", "linear_sklearn"])
@pytest.mark.parametrize("name", MOMENTS)
def test_an_array_of_the_moments_that_is_another(folder, script, name):
    path = folder.file("moments")
    arrays, about = load_file(folder.original), provenance.read(folder.original)
    assert sorted(arrays) == MOMENTS
    for edited in (*array_edits(arrays[name]), *number_edits(arrays[name])):
        if same(edited, arrays[name]) or (name == "token_count" and np.array_equal(edited, [2**62])):
            continue  # the hash alone tells it
        changed = {key: value for key, value in arrays.items() if key != name}
        array_files.write(path, changed | ({} if edited is None else {name: edited}), about)
        folder.refused(script, str(path))
    changed = {(f"{key}_x" if key == name else key): value for key, value in arrays.items()}
    array_files.write(path, changed, about)
    folder.refused(script, str(path), "not there" if name < f"{name}_x" else name)
    array_files.write(path, arrays | {f"{name}_x": arrays[name]}, about)
    folder.refused(script, str(path), f"{name}_x")


@pytest.mark.parametrize("script", [K_sweep, linear_sklearn], ids=["K_sweep", "linear_sklearn"])
@pytest.mark.parametrize(
    "name, value",
    [
        ("layers", [2, 2]), ("layers", [0, 5]), ("layers", [-1, 2]), ("class_counts", [-10, 30, 10]),
        ("class_counts", [1, 2, 3]), ("class_counts", [30, 0.5, -0.5]), ("text_count", [0]), ("text_count", [-30]),
        ("text_count", [31]), ("token_count", [-1]), ("label_second_moment", [-1]), ("label_second_moment", [2]),
    ],
    ids=str,
)  # fmt: skip
def test_counts_that_do_not_add_up(folder, script, name, value):
    path = folder.file("moments")
    arrays = load_file(folder.original)
    arrays[name] = np.array(value, arrays[name].dtype)
    array_files.write(path, arrays, provenance.read(folder.original))
    folder.refused(script, str(path))


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e200])
def test_second_moments_that_no_states_have(folder, factor):
    path = folder.file("moments")
    arrays = load_file(folder.original)
    arrays["mean_second_moment"] *= factor
    array_files.write(path, arrays, provenance.read(folder.original))
    folder.refused(K_sweep, str(path), "moments")
    folder.refused(linear_sklearn, str(path), "moments")


@pytest.mark.parametrize("name", ["states", "labels"])
def test_an_array_of_the_states_that_is_another(folder, name):
    path = folder.file("states")
    arrays, about = load_file(folder.original), provenance.read(folder.original)
    more = [arrays["labels"] + 1, arrays["labels"] * 0, np.roll(arrays["labels"], 1) - 1]
    edits = [*array_edits(arrays[name]), *number_edits(arrays[name]), *(more if name == "labels" else ())]
    for edited in edits:
        if same(edited, arrays[name]):
            continue
        changed = {key: value for key, value in arrays.items() if key != name}
        array_files.write(path, changed | ({} if edited is None else {name: edited}), about)
        folder.refused(linear_sklearn, str(path))
    narrow = {"states": arrays["states"][..., :-1], "labels": arrays["labels"]}
    short = {"states": arrays["states"][:, :-1], "labels": arrays["labels"][:-1]}
    for changed in (narrow, short):
        array_files.write(path, changed, about)
        folder.refused(linear_sklearn, str(path))


def header_edits(about):
    """Every key of the header without its value, and with others; the keys on the way to it."""
    places = [(key,) for key in about] + [("identity", key) for key in about["identity"]]
    for place in [*places, *(("identity", "data", key) for key in about["identity"]["data"])]:
        for value in (..., *VALUES):
            edited = json.loads(json.dumps(about))
            inner = edited
            for key in place[:-1]:
                inner = inner[key]
            known = inner.pop(place[-1])
            if value is not ...:
                inner[place[-1]] = value
            if value is ... or json.dumps(value) != json.dumps(known):
                yield place, value, edited
    for name in (
        "ntps moments 10",
        "ntps moments 11",
        "ntps moments 1 ",
        "ntps states 1",
        "ntps moments",
        "xntps moments 1",
    ):
        yield ("format",), name, about | {"format": name}


@pytest.mark.slow
@pytest.mark.parametrize("script", [K_sweep, linear_sklearn], ids=["K_sweep", "linear_sklearn"])
def test_a_header_that_is_another(made, folder, script, capsys):
    """Under the hash of what was written, every edit is an error; under a hash of its own, an error or the same scores."""
    path = folder.file("moments")
    arrays, about = load_file(folder.original), provenance.read(folder.original)
    written, draw = array_files.verify(folder.original), random.Random(1)
    must = "format layers label_permutations prefix_moments classes split data max_length".split()
    for place, value, edited in header_edits(about):
        array_files.write(path, arrays, edited)
        resealed = path.read_bytes()
        if draw.random() < 0.2 or place[-1] in must:
            path.write_bytes(resealed.replace(array_files.verify(path).encode(), written.encode()))
            folder.refused(script)
            path.write_bytes(resealed)
        lenient = place[-1] not in must or value in (10**30, "x", True)
        assert folder.run(script) in ((0, 1) if lenient else (1,)), (place, value)
        assert "Traceback" not in capsys.readouterr().err
        for table in folder.output.rglob("*.csv"):
            table.unlink()


@pytest.mark.parametrize(
    "script, kind, name",
    [(K_sweep, "moments", "train"), (K_sweep, "moments", "test"), (K_sweep, "moments", "train.1-of-2"),
     (linear_sklearn, "moments", "test"), (linear_sklearn, "states", "train")],
)  # fmt: skip
def test_flipped_bits(folder, script, kind, name, capsys):
    path = folder.file(kind, name)
    whole = folder.original.read_bytes()
    start, draw = 8 + int.from_bytes(whole[:8], "little"), random.Random(0)
    for number in range(40):
        place = draw.randrange(*((start, len(whole)) if number < 30 else (8, start)))
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        if place >= start:
            folder.refused(script, str(path))
        else:  # of the header: nothing that counts has changed, or an error
            code, error = folder.run(script), capsys.readouterr().err
            assert "Traceback" not in error
            if code == 0:
                assert array_files.content_hash(path)[0] == array_files.content_hash(folder.original)[0]
        for table in folder.output.rglob("*.csv"):
            table.unlink()


def test_no_verify_takes_the_numbers_as_they_are(folder):
    path = folder.file("moments")
    arrays, about = load_file(folder.original), provenance.read(folder.original)
    whole = bytearray(folder.original.read_bytes())
    arrays["mean_label_moment"][0, 0, 0] = 1e-3
    array_files.write(path, arrays, about)
    changed = bytearray(path.read_bytes())
    changed[: whole.index(b"{", 40)] = whole[: whole.index(b"{", 40)]  # the header's hash
    path.write_bytes(changed)
    for script in (K_sweep, linear_sklearn):
        folder.refused(script, "damaged", "--overwrite")
    assert folder.run(K_sweep, "--no_verify") == folder.run(linear_sklearn, "--no_verify") == 0
    assert folder.run(alignment_vis, "--layer", "2") == 1
    array_files.note_without_hash.cache_clear()


def without_hash(path):
    """The file as an earlier version wrote it."""
    save_file(load_file(path), path, {"ntps": json.dumps(provenance.read(path))})


def test_files_of_an_earlier_version_are_read_with_one_note(folder, capsys):
    assert folder.run(K_sweep) == folder.run(linear_sklearn) == 0
    before = {path: path.read_text() for path in folder.output.rglob("ntps/*/*.csv")}
    for path in folder.output.rglob("*.safetensors"):
        without_hash(path)
    array_files.note_without_hash.cache_clear()
    capsys.readouterr()
    assert folder.run(K_sweep) == folder.run(linear_sklearn) == 0
    assert capsys.readouterr().out.count("earlier version") == 1
    assert before and all(path.read_text() == text for path, text in before.items())
    path = folder.file("moments")
    arrays = load_file(path)
    arrays["prefix_next_moment"][1, 3, 3] = np.nan  # that is seen without a hash, too
    save_file(arrays, path, {"ntps": json.dumps(provenance.read(path))})
    assert folder.run(K_sweep) == 1
    assert "prefix_next_moment has numbers that are not finite" in capsys.readouterr().err


def test_curves_and_show(folder, capsys):
    from fig_plot.tables import load_curves

    assert folder.run(K_sweep) == 0
    (path,) = folder.output.rglob("*.curves.safetensors")
    assert load_curves(path)["ntps"].shape[0] == 2
    capsys.readouterr()
    assert cli.run(show.main, [str(path)]) == 0
    assert re.search(r"sha256 +[0-9a-f]{64}\n", capsys.readouterr().out)
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    with pytest.raises(UserError, match="damaged"):
        load_curves(path)
    assert cli.run(show.main, [str(path)]) == 1 and "damaged" in capsys.readouterr().err


def test_the_hash_is_of_what_a_file_holds_in_any_order(folder, tmp_path):
    path = folder.file("moments")
    found, written = array_files.content_hash(path)
    assert found == written
    metadata = {"ntps": json.dumps(provenance.read(path)), array_files.HASH: written}
    save_file(dict(reversed(load_file(path).items())), tmp_path / "again.safetensors", metadata)
    assert array_files.verify(tmp_path / "again.safetensors") == written
