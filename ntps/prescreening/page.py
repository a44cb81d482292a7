"""The page: verdict and ranked table on the terminal and on one HTML page without a network, with JSON and CSV."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ntps.errors import UserError
from ntps.flags import Prescreening
from ntps.models.description import output_name, resolve_model
from ntps.prescreening.measure import OF_GAIN, Measured, Row, learns_nothing, side_of
from ntps.prescreening.pictures import draw
from ntps.prescreening.verdicts import RULES, THRESHOLDS, finetuned, points, standing, verdict_of
from ntps.system import atomic_files, provenance
from ntps.system.console import visible
from ntps.texts.dataset import SEEN

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
# the settings of docs/finetuning.md
SETTLED = "lora_finetuning.py --batch_size 16 --learning_rate 1e-3 --lora_dropout 0 --eval_every 100 --max_steps 2000 --patience 3"


def number(value: float, error: float = math.nan, digits: int = 3) -> str:
    """0.354 ± 0.012, or a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def between(row: Row, score: str) -> str:
    """0.354 [0.312, 0.396], the 90 % interval where there is one, or a dash."""
    low, high = row[f"{score}_low"], row[f"{score}_high"]
    return number(row[score]) + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def tested(row: Row, score: str, p_value: str) -> str:
    """0.354 (p = 0.02), or a dash."""
    return number(row[score]) + ("" if math.isnan(row[p_value]) else f" (p = {row[p_value]:.2g})")


def percent(share: float, error: float = math.nan) -> str:
    return "–" if math.isnan(share) else f"{number(100 * share, 100 * error, 1)} %"


def gain(row: Row) -> str:
    """Expected accuracy gain of LoRA with its interval, or that there is no calibration for it."""
    if math.isnan(row["lora_gain"]):
        return "not calibrated for this"
    points, low, high = (f"{100 * row[name]:+.1f}" for name in OF_GAIN[:3])
    return f"{points} points ({low} to {high})"


def scored(row: Row) -> dict[str, str]:
    """What is right on unseen rows, in the units of the labels."""
    if "accuracy" not in row:
        return {"RMSE": f"{math.sqrt(row['heldout_mse']):.4g}"}
    if "micro_f1" not in row:
        return {"accuracy": percent(row["accuracy"], row["accuracy_se"])}
    return {
        "all labels right": percent(row["accuracy"], row["accuracy_se"]),
        "micro F1": number(row["micro_f1"]),
    }


def ranked_name(row: Row) -> str:
    return f"{row['rank']}. {row['model']}{' (tied)' if row['rank'] > 1 and row['tied'] else ''}"


def answer_cells(row: Row) -> dict[str, str]:
    """One model's line in the page's first table: what its verdict rests on."""
    name, right = next(iter(scored(row).items()))
    if "accuracy" in row:
        name, right = f"{name} (by guessing)", f"{right} ({percent(row['majority_accuracy'])})"
    return {
        "model": ranked_name(row),
        name: right,
        "held-out skill": number(row["heldout_skill"], row["heldout_skill_se"]),
        "lost at the last layer": "–" if row["layer"] == row["layers"] else between(row, "last_layer_loss"),
        "gained by twice the labels": between(row, "doubling_gain"),
    }


def cells(row: Row) -> dict[str, str]:
    """One model's line in the ranked table: what it is ranked by, and the recommended scores."""
    return {
        "rank": f"{row['rank']} (tied)" if row["rank"] > 1 and row["tied"] else f"{row['rank']}",
        "model": row["model"],
        "held-out skill": number(row["heldout_skill"], row["heldout_skill_se"]),
        **scored(row),
        **retention_cells(row),
    }


def retention_cells(row: Row) -> dict[str, str]:
    """The recommended scores of where the labels lie."""
    return {
        "model": row["model"],
        "corrected retention": between(row, "retention_corrected"),
        "minus PCA": between(row, "retention_corrected_minus_pca"),
        "conditioned NTPS lift": tested(row, "conditioned_lift", "conditioned_p_value"),
    }


def paper_cells(row: Row) -> dict[str, str]:
    """One model's line in the second table: the scores as the paper has them, where they were taken, and the cost."""
    return {
        "model": row["model"],
        "best layer": f"{row['layer']} of {row['layers']}",
        "NTPS": number(row["ntps"], row["ntps_se"]),
        "NTPS null": number(row["null_mean"], row["null_std"]),
        "NTPS p": number(row["p_value"], digits=2),
        "retention": number(row["retention"], row["retention_se"]),
        "retention null": number(row["retention_null"]),
        "retention p": number(row["retention_p_value"], digits=2),
        "signal share": number(row["signal_share"], digits=2),
        "parameters": f"{row['parameters'] / 1e6:.3g} M",
        "forward": "–" if math.isnan(row["seconds"]) else f"{row['seconds']:.0f} s",
    }


def verdict(rows: Sequence[Row]) -> str:
    """The first sentence of the page."""
    first, *others = rows
    name = first["model"]
    if all(map(learns_nothing, rows)):
        return "No held-out skill is significantly above 0: none of these models can be recommended."
    if learns_nothing(first):
        sure = ", ".join(row["model"] for row in others if not learns_nothing(row))
        return f"{name} is first, but its held-out skill is not significantly above 0; that of {sure} is above it."
    if not others:
        return f"One model was measured on all rows: {name}, held-out skill {number(first['heldout_skill'])}."
    if tied := [row["model"] for row in others if row["tied"]]:
        return f"{name} is first, but its lead over {', '.join(tied)} is within the test error."
    lead = number(others[0]["behind"], others[0]["behind_se"])
    return f"{name} is first: its held-out skill is {lead} above that of {others[0]['model']}, the next."


def dropped_cells(row: Row) -> dict[str, str]:
    """One line in the table of the models that were not measured on all rows."""
    skill = number(row.get("heldout_skill", math.nan), row.get("heldout_skill_se", math.nan))
    return {"model": row["model"], "held-out skill": skill, "why it stopped": row["dropped"]}


def table(rows: Sequence[Row], dropped: Sequence[Row] = ()) -> pd.DataFrame:
    """One row a model: all that was measured but the skills of its layers."""
    frame = pd.DataFrame([*rows, *dropped])
    frame["warnings"] = ["; ".join(row.get("warnings", ())) for row in (*rows, *dropped)]
    frame = frame.convert_dtypes() if dropped else frame  # whole numbers stay so where some are missing
    apart = ["rank", "model", "warnings", "layer_skills", "learning_curve", "lora_curve"]
    others = frame.columns.drop(apart, errors="ignore")
    return frame[["rank", "model", *others, "warnings"]]


def answer(rows: Sequence[Row], dropped: Sequence[Row] = ()) -> str:
    """The ranked table, the models that are not in it, the verdicts and the models' warnings, as text."""
    lines = [
        f"{pd.DataFrame(map(cells, rows)).to_string(index=False)}\n",
        f"{verdict(rows)} Ranked by held-out skill, not by NTPS.",
        *(f"{row['model']} is {verdict_of(row)}." for row in rows),
        *(f"{row['model']}: {finetuned(row)}." for row in rows if "lora_steps" in row),
        *(f"{row['model']}: not measured on all rows: {row['dropped']}" for row in dropped),
        *(f"{row['model']}: {warning}" for row in rows for warning in row["warnings"]),
    ]
    return "\n".join(lines)


def outlook(row: Row, facts: Row) -> str:
    """What is known of fine-tuning without a training: the gain that is expected, or why there is none and what would show one."""
    known = f"Expected gain in accuracy of {row['model']} by LoRA: {row['lora_gain_note'] or gain(row)}."
    if not math.isnan(row["lora_gain"]) or facts["target"] != "classes":
        return known
    first = f"{command(facts['flags'])} --finetune_probe 50"
    return f"{known} A settled run shows it: {settled(row['model'], facts)}; its first steps: {first}"


def settled(model: str, facts: Row) -> str:
    """The command that trains the model on the same rows until validation no longer improves."""
    flags, asked = facts["flags"], list[str]()
    given = next((name for name in flags["models"] if name_in_tables(name) == model), model)
    data = f"{flags['output']}/data/{facts['name']}.yaml" if flags["train"] else facts["name"]
    for name in ("limit", "max_length", "dtype"):
        value = flags.get(name)
        if value is not None and (name != "limit" or value in facts["texts"].values()):
            asked += [f"--{name}", str(value)]
    return shlex.join(["python", *SETTLED.split(), *asked, "--models", given, "--datasets", data])


def name_in_tables(model: str) -> str:
    """What tables call a model that is given as a name, a YAML, a folder or a hub id."""
    try:
        return output_name(resolve_model(model))
    except UserError:
        return model


def command(flags: Mapping[str, Any]) -> str:
    """What was run, but for --finetune_probe."""
    words = ["python", "prescreen.py"]
    for one in fields(Prescreening):
        if one.name not in ("overwrite", "finetune_probe") and (value := flags[one.name]) != one.default:
            several = [] if value is True else value if isinstance(value, list | tuple) else None
            words += [f"--{one.name}={value}"] if several is None else [f"--{one.name}", *map(str, several)]
    return shlex.join(words) if "".join(words).isprintable() else "the same command with"


def report(
    ranked: Sequence[Measured], facts: Row, warnings: Sequence[str], output: str, dropped: Sequence[Row] = ()
) -> None:
    """Print the answer, and write the page, the JSON (all of it) and the CSV (one row a model) as OUTPUT/NAME.*."""
    rows, texts, stem = [one.row for one in ranked], facts["texts"], f"{output}/{facts['name']}"
    about = provenance.of(
        "prescreen", {"data": facts["name"]}, ranked_by="heldout_skill", confidence=0.95, data=facts,
        doubts=list(warnings), models=rows, dropped=list(dropped),
    )  # fmt: skip
    without_nan = json.loads(json.dumps(about), parse_constant=lambda _: None)  # JSON has no NaN
    files = {
        f"{stem}.html": page(ranked, facts, warnings, dropped),
        f"{stem}.json": atomic_files.to_json(without_nan),
        f"{stem}.csv": table(rows, dropped).to_csv(index=False),
    }
    lines = [
        f"\n{facts['name']}: {texts['train']} train, {texts['test']} test texts; {facts['split_rule']}",
        *(f"warning: {warning}" for warning in warnings),
        f"\n{answer(rows, dropped)}",
        f"\nThe scores as in the paper:\n\n{pd.DataFrame(map(paper_cells, rows)).to_string(index=False)}\n",
    ]
    if not facts["flags"]["finetune_probe"]:
        lines += [f"{outlook(rows[0], facts)}\n"]
    print(visible("\n".join(lines)))
    for path, content in files.items():
        atomic_files.write_text(Path(path), content)
        print(f"wrote {path}")


def page(ranked: Sequence[Measured], facts: Row, warnings: Sequence[str], dropped: Sequence[Row] = ()) -> str:
    """The whole page. Every text from files or flags is escaped by the templates."""
    return TEMPLATES.get_template("page.html").render(
        context([one.row for one in ranked], facts, warnings, dropped), pictures=draw(ranked)
    )


def context(rows: Sequence[Row], facts: Row, warnings: Sequence[str], dropped: Sequence[Row] = ()) -> Row:
    """What the page shows, but for its pictures."""
    counts = facts.get("class_counts", {"train": [], "test": []})
    classes = sorted(zip(facts.get("classes", []), counts["train"], counts["test"]), key=lambda row: -row[1])
    return {"rows": rows, "facts": facts, "warnings": warnings, "classes": classes, "dropped": dropped}


TEMPLATES.globals |= {
    "number": number, "between": between, "percent": percent, "gain": gain, "side_of": side_of, "nan": math.nan, "points": points,
    "verdict": verdict, "verdict_of": verdict_of, "finetuned": finetuned, "outlook": outlook, "standing": standing, "RULES": RULES, "THRESHOLDS": THRESHOLDS, "ranked_name": ranked_name, "SEEN": SEEN,
}  # fmt: skip
TEMPLATES.filters |= {
    "answer_cells": answer_cells, "retention_cells": retention_cells, "paper_cells": paper_cells, "dropped_cells": dropped_cells,
}  # fmt: skip
