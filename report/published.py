"""Facts of the report: statistics of the published values, and the words of figure 1 here and there."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from ntps import results
from ntps.results.tables import PAIR, read_tables
from ntps.scores.words import SPACES, right_side
from ntps.system import atomic_files
from report.tables import Facts, Tables, one
from report.words import rho, three

TARGETS = {"fig2_accuracy": "probe_train_accuracy", "fig2_mse": "probe_train_mse", "fig3": "lora_gain_linear"}


def words(tables: Tables) -> Facts:
    """Words of figure 1 on their side of the line in each plane, with the share of relabellings that do as well."""
    return {
        f"words.{dataset}.{space}": text
        for (_, dataset), table in read_tables(tables.folder, "words").groupby(PAIR)
        for space, text in sides(table).items()
    }


def sides(table: pd.DataFrame) -> Facts:
    """space -> how many words of the first two groups lie on their group's side, with p."""
    facts = {}
    for space in SPACES:
        part = table[(table["space"] == space) & table["group"].isin(list(dict.fromkeys(table["group"]))[:2])]
        points, first = part[["x", "y"]].to_numpy(), (part["group"] == part["group"].iloc[0]).to_numpy()
        right = right_side(points[first], points[~first])
        picks = combinations(range(len(points)), int(first.sum()))
        ways = [np.isin(np.arange(len(points)), pick) for pick in picks]
        p = np.mean([right_side(points[way], points[~way]) >= right for way in ways])
        facts[space] = f"{right} of {len(points)} (p {p:.2f})"
    return facts


def published(tables: Tables) -> Facts:
    """The statistics that `write_published` left."""
    folder, facts = tables.folder.with_name("published"), Facts()
    for name, target in TARGETS.items():
        table = pd.read_csv(folder / f"{name}.csv")
        table = table[(table["target"] == target) & (table["score"] == "ntps")]
        together = table["model"].str.startswith("mean of")
        row, alone = one(table[together]), table[~together]["reading"]
        facts[f"published.{target}"] = rho(row)
        facts[f"published.{target}.reading"] = str(row["reading"])
        facts[f"published.{target}.models"] = f"{(alone == 'holds').sum()} of {len(alone)}"
    others = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    return facts | {f"published.{name}": value for name, value in others.items()}


def write_published(source: Path, target: Path) -> None:
    """Correlations, gain errors and sides of words of an import; the published values themselves are not written."""
    for name in TARGETS:
        table = (source / name / "selection" / "fixed.csv").read_text(encoding="utf-8")
        atomic_files.write_text(target / f"{name}.csv", table)
    fit = json.loads((source / "fig3" / "gain.json").read_text(encoding="utf-8"))["fit"]
    gains = results.load_pairs(source / "fig3")["lora_gain_linear"]
    facts = {
        "gain.held_out": three(fit["held_out_error"]),
        "gain.mean": three(fit["errors_of_baselines"]["mean gain"]),
    }
    facts |= {f"words.{space}": text for space, text in sides(read_tables(source / "fig1", "words")).items()}
    facts["gain.negative"] = f"{(gains < 0).sum()} of {gains.notna().sum()}"
    atomic_files.write_text(target / "statistics.json", atomic_files.to_json(facts))
    print(f"wrote {target}: {', '.join(f'{name}.csv' for name in TARGETS)}, statistics.json")
