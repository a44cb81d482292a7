"""How much accuracy LoRA will add: a calibration file for prescreen.py.

    python -m ntps.gain --results results
    python -m ntps.gain --results results --predictors ntps retention probe_accuracy --output my-gain.json

The fit and its held-out error: ntps/evaluation/gain.py.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from ntps.accuracies import registry
from ntps.errors import UserError
from ntps.evaluation.gain import PREDICTORS, PROBE, Points, calibrate, points, reliability
from ntps.flags import Judging, Natural, Rule, at_least, flag
from ntps.results.tables import PAIR, TARGETS, at_points, headline, load_pairs, load_scores, only, read_tables
from ntps.run import cli
from ntps.system import atomic_files, provenance

LORA = ("limit", "max_length", "dtype", "settings", "seeds")  # what is recorded of the LoRA runs


@dataclass(kw_only=True)
class Flags(Judging):
    """Make a calibration file from a results folder, and report how far it can be trusted."""

    target: Annotated[str, Rule(f"one of {', '.join(PROBE)}", PROBE.__contains__)] = flag(
        "lora_gain",
        "lora_gain, over linear_sklearn's probe, or lora_gain_linear, over linear_training's head",
    )
    predictors: Sequence[str] = flag(
        (),
        "scores at the best layer and kv = d/10, or accuracies of probes (default: ntps, retention, headroom and the "
        "accuracy of the probe)",
    )
    permutations: Annotated[int, at_least(20)] = flag(
        10_000, "of the gains, for p; all of them where there are no more"
    )
    seed: Natural = flag(42, "of the permutations")
    output: str | None = flag(None, "the file (default: RESULTS/gain.json)")


def main(flags: Flags) -> int:
    target, folder = flags.target, Path(flags.results)
    pairs, long = load_pairs(folder, flags.groups), at_points(load_scores(folder), flags.order, flags.rule)
    scores = headline(long, pairs)
    table = only(pairs, model=flags.models, dataset=flags.datasets)
    table = table[table[target].notna()].merge(scores, "left", PAIR)
    if unknown := [name for name in flags.predictors if name not in table]:
        known = sorted({*scores, *PROBE.values(), "headroom"}.difference(PAIR))
        raise UserError(f"--predictors {' '.join(unknown)}: there are {' '.join(known)}")
    chosen = list(flags.predictors) or [*PREDICTORS, PROBE[target]]
    table = table.reindex(columns=list(dict.fromkeys([*table, *chosen])))  # some of the usual may be missing
    found, notes = points(table, chosen, target)
    fit = calibrate(found, flags.permutations, flags.seed)
    retest = reliability(found.gain, seed_variance(folder, table, target, found))
    path = Path(flags.output or folder / "gain.json")
    identity = {"target": target, "models": found.models, "groups": found.groups, "flags": vars(flags)}
    lora = lora_settings(folder, table)
    about = provenance.of("gain calibration", identity, lora=lora, left_out=notes)
    rows = pd.DataFrame(list(product(found.models, found.groups)), columns=["model", "group"])
    rows[[*found.predictors, target]] = np.dstack([found.x, found.gain]).reshape(len(rows), -1)
    head = {"format": about["format"], "what": f"{target}: {TARGETS[target][1]}", "fit": fit}
    atomic_files.write_text(
        path, atomic_files.to_json(head | {"seeds": retest, "points": rows.to_dict("records")} | about)
    )
    print(
        *report(found, fit, retest, target),
        *(f"left out: {note}" for note in notes),
        f"wrote {path}",
        sep="\n",
    )
    return 0


def lora_settings(folder: Path, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The different settings of the LoRA runs behind the gains; a calibration is worth what these are worth."""
    found: list[dict[str, Any]] = []
    for model, dataset in table[PAIR].itertuples(index=False):
        beside = folder / "accuracy" / "lora_finetuning" / model / f"{dataset}.json"
        if beside.exists():
            identity = provenance.read(beside, "accuracy")["identity"]
            if (used := {name: identity.get(name) for name in LORA}) not in found:
                found.append(used)
    return found


def seed_variance(folder: str | Path, table: pd.DataFrame, target: str, found: Points) -> np.ndarray:
    """(models, groups): s^2 / k of each gain over k seeds, NaN with one; probes that have no seed add nothing."""
    gain, total = registry.TARGETS[target], pd.Series(0.0, index=pd.MultiIndex.from_frame(table[PAIR]))
    for method in registry.METHODS:
        if method.trains != "probes" and {gain.of, gain.minus} & {one.name for one in method.targets}:
            rows = read_tables(folder, f"accuracy/{method.name}", ["split", "final", "accuracy"])
            tests = rows[(rows["split"] == "test") & (rows["final"] == True)]  # noqa: E712
            total += tests.groupby(PAIR)["accuracy"].sem().reindex(total.index) ** 2
    of_groups = total.groupby([table["model"].to_numpy(), table["group"].to_numpy()])
    wide = of_groups.agg(lambda part: part.sum(skipna=False) / len(part) ** 2).unstack()
    return wide.loc[found.models, found.groups].to_numpy()


def report(found: Points, fit: Mapping[str, Any], retest: Mapping[str, float], target: str) -> Iterator[str]:
    """What the fit shows, for a terminal."""
    yield f"{target}: {TARGETS[target][1]}"
    yield f"{len(found.models)} models, {len(found.groups)} independent groups of data sets"
    if "errors_of_baselines" in fit:
        errors = {" + ".join(fit["predictors"]) + ", choice nested": fit["held_out_error"]}
        yield f"error (root mean square, in accuracy) on the {'group and model' if found.across else 'group'} left out:"
        yield from (f"  {error:.4f}  {name}" for name, error in (errors | fit["errors_of_baselines"]).items())
        if retest:
            yield f"  {retest['error']:.4f}  of the gain itself, over seeds: the least to be expected of any"
        terms = "".join(f" {slope:+.3f} {name}" for name, slope in fit["coefficients"].items())
        yield f"gain = {fit['intercept']:.3f}{terms} -+ {fit['half_width']:.3f} (90 %), p = {fit['p']:.3f}"
    unknown = "not known: it takes two seeds of every pair, and gains that differ"
    shown = f"{retest['reliability']:.2f} (ICC of the means)" if retest else unknown
    yield f"reliability of the gain over seeds: {shown}"
    yield "usable" if fit["usable"] else f"predicts nothing: {fit['why']}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
