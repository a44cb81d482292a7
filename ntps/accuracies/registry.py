"""Every method that accuracies come from, one entry each: a script of this name, its tables, and what is judged by them.

A method's tables are OUTPUT/accuracy/METHOD/MODEL/DATASET.csv. A new trainer is its script and an entry here: results,
selection, figures, plans and job grids read the rest from this list.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A measured value of a pair that scores are judged by, and how it is read from the method's tables.

    direction: +1 if more is a task that is read better, -1 if less is. Read from the rows of `split` (the final ones,
    or for layer probes those of `probe` at the best layer), mean of `metric` over seeds; or, for a gain, the target
    `of` minus the target `minus`.
    """

    name: str
    direction: int
    label: str
    meaning: str
    split: str = "test"
    metric: str = "accuracy"
    probe: str = ""
    of: str = ""
    minus: str = ""


@dataclass(frozen=True)
class Method:
    """A script, its targets, and for plans and job grids what it trains and what of cache.py's output it waits for.

    trains: probes (of cached states), head (on a frozen model), adapter, or all (weights).
    """

    name: str
    trains: str
    targets: tuple[Target, ...]
    reads: tuple[str, ...] = ()

    @property
    def script(self) -> str:
        return f"{self.name}.py"


METHODS = (
    Method("linear_sklearn", "probes", (
        Target("probe_accuracy", 1, "probe accuracy",
               "test accuracy of linear_sklearn's logistic regression at the best layer", probe="logistic_regression"),
        Target("probe_mse", -1, "probe MSE", "test mse of linear_sklearn's linear regression at the best layer",
               metric="mse", probe="linear_regression"),
        Target("probe_train_accuracy", 1, "probe accuracy on train",
               "train accuracy of the same logistic regression, as published", "train", probe="logistic_regression"),
        Target("probe_train_mse", -1, "probe MSE on train", "train mse of the same linear regression, as published",
               "train", "mse", probe="linear_regression"),
    ), reads=("moments", "states")),
    Method("linear_training", "head", (
        Target("linear_accuracy", 1, "linear probe", "final test accuracy of linear_training, the last layer's head"),
    ), reads=("moments",)),  # written together with the states, which it uses if they are there
    Method("lora_finetuning", "adapter", (
        Target("lora_accuracy", 1, "LoRA accuracy", "final test accuracy of lora_finetuning"),
        Target("lora_gain", -1, "LoRA gain over the probe",
               "final test accuracy of lora_finetuning - probe_accuracy", of="lora_accuracy", minus="probe_accuracy"),
        Target("lora_gain_linear", -1, "LoRA gain",
               "final test accuracy of lora_finetuning - linear_accuracy, as published", of="lora_accuracy",
               minus="linear_accuracy"),
    )),
    Method("from_scratch", "all", (
        Target("scratch_accuracy", 1, "training from scratch", "final test accuracy of from_scratch"),
    )),
)  # fmt: skip
METHOD = {method.name: method for method in METHODS}
TARGETS = {target.name: target for method in METHODS for target in method.targets}
