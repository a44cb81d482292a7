"""Moments and mean states on disk: one safetensors file a split, written layer by layer, read layer by layer.

What such a file holds is checked when it is opened (provenance, arrays, their types and shapes, counts), the hash over
all of it and that its numbers are finite when the first layer is read."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ntps.errors import UserError, boundary
from ntps.moments.identity import OF_MOMENTS
from ntps.moments.sums import PREFIX, SYMMETRIC, Moments
from ntps.scores.layer_moments import LayerMoments
from ntps.sources.yaml_files import fits
from ntps.system import array_files, provenance

LARGEST = 1e100  # of a second moment
KEYS: dict[str, Any] = {  # of the identity
    "model": dict, "data": dict, "split": str, "limit": int | None, "seed": int, "max_length": int, "dtype": str,
    "layers": list[int],
}  # fmt: skip
KEYS_OF_MOMENTS = KEYS | dict(zip(OF_MOMENTS, (int, int, bool), strict=True))


def moments_layout(moments: Moments, permuted: str = "F32") -> array_files.Layout:
    """The contract's arrays: first dimension = layer; symmetric ones packed, upper triangle row by row.

    Permuted labels are noise by design and many: they are kept in float32, in checkpoints and older files in float64.
    """
    layers, width, targets = moments.sums["mean_label_moment"].shape
    layout = {name: ("F64", tuple(value.shape)) for name, value in moments.sums.items()}
    layout |= {name: ("F64", (layers, width * (width + 1) // 2)) for name in SYMMETRIC if name in layout}
    return layout | {
        "label_moment_permuted": (permuted, (moments.permutations, layers, width, targets)),
        "layers": ("I64", (layers,)),
        "class_counts": ("F64", (targets,)),
        "label_second_moment": ("F64", (1,)),
        "text_count": ("I64", (1,)),
        "token_count": ("I64", (1,)),
    }


def write_moments(path: Path, moments: Moments, about: Mapping, permuted: str = "F32") -> None:
    """Write moments as averages, layer by layer."""
    with array_files.written(path, moments_layout(moments, permuted), about) as temporary:
        arrays = array_files.maps(temporary)
        arrays["layers"][...] = moments.layers
        arrays["class_counts"][...] = moments.class_counts
        arrays["label_second_moment"][...] = moments.label_second_moment / max(moments.text_count, 1)
        arrays["text_count"][...] = moments.text_count
        arrays["token_count"][...] = moments.token_count
        for index in range(len(moments.layers)):
            arrays = array_files.maps(temporary)  # of a layer each: touched pages count as memory
            for name in moments.sums:
                value = moments.average(name, index).cpu().numpy()
                if name == "label_moment_permuted":
                    arrays[name][:, index] = value
                else:
                    packed = name in SYMMETRIC
                    arrays[name][index] = value[np.tri(len(value), dtype=bool).T] if packed else value


def states_layout(
    layers: int, rows: int, width: int, double: bool, numeric: bool, labels: Sequence[int] = ()
) -> array_files.Layout:
    """Mean states, in float64 where the forward pass was; labels are class indices, numbers, or 0 and 1 for each of C labels.

    labels: the shape of a row's.
    """
    states = "F64" if double else "F32", (layers, rows, width)
    return {"states": states, "labels": ("F64" if numeric else "I64", (rows, *labels))}


class SplitFile:
    """What moments and states files share; `about` is the provenance: an `identity`, and a `record` for the reader.

    UserError for a file that does not hold what it should. verify=False takes its numbers as they are.
    """

    width: int

    def __init__(self, path: Path, kind: str, keys: Mapping[str, Any], verify: bool):
        self.path, self.verify = Path(path), verify
        self.opened = self._stamp()
        self.about = provenance.read(self.path, kind)
        self.identity: dict[str, Any] = self.about["identity"]
        self.record: dict[str, Any] = self.about["record"]
        with safe_open(self.path, "numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            self.layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
        self._verified, self._lock = not verify, threading.Lock()
        for key, form in keys.items():
            if not fits(self.identity.get(key, ...), form):
                raise self.damaged(f"its identity has no fitting {key}")
        classes = self.identity["data"].get("classes")
        if not fits(classes, list[str]):
            raise self.damaged("its identity has no fitting data.classes")
        self.numeric, self.targets, self.layers = not classes, len(classes) or 1, self.identity["layers"]
        self.multilabel = bool(self.identity["data"].get("multilabel"))
        self.label_shape = [self.targets] if self.multilabel else []  # of a row
        if len(set(self.layers)) < len(self.layers) or min(self.layers, default=-1) < 0:
            raise self.damaged(f"layers {self.layers} are no list of different layers")

    def damaged(self, problem: str) -> UserError:
        return UserError(f"{self.path} is damaged: {problem}. {provenance.REMEDY}")

    def check_layout(self, wanted: array_files.Layout) -> None:
        """UserError for other arrays than these."""
        names = wanted.keys() | self.layout.keys()
        for name in sorted(names, key=lambda name: (name in wanted and name in self.layout, name)):
            there, here = self.layout.get(name, "not there"), wanted.get(name, "none")
            if there != here:
                raise self.damaged(f"its array {name} is {there}, by its header {here}")

    def _stamp(self) -> tuple[int, ...]:
        """Changes when another file takes this one's name."""
        status = self.path.stat() if self.path.exists() else None
        return (status.st_ino, status.st_mtime_ns, status.st_size) if status else ()

    def check(self) -> None:
        """Before a layer is read. UserError for numbers that are not those that were written, and where the file was
        replaced since it was opened: its layers would be of two runs."""
        if self._stamp() != self.opened:
            raise UserError(f"{self.path} was replaced or removed while it was read: run this again")
        with self._lock:
            if not self._verified:
                array_files.verify(self.path, finite=True)
                self._verified = True


def check_together(*files: SplitFile) -> None:
    """UserError for files of one pair whose states are not equally wide."""
    for file in files:
        if file.width != files[0].width:
            widths = f"{file.width} wide, {files[0].path} {files[0].width}"
            raise file.damaged(f"its states are {widths}")


class StatesFile(SplitFile):
    """Mean states (n, d) of every layer, and the labels, as in a Split."""

    def __init__(self, path: Path, verify: bool = True):
        super().__init__(path, "states", KEYS, verify)
        rows, self.width = (self.layout.get("states", ("", ()))[1][1:] + (0, 0))[:2]
        double = self.identity["dtype"] == "float64"
        shape = (len(self.layers), rows, self.width)
        self.check_layout(states_layout(*shape, double, self.numeric, self.label_shape))
        with safe_open(self.path, "numpy") as file:
            self.labels = file.get_tensor("labels")
        known = 2 if self.multilabel else self.targets
        if not self.numeric and not ((self.labels >= 0) & (self.labels < known)).all():
            raise self.damaged(f"it has labels that are not those of {self.targets} classes")
        if self.multilabel:
            self.labels = self.labels.astype(bool)

    @property
    def counts(self) -> int | list[int]:
        """Rows of each class or label; of numbers all rows."""
        if self.multilabel:
            return self.labels.sum(0).tolist()
        return len(self.labels) if self.numeric else np.bincount(self.labels, minlength=self.targets).tolist()

    def layer(self, index: int) -> np.ndarray:
        """(n, d), as stored, of the layer at place `index`."""
        self.check()
        with safe_open(self.path, "numpy") as file:
            return file.get_slice("states")[index : index + 1][0]


class MomentsFile(SplitFile):
    """Moments on disk, read layer by layer."""

    def __init__(self, path: Path, kind: str = "moments", verify: bool = True):
        super().__init__(path, kind, KEYS_OF_MOMENTS, verify)
        self.prefix, self.permutations = self.identity["prefix_moments"], self.identity["label_permutations"]
        self.width = (0, *self.layout.get("mean_state", ("", ()))[1])[-1]
        older = self.layout.get("label_moment_permuted", ("F32",))[0] == "F64"
        with boundary(f"{self.path} is damaged: its header", provenance.REMEDY):
            wanted = moments_layout(self._empty("meta"), "F64" if older else "F32")
        self.check_layout(wanted)
        with safe_open(self.path, "numpy") as file:
            layers = file.get_tensor("layers").tolist()
            self.class_counts = torch.from_numpy(file.get_tensor("class_counts"))
            self.label_second_moment = float(file.get_tensor("label_second_moment")[0])
            self.text_count = int(file.get_tensor("text_count")[0])
            self.token_count = int(file.get_tensor("token_count")[0])
        if layers != self.layers:
            raise self.damaged(f"layers are {layers}, by its header {self.layers}")
        if self.text_count < 1 or self.token_count < 0 or self.identity["partitions"] < 1:
            raise self.damaged("its counts are not those of rows")
        counts, power = self.class_counts, self.label_second_moment
        if self.numeric and not (counts.isfinite().all() and 0 <= power < np.inf):
            raise self.damaged("its labels are no numbers")
        labels = self.text_count * (power if self.multilabel else 1)  # one a row
        add_up = (counts >= 0).all() and abs(counts.sum() - labels) < 1e-6
        if not self.numeric and not (add_up and (self.multilabel or abs(power - 1) < 1e-9)):
            raise self.damaged(f"its class_counts {counts.tolist()} do not add up to {self.text_count} rows")

    def of_states(self, index: int) -> LayerMoments:
        """What a probe is fitted or scored on: without prefix moments and permuted labels."""
        return self.averages(index, prefix=False, permuted=False)

    def averages(self, index: int, prefix: bool = True, permuted: bool = True) -> LayerMoments:
        """The moments of the layer at place `index`, without prefix moments or permuted labels on request."""
        self.check()
        names = ["mean_second_moment", "mean_label_moment", "mean_state"]
        names += PREFIX if prefix and self.prefix else ()
        names += ["label_products"] if self.multilabel else []
        layer = slice(index, index + 1)
        with safe_open(self.path, "numpy") as file:
            arrays = {name: file.get_slice(name)[layer][0] for name in names}
            if permuted and self.permutations:
                arrays["label_moment_permuted"] = file.get_slice("label_moment_permuted")[:, layer][:, 0]
        for name in set(SYMMETRIC) & arrays.keys():
            arrays[name] = unpack(arrays[name], self.width)
        diagonal = arrays["mean_second_moment"].diagonal()  # E[x^2]
        if not (arrays["mean_state"] ** 2 <= diagonal * (1 + 1e-6)).all() or not diagonal.max() < LARGEST:
            raise self.damaged(f"its moments are those of no states (place {index})")
        return LayerMoments(
            **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()},
            class_counts=self.class_counts,
            label_second_moment=self.label_second_moment,
            text_count=self.text_count,
            token_count=self.token_count,
        )

    def _empty(self, device: torch.device | str) -> Moments:
        shape = (self.layers, self.width, self.targets, self.permutations, self.prefix)
        return Moments(*shape, device, self.multilabel)

    def load(self, device: torch.device | str = "cpu") -> Moments:
        """The sums, to go on adding to."""
        moments = self._empty(device)
        self.add_to(moments)
        return moments

    def add_to(self, moments: Moments) -> None:
        """Add this file's sums to `moments`, one layer at a time: the one way that partial files are merged."""
        for index in range(len(self.layers)):
            layer = self.averages(index)
            permuted = layer.permuted.permute(1, 0, 2).flatten(1)
            for name, total in moments.sums.items():
                value = permuted if name == "label_moment_permuted" else getattr(layer, name)
                total[index] += (value * self.text_count).to(total.device)
        moments.text_count += self.text_count
        moments.token_count += self.token_count
        moments.class_counts += self.class_counts
        moments.label_second_moment += self.label_second_moment * self.text_count


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """The symmetric (d, d) matrix of an upper triangle packed row by row."""
    full = np.zeros((width, width), packed.dtype)
    full[np.tri(width, dtype=bool).T] = packed
    return full + np.triu(full, 1).T
