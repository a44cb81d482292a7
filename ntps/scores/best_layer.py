"""The rule for the best layer: the lowest gcv_error of the ridge probe on train, of equal ones the first.

gcv_error is generalized cross-validation's estimate of the probe's mse (ntps/scores/probes.py): no test row chooses.
"""

from collections.abc import Iterable


def best_place(gcv_errors: Iterable[float]) -> int:
    """The place of the best layer among these, NaN never; ValueError where there is none."""
    return min((error, place) for place, error in enumerate(gcv_errors) if error == error)[1]
