"""One model over one split: what is requested, what is there, and a pass that resumes after a kill.

A split is done in parts (ntps/moments/merge.py), one after the other: all of it, its partitions, or one shard. The
plan of a pass is the list of all batches, each with its part; the state of a pass is the number of batches done.
Progress lives in two hidden files beside the output: `.SPLIT.resume.safetensors` holds that number and the moments of
a part that is begun, `.SPLIT.partial` the mean states so far. Both vanish when the output is there.
Several processes share the batches of a part; the first reads and writes all files.
"""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ntps.errors import NO_MEMORY, UserError, enough_memory
from ntps.flags import Caching
from ntps.moments.batches import Corpus, plan_batches
from ntps.moments.encoder import Encoder, NotFinite, encode
from ntps.moments.file import MomentsFile, moments_layout, states_layout, write_moments
from ntps.moments.identity import Identity, of_moments, of_rows, of_states
from ntps.moments.lazy_model import LazyModel, default_budget
from ntps.moments.merge import merge, part_name
from ntps.moments.sums import Moments
from ntps.system import array_files, atomic_files, console, locks, processes, provenance
from ntps.system.checkpoint_clock import CheckpointClock
from ntps.texts.dataset import Dataset, Split


def cache_splits(model: LazyModel, data: Dataset, splits: Sequence[str], flags: Caching) -> None:
    """Moments (and states) of these splits of a pair, as far as they are missing."""
    chosen = [data.select(split, flags.limit, flags.seed) for split in splits]
    for split in chosen:
        if split.name == "train" and len(np.unique(split.labels, axis=0)) < 2:
            raise UserError(f"the {len(split.labels)} train rows have one and the same label: raise --limit")
    for split in chosen:
        CachedSplit(model, data, split, flags).run()


def check_parts(flags: Caching, split: str, rows: int) -> None:
    """UserError unless every part of a split has a row."""
    if flags.parts[1] > rows:
        flag = f"--partitions {flags.partitions}" if flags.shard is None else f"--shard {flags.shard}"
        raise UserError(f"{flag}: {split} has {rows} rows only")


@dataclass(frozen=True)
class Part:
    """Rows whose moments have a file of their own: its path, its identity, and the rows of the split."""

    target: Path
    identity: Identity
    rows: slice


class CachedSplit:
    """One split of one pair: its files and identities, known before any work.

    whole: the result; parts: what its moments are made in, one after the other.
    """

    def __init__(self, model: LazyModel, data: Dataset, split: Split, flags: Caching):
        check_parts(flags, split.name, len(split.texts))
        self.model, self.data, self.split, self.flags = model, data, split, flags
        self.prefix = split.name == "train" or flags.prefix_moments == "all"
        self.budget = flags.tokens_per_batch or default_budget(model.device)
        moments, states = (Path(flags.output, kind, model.name, data.name) for kind in ("moments", "states"))
        shard, count = flags.parts
        rows = of_states(model, data, split, flags.limit, flags.seed, model.layers, flags.pooling)
        identity = of_moments(rows, flags.label_permutations, count, self.prefix)

        def part(number: int) -> Part:
            own, every = part_name(number, count), slice(number - 1, None, count)
            return Part(moments / f"{split.name}.{own}.safetensors", identity | {"part": own}, every)

        result = Part(moments / f"{split.name}.safetensors", identity, slice(None))
        self.whole = result if shard is None else part(shard)
        several = shard is None and count > 1
        self.parts = [part(number + 1) for number in range(count)] if several else [self.whole]
        self.states_identity, name = of_rows(self.whole.identity), self.whole.target.stem
        self.resume = moments / f".{name}.resume.safetensors"
        self.states_target, self.states_partial = states / f"{name}.safetensors", states / f".{name}.partial"
        self.places = moments / f".{name}.lock", moments, states  # of `locks.alone`

    def run(self) -> None:
        """Do what is missing. A user's error leaves nothing half done behind, unless a killed run had left it."""
        moments, states = processes.from_first(self.missing)
        if not (moments or states):
            processes.from_first(self.tidy)
            console.say(f"already there: {self.whole.target}")
            return
        with locks.alone(*self.places):
            ForwardPass(self, moments, states).run()

    def tidy(self) -> None:
        """Remove what a kill left after the last file had its name, unless another process works on it or nobody may."""
        with contextlib.suppress(UserError, OSError), locks.alone(*self.places):
            self.forget_progress()

    def forget_progress(self) -> None:
        for path in (self.resume, self.states_partial):
            path.unlink(missing_ok=True)

    def missing(self) -> tuple[bool, bool]:
        """Whether moments and states are to be made."""
        there, overwrite, states = provenance.same_output, self.flags.overwrite, self.flags.keep_states
        moments = not there(self.whole.target, "moments", self.whole.identity, overwrite)
        states = states and not there(self.states_target, "states", self.states_identity, overwrite)
        if states and not moments:  # a pass over both, killed before the states had their name, goes on
            with contextlib.suppress(UserError):
                begun = provenance.read(self.resume, "resume")["identity"]
                begun.pop("ids", None)  # not known before the texts are tokenized
                moments = not provenance.differences(begun, self.pass_identity(True, True))
        return moments, states

    def pass_identity(self, moments: bool, states: bool) -> Identity:
        """Of a checkpoint."""
        wants = {"tokens_per_batch": self.budget, "moments": moments, "states": states}
        return self.whole.identity | {"pass": wants}

    def empty(self, device: torch.device | str) -> Moments:
        """Sums of nothing yet; on the device `meta` they take no memory."""
        shape = (self.model.layers, self.model.config.hidden_size, self.data.targets)
        return Moments(*shape, self.flags.label_permutations, self.prefix, device, self.data.multilabel)


def digest(ids: Sequence[np.ndarray]) -> str:
    """SHA-256 of the token ids of all texts."""
    joined = np.concatenate(ids), np.array(list(map(len, ids)))
    return hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in joined)).hexdigest()


class ForwardPass:
    """The forward pass over all parts of a split, in stages: plan, begin or go on, loop, finish."""

    def __init__(self, cached: CachedSplit, want_moments: bool, want_states: bool):
        self.cached, self.want_moments, self.want_states = cached, want_moments, want_states
        model, flags, split = cached.model, cached.flags, cached.split
        self.started = time.monotonic()
        self.parts = cached.parts if want_moments else [cached.whole]
        ids, self.cut = model.tokenize(split.texts)
        permutations = flags.label_permutations if want_moments else 0
        self.corpus = Corpus(ids, split.labels, cached.data.targets, flags.pooling, permutations, flags.seed)
        lengths, every = self.corpus.lengths, np.arange(len(ids))
        self.rows = every[cached.whole.rows]
        if flags.pooling == "mean_without_first" and (single := int((lengths[self.rows] == 1).sum())):
            console.say(f"--pooling {flags.pooling}: {single} {split.name} rows of one token keep it")
        self.plan = [
            (number, every[part.rows][batch])
            for number, part in enumerate(self.parts)
            for batch in plan_batches(lengths[part.rows], cached.budget)
        ]
        self.part_of = [number for number, _ in self.plan] + [-1]  # each batch; -1 beyond both ends
        self.tokens = np.array([lengths[rows].sum() for _, rows in self.plan])
        self.identity = cached.pass_identity(want_moments, want_states) | {"ids": digest(ids)}
        self.moments: Moments | None = None  # of the part that is begun
        shape = (len(model.layers), len(self.rows), model.config.hidden_size)
        double, row = model.dtype == torch.float64, split.labels.shape[1:]
        self.states_layout = states_layout(*shape, double, cached.data.numeric, row)
        self.about = {
            **model.record,
            "data": cached.data.provenance,
            "processes": processes.count(),
            "texts": len(ids),
            "tokens": int(lengths.sum()),
            "texts_cut": self.cut,
            "flags": asdict(flags),
        }

    def run(self) -> None:
        done = processes.from_first(self._resumed)
        encoder = self.cached.model.encoder
        fresh = processes.first() and not done
        try:
            if fresh:
                self._begin()
            rate = self._loop(encoder, done)
        except NotFinite as error:
            if processes.first():
                self.cached.forget_progress()
            raise UserError(f"{error}. The text begins {self.cached.split.texts[error.row][:60]!r}") from None
        except BaseException:
            if fresh and not self.cached.resume.exists():  # nothing that a new run could go on from
                self.cached.forget_progress()
            raise
        if processes.first():
            self._finish(rate)

    def _resumed(self) -> int:
        """Batches done by an interrupted pass of the same identity, whose moments are loaded; UserError for too
        little space for the rest: the parts, their sum, a checkpoint and the states."""
        cached, done = self.cached, 0
        left = [path for path in (cached.resume, cached.states_partial) if path.exists()]
        if cached.resume in left:
            try:
                done = self._load()
                console.say(
                    f"going on with {cached.whole.target}: {done} of {len(self.plan)} batches are done"
                )
            except (UserError, KeyError) as error:
                console.say(f"the checkpoint {cached.resume} cannot be used, starting over: {error}")
        size = array_files.layout_bytes(self.states_layout) if self.want_states else 0
        if self.want_moments:
            files = len(self.parts) + 1 + (len(self.parts) > 1)
            size += files * array_files.layout_bytes(moments_layout(cached.empty("meta")))
        atomic_files.check_space(Path(cached.flags.output), size - sum(path.stat().st_size for path in left))
        return done

    def _load(self) -> int:
        cached = self.cached
        about = provenance.read(cached.resume, "resume")
        provenance.check_same("it is of another run", about["identity"], self.identity)
        if self.want_states:
            partial = provenance.read(cached.states_partial, "states")["identity"]
            provenance.check_same("its states are of another run", partial, cached.states_identity)
        done: int = about["record"]["plan_batches_done"]
        begun = self.part_of[done] if self.part_of[done - 1] == self.part_of[done] else None
        for number in set(self.part_of[:done]) - {begun}:
            part = self.parts[number]
            if self.want_moments and not provenance.same_output(part.target, "moments", part.identity):
                raise UserError(f"{part.target} does not exist")
        if self.want_moments and begun is not None:
            self.moments = MomentsFile(cached.resume, "resume").load(cached.model.device)
        return done

    def _begin(self) -> None:
        """A clean start: no checkpoint or part of another run is left to be mixed with this one's."""
        cached = self.cached
        cached.forget_progress()
        for part in self.parts if self.want_moments else ():  # refuses another run's
            provenance.same_output(part.target, "moments", part.identity, cached.flags.overwrite)
        if self.want_states:
            about = provenance.of("states", cached.states_identity, **self.about)
            array_files.create(cached.states_partial, self.states_layout, about)
            array_files.maps(cached.states_partial)["labels"][...] = cached.split.labels[self.rows]

    def _loop(self, encoder: Encoder, done: int) -> float:
        """All batches of the plan from number `done` on; tokens a second."""
        cached, model = self.cached, self.cached.model
        total, before = int(self.tokens.sum()), int(self.tokens[:done].sum())
        started, self.clock = time.monotonic(), CheckpointClock()
        title = f"{model.name} x {cached.data.name} {cached.split.name}"
        with console.progress(total, "token", title, initial=before) as bar:
            while done < len(self.plan):
                part = self.part_of[done]
                if self.want_moments and self.moments is None:
                    with enough_memory(NO_MEMORY):
                        self.moments = cached.empty(model.device)
                # a batch for each process
                shares = [rows for own, rows in self.plan[done : done + processes.count()] if own == part]
                self._encode(encoder, shares[processes.rank() :][:1])
                bar.update(int(self.tokens[done : done + len(shares)].sum()))
                done += len(shares)
                ended = self.part_of[done] != part
                if ended and self.moments is not None:
                    target, identity = self.parts[part].target, self.parts[part].identity
                    self._save(target, "moments", identity, **self.about)
                    self.moments = None
                if processes.from_first(self.clock.due) or ended:
                    self._checkpoint(done)
        return (total - before) / max(time.monotonic() - started, 1e-9)

    def _encode(self, encoder: Encoder, share: list[np.ndarray]) -> None:
        """Add this process's share of a round to its moments; the first writes the states of all, if they are kept."""
        own: list[tuple[np.ndarray, np.ndarray]] = []  # rows (B,) and their pooled states (L, B, d)
        for rows, states in encode(encoder, self.corpus, share, self.moments):
            own += [(rows, states.cpu().numpy())] if self.want_states else []
        if self.want_states and (found := sum(processes.gather(own), [])):
            for layer in range(len(encoder.layers)):  # a map of its own each: touched pages count as memory
                stored = array_files.maps(self.cached.states_partial)["states"][layer]
                for rows, some in found:
                    stored[np.searchsorted(self.rows, rows)] = some[layer]

    def _checkpoint(self, done: int) -> None:
        """Save where the pass stands: states first, so that the record never runs ahead of the data."""
        began = time.monotonic()
        if self.want_states and processes.first():
            atomic_files.sync(self.cached.states_partial)
        self._save(self.cached.resume, "resume", self.identity, plan_batches_done=done)
        self.clock.wrote(began)

    def _save(self, path: Path, kind: str, identity: Identity, **record: Any) -> None:
        """Write the sums of all processes, if there are any."""
        about = provenance.of(kind, identity, **record)
        if self.moments is not None:
            self.moments.gather()
        if processes.first() and self.moments is not None:
            write_moments(path, self.moments, about, "F64" if kind == "resume" else "F32")
        elif processes.first():
            array_files.write(path, {}, about)

    def _finish(self, rate: float) -> None:
        """Add up the parts, give the states their name, and say what was done."""
        cached, written = self.cached, []
        if self.want_moments:
            if len(self.parts) > 1:
                merge([part.target for part in self.parts], overwrite=True)
            written.append(str(cached.whole.target))
        if self.want_states:
            array_files.finish(cached.states_partial, cached.states_target)
            written.append(str(cached.states_target))
        cached.resume.unlink(missing_ok=True)
        shortened = f", {self.cut} texts cut at {cached.model.max_length} tokens" if self.cut else ""
        console.say(
            f"wrote {' and '.join(written)}: {len(cached.model.layers)} layers, {len(self.rows)} texts, "
            f"{self.tokens.sum()} tokens{shortened}; {rate:.0f} tokens/s, "
            f"{time.monotonic() - self.started:.0f} s in all"
        )
