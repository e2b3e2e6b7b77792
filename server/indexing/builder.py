"""From a corpus to an index: tokenise, scan, choose, collect, assemble.

All work goes on in OUT.tmp, shard by shard; a killed build goes on there when it is started again with the same
arguments. The finished index appears at OUT in one rename.
"""

import hashlib
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.proto.work.shards import Executor, Ledger, LocalExecutor, Shard
from polysem.server.corpus.documents import Corpus, CorpusDigest
from polysem.server.index import arrays
from polysem.server.index.arrays import ArrayWriter
from polysem.server.index.contexts import ContextRange, Contexts, LoadedContexts
from polysem.server.index.format import (
    N_BINS,
    TOKENS_AFTER,
    TOKENS_BEFORE,
    Index,
    layer_folder,
    open_index,
    write_manifest,
)
from polysem.server.indexing import choose, scan
from polysem.server.indexing.scan import Collected, ReadOptions
from polysem.server.indexing.selection import Candidates
from polysem.server.indexing.stages import CollectStage, ScanStage
from polysem.server.indexing.tokenise import Tokenising
from polysem.server.indexing.windows import Windowing
from polysem.server.model.model import ModelDescription

MAX_EXAMPLES = 100_000
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}  # what keeps the device busy, and no more
LAYOUT = 2  # of what is in shards: an unfinished build makes those of another layout again
FINISHED = "finished"  # in OUT.tmp: OUT is there, or about to be

# progress(stage, units done since the last call, units in all or None where unknown)
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Recipe:
    """How an index is made of a model and a corpus. context_length None: the model's own."""

    selection: Selection = Selection()
    context_length: int | None = None
    windows: Literal["first", "all"] = "first"
    bos: bool = True

    def check(self, model: ModelDescription) -> None:
        """Raise InvalidArgument for what cannot be done."""
        rule, longest = self.selection, model.info.context_length
        if rule.rule not in get_args(Selection.__annotations__["rule"]):
            raise InvalidArgument(f"unknown selection {rule.rule!r}: choose first, top or quantile", "selection")
        if self.windows not in ("first", "all"):
            raise InvalidArgument(f"unknown windows {self.windows!r}: choose first or all", "windows")
        fraction = rule.min_activation_fraction
        if not (math.isfinite(fraction) and 0 < fraction <= 1):
            raise InvalidArgument(f"min_activation_fraction is {fraction}; give more than 0 and at most 1")
        if not 0 <= rule.seed < 1 << 64:
            raise InvalidArgument(f"seed is {rule.seed}; give 0 to 2^64 - 1", "seed")
        if not 1 <= rule.max_examples <= MAX_EXAMPLES:
            raise InvalidArgument(f"max_examples is {rule.max_examples}; give 1 to {MAX_EXAMPLES}")
        least = 2 if self.bos else 1
        if self.context_length is not None and not least <= self.context_length <= longest:
            raise InvalidArgument(
                f"context_length is {self.context_length}; {model.info.id!r} reads {least} to {longest} tokens at once"
            )
        if self.bos and model.tokenizer.bos_id is None:
            raise InvalidArgument(f"the tokenizer of {model.info.id!r} has no BOS token; pass --no-bos")


PRESETS = {"paper": Recipe(Selection("first", 0.75, 100), windows="first")}


def build(
    model: ModelDescription,
    corpus: Corpus,
    out: Path,
    recipe: Recipe,
    progress: Progress = lambda stage, n, total: None,
    batch_tokens: int | None = None,
    max_activations: Array | None = None,
    executor: Executor | None = None,
) -> Index:
    """Index the corpus with the model into the new folder `out`.

    batch_tokens     read at once; None: as many as suit the model's device
    max_activations  (L, N) float: each neuron's maximum for the selection, instead of the corpus's own
    executor         where texts are tokenised and contexts are read; None: here, by `model`, then a Model

    Raises InvalidArgument for a recipe or maxima that cannot be, BadCorpus for an unreadable corpus, FailedPrecondition
    where `out` exists, or where OUT.tmp holds an unfinished build of another recipe, model, corpus, maxima or
    batch_tokens. Cost: two forwards of the corpus. Memory: a range's texts, a shard's activations, and the candidates
    (some kB a neuron).
    """
    recipe.check(model)
    given = None if max_activations is None else _checked_maxima(max_activations, model)
    work = out.with_name(out.name + ".tmp")
    if out.exists():
        if (work / FINISHED).exists():  # killed while it cleaned up
            shutil.rmtree(work)
        raise FailedPrecondition(f"{str(out)!r} exists already; choose another place, or remove it first")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(f"cannot write to {str(work)!r}: {error.strerror}") from error
    try:
        with shards.sole_worker(work):
            at_once = batch_tokens or BATCH_TOKENS[model.device.type]
            where = executor or LocalExecutor(model)
            _Build(model, corpus, recipe, work, progress, at_once, given, where).run(out)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FailedPrecondition(
            f"the build in {str(work)!r} cannot go on: {why}; what is finished is kept, and the same command goes on"
        ) from error
    shutil.rmtree(work)
    return open_index(out)


def read_maxima(path: Path) -> Array:
    """Maxima (L, N) from a .npy file, for `build`; raises InvalidArgument where it holds no array of numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument(
            f"cannot read {str(path)!r} as maxima: {why}; give a .npy file of (layers, neurons a layer) floats",
            "max_activations",
        ) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise InvalidArgument(f"{str(path)!r} holds no array of numbers; give a .npy file of floats", "max_activations")
    return values


def _checked_maxima(values: Array, model: ModelDescription) -> Array:
    """(J,) float32."""
    wanted = model.info.n_layers, model.info.n_neurons_per_layer
    if values.shape != wanted:
        raise InvalidArgument(
            f"the maxima have shape {values.shape}; {model.info.id!r} has {wanted[0]} layers of {wanted[1]} neurons, "
            f"so give {wanted}",
            "max_activations",
        )
    maxima = values.astype(np.float32)
    if len(bad := np.argwhere(~np.isfinite(maxima))):
        layer, neuron = bad[0]
        raise InvalidArgument(
            f"the maximum of neuron {layer}.{neuron} is {maxima[layer, neuron]}; give finite numbers", "max_activations"
        )
    return maxima.ravel()


class _Build:
    def __init__(
        self,
        model: ModelDescription,
        corpus: Corpus,
        recipe: Recipe,
        work: Path,
        progress: Progress,
        batch_tokens: int,
        given: Array | None,
        executor: Executor,
    ) -> None:
        self._model, self._corpus, self._recipe, self._work = model, corpus, recipe, work
        self._progress = progress
        self._batch_tokens = batch_tokens
        self._given = given
        self._executor = executor

    def run(self, out: Path) -> None:
        self._facts = self._describe()
        contexts_ = self._read()
        reading = ReadOptions(int(self._recipe.bos), self._batch_tokens)
        candidates, maximum = self._scan(contexts_, reading)
        self._collect(contexts_, reading, candidates, maximum)
        self._assemble(contexts_, candidates)
        (self._work / FINISHED).touch()
        (self._work / "index").rename(out)
        _sync_folder(out.parent)

    def _describe(self) -> dict[str, Any]:
        """What the index depends on; an unfinished build must agree with it."""
        model, recipe = self._model, self._recipe
        windowing = self._windowing
        facts = {
            "model": asdict(model.info) | {"dtype": model.dtype},
            "tokenizer_sha256": model.tokenizer.sha256,
            "corpus": {
                "id": self._corpus.id,
                "text_field": self._corpus.text_field,
                "max_documents": self._corpus.max_documents,
                "skip_bad_documents": self._corpus.skip_bad,
            },
            "selection": asdict(recipe.selection),
            "max_activations_sha256": None
            if self._given is None
            else hashlib.sha256(self._given.tobytes()).hexdigest(),
            "context_length": windowing.context_length,
            "windows": windowing.windows,
            "bos": recipe.bos,
        }
        path = self._work / "recipe.json"
        begun = facts | {"batch_tokens": self._batch_tokens}  # moves activations by an ulp, so no loaded may mix two
        if (self._work / "corpus.json").exists():  # before, nothing is done that another recipe could not use
            before = json.loads(path.read_text("utf-8"))
            if differing := [name for name in begun if begun[name] != before.get(name)]:
                raise FailedPrecondition(
                    f"the unfinished build in {str(self._work)!r} was begun with another {' and '.join(differing)}; "
                    "go on with the same arguments, or remove that folder"
                )
        else:
            _write_whole(path, json.dumps(begun, indent=1))
        return facts

    @property
    def _windowing(self) -> Windowing:
        length = self._recipe.context_length or self._model.info.context_length
        bos_id = self._model.tokenizer.bos_id if self._recipe.bos else None
        return Windowing(length, self._recipe.windows, bos_id)

    def _read(self) -> Contexts:
        """Tokenise the corpus, or check that it is still the one that was."""
        folder, facts = self._work / "contexts", self._work / "corpus.json"
        tokenising = Tokenising(
            self._corpus,
            self._model.tokenizer,
            self._windowing,
            self._work,
            self._executor,
            lambda n: self._progress("tokenise", n, self._corpus.max_documents),
        )
        if facts.exists():
            self._check_corpus(json.loads(facts.read_text("utf-8")))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            sha256 = tokenising.write(folder)
            read = {"sha256": sha256, "n_skipped": self._corpus.n_skipped, "fingerprint": tokenising.fingerprint}
            _write_whole(facts, json.dumps(read))
        tokenising.remove_shards()
        read = json.loads(facts.read_text("utf-8"))
        self._facts["corpus"] |= {"sha256": read["sha256"], "n_skipped": read["n_skipped"]}
        return Contexts(folder)

    def _check_corpus(self, read: Mapping[str, Any]) -> None:
        """Raise FailedPrecondition where it is not the one that was read; its texts are looked at only if its files or
        their times are others."""
        fingerprint = read.get("fingerprint")
        if fingerprint and fingerprint == self._corpus.fingerprint(times=True):
            return
        digest = CorpusDigest()
        for document in self._corpus.documents():
            self._progress("check corpus", 1, self._corpus.max_documents)
            digest.add(document)
        if digest.hexdigest() != read["sha256"]:
            raise FailedPrecondition(
                f"the corpus {self._corpus.id!r} has changed since the unfinished build in {str(self._work)!r} "
                "began; remove that folder to begin anew"
            )

    def _scan(self, contexts_: Contexts, reading: ReadOptions) -> tuple[Candidates, Array]:
        """The chosen examples of all neurons, and their maxima; statistics are written on the way."""
        rule = self._recipe.selection
        stage = ScanStage(reading, rule, self._given, shards.SHARD_CONTEXTS)
        paths = [shard.path for shard in self._finish("scan", contexts_, self._context_range, contexts_.load, stage)]
        sums = choose.sums(paths)
        n = len(contexts_)
        folder = self._work / "statistics"
        folder.mkdir(exist_ok=True)
        arrays.save(folder / "maximum.npy", sums.maximum)
        arrays.save(folder / "mean.npy", (sums.total / n).astype(np.float32))
        arrays.save(folder / "share_positive.npy", (sums.n_positive / n).astype(np.float32))
        n_layers = self._model.info.n_layers
        maximum = sums.maximum if self._given is None else self._given
        chosen = choose.choose(
            paths, maximum, n_layers, rule, self._given, lambda n: self._progress("choose", n, n_layers)
        )
        return chosen, sums.maximum

    def _collect(self, contexts_: Contexts, reading: ReadOptions, candidates: Candidates, maximum: Array) -> None:
        """Shard files with what the chosen examples need."""
        info = self._model.info
        self._chosen = [
            scan.chosen_of_layer(candidates, layer, info.n_neurons_per_layer, self._windowing.context_length)
            for layer in range(info.n_layers)
        ]
        self._choices = [scan.ChosenByShard(chosen) for chosen in self._chosen]

        def with_choices(loaded: Callable[[int, int], ContextRange | LoadedContexts]) -> Callable[[int, int], Any]:
            return lambda first, last: (loaded(first, last), [parts.of(first, last)[0] for parts in self._choices])

        take, instead = with_choices(self._context_range), with_choices(contexts_.load)
        self._collected = self._finish("collect", contexts_, take, instead, CollectStage(reading, maximum))

    def _context_range(self, first: int, last: int) -> ContextRange:
        return ContextRange((self._work / "contexts").absolute(), first, last)

    def _finish(
        self,
        name: str,
        contexts_: Contexts,
        take: Callable[[int, int], Any],
        instead: Callable[[int, int], Any],
        compute: shards.Compute,
    ) -> list[Shard]:
        """All shards of a stage, done."""
        key = shards.key(**self._facts, stage=name, layout=LAYOUT)
        found = [
            Shard(first, last, self._work / f"{name}-{key}-{first:09d}.npz")
            for first, last in shards.ranges(len(contexts_), shards.contexts_a_shard(len(contexts_)))
        ]
        stage = shards.Stage(
            found,
            lambda shard: take(shard.first, shard.last),
            compute,
            lambda n_tokens: self._progress(name, n_tokens, contexts_.n_tokens),
            lambda shard: int(contexts_.lengths(slice(shard.first, shard.last)).sum()),
            lambda shard: instead(shard.first, shard.last),
            beside=True,
        )
        with closing(Ledger(self._work)) as ledger:
            self._executor.finish(ledger, stage)
        return found

    def _assemble(self, contexts_: Contexts, candidates: Candidates) -> None:
        """Write the index folder: contexts, statistics, layers, manifest."""
        folder = self._work / "index"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._work / "contexts", folder / "contexts")
        shutil.copytree(self._work / "statistics", folder / "statistics")
        info = self._model.info

        def write(layer: int) -> Array:
            begin = candidates.offsets[layer * info.n_neurons_per_layer]
            activations = candidates.activations[begin : begin + len(self._chosen[layer].rows)]
            return self._write_layer(folder / layer_folder(layer), layer, activations)

        histograms = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for histogram in pool.map(write, range(info.n_layers)):
                histograms.append(histogram)
                self._progress("write", 1, info.n_layers)
        arrays.save(folder / "statistics" / "histogram.npy", np.concatenate(histograms))
        counts = {
            "n_documents": contexts_.n_documents,
            "n_contexts": len(contexts_),
            "n_tokens": contexts_.n_tokens,
            "n_examples": len(candidates.contexts),
            "n_neurons_with_examples": int((np.diff(candidates.offsets) > 0).sum()),
        }
        write_manifest(folder, self._facts | {"counts": counts})
        _sync_folder(folder)

    def _write_layer(self, folder: Path, layer: int, activations: Array) -> Array:
        """Write one layer's arrays from all shards; its histogram (N, 64)."""
        folder.mkdir()
        chosen, parts = self._chosen[layer], self._choices[layer]
        around = np.empty((len(chosen.rows), TOKENS_BEFORE + 1 + TOKENS_AFTER), np.float16)
        histogram: Array = np.zeros((len(chosen.offsets) - 1, N_BINS), np.int32)
        with ArrayWriter(folder / "xhat.npy", np.float16, (self._model.info.d_model,)) as xhat:
            for first, last, path in self._collected:
                part = shards.read(path, [f"{name}_{layer}" for name in Collected._fields])
                rows, around_, counts = part.values()
                xhat.append(rows)
                around[parts.of(first, last)[1]] = around_
                histogram += counts
        arrays.save(folder / "row_contexts.npy", chosen.row_contexts)
        arrays.save(folder / "row_positions.npy", chosen.row_positions)
        arrays.save(folder / "offsets.npy", chosen.offsets)
        arrays.save(folder / "rows.npy", chosen.rows)
        arrays.save(folder / "activations.npy", activations)
        arrays.save(folder / "around.npy", around)
        return histogram


def _write_whole(path: Path, text: str) -> None:
    partial_ = path.with_name(path.name + ".partial")
    partial_.write_text(text, "utf-8")
    partial_.rename(path)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
