"""Next Token Perception Score (arXiv 2505.17169): text to moments, moments to scores.

import ntps
moments = ntps.moments_of_texts(model, tokenizer, texts, labels)  # or ntps.from_arrays(states, lengths, labels)
ntps.ntps(moments.averages(12), kv=57)                            # one number: layer 12, ku = rank of the labels
ntps.layer_scores(moments.averages(12)).rows                      # everything, for every ku and kv
"""

from ntps.errors import UserError
from ntps.moments.encoder import moments_of_texts
from ntps.moments.sums import Moments, from_arrays
from ntps.scores.layer import LayerScores, layer_scores
from ntps.scores.subspaces import ntps

__all__ = ["LayerScores", "Moments", "UserError", "from_arrays", "layer_scores", "moments_of_texts", "ntps"]

__path__.append(f"{__path__[0]}/commands")  # python -m ntps.validate is commands/validate.py
