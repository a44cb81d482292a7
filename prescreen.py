"""Which language model for my labelled texts? Candidates measured by one forward pass each, ranked, on one page.

    python prescreen.py
    python prescreen.py --models smollm2-135m Qwen/Qwen2-0.5B --train my.csv --text review --label stars
    python prescreen.py --models smollm2-135m --train my.csv --test my_test.csv --text review --label stars --target numeric
    python prescreen.py --models checkpoints/* --train my.csv --text review --label stars --budget 5
    python prescreen.py --train my.csv --text review --label stars --finetune_probe 50

Files are CSV, TSV, JSON, Parquet or Excel, which `python -m ntps.validate my.csv` checks. Without --train it measures SmolLM2 and the same model with random weights on
a data set that comes in a package, in under 5 minutes on two cores. Writes OUTPUT/NAME.html, .json and .csv, and what
cache.py writes, so that K_sweep.py and the trainers go on from there; what is there already is not computed again.
"""

import sys
from dataclasses import dataclass

from ntps.flags import Prescreening
from ntps.run import cli


@dataclass(kw_only=True)
class Flags(Prescreening):
    """Rank candidate models for one labelled data set."""


def main(flags: Flags) -> int:
    from ntps.prescreening.ranking import Ranking  # after the flags: this import takes seconds

    ranking = Ranking(flags)
    ranking.run()
    if ranking.measured:
        ranking.write()
    return 1 if ranking.failed else 0


def command() -> int:
    """What `pip install .` makes ntps-prescreen of."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(command())
