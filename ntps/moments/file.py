"""Moments on disk: one safetensors file a split, written layer by layer, read layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ntps.errors import UserError
from ntps.moments.sums import PREFIX, SYMMETRIC, Moments
from ntps.scores.layer_moments import LayerMoments
from ntps.system import storage


def moments_layout(moments: Moments) -> storage.Layout:
    """The contract's arrays: first dimension = layer; symmetric ones packed, upper triangle row by row."""
    layers, width, targets = moments.sums["mean_label_moment"].shape
    return {
        **{name: ("F64", tuple(value.shape)) for name, value in moments.sums.items()},
        **{name: ("F64", (layers, width * (width + 1) // 2)) for name in SYMMETRIC if name in moments.sums},
        "label_moment_permuted": ("F64", (moments.permutations, layers, width, targets)),  # (R, L, d, C)
        "layers": ("I64", (layers,)),
        "class_counts": ("F64", (targets,)),
        "label_second_moment": ("F64", (1,)),
        "text_count": ("I64", (1,)),
        "token_count": ("I64", (1,)),
    }


def write_moments(path: Path, moments: Moments, about: Mapping) -> None:
    """Write moments as averages, layer by layer."""
    with storage.written(path) as temporary:
        storage.create(temporary, moments_layout(moments), about)
        arrays = storage.maps(temporary)
        arrays["layers"][...] = moments.layers
        arrays["class_counts"][...] = moments.class_counts
        arrays["label_second_moment"][...] = moments.label_second_moment / max(moments.text_count, 1)
        arrays["text_count"][...] = moments.text_count
        arrays["token_count"][...] = moments.token_count
        for index in range(len(moments.layers)):
            arrays = storage.maps(temporary)  # of a layer each: touched pages count as memory
            for name in moments.sums:
                value = moments.average(name, index).cpu().numpy()
                if name == "label_moment_permuted":
                    arrays[name][:, index] = value
                else:
                    packed = name in SYMMETRIC
                    arrays[name][index] = value[np.tri(len(value), dtype=bool).T] if packed else value


class MomentsFile:
    """Moments on disk, read layer by layer; `about` is the provenance: an `identity`, and a `record` for the reader."""

    def __init__(self, path: Path, kind: str = "moments"):
        self.path = Path(path)
        self.opened = self._stamp()
        self.about = storage.read_provenance(self.path, kind)
        self.identity: dict[str, Any] = self.about["identity"]
        self.record: dict[str, Any] = self.about["record"]
        with safe_open(self.path, "numpy") as file:
            self.prefix = "prefix_next_moment" in file.keys()
            self.layers = file.get_tensor("layers").tolist()
            self.class_counts = torch.from_numpy(file.get_tensor("class_counts"))
            self.label_second_moment = float(file.get_tensor("label_second_moment")[0])
            self.text_count = int(file.get_tensor("text_count")[0])
            self.token_count = int(file.get_tensor("token_count")[0])
            shape = file.get_slice("label_moment_permuted").get_shape()
            self.permutations, _, self.width, self.targets = shape

    def _stamp(self) -> tuple[int, ...]:
        """Changes when another file takes this one's name."""
        if not self.path.exists():
            return ()
        status = self.path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def averages(self, index: int, prefix: bool = True, permuted: bool = True) -> LayerMoments:
        """The moments of the layer at place `index`, without prefix moments or permuted labels on request.

        UserError where the file was replaced since it was opened: its layers would be of two runs.
        """
        if self._stamp() != self.opened:
            raise UserError(f"{self.path} was replaced or removed while it was read: run this again")
        names = ["mean_second_moment", "mean_label_moment", "mean_state"]
        names += PREFIX if prefix and self.prefix else ()
        layer = slice(index, index + 1)
        with safe_open(self.path, "numpy") as file:
            arrays = {name: file.get_slice(name)[layer][0] for name in names}
            if permuted and self.permutations:
                arrays["label_moment_permuted"] = file.get_slice("label_moment_permuted")[:, layer][:, 0]
        for name in set(SYMMETRIC) & arrays.keys():
            arrays[name] = unpack(arrays[name], self.width)
        return LayerMoments(
            **{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()},
            class_counts=self.class_counts,
            label_second_moment=self.label_second_moment,
            text_count=self.text_count,
            token_count=self.token_count,
        )

    def load(self, device: torch.device | str = "cpu") -> Moments:
        """The sums, to go on adding to."""
        moments = Moments(self.layers, self.width, self.targets, self.permutations, self.prefix, device)
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
