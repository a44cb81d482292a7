"""What scores and measurements are called in the figures, which way they go, and the scripts that make them: by the registries."""

from ntps.accuracies.registry import METHODS, TARGETS
from ntps.scores.registry import EVERY

COMPARED = ("ntps", "null_lift", "retention", "retention_adjusted", "h_score", "logme", "rankme", "gcv_skill")
SCORES = {name: EVERY[name].label for name in COMPARED}  # of the report's figure, from above
LABELS = {name: score.label for name, score in EVERY.items()} | {
    name: target.label for name, target in TARGETS.items()
}
DIRECTIONS = {name: target.direction for name, target in TARGETS.items()}  # +1 if more is better, else -1
MEANINGS = {name: target.meaning for name, target in TARGETS.items()}
SCORING = ("cache.py", "K_sweep.py")
# of figures, where the results have them
RECOMMENDED = ("retention_corrected", "retention_corrected_pca", "conditioned_lift")
MEASURING = {target.name: method.script for method in METHODS for target in method.targets}
NOTHING = "no results: run python cache.py and python K_sweep.py, see README"
NO_SHUFFLES = "no permuted labels: run cache.py --overwrite (--label_permutations is 200 unless given)"


def scripts(name: str) -> tuple[str, ...]:
    """What makes a score or a measurement."""
    if name in EVERY:
        return ("cache.py --partitions 5", SCORING[1]) if name.startswith("conditioned") else SCORING
    parts = [part for part in (TARGETS[name].minus, TARGETS[name].of) if part] or [name]
    made = [MEASURING[part] for part in parts]
    states = any("states" in method.reads for method in METHODS if method.script in made)
    return (*(["cache.py --keep_states"] if states else []), *made)


def rank_label(name: str) -> str:
    """An axis of ranks. Where less is better they are reversed: a high rank is what the paper says of a high score."""
    return f"rank of {LABELS[name]}" + (",\nreversed: 1 = largest" if DIRECTIONS.get(name, 1) < 0 else "")


def commands(name: str) -> str:
    """The commands that make a score or a measurement."""
    return " and ".join(f"python {script}" for script in scripts(name))
