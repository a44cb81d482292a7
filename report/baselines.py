"""What words alone reach on each data set, and how alike its train and test rows are: python -m report.baselines

Fills the table of docs/datasets.md. TF-IDF of the words and pairs of words that two rows have, logistic regression (C = 10):
accuracy by five-fold cross-validation on at most 6000 rows, and on the test split after a fit on train. Alike: test rows whose
TF-IDF of all words has a cosine of 0.9 or more with that of a train row.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from ntps.errors import UserError
from ntps.run import cli
from ntps.system import atomic_files
from ntps.texts.dataset import Dataset, load_dataset

ROOT = Path(__file__).resolve().parent.parent
ROWS, ALIKE, SEED = 6000, 0.9, 42
TABLE = re.compile(r"(<!-- baselines -->\n).*?(<!-- /baselines -->)", re.DOTALL)
HEADER = """
| data set | half | train | test | classes | majority | TF-IDF, 5 folds | TF-IDF, test | alike |
|---|---|---|---|---|---|---|---|---|
"""


def main(page: str = "docs/datasets.md") -> int:
    """Measure every data set of both halves and write the table.

    Args:
        page: the Markdown file, relative to the project's folder
    """
    path, lines = ROOT / page, []
    halves = json.loads((ROOT / "configs/experiments/halves.json").read_text(encoding="utf-8"))
    for half in ("discovery", "confirmation"):
        for name in halves[half]:
            lines.append(f"| {' | '.join((name, half, *cells(load_dataset(name))))} |\n")
            print(lines[-1], end="", flush=True)
    table = HEADER + "".join(lines) + "\n"
    atomic_files.write_text(path, TABLE.sub(lambda m: m[1] + table + m[2], path.read_text(encoding="utf-8")))
    print(f"wrote {path}")
    return 0


def of_words(page: str = "docs/datasets.md") -> pd.DataFrame:
    """What `main` wrote of each data set: majority and, on test, what words alone reach (words)."""
    found = TABLE.search((ROOT / page).read_text(encoding="utf-8"))
    if found is None:
        raise UserError(f"{page} has no table between <!-- baselines --> and <!-- /baselines -->")
    lines = [line.strip("| ").split(" | ") for line in found[0].splitlines() if line.startswith("| ")]
    table = pd.DataFrame(lines[1:], columns=lines[0])
    wanted = {"data set": "dataset", "majority": "majority", "TF-IDF, test": "words"}
    return table[[*wanted]].rename(columns=wanted).astype({"majority": float, "words": float})


def cells(data: Dataset) -> Iterator[str]:
    """Rows of train and test, classes, accuracy of the majority class and of the words, share of rows alike."""
    train, test = data.splits["train"], data.splits["test"]
    texts, labels = np.array(train.texts + test.texts), np.concatenate([train.labels, test.labels])
    yield from (f"{n}" for n in (len(train.texts), len(test.texts), len(data.classes)))
    yield f"{np.bincount(labels).max() / len(labels):.2f}"
    some = np.random.default_rng(SEED).permutation(len(texts))[:ROWS]
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    yield f"{cross_val_score(words(), texts[some], labels[some], cv=folds).mean():.2f}"
    yield f"{words().fit(train.texts, train.labels).score(test.texts, test.labels):.2f}"
    yield f"{alike(train.texts, test.texts):.1%}".replace("%", " %")


def words():
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2), LogisticRegression(C=10, max_iter=1000)
    )


def alike(train: list[str], test: list[str]) -> float:
    """Share of the test texts that have nearly the words of a train text."""
    known = TfidfVectorizer(ngram_range=(1, 2)).fit(train + test)
    trained, asked = known.transform(train).T.tocsc(), known.transform(test)
    parts = (asked[first : first + 500] @ trained for first in range(0, asked.shape[0], 500))
    return sum(int((part.max(axis=1).toarray() >= ALIKE).sum()) for part in parts) / len(test)


if __name__ == "__main__":
    sys.exit(cli.run(main))
