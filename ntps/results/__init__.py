"""The results folder: scores of every pair written, and all tables read as two tidy ones.

from ntps import results
long = results.load_scores("results")   # model, dataset, layer, order, rule, fraction, kv, score, value
pairs = results.load_pairs("results")   # one row a model x data set: group, best layer, accuracies, gains ...
"""

from ntps.results.tables import (
    COVARIATES,
    DIRECTION,
    METHODS,
    PAIR,
    TARGETS,
    at_points,
    headline,
    load_pairs,
    load_scores,
    read_table,
    read_tables,
)

__all__ = [
    "COVARIATES", "DIRECTION", "METHODS", "PAIR", "TARGETS", "at_points", "headline", "load_pairs", "load_scores",
    "read_table", "read_tables",
]  # fmt: skip
