"""The published values of the paper's figures, from the authors' pickle files into folders of our own tables.

    git clone https://github.com/Yu-AngCheng/NTPS authors
    python fig_plot/import_released.py authors --output results/released
    make figures RESULTS=results/released

Reads Fig1.pkl, Fig2_1.pkl, Fig2_2.pkl and Fig3.pkl, wherever they lie below FOLDER. A pickle is a program: only the four
known files are read, by their SHA-256, and of them numpy scalars and arrays alone. The paper scores a pair differently in
each figure, at layers and k that it does not give (empty in the tables), so each figure's values are a results folder of
their own, which fig_plot and ntps.selection read like any other:

    OUTPUT/fig1/words/...           the words of figure 1
    OUTPUT/fig2_accuracy/...        ntps, and accuracy/linear_sklearn (scored on train)
    OUTPUT/fig2_mse/...             ntps, and accuracy/linear_sklearn (scored on train)
    OUTPUT/fig3/...                 ntps, and accuracy/lora_finetuning and linear_training (on test)
"""

import hashlib
import io
import pickle
import sys
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
from ntps.system import atomic_files, console, provenance

SHA256 = {
    "Fig1.pkl": "452ad3f6e62ddd9347c5c4927d03badee6afcc5184ab057d14f9783139e20229",
    "Fig2_1.pkl": "47b6d5a10d3781deeb12447ef0b0aa4b58e077d0be5df6d77dc23f2f7fb12e8e",
    "Fig2_2.pkl": "58ff1daed911521f73127d5ae2626ae69b2e6d93ac587e4727d773e0edc55b07",
    "Fig3.pkl": "91c40a8f890bf6d0a947aa4977dbf81ec98ca102f5901a0a7a37e07cd7937211",
}
CORE = "numpy._core.multiarray"
ADMITTED = {"dtype": "numpy", "ndarray": "numpy", "scalar": CORE, "_reconstruct": CORE}  # name: module
SOURCE = {"source": "published in figures of arXiv 2505.17169"}
NAMES = {  # theirs -> the names of our descriptions; others keep their own, / as --
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
LOGISTIC = {"split": "train", "probe": "logistic_regression"}
LINEAR = {"split": "train", "probe": "linear_regression"}
TEST = {"split": "test"}
MEASURED: tuple[tuple[str, str, str, str, str, dict[str, str]], ...] = (
    # file, folder, name of a number beside align_score; its method, metric, and what else its row holds
    ("Fig2_1.pkl", "fig2_accuracy", "metric_data", "linear_sklearn", "accuracy", LOGISTIC),
    ("Fig2_2.pkl", "fig2_mse", "metric_data", "linear_sklearn", "mse", LINEAR),
    ("Fig3.pkl", "fig3", "lora_acc", "lora_finetuning", "accuracy", TEST),
    ("Fig3.pkl", "fig3", "linear_acc", "linear_training", "accuracy", TEST),
)
Tables = dict[str, pd.DataFrame]
KINDS = {"words": "words", "ntps": "scores", "accuracy": "accuracy"}  # folder -> kind of file


def main(folder: str, output: str = "results/released") -> int:
    """Write the published values below OUTPUT.

    Args:
        folder: a clone of the authors' repository, or any folder with their four files
        output: where to; an earlier import there is replaced
    """
    values = {name: read(find(Path(folder), name)) for name in SHA256}
    tables = {"fig1/words/openelm-450m/emotion.csv": words(values["Fig1.pkl"])}
    for name, figure, key, method, metric, more in MEASURED:
        tables |= tables_of(values[name], figure, key, method, metric, more)
    about = {kind: atomic_files.to_json(provenance.of(kind, SOURCE)) for kind in KINDS.values()}
    for place, table in tables.items():  # all files were read before anything is written
        path = Path(output) / place
        atomic_files.write_text(path.with_suffix(".json"), about[KINDS[place.split("/")[1]]])
        atomic_files.write_text(path, table.to_csv(index=False))
    console.say(
        f"wrote {output}: {len(tables)} tables in {', '.join(sorted({t.split('/')[0] for t in tables}))}"
    )
    return 0


def find(folder: Path, name: str) -> Path:
    """The first file of that name below a folder (`read` checks its hash)."""
    if not (paths := sorted(folder.rglob(name))):
        raise UserError(f"no {name} below {folder}: give a clone of the authors' repository")
    return paths[0]


def read(path: Path) -> Any:
    """The values of one of the four files; UserError, before anything of it is read, for any other."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256[path.name]:
        raise UserError(f"{path} is refused: it is not the published {path.name} (another SHA-256)")
    return Numbers(io.BytesIO(data)).load()


class Numbers(pickle.Unpickler):
    """Unpickles plain values, numpy scalars and arrays; anything else that a pickle calls for is a UserError."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if ADMITTED.get(name) != module:
            raise UserError(f"a pickle is refused: it holds {module}.{name}, only numbers and names are read")
        return super().find_class(module, name)


def words(values: dict[str, Any]) -> pd.DataFrame:
    """Figure 1's table, of {space: {group: [[(x, y)], ...]}}, words in the paper's order."""
    pair = {"model": "openelm-450m", "dataset": "emotion"}
    rows = [
        pair | {"space": space, "group": group, "word": word, "x": float(x), "y": float(y)}
        for space in "UV"
        for group, listed in PAPER_WORDS.items()
        for word, (x, y) in zip(listed, map(np.ravel, values[space][group]), strict=True)
    ]
    return pd.DataFrame(rows, columns=[*WORD_COLUMNS])


def tables_of(
    values: dict[str, Any], figure: str, key: str, method: str, metric: str, more: dict[str, str]
) -> Tables:
    """The tables of one of figures 2 and 3, {model: {dataset: {key: number}}}, by their path below OUTPUT."""
    columns = list(PROBE_COLUMNS if method == "linear_sklearn" else COLUMNS)
    tables = {}
    for model, dataset, cell in ((m, d, cell) for m, cells in values.items() for d, cell in cells.items()):
        pair = {"model": our_name(model), "dataset": our_name(dataset)}
        name = f"{pair['model']}/{pair['dataset']}.csv"
        score = pair | {"order": "released", "rule": "fraction", "ntps": float(cell["align_score"])}
        tables[f"{figure}/ntps/{name}"] = pd.DataFrame([score], columns=SCORE_COLUMNS)
        row = pair | {"method": method, "final": True, metric: float(cell[key])} | more
        tables[f"{figure}/accuracy/{method}/{name}"] = pd.DataFrame([row], columns=columns)
    return tables


def our_name(name: str) -> str:
    return NAMES.get(name, name.replace("/", "--"))


if __name__ == "__main__":
    sys.exit(cli.run(main))
