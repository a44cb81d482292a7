"""docs/which-model.md: how well each score orders thirteen models within a data set, and what choosing by it loses.

    python -m report.which_model --run results/which-run        # reads a run of make which into results/evidence/which.csv
    python -m report.which_model                                # the page, from that table

Candidates, scores, references and tests were committed before a candidate was scored: HYPOTHESIS. The statistics are in report/within.py.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntps.errors import UserError
from ntps.evaluation.correlation import ALPHA, Draws
from ntps.results.tables import read_tables
from ntps.run import cli
from ntps.system import atomic_files
from report import pages, second_model, two_models, within
from report.confirmation import LAYERS, best_and_last, defined
from report.evidence import FOLDER, KEY, PROBES, halves, score_tables, whole_rows
from report.within import Rankings
from report.words import Columns, markdown, number, p_text, points_of, whole, written

HYPOTHESIS = "8b5658d"  # the commit that fixed the plan
PAGE = "which-model.md"
MODEL, BASE = "smollm2-135m", "no adapter"  # BASE: the candidate that is the model itself
ADAPTED = rf"^{MODEL}\+(?P<adapter>.+)-seed0-[0-9a-f]{{6}}$"
SKILL, STATIC, ALWAYS, CHANCE = "gcv_skill", "static order", "no adapter always", "chance"
CALLED = {STATIC: "static order", SKILL: "ridge probe", ALWAYS: "no adapter"}
SCORES = (
    "ntps", "null_lift", "conditioned_lift", "retention_corrected", "retention_corrected_pca", SKILL, "logme", "h_score", "rankme",
)  # fmt: skip
MEASURES = ("rho", "regret")
OUT, IN = "left out", "in"  # adapters that have seen the labels
ALONE = "alone"  # they are left out, and the model without an adapter is, too: looked at afterwards


def main(
    run: str | None = None, folder: str = str(FOLDER), docs: str = "docs", permutations: int = 10_000
) -> int:
    """Judge the scores and write the page.

    Args:
        run: results folder of the candidates, to make the table from (default: it is there)
        folder: where the tables are
        docs: the folder of the page
        permutations: of the candidates, for p
    """
    path = Path(folder) / "which.csv"
    if run is not None:
        table = measured(Path(run), Path(folder) / "facts.csv")
        atomic_files.write_text(path, table.to_csv(index=False, float_format="%.6g"))
    if not path.exists():
        raise UserError(f"{path} is missing: run make which")
    table, judged_path = pd.read_csv(path), path.with_name("which_judged.csv")
    judged = judgement(table, Draws(permutations))
    atomic_files.write_text(judged_path, judged.to_csv(index=False, float_format="%.6g"))
    atomic_files.write_text(Path(docs) / PAGE, page(table, pd.read_csv(judged_path)))
    print(of(judged, "best", OUT)[["rho", "rho_p_holm", "regret", "regret_p_holm", "hits"]].to_string())
    return 0


# --- what was measured ---------------------------------------------------------------------------------------------


def measured(run: Path, facts: Path = FOLDER / "facts.csv") -> pd.DataFrame:
    """A row a candidate, data set and layer (best, last): test accuracy of the logistic probe, and scores from train, empty where refused.

    facts: the table that has the data sets' groups.
    """
    scores = score_tables(run)
    if scores[0].empty:
        raise UserError(f"{run} has no scores of candidates: run make which")
    table = whole_rows(*scores)
    probes = read_tables(run, "accuracy/linear_sklearn", ["split", "probe"])
    probes = probes[(probes["split"] == "test") & (probes["probe"] == PROBES[0])]
    table = best_and_last(table.merge(probes[[*KEY, "accuracy", "n"]], on=KEY))
    table["adapter"] = table["model"].str.extract(ADAPTED)["adapter"].mask(table["model"] == MODEL, BASE)
    table = table[table["adapter"].isin(planned())]
    if twice := sorted(set(table.loc[table.duplicated(["adapter", "dataset", "which"]), "adapter"])):
        raise UserError(f"{run} has two adapters of {', '.join(twice)}, seed 0: remove the folders of one")
    known = pd.read_csv(facts)
    group = known[known["model"] == MODEL].set_index("dataset")["group"]
    table["group"] = table["dataset"].map(group)
    table["seen"] = table["adapter"].map(group) == table["group"]
    for score in SCORES:
        table[score] = table[score].where(defined(table, score))
    columns = ["adapter", "dataset", "group", "seen", "which", "layer", "n", "accuracy", *SCORES, "model"]
    return table[columns].sort_values(["which", "dataset", "adapter"], ignore_index=True)


def planned() -> list[str]:
    """The candidates: the model itself, and the adapters of the discovery half."""
    return [BASE, *halves()["discovery"]]


def rankings(table: pd.DataFrame, which: str, seen: str) -> Rankings:
    """Of the candidates at one layer; adapters that have seen the labels IN or OUT, which decides the data sets, too."""
    here = table[table["which"] == which]
    count = here[~here["seen"]].groupby("dataset").size()
    datasets = sorted(count.index[count >= within.LEAST])
    here = here[here["dataset"].isin(datasets) & ((seen == IN) | ~here["seen"])]
    groups = here.drop_duplicates("dataset").set_index("dataset")["group"]
    if groups.nunique() < 2:
        raise UserError(f"{within.LEAST} candidates and two groups of data sets are needed: run make which")

    def wide(name: str) -> np.ndarray:
        of_pairs = here.pivot(index="dataset", columns="adapter", values=name)
        return of_pairs.reindex(index=datasets, columns=candidates(table)).to_numpy(float)

    rows, scores = np.nanmax(wide("n"), axis=1), np.stack([wide(name) for name in SCORES], axis=1)
    return Rankings(datasets, list(groups[datasets]), wide("accuracy"), rows, list(SCORES), scores)


def candidates(table: pd.DataFrame) -> list[str]:
    return sorted(set(table["adapter"]))


# --- judgement -----------------------------------------------------------------------------------------------------


def judgement(table: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    """A row a score or reference, layer and whether adapters that have seen the labels are in; tests where they are not."""
    parts = []
    for which in LAYERS:
        fair, base = rankings(table, which, OUT), np.isin(candidates(table), BASE)
        static, there = within.static_order(fair), np.isfinite(fair.accuracy[:, base])
        # not known where it is not scored yet
        always = np.where(there.any(axis=1, keepdims=True), base, np.nan)
        for seen in (OUT, IN):
            scored = rankings(table, which, seen)
            everything = scored.with_score(STATIC, static).with_score(ALWAYS, always)
            rows = values(everything, draws)
            if seen == OUT:
                rows = rows.join(tests(scored, everything, draws))
            parts.append(rows.reset_index(names="score").assign(layer=which, adapters=seen))
        parts.append(alone(table, which, draws).assign(layer=which, adapters=ALONE))
    whole = pd.concat(parts, ignore_index=True)
    return whole[["layer", "adapters", *(name for name in whole if name not in ("layer", "adapters"))]]


def alone(table: pd.DataFrame, which: str, draws: Draws) -> pd.DataFrame:
    """A row a score, of the adapters among themselves, with tests against chance; none where they are too few."""
    try:
        ranked = rankings(table[table["adapter"] != BASE], which, OUT)
    except UserError:
        return pd.DataFrame(columns=["score"])
    return values(ranked, draws).join(against_chance(ranked, draws)).reset_index(names="score")


def values(ranked: Rankings, draws: Draws) -> pd.DataFrame:
    """Means over the groups with their intervals, by name, and those of chance."""
    table = pd.DataFrame(index=ranked.names)
    for name, value in zip(MEASURES, ranked.own):
        low, high = within.interval(value, draws)
        columns = {name: within.mean(value, 0), f"{name}_low": low, f"{name}_high": high}
        table = table.assign(**columns)
    table["hits"] = within.mean(ranked.hits, 0)
    table["groups"] = np.isfinite(ranked.own[0]).sum(0)
    table.loc[table.index == ALWAYS, ["rho", "rho_low", "rho_high"]] = np.nan  # no order but of one candidate
    lost, hits = (float(value.mean()) for value in ranked.by_chance)
    table.loc[CHANCE] = {"rho": 0.0, "regret": lost, "hits": hits, "groups": ranked.group_count}
    return table.astype({"groups": int})


def against_chance(scored: Rankings, draws: Draws) -> pd.DataFrame:
    """p of each score's rho and regret, and from which value on it is significant."""
    table = pd.DataFrame(index=scored.names)
    for name, family in zip(MEASURES, scored.permuted(draws)):
        columns = {f"{name}_p": family.p, f"{name}_p_holm": family.holm, f"{name}_critical": family.critical}
        table = table.assign(**columns)
    return table


def tests(scored: Rankings, everything: Rankings, draws: Draws) -> pd.DataFrame:
    """`against_chance`, and differences to the references with their p."""
    table = against_chance(scored, draws)
    for reference in (STATIC, SKILL, ALWAYS):
        others = [name for name in SCORES if name != reference]
        places = [everything.names.index(name) for name in others]
        for name, value in zip(MEASURES, everything.own):
            if reference == ALWAYS and name == "rho":  # no order but of one candidate
                continue
            less = value[:, places] - value[:, [everything.names.index(reference)]]
            family = within.signs_changed(less, draws)
            own = {"": within.mean(less, 0), "_p": family.p, "_p_holm": family.holm}
            found = {f"{name} less {reference}{end}": part for end, part in own.items()}
            table = table.join(pd.DataFrame(found, index=others))
    return table


def of(judged: pd.DataFrame, which: str, seen: str) -> pd.DataFrame:
    here = judged[(judged["layer"] == which) & (judged["adapters"] == seen)]
    return here.set_index("score").drop(columns=["layer", "adapters"])


# --- the page ------------------------------------------------------------------------------------------------------


def page(table: pd.DataFrame, judged: pd.DataFrame) -> str:
    verdicts, ranked = of(judged, "best", OUT), rankings(table, "best", OUT)
    clear, pairs = within.clear_pairs(ranked)
    share, wanted = within.reliability(ranked), planned()
    return pages.filled("which_model", {
        **verdict(verdicts, of(judged, "best", ALONE)), "two": two_models.compared(), "second": second_model.NAME,
        "candidates": candidates(table), "planned": wanted, "missing": [name for name in wanted if name not in candidates(table)],
        "scored": int((table["which"] == "best").sum()), "ranked": ranked, "hypothesis": HYPOTHESIS,
        "against_chance": chance_table(verdicts), "against_references": reference_table(verdicts),
        "other_readings": readings_table(judged), "datasets": datasets_table(table, ranked),
        "clear": clear.sum(), "pairs": pairs.sum(), "reliability": ranked.of_groups(share).mean(),
        "ceiling": ranked.of_groups(np.sqrt(share)).mean(), "knowing": within.least_regret(ranked), "floored": int((share == 0).sum()),
    })  # fmt: skip


def verdict(verdicts: pd.DataFrame, among_adapters: pd.DataFrame) -> dict[str, Any]:
    """What is significant; critical: the mean rho from which on a score is, by score."""
    better, worse = ({name: different(verdicts, name, good) for name in (STATIC, SKILL)} for good in (1, -1))
    return {
        "ordering": named(significant(verdicts, "rho", 1)),
        "above_static": named(better[STATIC]),
        "above_probe": named(better[SKILL]),
        "alone": "" if among_adapters.empty else named(significant(among_adapters, "rho", 1)),
        "ntps_below": [CALLED[name] for name in (STATIC, SKILL) if "ntps" in worse[name]],
        "rho": verdicts["rho"],
        "lost": verdicts["regret"],
        "critical": None if verdicts["rho_critical"].isna()[SKILL] else verdicts["rho_critical"],
        "probe_orders": SKILL in significant(verdicts, "rho", 1),
        "probe_better": SKILL in better[STATIC],
        "probe_worse": SKILL in worse[STATIC],
        "p_of_chance": verdicts["regret_p_holm"][SKILL],
        "p_of_always": verdicts[f"regret less {ALWAYS}_p_holm"][SKILL],
        "alpha": ALPHA,
    }


def significant(verdicts: pd.DataFrame, value: str, sign: int) -> list[str]:
    """The scores whose value has this sign, and a p of at most ALPHA after Holm."""
    return list(verdicts.index[(verdicts[f"{value}_p_holm"] <= ALPHA) & (np.sign(verdicts[value]) == sign)])


def different(verdicts: pd.DataFrame, reference: str, good: int) -> set[str]:
    """The scores that are significantly better (good 1) or worse (-1) than a reference, as an order or in points lost."""
    as_order = significant(verdicts, f"rho less {reference}", good)
    return {*as_order, *significant(verdicts, f"regret less {reference}", -good)}


def named(scores: Collection[str]) -> str:
    """In the order of SCORES."""
    return ", ".join(f"`{name}`" for name in SCORES if name in scores) or "none"


def spread(table: pd.DataFrame, name: str, write: Callable[[float], str]) -> list[str]:
    """Values with their intervals."""
    parts = zip(table[name], table[f"{name}_low"], table[f"{name}_high"])
    return [write(at) + ("" if low != low else f" [{write(low)}, {write(high)}]") for at, low, high in parts]


def chance_table(verdicts: pd.DataFrame) -> str:
    texts = {
        "rho_text": spread(verdicts, "rho", number),
        "regret_text": spread(verdicts, "regret", points_of),
    }
    columns: Columns = {
        "mean ρ": ("rho_text", str), "p of ρ": ("rho_p_holm", p_text), "points lost": ("regret_text", str),
        "p of points lost": ("regret_p_holm", p_text), "hits, %": ("hits", points_of), "groups": ("groups", whole),
    }  # fmt: skip
    return written(verdicts.assign(**texts), columns, "chosen by")


def reference_table(verdicts: pd.DataFrame) -> str:
    rows = verdicts.loc[list(SCORES)]

    def less(name: str, write: Callable[[float], str]) -> list[str]:
        cells = zip(rows[name], rows[f"{name}_p_holm"])
        return ["-" if p != p else f"{write(value)} (p {p_text(p)})" for value, p in cells]

    return markdown(pd.DataFrame({
        "score": rows.index,
        **{f"ρ less {CALLED[other]}'s": less(f"rho less {other}", number) for other in (STATIC, SKILL)},
        **{f"points lost, less {CALLED[other]}'s": less(f"regret less {other}", points_of) for other in (STATIC, SKILL, ALWAYS)},
    }))  # fmt: skip


def readings_table(judged: pd.DataFrame) -> str:
    """rho and points lost; a star where rho is significant."""
    cells = {}
    for which in LAYERS:
        for seen in (OUT, ALONE, IN):
            if (rows := of(judged, which, seen)).empty:
                continue
            stars = np.where(rows["rho_p_holm"] <= ALPHA, " *", "")
            cells[f"{which} layer, adapters {seen}"] = (
                rows["rho"].map(number) + stars + ", " + rows["regret"].map(points_of)
            )
    table = pd.DataFrame(cells).reindex(of(judged, "best", OUT).index).fillna("-")
    return markdown(table.reset_index(names="chosen by"))


def datasets_table(table: pd.DataFrame, ranked: Rankings) -> str:
    names = np.array(candidates(table))
    ranked = ranked.with_score(STATIC, within.static_order(ranked))
    lost = within.regret(ranked.scores, ranked.accuracy[:, None])
    (clear, pairs), share = within.clear_pairs(ranked), within.reliability(ranked)

    def rows() -> Iterator[dict[str, str]]:
        for at, accuracy in enumerate(ranked.accuracy):
            own = accuracy[names == BASE]
            yield {
                "data set": ranked.datasets[at], "test rows": f"{ranked.rows[at]:.0f}", BASE: points_of(own[0]) if len(own) else "-",
                "best": f"{points_of(np.nanmax(accuracy))} ({names[np.nanargmax(accuracy)]})", "worst": points_of(np.nanmin(accuracy)),
                "pairs that differ": f"{clear[at]} of {pairs[at]}", "reliability": f"{share[at]:.2f}",
                **{f"lost by {name}": points_of(lost[at, ranked.names.index(name)]) for name in (STATIC, SKILL, "ntps")},
            }  # fmt: skip

    return markdown(pd.DataFrame(rows()))


if __name__ == "__main__":
    sys.exit(cli.run(main))
