"""The page of prescreen.py: a ranked table, figures and a plain-language reading, in one file without a network."""

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fig_plot.figures import LINES, STYLE, curve_panel
from fig_plot.summary import text_table
from ntps.prescreening.measure import Measured, Row, learns_nothing, result_path, side_of
from ntps.system import storage

CSS = Path(__file__).with_name("prescreen.css")
SHOWN_CLASSES = 30

RANKED_BY = """\
Models are ranked by the held-out skill of a ridge probe on their best layer, not by NTPS. Skill is the share of the \
labels' variance that the probe explains on texts it has not seen: 1 is all of it, 0 is no better than guessing from \
the labels' frequencies. The layer and the probe's strength were chosen by cross-validation on the training texts \
alone. It is the plainest estimate of how well a model's frozen states serve these labels. NTPS and retention answer another \
question, where in the states the labels lie; a model is not better for a higher NTPS, and docs/reading-the-score.md \
shows on real texts how much of it can be there without the labels."""
MEANINGS = {
    "Held-out skill": "1 − squared error of the probe ÷ that of guessing, on the test texts, with its standard error over them. "
    "Two models that are <i>tied</i> differ by less than their paired test error allows to tell (95 %, for all models of "
    "the table at once).",
    "Accuracy": "of a logistic regression on the same layer's states, on the test texts; beside it that of always naming the most "
    "frequent class. It says what a cheap classifier reaches, not what the model reaches after fine-tuning.",
    "RMSE": "root of the mean squared error on the test texts, in the units of the label.",
    "NTPS": "how much of the directions that the labels need lies in the leading tenth of the directions that next-token "
    "prediction favours. Chance is a tenth. <b>Shuffled</b> is the same score after the labels were permuted: where NTPS lies "
    "among them, it may describe the texts and the model alone. A high NTPS by itself is not a good model.",
    "p": "(1 + shuffles that score as high) ÷ (1 + shuffles), of NTPS and of retention: small where the score is above shuffled "
    "labels, near 1 where it is below them; in between it is not told apart from them. It is exact for a layer fixed beforehand. "
    "Here the same labels chose the layer: in simulations that left the p of NTPS as it should be, but the p of retention can be "
    "off either way.",
    "Retention": "the share of the linearly explained label signal that survives when only that tenth of directions is kept; "
    "<b>its null</b> is the expectation for shuffled labels. States are not centred, so that signal includes what "
    "every text shares.",
    "Held-out retention": "skill of the best probe within that tenth of directions ÷ skill of the full probe, both without intercept, on "
    "the test texts. Below 0: worse than guessing.",
    "Headroom": "best layer's minus last layer's cross-validated skill: what is lost by taking the last layer, as most classifiers do.",
    "H-score, LogME, RankMe": "three published scores from the same states, at the best layer. They compare models on one text set; "
    "their size alone means little. RankMe does not see the labels.",
    "Expected LoRA gain": "accuracy after LoRA fine-tuning minus that of the linear probe, predicted from other tasks. It is given "
    "only where a calibration covers a task like this one and its prediction beat the mean gain on tasks left out.",
    "±": "one standard error: over test texts for skill and accuracy (of n texts as if two more were right and two wrong, so that "
    "it is not 0 where all are right: Agresti and Coull), from parts of the training texts for NTPS and retention; "
    "for shuffled labels the standard deviation over shuffles.",
}

NTPS_SAYS = {
    "above": "the labels lie more along what next-token prediction favours than shuffled ones do",
    "below": "it is below shuffled labels: the labels matter, but lie elsewhere than where next-token prediction looks",
    "among": "it is not told apart from shuffled labels, so it need not be due to these",
}
RETENTION_SAYS = {"above": "more than", "below": "less than", "among": "not told apart from"}


# --- numbers and sentences -----------------------------------------------------------------------------------------


def known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def number(value: Any, error: Any = None, digits: int = 3) -> str:
    """0.354 ± 0.012, or a dash."""
    if not known(value):
        return "–"
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if known(error) else "")


def percent(value: Any, error: Any = None) -> str:
    if not known(value):
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if known(error) else "") + " %"


def cells(row: Row, facts: Row) -> dict[str, str]:
    """The ranked table's columns of one model."""
    tie = " (tied)" if row["rank"] > 1 and row["tied"] else ""
    shown = {
        "rank": f"{row['rank']}{tie}",
        "model": row["model"],
        "held-out skill": number(row["heldout_skill"], row["heldout_skill_se"]),
    }
    if facts["target"] == "classes":
        shown["accuracy"] = percent(row["accuracy"], row["accuracy_se"])
    else:
        shown["RMSE"] = f"{math.sqrt(row['heldout_mse']):.4g}"
    shown |= {
        "best layer": f"{row['layer']} of {row['layers']}",
        "NTPS": number(row["ntps"], row.get("ntps_se")),
        "shuffled": number(row["null_mean"], row["null_std"]),
        "its p": number(row["p_value"], digits=2),
        "retention": number(row["retention"], row.get("retention_se")),
        "its null": number(row["retention_null"]),
        "p": number(row["retention_p_value"], digits=2),
        "LoRA gain": gain(row),
        "parameters": f"{row['parameters'] / 1e6:.3g} M",
        "forward": f"{row['seconds']:.0f} s" if known(row["seconds"]) else "–",
    }
    return shown


def gain(row: Row) -> str:
    """Expected accuracy gain of LoRA with its interval, or that there is no calibration for it."""
    if not known(row.get("lora_gain")):
        return "not calibrated for this"
    low, high = (f"{100 * row[f'lora_gain_{end}']:+.1f}" for end in ("low", "high"))
    return f"{100 * row['lora_gain']:+.1f} points ({low} to {high})"


def verdict(ranked: Sequence[Measured]) -> str:
    """The first sentence of the page."""
    first = ranked[0].row
    if learns_nothing(first):
        return "On texts it has not seen, no probe is told apart from guessing: none of these models can be recommended."
    if len(ranked) == 1:
        return f"One model was measured: {first['model']}, held-out skill {number(first['heldout_skill'])}."
    tied = [one.row["model"] for one in ranked[1:] if one.row["tied"]]
    if tied:
        return f"{first['model']} is first, but these test texts cannot tell it from {', '.join(tied)}."
    behind = ranked[1].row
    return (
        f"{first['model']} is first: its held-out skill is {number(behind['behind'], behind['behind_se'])} above that of "
        f"{behind['model']}, the next."
    )


def reading(row: Row, facts: Row) -> list[str]:
    """What one model's numbers say, in sentences."""
    texts = facts["texts"]["test"]
    says = [
        f"At layer {row['layer']} of {row['layers']} a linear probe explains {percent(row['heldout_skill'], row['heldout_skill_se'])} "
        f"of the labels' variance on {texts} texts it has not seen"
    ]
    if facts["target"] == "classes":
        says[0] += (
            f"; a logistic probe names {percent(row['accuracy'], row['accuracy_se'])} of them right, where always naming the "
            f"most frequent class gets {percent(row['majority_accuracy'])}."
        )
    else:
        says[0] += f": it misses by {math.sqrt(row['heldout_mse']):.4g} (root mean square)."
    if row["headroom"] > 0.02:
        says.append(
            f"The last layer explains {100 * row['headroom']:.1f} points less (cross-validated on train): take the states of layer {row['layer']}."
        )
    unknown = "without shuffled labels nothing can be said of what it owes to the labels."
    ntps = f"NTPS is {number(row['ntps'], row.get('ntps_se'))} where random directions give {number(row['chance'])}"
    side = side_of(row, "ntps")
    if side:
        says.append(
            f"{ntps} and shuffled labels {number(row['null_mean'], row['null_std'])} (p = {row['p_value']:.2f}): {NTPS_SAYS[side]}."
        )
    else:
        says.append(f"{ntps}; {unknown}")
    kept = f"The same tenth of directions keeps {percent(row['retention'], row.get('retention_se'))} of the explained label signal"
    side = side_of(row, "retention")
    if side:
        says.append(
            f"{kept}, {RETENTION_SAYS[side]} the {percent(row['retention_null'])} expected of shuffled labels."
        )
    else:
        says.append(f"{kept}; {unknown}")
    says.append(f"Expected LoRA gain: {row['lora_gain_note'] or gain(row)}.")
    return says


def terminal(ranked: Sequence[Measured], facts: Row, doubts: Sequence[str]) -> list[str]:
    """What prescreen.py prints."""
    table = [cells(one.row, facts) for one in ranked]
    lines = [
        "",
        f"{facts['name']}: {facts['texts']['train']} train, {facts['texts']['test']} test texts; {facts['split_rule']}",
    ]
    lines += [f"warning: {doubt}" for doubt in doubts]
    lines += [
        "",
        *text_table([tuple(table[0]), *(tuple(row.values()) for row in table)]),
        "",
        verdict(ranked),
    ]
    lines += ["Ranked by the ridge probe's skill on held-out texts, not by NTPS; the page says why."]
    lines += [f"{one.row['model']}: {doubt}" for one in ranked for doubt in one.warnings]
    return lines


# --- figures -------------------------------------------------------------------------------------------------------


def layers_figure(ranked: Sequence[Measured]) -> Figure:
    """Cross-validated skill of every layer's probe over relative depth, one line a model, its best layer marked."""
    figure = Figure(figsize=(4.2, 2.6))
    axes = figure.add_subplot()
    for one in ranked:
        layers = np.array(list(one.skills))
        depth, skill = layers / max(layers[-1], 1), np.array(list(one.skills.values()))
        (line,) = axes.plot(depth, skill, label=one.row["model"], marker=".", markersize=2.5)
        best = one.row["layer"]
        axes.plot(best / max(layers[-1], 1), one.skills[best], "o", color=line.get_color(), markersize=5)
    low = min(min(one.skills.values()) for one in ranked)
    axes.set(
        xlim=(-0.01, 1.01),
        xlabel="depth (0 = embeddings, 1 = last layer)",
        ylabel="cross-validated skill on train",
    )
    axes.set_ylim(max(low, -0.5) - 0.02, None)
    axes.axhline(0, color="0.5", linewidth=0.5)
    for text in axes.legend(loc="best").get_texts():
        text.set_parse_math(False)
    return figure


def curves_figure(one: Measured) -> Figure:
    """NTPS, retention, shuffled labels and chance over the share of directions kept, at a model's best layer."""
    scores, layer = one.scores, one.row["layer"]
    curves = {"layers": np.array([layer])}
    curves |= {name: getattr(scores, name).cpu().numpy()[None] for name in ("ntps", "retention", "null")}
    point = next(row for row in scores.rows if row["rule"] == "task_rank" and row["kv"] == one.row["kv"])
    figure = Figure(figsize=(3.8, 2.9))
    axes = figure.add_subplot()
    curve_panel(axes, curves, pd.Series(point | {"layer": layer}))
    axes.set_title(f"{one.row['model']}, layer {layer}", parse_math=False)
    axes.set(xlabel="kv / d: share of the directions kept", ylabel="score")
    handles = [Line2D([], [], **(style | {"markevery": None})) for style in LINES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def inline(figure: Figure, about: str) -> str:
    """The figure as an <img> that holds its own SVG, letters as shapes so that it looks the same everywhere."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ntps"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue().encode()).decode()
    return f'<img alt="{html.escape(about)}" src="data:image/svg+xml;base64,{data}">'


# --- the page ------------------------------------------------------------------------------------------------------


def tag(name: str, text: Any, **attributes: str) -> str:
    """An element with escaped text; class_ and data_label become class and data-label."""
    extra = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{extra}>{html.escape(str(text))}</{name}>"


def doubt_list(doubts: Sequence[str]) -> str:
    items = "".join(tag("li", doubt) for doubt in doubts)
    return f"<ul class=doubts>{items}</ul>" if items else ""


def table_row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def ranked_table(ranked: Sequence[Measured], facts: Row) -> str:
    rows = [cells(one.row, facts) for one in ranked]
    head = table_row(tag("th", name) for name in rows[0])
    body = "".join(table_row(tag("td", text, data_label=name) for name, text in row.items()) for row in rows)
    return f'<table class="ranked"><thead>{head}</thead><tbody>{body}</tbody></table>'


def model_card(one: Measured, facts: Row) -> str:
    row = one.row
    more = {
        "cross-validated skill on train": number(row["gcv_skill"]),
        "headroom": number(row["headroom"]),
        "H-score": number(row.get("h_score")),
        "LogME": number(row.get("logme")),
        "RankMe": number(row.get("rankme"), digits=1),
        "balanced accuracy": percent(row.get("balanced_accuracy")),
        "adjusted retention": number(row.get("retention_adjusted")),
        "held-out retention": number(row.get("heldout_retention")),
        "texts per dimension": number(row["n_over_d"], digits=1),
        "weights in memory": f"{row['weights_gb']:.2g} GB",
        "device": row["device"],
    }
    pairs = "".join(
        f"<div>{tag('dt', name)}{tag('dd', value)}</div>" for name, value in more.items() if value != "–"
    )
    says = "".join(tag("p", sentence) for sentence in reading(row, facts))
    heading = f"{row['rank']}. {row['model']}"
    return (
        f"<section class=card>{tag('h3', heading)}{says}"
        f"{doubt_list(one.warnings)}<dl class=more>{pairs}</dl></section>"
    )


def texts_section(facts: Row, doubts: Sequence[str]) -> str:
    counts = facts["texts"]
    says = tag("p", f"{counts['train']} train and {counts['test']} test texts; {facts['split_rule']}.")
    says += f"<p>The first one: {tag('q', facts['example'][:300])}</p>"
    if facts["target"] == "numeric":
        label = facts["label"]
        return says + tag("p", f"The label is a number: mean {label['mean']:.4g}, standard deviation {label['std']:.4g}, "
                               f"from {label['least']:.4g} to {label['most']:.4g}.") + doubt_list(doubts)  # fmt: skip
    rows = list(zip(facts["classes"], facts["class_counts"]["train"], facts["class_counts"]["test"]))
    rows.sort(key=lambda row: -row[1])
    body = "".join(
        "<tr>" + "".join(tag("td", cell) for cell in row) + "</tr>" for row in rows[:SHOWN_CLASSES]
    )
    more = tag("p", f"and {len(rows) - SHOWN_CLASSES} more classes") if len(rows) > SHOWN_CLASSES else ""
    head = "<thead><tr><th>class</th><th>train</th><th>test</th></tr></thead>"
    return f"{says}{doubt_list(doubts)}<table class=classes>{head}<tbody>{body}</tbody></table>{more}"


def page(ranked: Sequence[Measured], facts: Row, doubts: Sequence[str]) -> str:
    """The whole page. Every text from files or flags is escaped."""
    title = f"Which model for “{facts['name']}”?"
    with matplotlib.style.context(STYLE, after_reset=True):
        layers = inline(layers_figure(ranked), "Cross-validated skill of every layer, one line a model")
        curves = "".join(
            inline(
                curves_figure(one),
                f"NTPS and retention of {one.row['model']} over the share of directions kept",
            )
            for one in ranked
        )
    absent = "RMSE" if facts["target"] == "classes" else "Accuracy"
    meanings = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in MEANINGS.items() if name != absent)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{tag("title", title)}<style>{CSS.read_text(encoding="utf-8")}</style></head><body><main>
{tag("h1", title)}
{tag("p", verdict(ranked), class_="verdict")}
{ranked_table(ranked, facts)}
<h2>What it is ranked by</h2>{tag("p", RANKED_BY)}
<h2>Model by model</h2><div class=cards>{"".join(model_card(one, facts) for one in ranked)}</div>
<h2>Which layer</h2>
<p>Skill of a ridge probe on the layers that were measured, estimated by cross-validation on the training texts. The dot is the
layer chosen; <code>--layers all</code> measures every one.</p>
{layers}
<h2>How much of the model's directions it takes</h2>
<p>Scores at the chosen layer as more of the directions that next-token prediction favours are kept. Where NTPS (solid) runs
inside the grey band, it is not told apart from shuffled labels.</p>
<div class=panels>{curves}</div>
<h2>The texts</h2>{texts_section(facts, doubts)}
<h2>What the numbers mean</h2><dl class=meanings>{meanings}</dl>
</main></body></html>
"""


def write(ranked: Sequence[Measured], facts: Row, doubts: Sequence[str], output: str) -> list[Path]:
    """OUTPUT/NAME.html, NAME.json (all of it) and NAME.csv (one row a model), each whole or not at all."""
    paths = [result_path(output, facts["name"], kind) for kind in ("html", "json", "csv")]
    models = [one.row | {"warnings": one.warnings, "layer_skills": one.skills} for one in ranked]
    about = storage.provenance(
        "prescreen", {"data": facts["name"]}, ranked_by="heldout_skill", confidence=0.95, data=facts,
        doubts=list(doubts), models=models,
    )  # fmt: skip
    storage.write_text(paths[0], page(ranked, facts, doubts))
    storage.write_text(paths[1], json.dumps(without_nan(about), indent=1, ensure_ascii=False) + "\n")
    table = pd.DataFrame([one.row | {"warnings": "; ".join(one.warnings)} for one in ranked])
    storage.write_text(
        paths[2],
        table[["rank", "model", *table.columns.difference(["rank", "model"], sort=False)]].to_csv(
            index=False
        ),
    )
    return paths


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead; numpy's numbers become Python's."""
    if isinstance(value, dict):
        return {str(key): without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
