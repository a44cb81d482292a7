"""One model over one split: what is asked, what is there, and a pass that a kill cannot corrupt.

Progress lives in two hidden files beside the outputs: `.SPLIT.resume.safetensors` holds the moments so far with the
number of batches behind them, `.SPLIT.partial` the mean states so far. Both vanish when the split is done.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path

import numpy as np

from ntps import cli, storage
from ntps.data import Dataset, Split, texts_hash
from ntps.encoding import Corpus, Encoder, encode, plan_batches, tokenize
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
        limit = context_length(self.tokenizer, self.config)
        self.max_length = min(max_length or limit, limit)
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
        """Do what is missing. A user's error leaves nothing half done behind."""
        overwrite = self.flags["overwrite"]
        todo = [
            (self.target, "moments", self.identity, True),
            (self.states_target, "states", self.states_identity, self.flags["keep_states"]),
        ]
        moments, states = (
            wanted and not storage.same_output(path, kind, identity, overwrite)
            for path, kind, identity, wanted in todo
        )
        if not (moments or states):
            cli.say(f"already there: {self.target}")
            return
        try:
            self._pass(moments, states)
        except UserError:
            self._forget_progress()
            raise

    def _forget_progress(self) -> None:
        for path in (self.resume, self.states_partial):
            path.unlink(missing_ok=True)
            for folder in list(path.parents)[:4]:  # DATASET, MODEL, moments or states, OUTPUT
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _pass(self, want_moments: bool, want_states: bool) -> None:
        """The forward pass over all partitions, from the last checkpoint if there is one."""
        source, flags, started = self.source, self.flags, time.monotonic()
        ids, cut = tokenize(self.split.texts, source.tokenizer, source.max_length)
        orders = permuted_rows(len(ids), flags["label_permutations"] if want_moments else 0, flags["seed"])
        corpus = Corpus(ids, self.split.labels, len(self.data.classes), orders)
        budget = flags["tokens_per_batch"] or TOKENS_PER_BATCH.get(
            source.device.type, TOKENS_PER_BATCH_ELSEWHERE
        )
        plans = []
        for part in range(self.parts if want_moments else 1):
            rows = np.arange(part, len(ids), self.parts if want_moments else 1)
            plans.append([rows[batch] for batch in plan_batches(corpus.lengths[rows], budget)])
        about = self._provenance(corpus, cut)
        wants = {"tokens_per_batch": budget, "moments": want_moments, "states": want_states}
        progress_identity = self.identity | {"pass": wants}
        shape = (
            "F64" if "64" in str(source.dtype) else "F32",
            (len(source.layers), len(ids), source.config.hidden_size),
        )
        layout = {"states": shape, "labels": ("I64", (len(ids),))} if want_states else {}
        self._check_space(layout, want_moments)

        part, done, moments = self._resume(progress_identity, want_states)
        if want_states and not (part or done):
            storage.create(
                self.states_partial, layout, storage.provenance("states", self.states_identity, **about)
            )
            storage.maps(self.states_partial)["labels"][...] = self.split.labels
        total = int(corpus.lengths.sum())
        before = sum(int(corpus.lengths[rows].sum()) for plan in plans[:part] for rows in plan)
        before += sum(int(corpus.lengths[rows].sum()) for rows in plans[part][:done])
        encoder = source.encoder
        title = f"{source.name} x {self.data.name} {self.split.name}"

        def keep_states(rows: np.ndarray, means: np.ndarray) -> None:
            storage.maps(self.states_partial)["states"][:, rows] = means

        keep = keep_states if want_states else None
        loop = time.monotonic()
        with cli.progress(total, "token", title, initial=before) as bar:
            saved = time.monotonic()
            while part < len(plans):
                if want_moments and moments is None:
                    moments = self._empty()
                for finished, tokens in encode(encoder, corpus, plans[part], moments, keep, done):
                    bar.update(tokens)
                    done = finished
                    if time.monotonic() - saved >= CHECKPOINT_SECONDS and done < len(plans[part]):
                        self._checkpoint(moments, want_states, progress_identity, part, done)
                        saved = time.monotonic()
                if moments is not None:
                    kind = storage.provenance("moments", self.part_identity(part), **about)
                    storage.write_moments(self.part_target(part), moments, kind)
                part, done, moments = part + 1, 0, None
                if part < len(plans):
                    self._checkpoint(None, want_states, progress_identity, part, 0)
        rate = (total - before) / max(time.monotonic() - loop, 1e-9)
        if want_moments and self.parts > 1:
            self._merge(about)
        if want_states:
            storage.replace(self.states_partial, self.states_target)
        self.resume.unlink(missing_ok=True)
        written = [
            str(path)
            for path, wanted in ((self.target, want_moments), (self.states_target, want_states))
            if wanted
        ]
        shortened = f", {cut} texts cut at {source.max_length} tokens" if cut else ""
        cli.say(
            f"wrote {' and '.join(written)}: {len(source.layers)} layers, {len(ids)} texts, {total} tokens{shortened}; "
            f"{rate:.0f} tokens/s, {time.monotonic() - started:.0f} s in all"
        )

    def _empty(self) -> Moments:
        source = self.source
        return Moments(
            source.layers,
            source.config.hidden_size,
            len(self.data.classes),
            self.flags["label_permutations"],
            self.prefix,
            source.device,
        )

    def _provenance(self, corpus: Corpus, cut: int) -> dict:
        """What a reader of the output wants to know beside its identity."""
        return {
            "model": self.source.spec.provenance,
            "tokenizer": tokenizer_facts(self.source.tokenizer),
            "data": self.data.provenance,
            "device": str(self.source.device),
            "texts": len(corpus.ids),
            "tokens": int(corpus.lengths.sum()),
            "texts_cut": cut,
        }

    def _check_space(self, layout: storage.Layout, want_moments: bool) -> None:
        """Room for the partitions, their sum and one checkpoint, and for the states."""
        size = storage.layout_bytes(layout)
        if want_moments:
            files = self.parts + 1 + (self.parts > 1)
            size += files * storage.layout_bytes(storage.moments_layout(self._empty()))
        storage.check_space(Path(self.flags["output"]), size)

    def _checkpoint(
        self, moments: Moments | None, states: bool, identity: dict, part: int, done: int
    ) -> None:
        """Save where the pass stands: states first, so that the record never runs ahead of the data."""
        if states:
            storage.sync(self.states_partial)
        about = storage.provenance("resume", identity, part=part, batches_done=done)
        if moments is None:
            storage.write_arrays(self.resume, {}, about)
        else:
            storage.write_moments(self.resume, moments, about)

    def _resume(self, identity: dict, want_states: bool) -> tuple[int, int, Moments | None]:
        """Partition, batches done and moments of an interrupted pass of the same identity; else (0, 0, None)."""
        try:
            about = storage.read_provenance(self.resume, "resume")
            if storage.differences(about["identity"], identity) or (
                want_states and not self.states_partial.exists()
            ):
                return 0, 0, None
        except UserError:
            return 0, 0, None
        part, done = about["record"]["part"], about["record"]["batches_done"]
        cli.say(f"going on with {self.target}: part {part + 1} of {self.parts}, batch {done + 1}")
        has_sums = done and identity["pass"]["moments"]
        return (
            part,
            done,
            storage.MomentsFile(self.resume, "resume").load(self.source.device) if has_sums else None,
        )

    def _merge(self, about: dict) -> None:
        """The whole is the sum of its partitions."""
        total = self._empty()
        for part in range(self.parts):
            storage.MomentsFile(self.part_target(part)).add_to(total)
        storage.write_moments(self.target, total, storage.provenance("moments", self.identity, **about))
