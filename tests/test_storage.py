"""Files: what is written is what is read, kills leave nothing half, broken and foreign files are refused."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ntps.errors import UserError
from ntps.moments.file import MomentsFile, write_moments
from ntps.moments.sums import from_arrays
from ntps.system import array_files, atomic_files, provenance

IDENTITY = {
    "model": {"name": "m"}, "data": {"name": "x", "classes": ["a", "b", "c"]}, "split": "train", "limit": 3, "seed": 0,
    "max_length": 8, "dtype": "float32", "layers": [0, 1], "label_permutations": 3, "partitions": 1, "prefix_moments": True,
}  # fmt: skip
ABOUT = provenance.of("moments", IDENTITY)


def some_moments(seed=0, permutations=3):
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(2, 11, 6, 5, generator=draw, dtype=torch.float64)
    return from_arrays(states, [6, 1, 2, 3, 4, 5, 6, 6, 2, 2, 1], np.arange(11) % 3, 3, permutations)


@pytest.mark.parametrize("permutations", [0, 3])
def test_moments_come_back_and_the_file_is_plain_safetensors(tmp_path, permutations):
    moments, path = some_moments(permutations=permutations), tmp_path / "a" / "train.safetensors"
    about = provenance.of("moments", IDENTITY | {"label_permutations": permutations})
    write_moments(path, moments, about)
    plain = load_file(path)
    assert plain["mean_second_moment"].shape == (2, 15) and plain["prefix_next_moment"].shape == (2, 5, 5)
    assert plain["label_moment_permuted"].shape == (permutations, 2, 5, 3)
    file = MomentsFile(path)
    assert file.about == about and file.layers == [0, 1]
    for index in range(2):
        layer = file.averages(index)
        for field in fields(layer):
            here, there = (getattr(x, field.name) for x in (layer, moments.averages(index)))
            if field.name == "label_moment_permuted":
                here, there = layer.permuted, moments.averages(index).permuted.float().double()
            if field.name in ("residual_second_moment", "label_products"):  # of other files
                assert here is there is None
                continue
            assert torch.equal(torch.as_tensor(here), torch.as_tensor(there)), field.name
    upper = moments.average("mean_second_moment", 1)[np.triu_indices(5)]  # row by row
    assert np.array_equal(plain["mean_second_moment"][1], upper.numpy())


def test_files_with_permuted_labels_in_float64_are_read(tmp_path):
    moments = some_moments()
    write_moments(tmp_path / "x.safetensors", moments, ABOUT, permuted="F64")
    assert torch.equal(
        MomentsFile(tmp_path / "x.safetensors").averages(1).permuted, moments.averages(1).permuted
    )


def test_reading_back_and_going_on_gives_the_same_sums(tmp_path):
    first, second = some_moments(0), some_moments(1)
    write_moments(tmp_path / "x.safetensors", first, ABOUT)
    loaded = MomentsFile(tmp_path / "x.safetensors").load().merge(second)
    both = some_moments(0).merge(second)
    for index in range(2):
        for name in both.sums:
            precise = (1e-6, 1e-7) if name == "label_moment_permuted" else (1e-13, 1e-15)  # kept in float32
            loaded_average, whole = loaded.average(name, index), both.average(name, index)
            assert torch.allclose(loaded_average, whole, rtol=precise[0], atol=precise[1])
    assert loaded.text_count == 22 and loaded.token_count == both.token_count


def test_identities_tell_which_field_differs(tmp_path):
    path = tmp_path / "train.safetensors"
    write_moments(path, some_moments(), ABOUT)
    assert provenance.same_output(path, "moments", IDENTITY)
    assert not provenance.same_output(path, "moments", {"limit": 4}, overwrite=True)
    assert not provenance.same_output(tmp_path / "other", "moments", {})
    with pytest.raises(UserError, match=r"limit is 3 there, 4 here.*--output.*--overwrite"):
        provenance.same_output(path, "moments", IDENTITY | {"limit": 4})
    texts = IDENTITY | {"data": {"texts_sha256": "a"}, "limit": 4}
    with pytest.raises(
        UserError, match="run: limit is 3 there, 4 here; .*; the texts or their labels are others than there"
    ):
        provenance.same_output(path, "moments", texts)
    with pytest.raises(UserError, match="model.name"):
        provenance.same_output(path, "moments", IDENTITY | {"model": {"name": "n"}})


def test_truncated_foreign_and_text_files_are_refused_and_kept(tmp_path):
    path = tmp_path / "train.safetensors"
    write_moments(path, some_moments(), ABOUT)
    whole = path.read_bytes()
    save_file({"a": np.zeros(3)}, tmp_path / "foreign.safetensors")
    contents = {
        "cut.safetensors": whole[:-10],
        "head.safetensors": whole[:50],
        "empty.safetensors": b"",
        "text.safetensors": b"hello world, this is no tensor file",
        "foreign.safetensors": (tmp_path / "foreign.safetensors").read_bytes(),
        "list.json": b"[1, 2]",
        "broken.json": b"{",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            provenance.same_output(tmp_path / name, "moments", {})
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(UserError, match="ntps states 1"):
        provenance.read(path, "states")


def test_a_kill_while_writing_leaves_the_old_file_and_the_rest_is_cleaned(tmp_path):
    path = tmp_path / "train.safetensors"
    write_moments(path, some_moments(0), ABOUT)
    before = path.read_bytes()
    code = f"""
import os, signal
from pathlib import Path
from ntps.moments import file
from ntps.system import atomic_files
from tests.test_storage import ABOUT, some_moments
atomic_files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
file.write_moments(Path({str(path)!r}), some_moments(1), ABOUT)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2  # the half-written one lies beside it under a hidden name
    write_moments(path, some_moments(1), ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["train.safetensors"]
    assert path.read_bytes() != before


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "train.safetensors"
    write_moments(path, some_moments(), ABOUT)
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files, "maps", full)
    with pytest.raises(OSError, match="No space"):
        write_moments(path, some_moments(1), ABOUT)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_states_are_filled_in_place(tmp_path):
    path = tmp_path / "s" / ".partial"
    array_files.create(path, {"states": ("F32", (2, 4, 3)), "labels": ("I64", (4,))}, ABOUT)
    array_files.maps(path)["states"][:, [2, 0]] = np.ones((2, 2, 3))
    array_files.maps(path)["labels"][...] = [3, 1, 2, 0]
    array_files.finish(path, path.with_name("train.safetensors"))
    arrays = load_file(path.with_name("train.safetensors"))
    assert arrays["labels"].tolist() == [3, 1, 2, 0]
    assert arrays["states"][1].sum(1).tolist() == [3, 0, 3, 0]


def test_no_space_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        atomic_files.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 10})
    )
    with pytest.raises(UserError, match="no space"):
        atomic_files.check_space(tmp_path / "not" / "there", 11)
    atomic_files.check_space(tmp_path, 9)


def test_provenance_is_complete_json():
    about = json.loads(json.dumps(ABOUT))
    assert about["format"] == "ntps moments 1"
    assert {"torch", "transformers", "numpy"} <= about["record"]["versions"].keys()


def test_a_file_replaced_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "train.safetensors"
    write_moments(path, some_moments(0), ABOUT)
    file = MomentsFile(path)
    file.averages(0)
    write_moments(path, some_moments(1), ABOUT)
    with pytest.raises(UserError, match="replaced or removed while it was read"):
        file.averages(1)
    MomentsFile(path).averages(1)
