"""What scores and measurements are called in the figures, which way they go, and the scripts that make them."""

from ntps import results

SCORES = {
    "ntps": "NTPS",
    "null_lift": "NTPS above its null",
    "retention": "retention",
    "retention_adjusted": "adjusted retention",
    "h_score": "H-score",
    "logme": "LogME",
    "rankme": "RankMe",
    "gcv_skill": "ridge probe, cross-validated",
}
TARGETS = {
    "probe_accuracy": "probe accuracy (test)",
    "probe_train_accuracy": "probe accuracy (train)",
    "probe_mse": "probe MSE (test)",
    "probe_train_mse": "probe MSE (train)",
    "linear_accuracy": "linear probe",
    "lora_gain": "LoRA gain over the probe",
    "lora_gain_linear": "LoRA gain",
    "scratch_accuracy": "training from scratch",
}
LABELS = SCORES | TARGETS
DIRECTIONS = {name: sign for name, (sign, _) in results.TARGETS.items()}  # +1 if more is better, else -1
MEANINGS = {name: meaning for name, (_, meaning) in results.TARGETS.items()}
SCRIPTS = {
    **dict.fromkeys(SCORES, ("cache.py", "K_sweep.py")),
    **dict.fromkeys([name for name in TARGETS if name.startswith("probe_")], ("cache.py --keep_states", "linear_sklearn.py")),
    "lora_gain": ("linear_sklearn.py", "lora_finetuning.py"),
    "lora_gain_linear": ("linear_training.py", "lora_finetuning.py"),
    "linear_accuracy": ("linear_training.py",),
    "scratch_accuracy": ("from_scratch.py",),
}  # fmt: skip
NOTHING = "no results: run python cache.py and python K_sweep.py, see README"
NO_SHUFFLES = "no shuffled labels: run cache.py with --label_permutations 20 --overwrite"


def rank_label(name: str) -> str:
    """An axis of ranks. Where less is better they are reversed: a high rank is what the paper says of a high score."""
    return f"rank of {LABELS[name]}" + (",\nreversed: 1 = largest" if DIRECTIONS.get(name, 1) < 0 else "")


def commands(name: str) -> str:
    """The commands that make a score or a measurement."""
    return " and ".join(f"python {script}" for script in SCRIPTS[name])
