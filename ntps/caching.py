"""One model over one split: what is asked, what is there, and a pass that a kill cannot corrupt.

Progress lives in two hidden files beside the outputs: `.SPLIT.resume.safetensors` holds the moments so far with the
number of batches behind them, `.SPLIT.partial` the mean states so far. Both vanish when the split is done.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ntps import cli, storage
from ntps.data import Dataset, Split, texts_hash
from ntps.encoding import Corpus, Encoder, NotFinite, encode, plan_batches, tokenize
from ntps.errors import UserError
from ntps.models import (
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
    output_name,
    pick_device,
    pick_dtype,
    resolve_model,
    tokenizer_facts,
)
from ntps.moments import Moments, permuted_rows

CHECKPOINT_SECONDS = 60.0
TOKENS_PER_BATCH = {"cpu": 2048}  # what a CPU's cache likes
TOKENS_PER_BATCH_ELSEWHERE = 16384


def default_budget(device: torch.device) -> int:
    """Padded tokens in a batch, unless the user says otherwise."""
    return TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ELSEWHERE)


class Source:
    """One model as asked for; its weights are read only when a forward pass is due."""

    def __init__(
        self,
        name: str,
        adapter: str | None,
        device: str,
        dtype: str | None,
        max_length: int | None,
        layers: str,
    ):
        self.spec, self.adapter = resolve_model(name), adapter
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.spec, self.device)
        self.identity = model_identity(self.spec, adapter)
        self.name = output_name(self.spec, adapter)
        self.tokenizer = load_tokenizer(self.spec)
        self.config = load_config(self.spec)
        self.max_length = context_length(self.tokenizer, self.config, max_length)
        self.layers = parse_layers(layers, self.config.num_hidden_layers)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(load_model(self.spec, self.dtype, self.device, self.adapter), self.layers)


def parse_layers(layers: str, blocks: int) -> list[int]:
    """`all`, or a comma-separated list of layer numbers from 0 to the number of blocks."""
    if layers == "all":
        return list(range(blocks + 1))
    try:
        chosen = sorted({int(part) for part in layers.split(",")})
    except ValueError:
        raise UserError(f"--layers {layers}: give all, or numbers such as 0,8,16") from None
    if chosen[0] < 0 or chosen[-1] > blocks:
        raise UserError(f"--layers {layers}: this model has layers 0 to {blocks}")
    return chosen


class Job:
    """One split of one pair: texts in, moments (and states) out. `flags` are those of cache.py."""

    def __init__(self, source: Source, data: Dataset, split: Split, flags: dict):
        self.source, self.data, self.split, self.flags = source, data, split, flags
        self.parts = flags["partitions"]
        self.prefix = split.name == "train" or flags["prefix_moments"] == "all"
        self.states_identity = {
            "model": source.identity,
            "data": {"name": data.name, "texts_sha256": texts_hash(split), "classes": data.classes},
            "split": split.name,
            "limit": flags["limit"],
            "seed": flags["seed"],
            "max_length": source.max_length,
            "dtype": str(source.dtype).removeprefix("torch."),
            "layers": source.layers,
        }
        self.identity = self.states_identity | {
            "label_permutations": flags["label_permutations"],
            "partitions": self.parts,
            "prefix_moments": self.prefix,
        }
        self.target = self.path("moments", f"{split.name}.safetensors")
        self.resume = self.path("moments", f".{split.name}.resume.safetensors")
        self.states_target = self.path("states", f"{split.name}.safetensors")
        self.states_partial = self.path("states", f".{split.name}.partial")

    def path(self, kind: str, name: str) -> Path:
        return Path(self.flags["output"]) / kind / self.source.name / self.data.name / name

    def part_target(self, part: int) -> Path:
        """File of one partition; the only partition is the result itself."""
        if self.parts == 1:
            return self.target
        return self.path("moments", f"{self.split.name}.{part + 1}-of-{self.parts}.safetensors")

    def part_identity(self, part: int) -> dict:
        return self.identity if self.parts == 1 else self.identity | {"part": part + 1}

    def run(self) -> None:
        """Do what is missing. A user's error leaves nothing half done behind, unless a killed run had left it."""
        overwrite = self.flags["overwrite"]
        want_moments = not storage.same_output(self.target, "moments", self.identity, overwrite)
        want_states = self.flags["keep_states"] and not storage.same_output(
            self.states_target, "states", self.states_identity, overwrite
        )
        if not (want_moments or want_states):
            cli.say(f"already there: {self.target}")
            return
        try:
            with storage.locked(self.path("moments", f".{self.split.name}.lock")):
                Pass(self, want_moments, want_states).run()
        finally:  # folders of a run that failed before it wrote anything
            for path in (self.target, self.states_target):
                storage.remove_empty(path.parent, 4)  # DATASET, MODEL, moments or states, OUTPUT

    def empty(self, device: torch.device | str) -> Moments:
        """Sums of nothing yet; on the device `meta` they take no memory."""
        source = self.source
        return Moments(
            source.layers,
            source.config.hidden_size,
            len(self.data.classes),
            self.flags["label_permutations"],
            self.prefix,
            device,
        )


class Pass:
    """The forward pass over all partitions of a job, in stages: plan, begin or go on, loop, finish."""

    def __init__(self, job: Job, want_moments: bool, want_states: bool):
        self.job, self.want_moments, self.want_states = job, want_moments, want_states
        source, flags, split = job.source, job.flags, job.split
        self.started = time.monotonic()
        self.parts = job.parts if want_moments else 1
        if self.parts > len(split.texts):
            raise UserError(f"--partitions {self.parts}: {split.name} has {len(split.texts)} texts only")
        ids, self.cut = tokenize(split.texts, source.tokenizer, source.max_length)
        orders = permuted_rows(len(ids), flags["label_permutations"] if want_moments else 0, flags["seed"])
        self.corpus = Corpus(ids, split.labels, len(job.data.classes), orders)
        self.lengths = self.corpus.lengths
        budget = flags["tokens_per_batch"] or default_budget(source.device)
        self.plans = []
        for part in range(self.parts):
            rows = np.arange(part, len(ids), self.parts)
            self.plans.append([rows[batch] for batch in plan_batches(self.lengths[rows], budget)])
        wants = {"tokens_per_batch": budget, "moments": want_moments, "states": want_states}
        self.progress_identity = job.identity | {"pass": wants}
        self.about = {
            "model": source.spec.provenance,
            "tokenizer": tokenizer_facts(source.tokenizer),
            "data": job.data.provenance,
            "device": str(source.device),
            "texts": len(ids),
            "tokens": int(self.lengths.sum()),
            "texts_cut": self.cut,
            "flags": flags,
        }

    def run(self) -> None:
        part, done, moments = self._resumed()
        self._check_space()
        encoder = self.job.source.encoder
        fresh = not (part or done)
        try:
            if fresh:
                self._begin()
            rate = self._loop(encoder, part, done, moments)
        except NotFinite as error:
            self._forget_progress()
            raise UserError(f"{error}. The text begins {self.job.split.texts[error.row][:60]!r}") from None
        except (UserError, OSError):
            if fresh:
                self._forget_progress()
            raise
        self._finish(rate)

    def _resumed(self) -> tuple[int, int, Moments | None]:
        """Partition, batches done and moments of an interrupted pass of the same identity; else (0, 0, None)."""
        job = self.job
        if not job.resume.exists():
            return 0, 0, None
        try:
            about = storage.read_provenance(job.resume, "resume")
            lines = storage.differences(about["identity"], self.progress_identity)
            if self.want_states and not lines:
                partial = storage.read_provenance(job.states_partial, "states")["identity"]
                lines = storage.differences(partial, job.states_identity)
            if lines:
                raise UserError(f"it is of another run: {'; '.join(lines[:2])}")
            part, done = about["record"]["part"], about["record"]["batches_done"]
            has_sums = done and self.want_moments
            moments = storage.MomentsFile(job.resume, "resume").load(job.source.device) if has_sums else None
        except UserError as error:
            cli.say(f"the checkpoint {job.resume} cannot be used, starting over: {error}")
            return 0, 0, None
        cli.say(f"going on with {job.target}: part {part + 1} of {self.parts}, batch {done + 1}")
        return part, done, moments

    def _check_space(self) -> None:
        """Room for the partitions, their sum, a checkpoint and the states, less what a killed run took already."""
        job = self.job
        size = storage.layout_bytes(self._states_layout()) if self.want_states else 0
        if self.want_moments:
            files = self.parts + 1 + (self.parts > 1)
            size += files * storage.layout_bytes(storage.moments_layout(job.empty("meta")))
        size -= sum(path.stat().st_size for path in (job.resume, job.states_partial) if path.exists())
        storage.check_space(Path(job.flags["output"]), size)

    def _states_layout(self) -> storage.Layout:
        kind = "F64" if self.job.source.dtype == torch.float64 else "F32"
        shape = (len(self.job.source.layers), len(self.lengths), self.job.source.config.hidden_size)
        return {"states": (kind, shape), "labels": ("I64", (len(self.lengths),))}

    def _begin(self) -> None:
        """A clean start: no checkpoint or partition of another run is left to be mixed with this one's."""
        job = self.job
        job.resume.unlink(missing_ok=True)
        for part in range(self.parts if self.want_moments and self.parts > 1 else 0):
            identity, overwrite = job.part_identity(part), job.flags["overwrite"]
            storage.same_output(
                job.part_target(part), "moments", identity, overwrite
            )  # refuses another run's
        if self.want_states:
            about = storage.provenance("states", job.states_identity, **self.about)
            storage.create(job.states_partial, self._states_layout(), about)
            storage.maps(job.states_partial)["labels"][...] = job.split.labels

    def _keep_states(self, rows: np.ndarray, means: np.ndarray) -> None:
        storage.maps(self.job.states_partial)["states"][:, rows] = means

    def _loop(self, encoder: Encoder, part: int, done: int, moments: Moments | None) -> float:
        """All batches from number `done` of `part` on; tokens a second."""
        job, source = self.job, self.job.source
        batches = [rows for plan in self.plans[:part] for rows in plan] + self.plans[part][:done]
        total, before = int(self.lengths.sum()), sum(int(self.lengths[rows].sum()) for rows in batches)
        keep = self._keep_states if self.want_states else None
        started = saved = time.monotonic()
        pause = CHECKPOINT_SECONDS
        title = f"{source.name} x {job.data.name} {job.split.name}"
        with cli.progress(total, "token", title, initial=before) as bar:
            for number in range(part, self.parts):
                if self.want_moments and moments is None:
                    moments = job.empty(source.device)
                plan = self.plans[number]
                for finished, tokens in encode(encoder, self.corpus, plan, moments, keep, done):
                    bar.update(tokens)
                    if time.monotonic() - saved >= pause and finished < len(plan):
                        began = time.monotonic()
                        self._checkpoint(moments, number, finished)
                        saved = time.monotonic()
                        pause = max(CHECKPOINT_SECONDS, 20 * (saved - began))  # writing takes 1/20 at most
                if moments is not None:
                    about = storage.provenance("moments", job.part_identity(number), **self.about)
                    storage.write_moments(job.part_target(number), moments, about)
                done, moments = 0, None
                if number + 1 < self.parts:
                    self._checkpoint(None, number + 1, 0)
        return (total - before) / max(time.monotonic() - started, 1e-9)

    def _checkpoint(self, moments: Moments | None, part: int, done: int) -> None:
        """Save where the pass stands: states first, so that the record never runs ahead of the data."""
        if self.want_states:
            storage.sync(self.job.states_partial)
        about = storage.provenance("resume", self.progress_identity, part=part, batches_done=done)
        if moments is None:
            storage.write_arrays(self.job.resume, {}, about)
        else:
            storage.write_moments(self.job.resume, moments, about)

    def _finish(self, rate: float) -> None:
        """Sum the partitions, give the states their name, and say what was done."""
        job, written = self.job, []
        if self.want_moments:
            if self.parts > 1:
                self._merge()
            written.append(str(job.target))
        if self.want_states:
            storage.replace(job.states_partial, job.states_target)
            written.append(str(job.states_target))
        job.resume.unlink(missing_ok=True)
        shortened = f", {self.cut} texts cut at {job.source.max_length} tokens" if self.cut else ""
        cli.say(
            f"wrote {' and '.join(written)}: {len(job.source.layers)} layers, {len(self.lengths)} texts, "
            f"{self.lengths.sum()} tokens{shortened}; {rate:.0f} tokens/s, "
            f"{time.monotonic() - self.started:.0f} s in all"
        )

    def _merge(self) -> None:
        """The whole is the sum of its partitions."""
        job = self.job
        total = job.empty("cpu")
        for part in range(self.parts):
            file = storage.MomentsFile(job.part_target(part))
            if lines := storage.differences(file.about["identity"], job.part_identity(part)):
                raise UserError(f"{file.path} is of another run: {'; '.join(lines[:4])}")
            file.add_to(total)
        storage.write_moments(job.target, total, storage.provenance("moments", job.identity, **self.about))

    def _forget_progress(self) -> None:
        for path in (self.job.resume, self.job.states_partial):
            path.unlink(missing_ok=True)
