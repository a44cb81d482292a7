"""The results folder: scores of every pair written, and all tables read as two tidy ones.

from ntps import results
long = results.load_scores("results")   # model, dataset, layer, order, rule, fraction, kv, score, value
pairs = results.load_pairs("results")   # one row a model x data set: group, best layer, accuracies, gains ...
"""

from ntps.results.tables import DIRECTION, METHODS, TARGETS, at_points, headline, load_pairs, load_scores

__all__ = ["DIRECTION", "METHODS", "TARGETS", "at_points", "headline", "load_pairs", "load_scores"]
