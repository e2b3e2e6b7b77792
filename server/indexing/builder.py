"""From a corpus to an index: tokenise, scan, choose, collect, assemble.

All work goes on in OUT.tmp, shard by shard; a killed build goes on there when it is started again with the same
arguments. The finished index appears at OUT in one rename.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import BadCorpus, FailedPrecondition, InvalidArgument, PolysemError
from polysem.proto.facts import Selection
from polysem.proto.sides import SIDES, Side
from polysem.proto.work import shards
from polysem.proto.work.shards import Executor, Ledger, LocalExecutor, Shard
from polysem.server.corpus.documents import Corpus, CorpusDigest
from polysem.server.index import arrays
from polysem.server.index.arrays import ArrayWriter
from polysem.server.index.contexts import ContextRange, Contexts, LoadedContexts
from polysem.server.index.format import (
    N_BINS,
    SIGNS,
    TOKENS_AFTER,
    TOKENS_BEFORE,
    Index,
    layer_folder,
    open_index,
    side_folder,
    write_manifest,
)
from polysem.server.index.negatives import Negatives
from polysem.server.indexing import choose, disk, maxima, negatives, scan, widths
from polysem.server.indexing.collecting import Collected
from polysem.server.indexing.keeping import Keeper
from polysem.server.indexing.scan import ReadOptions
from polysem.server.indexing.selection import Candidates
from polysem.server.indexing.stages import CollectStage, ScanStage
from polysem.server.indexing.tokenise import Tokenising
from polysem.server.indexing.windows import Windowing
from polysem.server.model.model import ModelDescription

MAX_EXAMPLES = 100_000
MAX_NEGATIVES = 128
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}  # what keeps the device busy, and no more
LAYOUT = 5  # of what is in shards: an unfinished build makes those of another layout again
FINISHED = "finished"  # in OUT.tmp: OUT is there, or about to be

# progress(stage, units done since the last call, units in all or None where unknown)
Progress = Callable[[str, int, int | None], None]


class AnotherBuild(FailedPrecondition):
    """The unfinished build was begun with other arguments, or by another version."""


@dataclass(frozen=True)
class Recipe:
    """Recipe by which an index is made of a model and a corpus.

    context_length  None: the model's own
    bos             each window begins with BOS; None: as the model wants it
    sides           None: both of a gated model, the positive one of another
    layers          to scan and to keep, by the model's numbers; none: all
    skip_positions  tokens at each window's start, behind BOS, that are never key tokens
    negatives       of each kind, of each neuron, at most; 0: none. The index holds fewer where they would take more
                    than a fifth of it
    """

    selection: Selection = Selection()
    context_length: int | None = None
    windows: Literal["first", "all"] = "first"
    bos: bool | None = None
    sides: Literal["positive", "both"] | None = None
    layers: tuple[int, ...] = ()
    skip_positions: int = 0
    negatives: int = negatives.MOST

    def of(self, model: ModelDescription) -> "Recipe":
        """The same with what the model decides. Raises InvalidArgument for what cannot be done."""
        bos = model.wants_bos if self.bos is None else self.bos
        sides = self.sides or ("both" if model.has_gates else "positive")
        length = model.info.context_length if self.context_length is None else self.context_length
        layers = tuple(sorted(set(self.layers))) or tuple(encoder.layer for encoder in model.encoders)
        recipe = replace(self, bos=bos, sides=sides, context_length=length, layers=layers)
        recipe.check(model)
        return recipe

    @property
    def each_side(self) -> tuple[Side, ...]:
        return SIDES if self.sides == "both" else SIDES[:1]

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
        if self.sides not in ("positive", "both", None):
            raise InvalidArgument(f"unknown sides {self.sides!r}: choose positive or both", "sides")
        for layer in self.layers:
            if not 0 <= layer < model.info.n_layers:
                raise InvalidArgument(
                    f"there is no layer {layer}: {model.info.id!r} has layers 0 to {model.info.n_layers - 1}", "layers"
                )
        if model.encoders:
            widths.check_latents(model, self.layers, self.sides == "both")
        if self.skip_positions < 0:
            raise InvalidArgument(f"skip_positions is {self.skip_positions}; give 0 or more", "skip_positions")
        if not 0 <= self.negatives <= MAX_NEGATIVES:
            raise InvalidArgument(f"negatives is {self.negatives}; give 0 to {MAX_NEGATIVES}", "negatives")
        least = int(bool(self.bos)) + self.skip_positions + 1
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
    make: "Callable[..., Build] | None" = None,
    keep_bytes: int | None = None,
) -> Index:
    """Index the corpus with the model into the new folder `out`.

    batch_tokens     read at once; None: as many as suit the model's device
    max_activations  (L, N) float: each neuron's maximum for the selection, instead of the corpus's own; with both
                     sides (2, L, N): the maxima, then the minima. Layers that are not kept are not looked at
    executor         where texts are tokenised and contexts are read; None: here, by `model`, then a Model
    make             a kind of Build whose contexts and examples come from elsewhere; None: Build itself
    keep_bytes       of memory for what the first pass keeps, so that the second need not run the model: the index has
                     the same bytes. None: a fourth of what is free. An executor keeps nothing

    Raises InvalidArgument for a recipe or maxima that cannot be, BadCorpus for an unreadable corpus, FailedPrecondition
    where `out` exists, or where OUT.tmp holds an unfinished build of another recipe, model, corpus, maxima or
    batch_tokens. Cost: one forward of what is kept, two of the rest; goes on with two where it was killed. Memory: what
    is kept, a range's texts, a shard's activations, and the candidates (some kB a neuron).
    """
    recipe = recipe.of(model)
    given = None
    if max_activations is not None:
        given = maxima.strengths(max_activations, model, recipe.each_side, recipe.layers)
    if out.name in ("", ".."):
        raise InvalidArgument(f"{str(out)!r} is no name of a new folder; give one", "out")
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
        with shards.sole_worker(work), _nothing_left(work):
            at_once = batch_tokens or widths.batch_tokens(model, BATCH_TOKENS[model.device.type])
            building = (make or Build)(model, corpus, recipe, work, progress, at_once, given, executor, keep_bytes)
            building.run(out)
    except PolysemError:  # some of which are OSErrors: a cluster that is away says what to do itself
        raise
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FailedPrecondition(
            f"the build in {str(work)!r} cannot go on: {why}; what is finished is kept, and the same command goes on"
        ) from error
    shutil.rmtree(work)
    return open_index(out)


@contextmanager
def _nothing_left(work: Path) -> Iterator[None]:
    """Remove the folder of a build that is refused before it keeps what could be gone on with."""
    try:
        yield
    except PolysemError:
        if not any(work.glob("tokenise-*")) and not (work / "corpus.json").exists():
            shutil.rmtree(work)
        raise


class Build:
    """A build on its way."""

    def __init__(
        self,
        model: ModelDescription,
        corpus: Corpus,
        recipe: Recipe,
        work: Path,
        progress: Progress,
        batch_tokens: int,
        given: Array | None,
        executor: Executor | None,
        keep_bytes: int | None,
    ) -> None:
        self._model, self._corpus, self._recipe, self._work = model, corpus, recipe, work
        self._progress = progress
        self._batch_tokens = batch_tokens
        self._given = given
        self._executor = executor or LocalExecutor(model)
        layers = recipe.layers or tuple(range(model.info.n_layers))
        n_skipped = int(bool(recipe.bos)) + recipe.skip_positions
        of_layers = tuple(map(model.width, layers))
        unit = "latent" if model.encoders else "neuron"
        self._reading = ReadOptions(n_skipped, batch_tokens, layers, recipe.each_side, of_layers, unit)
        self._at_once = widths.contexts_at_once(model, self._reading)
        self._keeper = None if executor else Keeper(self._reading, recipe.selection, given, keep_bytes)

    def run(self, out: Path) -> None:
        self._facts = self._describe()
        contexts_ = self._read()
        candidates, maximum = self._scan(contexts_)
        self._collect(contexts_, candidates, maximum)
        self._assemble(contexts_, candidates)
        (self._work / FINISHED).touch()
        (self._work / "index").rename(out)
        disk.sync_folder(out.parent)

    def _describe(self) -> dict[str, Any]:
        """Return what the index depends on; an unfinished build must agree with it."""
        model, recipe = self._model, self._recipe
        windowing = self._windowing
        facts: dict[str, Any] = {
            "model": asdict(model.info) | {"dtype": model.dtype, "settings": model.settings},
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
            "sides": list(recipe.each_side),
            "layers": list(recipe.layers) or None,
            "skip_positions": recipe.skip_positions,
            "negatives": recipe.negatives,
        }
        if model.encoders:
            facts["encoders"] = [asdict(encoder) for encoder in model.encoders if encoder.layer in recipe.layers]
            facts["units"] = model.units
        path = self._work / "recipe.json"
        begun = facts | {"batch_tokens": self._batch_tokens}  # moves activations by an ulp, so no loaded may mix two
        if (self._work / "corpus.json").exists():  # before, nothing is done that another recipe could not use
            of_version_0_1 = {"negatives": recipe.negatives}  # which asked for none
            before = of_version_0_1 | json.loads(path.read_text("utf-8"))
            if differing := [name for name in begun if begun[name] != before.get(name)]:
                raise AnotherBuild(
                    f"the unfinished build in {str(self._work)!r} was begun with another {' and '.join(differing)}; "
                    "go on with the same arguments, or remove that folder"
                )
        else:
            disk.write_whole(path, json.dumps(begun, indent=1))
        return facts

    @property
    def _windowing(self) -> Windowing:
        recipe = self._recipe
        assert recipe.context_length is not None
        bos_id = self._model.tokenizer.bos_id if recipe.bos else None
        return Windowing(recipe.context_length, recipe.windows, bos_id, recipe.skip_positions)

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
            read = {
                "sha256": sha256,
                "n_skipped": self._corpus.n_skipped,
                "n_longer": tokenising.n_longer,
                "fingerprint": tokenising.fingerprint,
            }
            disk.write_whole(facts, json.dumps(read))
        tokenising.remove_shards()
        read = json.loads(facts.read_text("utf-8"))
        self._facts["corpus"] |= {"sha256": read["sha256"], "n_skipped": read["n_skipped"]}
        if (n_longer := read.get("n_longer")) is not None:  # an unfinished build of an earlier version does not say
            self._facts["corpus"]["n_longer"] = n_longer
        contexts_ = Contexts(folder)
        if not len(contexts_):
            raise BadCorpus(
                f"no document of {self._corpus.id!r} has more than {self._recipe.skip_positions} tokens, "
                "which are skipped; give fewer --skip-positions"
            )
        return contexts_

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

    def _scan(self, contexts_: Contexts) -> tuple[Candidates, Array]:
        """The chosen examples of the neurons of all runs, and their maxima (J,), as strengths."""
        rule, bounds, stage = self._recipe.selection, self._reading.bounds, self._scan_stage()
        paths = [shard.path for shard in self._finish("scan", contexts_, self._context_range, contexts_.load, stage)]
        sums = self._sums = choose.sums(paths)
        self._moments = choose.moments(choose.totals(paths))
        maximum = sums.maximum if self._given is None else self._given
        advance = self._of_layers("choose")
        chosen = choose.choose(paths, maximum, bounds, len(self._reading.sides), rule, self._given, advance)
        return chosen, sums.maximum

    def _scan_stage(self) -> ScanStage:
        return ScanStage(self._reading, self._recipe.selection, self._given, self._at_once, self._keeper)

    def _of_layers(self, stage: str) -> Callable[[int], None]:
        return lambda n: self._progress(stage, n, len(self._reading.layers))

    def _collect(self, contexts_: Contexts, candidates: Candidates, maximum: Array) -> None:
        """Shard files with what the chosen examples need."""
        self._chosen = [
            scan.chosen_of_run(candidates, first, last, self._windowing.context_length)
            for first, last in itertools.pairwise(self._reading.bounds.tolist())
        ]
        n_tokens, most = self._model.tokenizer.n_tokens, self._recipe.negatives
        self._wanted = negatives.Wanted(contexts_, self._reading.n_skipped, n_tokens, most)
        places = [self._wanted.propose(of.offsets, of.contexts, of.positions) for of in self._chosen]
        self._choices = [
            scan.ChosenByShard(chosen, asked, self._wanted.sample.contexts)
            for chosen, asked in zip(self._chosen, places, strict=True)
        ]

        def with_choices(loaded: Callable[[int, int], ContextRange | LoadedContexts]) -> Callable[[int, int], Any]:
            return lambda first, last: (loaded(first, last), [parts.of(first, last)[0] for parts in self._choices])

        take, instead = with_choices(self._context_range), with_choices(contexts_.load)
        stage = CollectStage(self._reading, maximum, self._at_once, self._keeper)
        self._collected = self._finish("collect", contexts_, take, instead, stage)

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
        folder, bounds = self._work / "index", self._reading.bounds
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._work / "contexts", folder / "contexts")
        runs = self._reading.runs
        for side in self._reading.sides:
            (side_folder(folder, side) / "statistics").mkdir(parents=True)

        folders = [side_folder(folder, side) / layer_folder(layer) for side, layer in runs]

        def write(run: int) -> tuple[Array, Negatives]:
            begin = candidates.offsets[bounds[run]]
            strengths = candidates.activations[begin : begin + len(self._chosen[run].rows)]
            return self._write_run(folders[run], run, SIGNS[runs[run][0]] * strengths)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            n_sides, advance = len(self._reading.sides), self._of_layers("write")
            histograms, found = zip(*choose.layer_by_layer(pool, write, len(runs), n_sides, advance), strict=True)
        counts = {"n_documents": contexts_.n_documents, "n_contexts": len(contexts_), "n_tokens": contexts_.n_tokens}
        for side, mine in zip(
            self._reading.sides, np.split(np.arange(bounds[-1]), len(self._reading.sides)), strict=True
        ):
            self._write_statistics(side_folder(folder, side) / "statistics", side, mine, len(contexts_), histograms)
            n_examples = np.diff(candidates.offsets)[mine]
            kind = "negative_" if side == "negative" else ""
            counts[f"n_{kind}examples"] = int(n_examples.sum())
            counts[f"n_neurons_with_{kind}examples"] = int((n_examples > 0).sum())
        held = negatives.write(folders, found, disk.bytes_in(folder), self._windowing.context_length)
        write_manifest(folder, self._facts | {"counts": counts, "negatives": held})
        disk.sync_folder(folder)

    def _write_statistics(self, folder: Path, side: Side, mine: Array, n: int, histograms: Sequence[Array]) -> None:
        """Reduce one side's neurons `mine` (J',) over n contexts."""
        sums, sign = self._sums, SIGNS[side]
        arrays.save(folder / "maximum.npy", sign * sums.maximum[mine])
        arrays.save(folder / "mean.npy", (sign * sums.total[mine] / n).astype(np.float32))
        arrays.save(folder / "share_positive.npy", (sums.n_positive[mine] / n).astype(np.float32))
        arrays.save(folder / "histogram.npy", np.concatenate(histograms)[mine])

    def _write_run(self, folder: Path, run: int, activations: Array) -> tuple[Array, Negatives]:
        """Write one run's arrays from all shards; its histogram (N, 64), and negatives that are yet to be written."""
        folder.mkdir()
        chosen, parts = self._chosen[run], self._choices[run]
        dtype = np.float32 if self._model.is_wide else np.float16
        around = np.empty((len(chosen.rows), TOKENS_BEFORE + 1 + TOKENS_AFTER), dtype)
        histogram: Array = np.zeros((len(chosen.offsets) - 1, N_BINS), np.int32)
        scales: list[Array] = [np.ones(0, np.float32)]
        weak_at: list[Array] = []
        fires = np.zeros(parts.n_asked, bool)
        with ArrayWriter(folder / "xhat.npy", np.float16, (self._model.info.d_model,)) as xhat:
            for first, last, path in self._collected:
                part = Collected(*shards.read(path, [f"{name}_{run}" for name in Collected._fields]).values())
                xhat.append(part.xhat)
                scales.append(part.scales)
                around[parts.of(first, last)[1]] = part.around
                histogram += part.histogram
                fires[parts.asked(first, last)] = part.fires
                weak_at.append(part.weak_at)
        every_scale = np.concatenate(scales)
        if (every_scale != 1).any():
            arrays.save(folder / "scales.npy", every_scale)
        for name, of_layers in self._moments._asdict().items():
            arrays.save(folder / f"{name}.npy", of_layers[self._reading.runs[run][1]])
        arrays.save(folder / "row_contexts.npy", chosen.row_contexts)
        arrays.save(folder / "row_positions.npy", chosen.row_positions)
        arrays.save(folder / "offsets.npy", chosen.offsets)
        arrays.save(folder / "rows.npy", chosen.rows)
        arrays.save(folder / "activations.npy", activations)
        arrays.save(folder / "around.npy", around)
        for latents in self._model.latents:
            if latents.layer == self._reading.runs[run][1]:
                arrays.save(folder / "encoder.npy", latents.weights.cpu().numpy())
        return histogram, self._wanted.chosen(run, chosen.offsets, chosen.contexts, fires, np.concatenate(weak_at))
