"""The published values of the paper's figures, from the authors' pickle files into folders of our own tables.

    git clone https://github.com/Yu-AngCheng/NTPS authors
    python fig_plot/import_released.py authors --output results/released
    make figures RESULTS=results/released

Reads Fig1.pkl, Fig2_1.pkl, Fig2_2.pkl and Fig3.pkl, wherever they lie below FOLDER. A pickle is a program; the reader
here admits numpy scalars and arrays of numbers, makes them itself, and refuses everything else. The paper scores
a pair differently in each figure, at layers and k that it does not tell (empty in the tables), so each figure's
values are a results folder of their own, which fig_plot and ntps.selection read like any other:

    OUTPUT/fig1/words/...           the words of figure 1
    OUTPUT/fig2_accuracy/...        ntps, and accuracy/linear_sklearn (scored on train)
    OUTPUT/fig2_mse/...             ntps, and accuracy/linear_sklearn (scored on train)
    OUTPUT/fig3/...                 ntps, and accuracy/lora_finetuning and linear_training (on test)
"""

import io
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parent.parent))  # run as a file, with the project not installed

from K_sweep import COLUMNS as SCORE_COLUMNS
from linear_sklearn import COLUMNS as PROBE_COLUMNS
from ntps import accuracy, cli, storage
from ntps.errors import UserError
from ntps.words import COLUMNS as WORD_COLUMNS
from ntps.words import PAPER_WORDS

LARGEST = 10_000_000  # bytes: a figure's values take some thousands
DTYPES = {"f4", "f8", "i4", "i8"}
NAMES = {  # theirs -> the names of our descriptions; what is not listed keeps its own, / as --
    "Qwen/Qwen2-0.5B": "qwen2-0.5b",
    "Qwen/Qwen2-1.5B": "qwen2-1.5b",
    "Qwen/Qwen2-7B": "qwen2-7b",
    "apple/OpenELM-270M": "openelm-270m",
    "apple/OpenELM-450M": "openelm-450m",
    "apple/OpenELM-1_1B": "openelm-1.1b",
    "apple/OpenELM-3B": "openelm-3b",
    "meta-llama/Meta-Llama-3-8B": "llama3-8b",
    "Bhuvaneshwari/intent_classification": "intent",
    "PriyaPatel/Bias_identification": "bias",
    "climatebert/climate_sentiment": "climate",
    "common_sense": "commonsense",
    "legacy-datasets/banking77": "banking77",
    "marksverdhei/clickbait_title_classification": "clickbait",
    "ucirvine/sms_spam": "sms_spam",
}
Row = dict[str, Any]
# file -> folder, and for each number beside align_score: method, metric, and what else its row says
FIGURES: dict[str, tuple[str, dict[str, tuple[str, str, Row]]]] = {
    "Fig2_1.pkl": (
        "fig2_accuracy",
        {"metric_data": ("linear_sklearn", "accuracy", {"split": "train", "probe": "logistic_regression"})},
    ),
    "Fig2_2.pkl": (
        "fig2_mse",
        {"metric_data": ("linear_sklearn", "mse", {"split": "train", "probe": "linear_regression"})},
    ),
    "Fig3.pkl": (
        "fig3",
        {
            "lora_acc": ("lora_finetuning", "accuracy", {"split": "test"}),
            "linear_acc": ("linear_training", "accuracy", {"split": "test"}),
        },
    ),
}


def main(folder: str, output: str = "results/released") -> int:
    """Write the published values below OUTPUT.

    Args:
        folder: a clone of the authors' repository, or any folder with their four files
        output: where to; made anew where it holds an earlier import
    """
    sources = {name: find(Path(folder), name) for name in ("Fig1.pkl", *FIGURES)}
    tables = {
        "fig1/words/openelm-450m/emotion.csv": pd.DataFrame(
            words(sources["Fig1.pkl"]), columns=[*WORD_COLUMNS]
        )
    }
    for name in FIGURES:
        tables |= figure_tables(sources[name])
    about = {
        kind: storage.to_json(
            storage.provenance(kind, {"source": "published in figures of arXiv 2505.17169"})
        )
        for kind in ("words", "scores", "accuracy")
    }
    for place, table in tables.items():  # all files were read before anything is written
        path = Path(output) / place
        kind = {"ntps": "scores"}.get(place.split("/")[1], place.split("/")[1])
        storage.write_text(path, table.to_csv(index=False))
        storage.write_text(path.with_suffix(".json"), about[kind])
    cli.say(
        f"wrote {output}: {len(tables)} tables in {', '.join(dict.fromkeys(t.split('/')[0] for t in tables))}"
    )
    return 0


def figure_tables(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of one of figures 2 and 3, by their path below OUTPUT."""
    figure, methods = FIGURES[path.name]
    tables = {}
    for model, dataset, found in cells(read(path), {"align_score", *methods}, path):
        pair = {"model": model, "dataset": dataset}
        score = pair | {"order": "released", "rule": "fraction", "ntps": found["align_score"]}
        tables[f"{figure}/ntps/{model}/{dataset}.csv"] = pd.DataFrame([score], columns=SCORE_COLUMNS)
        for key, (method, metric, more) in methods.items():
            row = pair | {"method": method, "final": True, metric: found[key]} | more
            columns = [*accuracy.COLUMNS, *(PROBE_COLUMNS if method == "linear_sklearn" else ())]
            tables[f"{figure}/accuracy/{method}/{model}/{dataset}.csv"] = pd.DataFrame([row], columns=columns)
    return tables


# --- what the files hold -------------------------------------------------------------------------------------------


def find(folder: Path, name: str) -> Path:
    """The one file of that name below a folder."""
    if not (found := sorted(folder.rglob(name))):
        raise UserError(f"no {name} below {folder}: give a clone of the authors' repository")
    return found[0]


def words(path: Path) -> Iterator[Row]:
    """Rows of figure 1's table: {space: {group: [(x, y), ...]}}, words in the paper's order."""
    values = read(path)
    for space, group in ((s, g) for s in "UV" for g in PAPER_WORDS):
        points = as_mapping(as_mapping(values, path).get(space), path).get(group)
        if not isinstance(points, list) or len(points) != len(PAPER_WORDS[group]):
            raise UserError(f"{path}: {space} has not one point for each word of {group}")
        for word, point in zip(PAPER_WORDS[group], points):
            if isinstance(point, list) and len(point) == 1:  # theirs has shape (1, 2)
                point = point[0]
            if not isinstance(point, list) or len(point) != 2 or not all(map(is_number, point)):
                raise UserError(f"{path}: {space} {word} is not a pair of numbers")
            pair = {"model": "openelm-450m", "dataset": "emotion", "space": space, "group": group}
            yield pair | {"word": word, "x": float(point[0]), "y": float(point[1])}


def cells(values: Any, keys: set[str], path: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(model, dataset, numbers) of {model: {dataset: {key: number}}}."""
    for model, texts in as_mapping(values, path).items():
        for dataset, cell in as_mapping(texts, path).items():
            cell = as_mapping(cell, path)
            if set(cell) != keys or not all(map(is_number, cell.values())):
                raise UserError(f"{path}: {model}, {dataset} has not one number for each of {sorted(keys)}")
            yield our_name(model), our_name(dataset), {key: float(value) for key, value in cell.items()}


def as_mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise UserError(
            f"{path} is not built as the authors' file of that name: names and numbers are expected"
        )
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def our_name(name: str) -> str:
    """A name that is one part of a path."""
    name = NAMES.get(name, name.replace("/", "--"))
    if not name or name.startswith(".") or any(c in name for c in "\\\0"):
        raise UserError(f"{name!r} is no name of a model or data set")
    return name


# --- a pickle reader that runs nothing -----------------------------------------------------------------------------


class Dtype:
    """Stands for numpy.dtype: a kind and a size from a short list, and a byte order."""

    def __init__(self, code: str, *_: bool):
        if code not in DTYPES:
            raise UserError(f"arrays of {code!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise UserError(f"byte order {state[1]!r}")
        self.code = state[1] + self.code[-2:]

    def read(self, data: bytes) -> np.ndarray:
        if not isinstance(data, bytes):
            raise UserError(f"a {type(data).__name__} for the bytes of numbers")
        return np.frombuffer(data, np.dtype(self.code))


class Array(list):
    """Stands for numpy.ndarray: filled by its state (version, shape, dtype, fortran order, bytes)."""

    def __init__(self, *_: Any):
        super().__init__()

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self[:] = dtype.read(data).reshape(shape, order="F" if fortran else "C").tolist()


def scalar(dtype: Dtype, data: bytes) -> float:
    """Stands for numpy's constructor of a single number."""
    return float(dtype.read(data).item())


STANDINS: dict[tuple[str, str], Any] = {("numpy", "dtype"): Dtype, ("numpy", "ndarray"): Array}
for package in ("numpy.core", "numpy._core"):  # its names before and since numpy 2
    STANDINS |= {
        (f"{package}.multiarray", "scalar"): scalar,
        (f"{package}.multiarray", "_reconstruct"): Array,
    }


class Reader(pickle.Unpickler):
    """Unpickles plain values and the stand-ins; anything else that a pickle can call for is a UserError."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STANDINS:
            raise UserError(f"the object {module}.{name}")
        return STANDINS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise UserError("an object from elsewhere")


def read(path: Path) -> Any:
    """The values of one pickle file; UserError, and nothing executed, where it holds more than numbers and names."""
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} has more than {LARGEST} bytes: not the values of a figure")
    try:
        return Reader(io.BytesIO(path.read_bytes())).load()
    except UserError as error:
        raise UserError(f"{path} is refused: it holds {error}, and only numbers and names are read") from None
    except Exception as error:  # a broken pickle can fail in any way
        raise UserError(
            f"{path} is no pickle of numbers and names ({type(error).__name__}: {error})"
        ) from None


if __name__ == "__main__":
    sys.exit(cli.run(main))
