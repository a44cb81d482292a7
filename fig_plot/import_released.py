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
import pickletools
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parent.parent))  # run as a file, with the project not installed

from ntps.accuracies.layer_probes import COLUMNS as PROBE_COLUMNS
from ntps.accuracies.table import COLUMNS
from ntps.errors import UserError
from ntps.run import cli
from ntps.scores.registry import COLUMNS as SCORE_COLUMNS
from ntps.scores.words import COLUMNS as WORD_COLUMNS
from ntps.scores.words import PAPER_WORDS
from ntps.system import console, storage

LARGEST = 30_000  # bytes: the largest of the four has 7193
SOURCE = {"source": "published in figures of arXiv 2505.17169"}
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
        kind: storage.to_json(storage.provenance(kind, SOURCE)) for kind in ("words", "scores", "accuracy")
    }
    remove_earlier([Path(output) / name for name in dict.fromkeys(place.split("/")[0] for place in tables)])
    for place, table in tables.items():  # all files were read before anything is written
        path = Path(output) / place
        kind = {"ntps": "scores"}.get(place.split("/")[1], place.split("/")[1])
        storage.write_text(path.with_suffix(".json"), about[kind])  # first: a table without it is not ours
        storage.write_text(path, table.to_csv(index=False))
    console.say(
        f"wrote {output}: {len(tables)} tables in {', '.join(dict.fromkeys(t.split('/')[0] for t in tables))}"
    )
    return 0


def remove_earlier(folders: list[Path]) -> None:
    """Remove what an earlier import wrote; UserError, and nothing removed, where there is anything else."""
    for path in (path for folder in folders for path in folder.rglob("[!.]*") if path.is_file()):
        try:
            ours = storage.read_provenance(path.with_suffix(".json")).get("identity") == SOURCE
        except UserError:
            ours = False
        if not ours or path.suffix not in (".csv", ".json"):
            raise UserError(f"{path} is not of an earlier import: move it away, or give another --output")
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


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
            columns = list(PROBE_COLUMNS if method == "linear_sklearn" else COLUMNS)
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
                raise UserError(
                    f"{path}: {model!r}, {dataset!r} has not one number for each of {sorted(keys)}"
                )
            yield our_name(model), our_name(dataset), {key: float(value) for key, value in cell.items()}


def as_mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise UserError(
            f"{path} is not built as the authors' file of that name: names and numbers are expected"
        )
    return value


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def our_name(name: str) -> str:
    """A name that is one part of a path."""
    name = NAMES.get(name, name.replace("/", "--"))
    if not name.isprintable() or not 0 < len(name) <= 100 or name.startswith(".") or "\\" in name:
        raise UserError(f"{name!r} is no name of a model or data set")
    return name


# --- a pickle reader that runs nothing -----------------------------------------------------------------------------


class Dtype:
    """Stands for numpy.dtype: a kind and a size from a short list, and a byte order."""

    def __init__(self, code: str, *_: bool):
        if not isinstance(code, str):  # may take for ever to compare or show
            raise UserError("arrays of an odd type")
        if code not in DTYPES:
            raise UserError(f"arrays of {code!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise UserError("numbers of an odd byte order")
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
        if not all(isinstance(length, int) and length > 0 for length in shape):
            raise UserError("an array of an odd shape")
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


# What numbers, names, lists, tuples and dictionaries take in protocols 3 and 4.
NEEDED = set(
    "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 "
    "BINFLOAT BINUNICODE SHORT_BINUNICODE SHORT_BINBYTES EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
CODES = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
PLAIN: dict[int, Any] = pickle._Unpickler.dispatch


class Steps(dict):
    """What a pickle's instructions do; one that is not among them is a UserError."""

    def __missing__(self, code: int) -> Any:
        raise UserError(f"the instruction {CODES.get(code, code)}")


class Reader(pickle._Unpickler):  # that in Python: one in C does not let its instructions be chosen
    """Unpickles plain values and the stand-ins; anything else that a pickle can call for is a UserError.

    Names are the only keys, so that no nested tuple is ever hashed: that can crash, or take for ever.
    """

    stack: list[Any]

    def load_setitems(self) -> None:
        if not all(isinstance(key, str) for key in self.stack[::2]):
            raise UserError("a key that is no name")
        PLAIN[ord("u")](self)

    def load_setitem(self) -> None:
        if not isinstance(self.stack[-2], str):
            raise UserError("a key that is no name")
        PLAIN[ord("s")](self)

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (Dtype, Array)):
            raise UserError("an object with a state")
        PLAIN[ord("b")](self)

    dispatch = Steps({code: PLAIN[code] for code, name in CODES.items() if name in NEEDED})
    dispatch |= {ord("s"): load_setitem, ord("u"): load_setitems, ord("b"): load_build}

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
