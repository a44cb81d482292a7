"""Seconds of one core and memory from a CSV of many rows to texts, classes and splits.

    python -m benchmarks.reading_speed                           # 100 000 texts of 60 words, commas and quotes in them
    python -m benchmarks.reading_speed --rows 25000 --words 250  # as long as reviews

Imports are not timed, nor what other programs take; memory is the peak of the whole process, and of it what the imports took.
"""

import argparse
import csv
import random
import resource
import tempfile
import time
from pathlib import Path

import pandas  # noqa: F401  (here, as it is not to be timed)
import sklearn.model_selection  # noqa: F401

from ntps.texts.dataset import load_dataset


def write_table(folder: Path, rows: int, words: int) -> Path:
    """The description of a CSV with two more columns than it needs."""
    draw = random.Random(0)
    known = [f"word{number}" for number in range(5000)]
    with open(folder / "many.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label", "note"])
        for row in range(rows):
            writer.writerow(
                [row, f'{" ".join(draw.choices(known, k=words))}, "row" {row}', row % 7, "x" * 20]
            )
    (folder / "many.yaml").write_text("files: {train: many.csv}\ntext: text\nlabel: label\n")
    return folder / "many.yaml"


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=60)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where, imported = write_table(Path(folder), flags.rows, flags.words), peak()
        megabytes = where.with_suffix(".csv").stat().st_size / 1e6
        started = time.process_time()
        load_dataset(str(where))
        seconds = time.process_time() - started
    print(
        f"{flags.rows} rows, {megabytes:.0f} MB: {seconds:.2f} s, {peak():.2f} GB, {imported:.2f} of it imports"
    )


if __name__ == "__main__":
    main()
