"""One model over one split: what is asked, what is there, and a pass that a kill cannot corrupt.

A split is done in parts (ntps/moments/merge.py), one after the other: all of it, its partitions, or one shard.
Progress lives in two hidden files beside the output: `.SPLIT.resume.safetensors` holds the moments of the part so far
with the number of batches behind them, `.SPLIT.partial` the mean states so far. Both vanish when the output is there.
Several processes share the batches of a part; the first reads and writes all files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntps.errors import NO_MEMORY, UserError, enough_memory
from ntps.flags import Caching
from ntps.models.loading import (
    tokenizer_facts,
)
from ntps.moments.batches import Corpus, plan_batches
from ntps.moments.encoder import Encoder, NotFinite, encode
from ntps.moments.file import MomentsFile, moments_layout, write_moments
from ntps.moments.identity import of_moments, of_states
from ntps.moments.merge import merge, part_name
from ntps.moments.source import Source, default_budget
from ntps.moments.sums import Moments, permuted_rows
from ntps.system import console, processes, storage
from ntps.texts.dataset import Dataset, Split

CHECKPOINT_SECONDS = 60.0


def check_parts(flags: Caching, split: str, rows: int) -> None:
    """UserError unless every part of a split has a row."""
    if flags.parts[1] > rows:
        flag = f"--partitions {flags.partitions}" if flags.shard is None else f"--shard {flags.shard}"
        raise UserError(f"{flag}: {split} has {rows} rows only")


@dataclass(frozen=True)
class Part:
    """Rows whose moments have a file of their own: its path, its identity, and the rows of the split."""

    target: Path
    identity: dict
    rows: slice


class Job:
    """One split of one pair: rows in, moments (and states) out."""

    def __init__(self, source: Source, data: Dataset, split: Split, flags: Caching):
        self.source, self.data, self.split, self.flags = source, data, split, flags
        self.shard, self.part_count = flags.parts
        part = None if self.shard is None else part_name(self.shard, self.part_count)
        self.name = split.name if part is None else f"{split.name}.{part}"
        self.prefix = split.name == "train" or flags.prefix_moments == "all"
        self.states_identity = of_states(
            source.identity, data, split, limit=flags.limit, seed=flags.seed, max_length=source.max_length,
            dtype=source.dtype, layers=source.layers, part=part,
        )  # fmt: skip
        self.identity = of_moments(
            self.states_identity, flags.label_permutations, self.part_count, self.prefix
        )
        self.target = self.path("moments", f"{self.name}.safetensors")
        self.resume = self.path("moments", f".{self.name}.resume.safetensors")
        self.states_target = self.path("states", f"{self.name}.safetensors")
        self.states_partial = self.path("states", f".{self.name}.partial")

    def path(self, kind: str, name: str) -> Path:
        return Path(self.flags.output) / kind / self.source.name / self.data.name / name

    @property
    def rows(self) -> slice:
        """Of the split: all, or those of the shard."""
        return slice(None) if self.shard is None else slice(self.shard - 1, None, self.part_count)

    def all_parts(self) -> list[Part]:
        """What the moments are made in; the only part of a job is its result."""
        if self.shard is not None or self.part_count == 1:
            return [Part(self.target, self.identity, self.rows)]
        names = [part_name(number + 1, self.part_count) for number in range(self.part_count)]
        return [
            Part(
                self.path("moments", f"{self.name}.{name}.safetensors"),
                self.identity | {"part": name},
                slice(number, None, self.part_count),
            )
            for number, name in enumerate(names)
        ]

    def run(self) -> None:
        """Do what is missing. A user's error leaves nothing half done behind, unless a killed run had left it."""
        missing = self.missing() if processes.first() else (False, False)
        want_moments, want_states = map(bool, processes.meet(*missing))
        if not (want_moments or want_states):
            console.say(f"already there: {self.target}")
            return
        lock = self.path("moments", f".{self.name}.lock")
        with storage.alone(lock, self.target.parent, self.states_target.parent):
            Pass(self, want_moments, want_states).run()

    def missing(self) -> tuple[bool, bool]:
        """Whether moments and states are to be made."""
        overwrite = self.flags.overwrite
        moments = not storage.same_output(self.target, "moments", self.identity, overwrite)
        states = self.flags.keep_states and not storage.same_output(
            self.states_target, "states", self.states_identity, overwrite
        )
        if states and not moments and self.resume.exists():
            # a pass over both may have been killed before the states had their name: it goes on as such
            with contextlib.suppress(UserError, KeyError):
                found = storage.read_provenance(self.resume, "resume")["identity"]
                both = self.identity | {"pass": self.wants(True, True)}
                moments = self.states_partial.exists() and not storage.differences(found, both)
        return moments, states

    def wants(self, moments: bool, states: bool) -> dict[str, Any]:
        """What a checkpoint says of its pass beside the identity."""
        budget = self.flags.tokens_per_batch or default_budget(self.source.device)
        return {"tokens_per_batch": budget, "moments": moments, "states": states}

    def empty(self, device: torch.device | str) -> Moments:
        """Sums of nothing yet; on the device `meta` they take no memory."""
        source = self.source
        return Moments(
            source.layers,
            source.config.hidden_size,
            self.data.targets,
            self.flags.label_permutations,
            self.prefix,
            device,
        )


def cache_splits(source: Source, data: Dataset, splits: Sequence[str], flags: Caching) -> None:
    """Moments (and states) of these splits of a pair, as far as they are missing; a job each."""
    chosen = [data.select(split, flags.limit, flags.seed) for split in splits]
    for split in chosen:
        if split.name == "train" and len(set(split.labels)) < 2:
            raise UserError(f"the {len(split.labels)} train rows are all of one class: raise --limit")
    for split in chosen:
        Job(source, data, split, flags).run()


class Pass:
    """The forward pass over all parts of a job, in stages: plan, begin or go on, loop, finish."""

    def __init__(self, job: Job, want_moments: bool, want_states: bool):
        self.job, self.want_moments, self.want_states = job, want_moments, want_states
        source, flags, split = job.source, job.flags, job.split
        self.started = time.monotonic()
        self.parts = job.all_parts() if want_moments else [Part(job.target, job.identity, job.rows)]
        check_parts(flags, split.name, len(split.texts))
        ids, self.cut = source.tokenize(split.texts)
        orders = permuted_rows(len(ids), flags.label_permutations if want_moments else 0, flags.seed)
        self.corpus, every = Corpus(ids, split.labels, job.data.targets, orders), np.arange(len(ids))
        lengths = self.corpus.lengths
        self.rows, self.lengths = every[job.rows], lengths[job.rows]
        wants = job.wants(want_moments, want_states)
        parts = [every[part.rows] for part in self.parts]
        self.plans = [
            [rows[batch] for batch in plan_batches(lengths[rows], wants["tokens_per_batch"])]
            for rows in parts
        ]
        self.progress_identity = job.identity | {"pass": wants}
        self.about = {
            "model": source.spec.provenance,
            "tokenizer": tokenizer_facts(source.tokenizer),
            "data": job.data.provenance,
            "device": str(source.device),
            "processes": processes.count(),
            "texts": len(ids),
            "tokens": int(lengths.sum()),
            "texts_cut": self.cut,
            "flags": asdict(flags),
        }

    def run(self) -> None:
        first = processes.first()
        part, done, moments = self._resumed() if first else (0, 0, None)
        if first:
            self._check_space()
        part, done = processes.meet(part, done)
        encoder = self.job.source.encoder
        fresh = first and not (part or done)
        try:
            if fresh:
                self._begin()
            rate = self._loop(encoder, part, done, moments)
        except NotFinite as error:
            if first:
                self._forget_progress()
            raise UserError(f"{error}. The text begins {self.job.split.texts[error.row][:60]!r}") from None
        except (UserError, OSError):
            if fresh and not self.job.resume.exists():  # nothing that a new run could go on from
                self._forget_progress()
            raise
        if first:
            self._finish(rate)

    def _resumed(self) -> tuple[int, int, Moments | None]:
        """Part, batches done and moments of an interrupted pass of the same identity; else (0, 0, None)."""
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
            for earlier in self.parts[:part]:
                if not storage.same_output(earlier.target, "moments", earlier.identity):
                    raise UserError(f"{earlier.target} does not exist")
            moments = None
            if done and self.want_moments:
                moments = MomentsFile(job.resume, "resume").load(job.source.device)
        except (UserError, KeyError, TypeError) as error:
            console.say(f"the checkpoint {job.resume} cannot be used, starting over: {error}")
            return 0, 0, None
        batches = sum(map(len, self.plans))
        behind = sum(map(len, self.plans[:part])) + done
        console.say(f"going on with {job.target}: {behind} of {batches} batches are done")
        return part, done, moments

    def _check_space(self) -> None:
        """Room for the parts, their sum, a checkpoint and the states, less what a killed run took already."""
        job = self.job
        size = storage.layout_bytes(self._states_layout()) if self.want_states else 0
        if self.want_moments:
            files = len(self.parts) + 1 + (len(self.parts) > 1)
            size += files * storage.layout_bytes(moments_layout(job.empty("meta")))
        size -= sum(path.stat().st_size for path in (job.resume, job.states_partial) if path.exists())
        storage.check_space(Path(job.flags.output), size)

    def _states_layout(self) -> storage.Layout:
        kind = "F64" if self.job.source.dtype == torch.float64 else "F32"
        shape = (len(self.job.source.layers), len(self.rows), self.job.source.config.hidden_size)
        labels = "F64" if self.job.data.numeric else "I64"
        return {"states": (kind, shape), "labels": (labels, (len(self.rows),))}

    def _begin(self) -> None:
        """A clean start: no checkpoint or part of another run is left to be mixed with this one's."""
        job = self.job
        self._forget_progress()
        for part in self.parts if self.want_moments else ():  # refuses another run's
            storage.same_output(part.target, "moments", part.identity, job.flags.overwrite)
        if self.want_states:
            about = storage.provenance("states", job.states_identity, **self.about)
            storage.create(job.states_partial, self._states_layout(), about)
            storage.maps(job.states_partial)["labels"][...] = job.split.labels[job.rows]

    def _loop(self, encoder: Encoder, part: int, done: int, moments: Moments | None) -> float:
        """All batches from number `done` of `part` on; tokens a second."""
        job, source = self.job, self.job.source
        batches = [rows for plan in self.plans for rows in plan]
        behind = sum(map(len, self.plans[:part])) + done
        total, before = int(self.lengths.sum()), self._tokens(batches[:behind])
        started = saved = time.monotonic()
        pause = CHECKPOINT_SECONDS
        title = f"{source.name} x {job.data.name} {job.split.name}"
        with console.progress(total, "token", title, initial=before) as bar:
            for number in range(part, len(self.plans)):
                if self.want_moments and moments is None:
                    with enough_memory(NO_MEMORY):
                        moments = job.empty(source.device)
                plan = self.plans[number]
                while done < len(plan):
                    shares = plan[done : done + processes.count()]  # a batch for each process
                    blocks = self._encode(encoder, shares, moments)
                    (due,) = processes.meet(time.monotonic() - saved >= pause)
                    self._keep_states(shares, blocks)
                    bar.update(self._tokens(shares))
                    done += len(shares)
                    if due and done < len(plan):
                        began = time.monotonic()
                        self._checkpoint(moments, number, done)
                        saved = time.monotonic()
                        pause = max(CHECKPOINT_SECONDS, 20 * (saved - began))  # writing takes 1/20 at most
                if moments is not None:
                    self._write_part(self.parts[number], moments)
                done, moments = 0, None
                if number + 1 < len(self.plans) or self.want_states:
                    self._checkpoint(None, number + 1, 0)
        return (total - before) / max(time.monotonic() - started, 1e-9)

    def _tokens(self, batches: Iterable[np.ndarray]) -> int:
        return sum(int(self.corpus.lengths[rows].sum()) for rows in batches)

    def _encode(self, encoder: Encoder, shares: list, moments: Moments | None) -> list[np.ndarray]:
        """Add this process's share to the moments; its mean states (L, B, d), batch by batch, if they are kept."""
        means: list[np.ndarray] = []
        keep = (lambda _, found: means.append(found)) if self.want_states else None
        for _ in encode(encoder, self.corpus, shares[processes.rank() :][:1], moments, keep):
            pass
        return means

    def _keep_states(self, shares: list, means: list[np.ndarray]) -> None:
        """Bring the states of a round to the first process, which writes them."""
        if not self.want_states:
            return
        kind, (layers, _, width) = self._states_layout()["states"]
        found = []
        for process, rows in enumerate(shares):
            if process == processes.rank():
                block = np.concatenate(means, 1)
            else:
                block = np.empty((layers, len(rows), width), storage.KINDS[kind])
            if process and processes.rank() in (0, process):
                processes.carry(block, process)
            found.append((np.searchsorted(self.rows, rows), block))
        if processes.first():
            for layer in range(layers):  # a map of its own each: touched pages count as memory
                states = storage.maps(self.job.states_partial)["states"][layer]
                for places, block in found:
                    states[places] = block[layer]

    def _write_part(self, part: Part, moments: Moments) -> None:
        processes.to_first(moments)
        if processes.first():
            about = storage.provenance("moments", part.identity, **self.about)
            write_moments(part.target, moments, about)

    def _checkpoint(self, moments: Moments | None, part: int, done: int) -> None:
        """Save where the pass stands: states first, so that the record never runs ahead of the data."""
        if moments is not None:
            processes.to_first(moments)
        if not processes.first():
            return
        if self.want_states:
            storage.sync(self.job.states_partial)
        about = storage.provenance("resume", self.progress_identity, part=part, batches_done=done)
        if moments is None:
            storage.write_arrays(self.job.resume, {}, about)
        else:
            write_moments(self.job.resume, moments, about)

    def _finish(self, rate: float) -> None:
        """Add up the parts, give the states their name, and say what was done."""
        job, written = self.job, []
        if self.want_moments:
            if len(self.parts) > 1:
                merge([part.target for part in self.parts], overwrite=True)
            written.append(str(job.target))
        if self.want_states:
            storage.replace(job.states_partial, job.states_target)
            written.append(str(job.states_target))
        job.resume.unlink(missing_ok=True)
        shortened = f", {self.cut} texts cut at {job.source.max_length} tokens" if self.cut else ""
        console.say(
            f"wrote {' and '.join(written)}: {len(job.source.layers)} layers, {len(self.lengths)} texts, "
            f"{self.lengths.sum()} tokens{shortened}; {rate:.0f} tokens/s, "
            f"{time.monotonic() - self.started:.0f} s in all"
        )

    def _forget_progress(self) -> None:
        for path in (self.job.resume, self.job.states_partial):
            path.unlink(missing_ok=True)
