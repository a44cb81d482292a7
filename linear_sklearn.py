"""Linear probes of every layer by scikit-learn, on the mean states that cache.py kept, scored on train and on test.

    python cache.py --models smollm2-135m --datasets trec6 sms_spam_pypi --keep_states
    python linear_sklearn.py --models smollm2-135m --datasets trec6 sms_spam_pypi
    python linear_sklearn.py --models smollm2-135m --datasets trec6 --layers 0,15,30 --solver lbfgs --tol 1e-4

Reads OUTPUT/moments (and OUTPUT/states) of MODEL/DATASET; rows, their --limit and --max_length are those that
were cached. Writes OUTPUT/accuracy/linear_sklearn/MODEL/DATASET.csv; its column `probe` is one of
    logistic_regression, linear_regression                from the states, scaled to unit variance
    least_squares, least_squares_no_intercept, ridge      from the moments alone, also where no states were kept
"""

import sys
from dataclasses import dataclass

from ntps.flags import LayerProbes
from ntps.run import cli


@dataclass(kw_only=True)
class Flags(LayerProbes):
    """Probe every layer of every model x data set that is in OUTPUT."""


def main(flags: Flags) -> int:
    from ntps.accuracies.layer_probes import probe_pair  # after the flags: these imports take seconds
    from ntps.moments.pair import Cached, Pair

    def work(model: str, dataset: str) -> None:
        probe_pair(Cached(Pair.of(model, dataset, flags.output, flags.adapter, not flags.no_verify)), flags)

    return cli.for_each_pair(flags.models, flags.datasets, work)


if __name__ == "__main__":
    sys.exit(cli.run(main))
