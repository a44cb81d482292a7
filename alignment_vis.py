"""Words in the plane of a layer's two leading directions: of perception (U) and of autoregression (V); figure 1.

    python cache.py --models smollm2-135m --datasets rotten_tomatoes_pypi --splits train --limit 1000
    python K_sweep.py --models smollm2-135m --datasets rotten_tomatoes_pypi
    python alignment_vis.py                                                  # of this model and data set
    python alignment_vis.py --models openelm-450m --datasets emotion --layer 20      # as the paper
    python alignment_vis.py --models smollm2-135m --datasets trec6 --words words.yaml --between Place Person

words.yaml holds lists of words by group: `Place: [river, city]`. A word is encoded as a row of its own, and its state
is the mean over its tokens, special tokens included. Writes OUTPUT/words/MODEL/DATASET.csv, .png, .pdf and .json.
Unit of an axis: the root mean square of the train rows' coordinates. Sign: the first group of --between lies
right of and above the second. Dashed line: linear discriminant analysis between these two, equal priors.
"""

import sys
from dataclasses import dataclass

from ntps.flags import Words
from ntps.run import cli


@dataclass(kw_only=True)
class Flags(Words):
    """Draw words for every model x data set whose train moments are in OUTPUT."""


def main(flags: Flags) -> int:
    from fig_plot.panels import save  # after the flags: these imports take seconds
    from fig_plot.words import word_figure
    from ntps.moments.pair import Pair
    from ntps.results.word_tables import ends_of, place_words, read_words

    groups = read_words(flags.words)
    ends = ends_of(groups, flags.between)

    def work(model: str, dataset: str) -> None:
        pair = Pair.of(model, dataset, flags.output, flags.adapter, not flags.no_verify)
        place = (pair.model, pair.dataset)
        place_words(
            pair,
            model,
            flags,
            groups,
            ends,
            lambda table, stem: save(word_figure({place: table}, ends), stem),
        )

    return cli.for_each_pair(flags.models, flags.datasets, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
