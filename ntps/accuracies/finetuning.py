"""Training a language model and a linear head on its mean state: the Hugging Face Trainer's loop, resumed after a kill.

What Trainer lacks is added here: a seeded order that a resumed run repeats beyond the first epoch, checkpoints of
the trained weights alone, and errors that name what to do. Checkpoints are read from our own output folder only.
"""

import gc
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from ntps.accuracies.attention import attention_for_gradients
from ntps.accuracies.linear_head import new_head
from ntps.accuracies.table import Fit
from ntps.accuracies.task import EVALUATION_BATCH, Row, Task, scores
from ntps.accuracies.training_order import GroupedOrder, collate
from ntps.errors import OutOfMemory, UserError, enough_memory
from ntps.flags import Training
from ntps.moments.encoder import difference, rounding
from ntps.moments.packing import rotary_windows
from ntps.system import atomic_files, console, processes, provenance
from ntps.system.checkpoint_clock import CheckpointClock

WEIGHTS = "trained.safetensors"
VALIDATION = "eval_validation_accuracy"  # in Trainer's log
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "n")


class Classifier(nn.Module):
    """A base model and a linear head on the mean state (1/n) sum_t h_t of a row's n real tokens.

    Right-padded ids (B, T) and mask (B, T) give logits (B, C). The mean and the head are float32. The base needs no mask: it
    is causal, and padding stands to the right.
    """

    def __init__(self, base: nn.Module, width: int, classes: int, dropout: float):
        super().__init__()
        self.base = base
        self.head = new_head(width, classes, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.base(input_ids=input_ids, use_cache=False).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            mask = attention_mask.unsqueeze(2)
            mean = (hidden.float() * mask).sum(1) / mask.sum(1)
            return {"logits": self.head(mean)}


def mean_loss(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Cross-entropy of a forward pass over the rows of its step, whose last pass may be of fewer: each row counts alike."""
    total = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


@torch.no_grad()
def check_causal(base: nn.Module) -> None:
    """UserError where the states of a text's beginning change with what stands to its right: so would they with padding."""
    model: Any = base
    weights, training = next(model.parameters()), model.training
    ids = torch.arange(3, 11, device=weights.device)[None] % model.config.get_text_config().vocab_size
    model.eval()

    def states_of(part: Tensor) -> Tensor:
        return model(input_ids=part, use_cache=False).last_hidden_state

    start, whole = states_of(ids[:, :4]), states_of(ids)[:, :4]
    (allowed,) = rounding(model, lambda: [states_of(ids[:, :4])], [start])
    model.train(training)
    if difference(whole, start) > allowed:
        raise UserError(f"{type(model).__name__} looks ahead: only causal models will do")


def check_positions(task: Task, lengths: Sequence[int]) -> None:
    """UserError where a row's positions would change with the longest row of its batch (longrope)."""
    for longest in rotary_windows(task.model.config.get_text_config()):
        if min(lengths) <= longest < max(lengths):
            raise UserError(
                f"{task.model.name}: in a batch with a text of more than {longest} tokens the others have other positions: "
                f"say --max_length {longest}"
            )


Build = Callable[[int], nn.Module]  # of a seed
Keep = Callable[[Classifier, int, dict], None]  # of a trained model, its seed and its training's identity


class Finetuner(Trainer):
    """Trainer with our order of rows, checkpoints of trained weights only, and a stop at a loss that is not finite."""

    seconds_before = 0.0  # of the interrupted runs that this one goes on from
    started = 0.0
    right: list[int] = []  # of the rows that were scored last, 1 where the prediction is right

    def __init__(self, **options):
        super().__init__(compute_loss_func=mean_loss, **options)

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths, size = [len(example["input_ids"]) for example in rows], self._train_batch_size
        return GroupedOrder(lengths, size, self.args.seed, lambda: int(self.state.epoch or 0))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs) -> Tensor:
        with attention_for_gradients(self.args.device, inputs["input_ids"].shape[1]):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if not self.accelerator.gather(loss).isfinite().all():  # gather: all processes stop together
            step = self.state.global_step + 1
            raise UserError(
                f"the loss is not finite at step {step}: try a smaller --learning_rate, or --dtype float32"
            )
        return loss

    def evaluation_loop(self, dataloader, *args, **kwargs):
        found = super().evaluation_loop(dataloader, *args, **kwargs)
        order = list(self._get_eval_sampler(dataloader.dataset))  # by length, the same each time
        self.right = (found.predictions.argmax(1) == found.label_ids)[np.argsort(order)].astype(int).tolist()
        return found

    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs | {"seconds": self.seconds()}, start_time)

    def _trained(self) -> dict[str, nn.Parameter]:
        model: Any = self.model
        return {name: value for name, value in model.named_parameters() if value.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: value.detach().contiguous() for name, value in self._trained().items()}
        save_file(trained, folder / WEIGHTS, {"seconds": repr(self.seconds())})

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        for file in Path(output_dir).iterdir():  # else a power cut leaves them empty beside what follows
            with open(file, "rb+") as written:
                os.fsync(written.fileno())
        self.accelerator.wait_for_everyone()  # trainer_state.json follows and says that all of it is there

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(path := Path(resume_from_checkpoint) / WEIGHTS)
        with safe_open(path, "pt") as file:
            self.seconds_before = float(file.metadata()["seconds"])

    def load_weights(self, path: Path) -> None:
        stored, trained = load_file(path), self._trained()
        if stored.keys() != trained.keys():
            raise UserError(f"{path} holds other weights than the model trains: delete {path.parent.parent}")
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(stored[name])


def best_validation(log: list[dict[str, float]]) -> tuple[int, int]:
    """The step of the highest validation accuracy in Trainer's log, the first of equals, and how many came after it."""
    curve = [line for line in log if VALIDATION in line]
    best = max(range(len(curve)), key=lambda place: curve[place][VALIDATION])
    return int(curve[best]["step"]), len(curve) - 1 - best


class Watcher(TrainerCallback):
    """A bar in real tokens, a checkpoint a minute, and with patience one of the best weights and the stop.

    All that patience needs is in the log, which checkpoints hold. (Trainer's EarlyStoppingCallback has a counter of
    its own, and needs load_best_model_at_end, which does not know our checkpoints.)
    """

    def __init__(self, bar, patience: int | None):
        self.bar, self.patience = bar, patience
        self.clock, self.began = CheckpointClock(), 0.0  # began: what a checkpoint may follow has ended

    def on_train_begin(self, args, state, control, **_):
        bar = self.bar  # what an interrupted run has seen says nothing of this one's speed
        bar.initial = bar.n = bar.last_print_n = state.num_input_tokens_seen
        if self.patience and any(VALIDATION in line for line in state.log_history):
            self.on_evaluate(args, state, control)  # of the checkpoint that it goes on from

    def on_evaluate(self, args, state, control, **_):
        self.began = time.monotonic()
        if self.patience:
            best, later = best_validation(state.log_history)
            state.best_model_checkpoint = checkpoint_of(Path(args.output_dir), best)  # which Trainer keeps
            control.should_training_stop |= later >= self.patience
            control.should_save = (control.should_save or not later) and not control.should_training_stop

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.num_input_tokens_seen - self.bar.n)
        self.began = time.monotonic()
        due = processes.from_first(self.clock.due)
        # Trainer would take one more step from a checkpoint of the last
        control.should_save = due and state.global_step < state.max_steps

    def on_save(self, args, state, control, **_):
        self.clock.wrote(self.began)


def checkpoint_of(folder: Path, step: int) -> str:
    return str(folder / f"checkpoint-{step}")


def examples(task: Task, split: str, rows: np.ndarray) -> list[dict[str, Any]]:
    ids, labels = task.ids(split), task.labels[split]
    return [{"input_ids": ids[row], "labels": int(labels[row])} for row in rows]


def last_step(folder: Path, identity: dict) -> int:
    """The step of a training's last whole checkpoint, 0 without one; other runs' are removed.

    Trainer writes trainer_state.json last. A file without content is what a disk that was cut off left.
    """
    known = read_json(folder / "identity.json")
    if known != identity:
        if known is not None:
            lines = provenance.differences(known, identity)
            console.say(f"{folder} is of another run ({'; '.join(lines[:2])}): starting over")
        shutil.rmtree(folder, ignore_errors=True)
        atomic_files.write_text(folder / "identity.json", json.dumps(identity))
    states = [
        path for path in folder.glob("checkpoint-*/trainer_state.json")
        if read_json(path) and all(file.stat().st_size for file in path.parent.iterdir())
    ]  # fmt: skip
    return max((int(path.parent.name.split("-")[1]) for path in states), default=0)


def read_json(path: Path) -> Any:
    """None for a file that is missing or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def arguments(folder: Path, task: Task, flags: Training, seed: int) -> TrainingArguments:
    """The paper's optimizer and schedule: Adafactor without relative step and scaling (Trainer's `adafactor` is),
    no clipping, 5 % warm-up then cosine, or constant as `flags.schedule` says."""
    device, kind = task.model.device, task.model.dtype
    args = TrainingArguments(
        output_dir=str(folder), run_name=f"{task.model.name} {task.data.name} seed {seed}", seed=seed,
        # optimizer and schedule
        optim="adafactor", learning_rate=flags.learning_rate, weight_decay=flags.weight_decay, max_grad_norm=0.0,
        lr_scheduler_type=flags.schedule, warmup_steps=-(-flags.max_steps // 20), max_steps=flags.max_steps,
        # batches
        per_device_train_batch_size=flags.batch_size, gradient_accumulation_steps=flags.gradient_accumulation,
        per_device_eval_batch_size=max(flags.batch_size, EVALUATION_BATCH), train_sampling_strategy="group_by_length",
        remove_unused_columns=False, label_names=["labels"], dataloader_pin_memory=device.type == "cuda", use_cpu=device.type == "cpu",
        bf16=kind == torch.bfloat16, fp16=kind == torch.float16, ddp_find_unused_parameters=False,
        # scores, checkpoints (the Watcher says when) and what is logged; Finetuner stops at a loss that is not finite
        eval_strategy="steps", eval_steps=flags.eval_every, save_strategy="no", save_total_limit=2,
        logging_steps=max(1, flags.eval_every // 10), logging_nan_inf_filter=False, report_to=[flags.log_to],
        include_num_input_tokens_seen="non_padding", disable_tqdm=True,
    )  # fmt: skip
    args._n_gpu = min(args.n_gpu, 1)  # one GPU a process: Trainer would split batches over all it sees
    # not what accelerate launch says
    args.mixed_precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(kind, "no")
    return args


def fitter(task: Task, method: str, flags: Training, build: Build, keep: Keep | None = None) -> Fit:
    """The function of `ntps.accuracies.table.measure` that trains build(seed), a base model, with a head on its mean state.

    `keep(model, seed, identity)` is given the trained model. A killed training goes on from its last checkpoint.
    UserError for a loss that is not finite and for too little memory.
    """
    if flags.log_to != "none" and importlib.util.find_spec(flags.log_to) is None:
        raise UserError(f"--log_to {flags.log_to}: not installed; pip install {flags.log_to}")
    if processes.count() == 1 and task.model.device.index:
        device = task.model.device
        raise UserError(f"--device {device}: say which GPU by CUDA_VISIBLE_DEVICES, and --device cuda")

    def fit(seed: int, folder: Path, identity: dict) -> list[Row]:
        identity = json.loads(json.dumps(identity))
        step = processes.from_first(lambda: last_step(folder, identity))
        gc.collect()  # Trainer holds the model trained before in a cycle
        try:
            model, rows = train(task, method, flags, seed, folder, step, build)
        except UserError as error:
            goes_on = step or isinstance(error, OutOfMemory) and any(folder.glob("checkpoint-*"))
            if processes.first() and not goes_on:
                shutil.rmtree(folder)
            raise
        if keep is not None and processes.first():
            keep(model, seed, identity)
        return rows

    return fit


def train(
    task: Task, method: str, flags: Training, seed: int, folder: Path, step: int, build: Build
) -> tuple[Classifier, list[Row]]:
    """One training, from the checkpoint of `step` unless that is 0: the model and its rows of the table."""
    set_seed(seed)
    base = build(seed)
    check_causal(base)
    model = Classifier(base, task.model.config.hidden_size, len(task.data.classes), flags.dropout)
    if flags.log_to == "tensorboard":
        logs = Path(flags.output) / "logs" / method / task.model.name / f"{task.data.name}-seed{seed}"
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(logs)
    parts = task.parts(seed, flags.released_protocol)
    rows_of: dict[str, Any] = {name: examples(task, *part) for name, part in parts.items()}
    check_positions(task, [len(row["input_ids"]) for rows in rows_of.values() for row in rows])
    watched = "validation" if "validation" in parts else "test"
    trainer = Finetuner(
        model=model,
        args=arguments(folder, task, flags, seed),
        data_collator=collate,
        train_dataset=rows_of["train"],
        eval_dataset={watched: rows_of[watched]},
        compute_metrics=lambda out: scores(np.asarray(out.predictions), np.asarray(out.label_ids)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.started = time.monotonic()
    checkpoint = checkpoint_of(folder, step) if step else None
    if checkpoint:
        console.say(f"going on from {checkpoint}")
    args = trainer.args
    rows_due = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    tokens_due = rows_due * sum(len(row["input_ids"]) for row in rows_of["train"]) // len(rows_of["train"])
    message = "out of memory: use a smaller --batch_size (with --gradient_accumulation) or --max_length"
    logged = {name: f"eval_{name}_accuracy" for name in dict.fromkeys((watched, "test"))}
    with enough_memory(message):
        with console.progress(tokens_due, "token", str(args.run_name)) as bar:
            trainer.add_callback(Watcher(bar, flags.patience))
            trainer.train(resume_from_checkpoint=checkpoint)
        settled = stopped(trainer, flags.patience) if flags.patience else {}
        last, log = trainer.state.global_step, trainer.state.log_history
        for name, key in logged.items():  # checkpoints hold the log, so the last score may be there
            if not any(key in line and line["step"] == last for line in log):
                trainer.evaluate({name: rows_of[name]})
    fixed: Row = {"layer": task.model.layers[0], "seed": seed} | settled
    rows = [fixed | row for name, key in logged.items() for row in rows_of_log(log, name, key, last)]
    rows[-1]["right"] = trainer.right  # of the test rows, which were scored last
    return model, rows


def rows_of_log(log: list[dict[str, float]], split: str, key: str, last: int) -> Iterator[Row]:
    """A row for each line of Trainer's log that has this key, the scores of one split; final: of step `last`."""
    for line in log:
        if key in line:
            yield {
                "step": line["step"],
                "split": split,
                "final": line["step"] == last,
                "tokens": line["num_input_tokens_seen"],
                **{metric: line[f"eval_{split}_{metric}"] for metric in METRICS},
                "seconds": line["seconds"],
            }


def stopped(trainer: Finetuner, patience: int) -> dict[str, bool]:
    """Give the model back the weights of its best validation accuracy: the column that says whether patience ended it."""
    args, state = trainer.args, trainer.state
    (best, later), end = best_validation(state.log_history), state.global_step
    if later:
        trainer.load_weights(Path(checkpoint_of(Path(str(args.output_dir)), best)) / WEIGHTS)
    state.global_step = best  # which the scores that follow are of
    settled = later >= patience
    found = f"validation was best at step {best}, of {end}"
    console.say(f"{args.run_name}: {'settled' if settled else 'not settled within --max_steps'}; {found}")
    return {"settled": settled}
