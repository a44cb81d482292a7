"""A model's verdict in words: is it usable, does the last layer lose, would more labels or fine-tuning help; RULES has every threshold."""

import json
import math
from typing import Any

from ntps.prescreening.measure import Row, is_worse, learns_nothing
from ntps.sources.yaml_files import shipped_file
from ntps.texts.dataset import SEEN

POINT = 0.01  # of skill
ENDS = ("", "_low", "_high")  # of the columns of an estimate and its interval
THRESHOLDS = (
    "Usable: significantly better than guessing in skill and, where rows have one class each, in rows right; hardly usable: in one of the two. Loses, gains: "
    "significantly; would help: by one point of skill at least; would hardly help, hardly anything: under one point; open: neither is known. By 95 % intervals (the rules are below)."
)
RULES = {
    "usable": "significantly better than guessing on unseen rows: held-out skill is above 0, and where rows have one class each, more "
    "of them are right than by predicting the most frequent one. Hardly usable: one of the two; not usable: neither.",
    "the last layer loses": "held-out skill at the chosen layer minus that at the last one is significantly above 0; where it is all of "
    "the skill, the last layer is no better than guessing. It loses hardly anything where the upper end of the interval is under one point, "
    "though the lower one be below 0; else it is open. The layer was chosen on the train rows alone.",
    "more labels would help": "the power law fitted to the skill of probes of parts of the train rows rises by one point at least up to "
    "twice as many, at the lower end of its interval. They would hardly help where both ends are within one point of 0, and nothing is known where the upper one alone "
    "is under a point: skill of more rows is not lower but by chance. Else it is open. With fewer "
    "than three rows a dimension skill can rise faster than the law, so that the upper end is what is left to a skill of 1.",
    "significantly": "the 95 % interval excludes 0: of the mean difference on the same unseen rows (Bonett and Price 2012 for shares "
    "right). That of the power law is by profile likelihood. It is a statement on one model, not on the best of many.",
    "a point": "0.01 of skill, one percent of the labels' variance. It is no percent of rows right; where LoRA is named, it is.",
    "still rises": "LoRA's accuracy on the validation rows, by a straight line through the second half of its scores: the rise from the "
    "first of them to the last is significantly above 0. It no longer rises where the upper end of that interval is under one point and "
    "there are 100 validation rows; else it is open.",
}  # fmt: skip


def verdict_of(row: Row) -> str:
    """Such as "usable: 83 % right on unseen rows, 23 % by guessing; the last layer loses 7 points of skill; ..."."""
    tests = [not learns_nothing(row)] + ([row["over_guessing_low"] > 0] if is_of_classes(row) else [])
    word = "usable" if all(tests) else "hardly usable" if any(tests) else "not usable"
    found = [f"{word}: {on_unseen_rows(row)}", last_layer(row) if any(tests) else "", more_labels(row)]
    return "; ".join(filter(None, found))


def is_of_classes(row: Row) -> bool:
    return "accuracy" in row and "micro_f1" not in row


def on_unseen_rows(row: Row) -> str:
    rows = rows_of_test(row)
    skill = f"explains {row['heldout_skill']:.0%} of the labels' variance on {rows}, 0% by guessing"
    if is_worse(row):
        skill = f"significantly worse than guessing on {rows}"
    if "micro_f1" in row:
        skill = f"micro F1 {row['micro_f1']:.2f}, {skill}"
    elif "accuracy" in row:
        right = "over 99%" if 0.995 <= row["accuracy"] < 1 else f"{row['accuracy']:.0%}"
        skill = f"{right} right on {rows}, {row['majority_accuracy']:.0%} by guessing"
    return skill.replace("%", " %")


def rows_of_test(row: Row) -> str:
    seen = row.get("seen", 0)
    return "unseen rows" if seen < SEEN else f"test rows, {seen:.0%} of which are train rows"


def last_layer(row: Row) -> str:
    if row["layer"] == row["layers"]:
        return "the last layer is the best"
    loss, low, high = (row[f"last_layer_loss{end}"] for end in ENDS)
    if math.isnan(loss):
        return "the last layer was not measured"
    if low > 0:
        if loss >= row["heldout_skill"]:
            return "the last layer is no better than guessing"
        return f"the last layer loses {points(loss)} of skill"
    if high < 0:
        return f"the last layer gains {points(-loss)} of skill"
    if high < POINT:
        return "the last layer loses hardly anything: under 1 point of skill"
    return f"whether the last layer loses skill is {still_open(low, high)}"


def more_labels(row: Row) -> str:
    """No law falls or stands still where early points rise, so that a lower end above 0 tells nothing; a point does."""
    gain, low, high = (row[f"doubling_gain{end}"] for end in ENDS)
    where, whether = "of skill at twice as many", "whether more labels would help"
    if math.isnan(gain):
        return f"{whether} was not estimated"
    if low >= POINT:
        return f"more labels would help: {points(gain, '+')} {where}"
    if high < POINT and low > -POINT:
        return f"more labels would hardly help: under 1 point {where}"
    if high < POINT:
        return f"{whether} is not known: skill does not rise with rows here"
    return f"{whether} is {still_open(low, high)} {where}"


def still_open(low: float, high: float) -> str:
    if high - low > 1:
        return "open: not known to 100 points"
    return f"open: {points(low, '+').split()[0]} to {points(high, '+')}"


def still_rises(row: Row) -> str:
    """LoRA's accuracy on the validation rows, of which the curve has n."""
    rise, low, high = (row[f"lora_rise{end}"] for end in ENDS)
    n, whether = row["lora_curve"]["n"], "whether it still rises"
    where = f"in the second half, on {n} validation rows"
    if n * POINT < 1 and not low > 0:
        return f"{whether} is open: {n} validation rows are too few"
    if math.isnan(rise):
        return f"{whether} was not estimated"
    if high < POINT:
        return f"it no longer rises: under 1 point {where}"
    if low > 0:
        return f"it still rises: {points(rise, '+')} {where}"
    return f"{whether} is {still_open(low, high)} {where}"


def finetuned(row: Row) -> str:
    """Such as "LoRA after 50 steps has 81.2 % [78.0, 84.1] of the unseen rows right, the linear probe 79.0 %: +2.2 points [-0.5, +4.9]"."""
    right, low, high = (100 * row[f"lora_accuracy{end}"] for end in ENDS)
    gain, least, most = (100 * row[f"lora_over_probe{end}"] for end in ENDS)
    passes = "" if math.isnan(row["lora_passes"]) else f", {row['lora_passes']:.1f} times its forward pass"
    return (
        f"LoRA after {row['lora_steps']} steps has {right:.1f} % [{low:.1f}, {high:.1f}] of the {rows_of_test(row).replace('%', ' %')} right, the linear probe "
        f"{100 * row['accuracy']:.1f} %: {gain:+.1f} points [{least:+.1f}, {most:+.1f}], p = {row['lora_p_value']:.2g}; "
        f"{still_rises(row)}; it took {row['lora_seconds']:.0f} s{passes}"
    )


def points(skill: float, sign: str = "") -> str:
    """7 points, 8.4 points, 12 points."""
    return f"{round(100 * skill, 1 if abs(skill) < 0.1 else None) + 0.0:{sign}} points".replace(".0 ", " ")


def standing(row: Row, name: str) -> str:
    """How the skill compares with that of a reference model on the data sets of configs/reference.json; "" without these."""
    path = shipped_file("reference.json")
    if path is None or not is_of_classes(row):
        return ""
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    others = [skill for data, skill in known["heldout_skill"].items() if data != name]
    below = sum(skill < row["heldout_skill"] for skill in others)
    return f"Its skill is above what {known['model']} has on {below} of {len(others)} other data sets ({known['rows']} train rows)."
