"""All layers of one model and data set scored from the files of their moments, one layer at a time from disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from ntps.errors import UserError
from ntps.models.loading import pick_device
from ntps.moments.file import MomentsFile
from ntps.scores.controls import SUMS
from ntps.scores.layer import LayerScores, add_error_bars, layer_scores, map_layers
from ntps.scores.peers import other_scores
from ntps.scores.subspaces import RANK_RTOL
from ntps.system import console

ERROR_BARS = ("best", "all", "none")
CPU = torch.device("cpu")
Result = TypeVar("Result")


def score_layers(
    train: MomentsFile,
    test: MomentsFile | None = None,
    rtol: float = RANK_RTOL,
    device: torch.device = CPU,
    title: str = "scores",
) -> tuple[list[LayerScores], list[dict[str, float]]]:
    """Every layer's scores, held-out ones too where there is a test file, and its row of the other scores."""

    def one(place: int, device: torch.device) -> tuple[LayerScores, dict[str, float]]:
        moments = on_device(train.averages(place), device)
        unseen = on_device(test.averages(place), device) if test else None
        return layer_scores(moments, rtol, unseen), other_scores(moments, unseen)

    found = each_layer(one, train.layers, range(len(train.layers)), device, title)
    return [scores for scores, _ in found], [row for _, row in found]


def error_bars(
    scores: Sequence[LayerScores],
    places: Sequence[int],
    train: MomentsFile,
    parts: Sequence[MomentsFile],
    rtol: float = RANK_RTOL,
    device: torch.device = CPU,
    title: str = "scores",
) -> None:
    """Fill in the error bars of the layers at these places: a pair of eigen-solves for each partition of train."""

    def one(place: int, device: torch.device) -> None:
        whole = on_device(train.averages(place, set(SUMS)), device)
        others = (on_device(part.averages(place, set(SUMS)), device) for part in parts)
        add_error_bars(scores[place].rows, whole, others, rtol)

    each_layer(one, train.layers, places, device, f"{title}, error bars")


def each_layer(
    work: Callable[[int, torch.device], Result],
    layers: list[int],
    places: Sequence[int],
    device: torch.device,
    title: str,
) -> list[Result]:
    """work(place, device) for each place, several at a time on a CPU, with a bar in layers.

    A layer that is too large for a GPU's memory is done on the CPU, and this is said.
    """

    def one(place: int) -> Result:
        try:
            return work(place, device)
        except torch.OutOfMemoryError:
            console.say(f"layer {layers[place]} takes more memory than {device} has free: solved on the CPU")
            return work(place, CPU)
        except UserError as error:
            raise UserError(f"layer {layers[place]}: {error}") from None

    results = []
    with console.progress(len(places), "layer", title) as bar:
        for result in map_layers(one, places, 1 if device.type == "cuda" else None):
            results.append(result)
            bar.update()
    return results


def solver_device(name: str) -> torch.device:
    """Where the eigen-solves run, in float64: cuda where it is asked for and there, else, and said so, the CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        console.say("--device cuda: there is no cuda here, solving on the CPU")
        return CPU
    device = pick_device(name)
    if device.type == "mps":
        if name != "auto":
            raise UserError("--device mps has no float64: use cpu")
        return CPU
    return device


def on_device(moments: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in moments.items()
    }
