"""Which language model for my labelled texts? Candidates measured by one forward pass each, ranked, on one page.

    python prescreen.py
    python prescreen.py --models smollm2-135m Qwen/Qwen2-0.5B --train my.csv --text review --label stars
    python prescreen.py --models smollm2-135m --train my.csv --test my_test.csv --text review --label stars --target numeric

Files are CSV, JSON Lines or Parquet. Without --train it measures SmolLM2 and the same model with random weights on
a text that comes with the project, in under 5 minutes on two cores. Writes OUTPUT/NAME.html, .json and .csv, and what
cache.py writes, so that K_sweep.py and the trainers go on from there; what is there already is not computed again.
"""

import contextlib
import sys
from collections.abc import Sequence

from ntps.run import cli


def main(
    models: Sequence[str] = ("smollm2-135m", "smollm2-135m-random"),
    train: str | None = None,
    test: str | None = None,
    text: str = "text",
    label: str = "label",
    target: str = "classes",
    dataset: str = "trec6",
    output: str = "prescreen",
    limit: int = 2000,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    layers: str = "spread",
    label_permutations: int = 20,
    partitions: int = 5,
    gain: str | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> int:
    """Rank candidate models for one labelled text set.

    Args:
        models: config names, YAML files, hub ids or folders
        train: file of labelled texts; NAME of the results is its name
        test: file of further texts to score on (default: a part of train is held out)
        text: column of the texts, or a template such as "{question} {choices}"
        label: column of the labels
        target: classes, or numeric: the label is a number to predict
        dataset: config name or YAML file, where no --train is given
        output: folder for all results
        limit: texts per split, the first of one seeded permutation
        max_length: tokens per text (default: the smaller of the tokenizer's and the model's limit)
        tokens_per_batch: as for cache.py
        dtype: as for cache.py
        device: as for cache.py
        layers: spread (nine from the embeddings to the last), all, or a list such as 0,8,16
        label_permutations: shuffled copies of the labels, for the p-values: 19 or more, or 0 for none
        partitions: of the train texts, for the error bars of NTPS and retention
        gain: calibration file of python -m ntps.gain, for the expected LoRA gain (default: the one that is shipped)
        seed: of the limit's permutation and of the label permutations
        overwrite: replace results of other settings
    """
    flags = dict(locals())
    from ntps.prescreening import measure, page, texts  # takes seconds to import: not for --help
    from ntps.texts.dataset import load_dataset

    measure.check_flags(flags)
    own = texts.description(train, test, text, label, target, output, overwrite) if train else None
    with own or contextlib.nullcontext(dataset) as where:
        data = load_dataset(str(where))
        warnings = texts.check(data, limit, seed)
    measured: list[measure.Measured] = []
    code = cli.for_each_pair(
        dict.fromkeys(models),
        [str(where)],
        lambda model, place: measured.append(measure.measure(model, place, data, flags)),
    )
    if measured:
        page.report(measure.rank(measured), texts.facts(data, flags), warnings, output)
    return code


if __name__ == "__main__":
    sys.exit(cli.run(main))
