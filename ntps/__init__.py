"""Next Token Perception Score (arXiv 2505.17169): texts to moments, moments to scores.

import ntps
ntps.rank(models, texts, labels)                                  # which model for my texts: a table, a page, a probe
moments = ntps.moments_of_texts(model, tokenizer, texts, labels)  # or ntps.from_arrays(states, lengths, labels)
ntps.ntps(moments.averages(12), kv=57)                            # one number: layer 12, ku = rank of the labels
ntps.layer_scores(moments.averages(12)).rows                      # everything, for every ku and kv

The folders are the data flow: sources, texts and models; moments; scores; accuracies; results; evaluation; prescreening.
"""

from importlib import import_module
from typing import Any

WHERE = {  # what `import ntps` hands on, read when first used: torch takes seconds to import
    "LayerMoments": "scores.layer_moments",
    "LayerScores": "scores.table",
    "Moments": "moments.sums",
    "UserError": "errors",
    "from_arrays": "moments.sums",
    "layer_scores": "scores.table",
    "moments_of_texts": "moments.encoder",
    "ntps": "scores.layer",
    "rank": "prescreening.ranking",
    "TextProbe": "prescreening.text_probe",
}
__all__ = list(WHERE)

__path__.append(f"{__path__[0]}/commands")  # python -m ntps.validate is commands/validate.py


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module 'ntps' has no attribute {name!r}")
    return getattr(import_module(f"ntps.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *WHERE])
