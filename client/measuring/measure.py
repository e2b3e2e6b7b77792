"""Every neuron by every clustering asked for, a row each: what `polysem measure` writes.

The neurons come from a `Clusterer`, so a server far away and one in this process are measured alike. A shard of neurons
is asked for at a time, so memory does not grow with the model. Per shard everything is a flat or padded array, letters
as elsewhere: B neurons, E examples, M merges of the neuron that has most.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np

from polysem.client.measuring import measurements
from polysem.client.measuring.measurements import COLUMNS, Rows
from polysem.client.measuring.significance import compared_columns, significance_columns
from polysem.client.measuring.trees import (
    Trees,
    Variant,
    agreement_columns,
    best_cut_columns,
    matched_columns,
    own_columns,
)
from polysem.proto.arrays import Array
from polysem.proto.checks import check_one_of
from polysem.proto.clusterer import Clusterer
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.proto.facts import IndexInfo
from polysem.proto.neurons import NeuronLike, NeuronRange, parse_neurons
from polysem.proto.questions.clustering import (
    CONTROLS,
    Algorithm,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    Embedding,
    Frame,
    LayerNorm,
    Linkage,
    check_choice,
    check_clustering,
    check_distance_threshold,
)
from polysem.proto.sides import SIDES, Side
from polysem.proto.wire import columns
from polysem.proto.work import shards
from polysem.proto.work.shards import Executor, Ledger, LocalExecutor, Shard

# Closer where distances are small: raw pre-MLP embeddings are all much alike.
BEST_CUT_THRESHOLDS = (
    *(0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35),
    *(0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0),
)
EXAMPLES_AT_ONCE = 1 << 18  # of a shard of neurons, at most
CALLS_AT_ONCE = 3  # so that the server works while an answer is read
Progress = Callable[[int], None]


def variants(
    algorithms: Iterable[Algorithm] = ("hac", "scc"),
    embeddings: Iterable[Embedding] = ("neuron", "pre_mlp"),
    layer_norms: Iterable[LayerNorm] = ("folded",),
    linkage: Linkage = "average",
    frames: Iterable[Frame] = ("raw",),
) -> tuple[Variant, ...]:
    """Each algorithm on each embedding in each mode and frame, once.

    Raises InvalidArgument for an unknown name.
    """
    found = dict.fromkeys(
        Variant(algorithm, linkage if algorithm == "hac" else None, embedding, layer_norm, frame)
        for algorithm, embedding, layer_norm, frame in product(algorithms, embeddings, layer_norms, frames)
    )
    for variant in found:
        check_clustering(Clustering(variant.algorithm, linkage))
        check_choice(variant.choice)
    if not found:
        raise InvalidArgument(
            "nothing is to be measured: name an algorithm, an embedding, a LayerNorm mode and a frame"
        )
    return tuple(found)


class Measuring:
    """A measurement that is asked for: checked, nothing clustered yet.

    client              who holds the index, and without an executor clusters, too
    neurons             as `Client.cluster` takes them; each is measured once, in the model's order
    variants            how each is clustered
    distance_threshold  0..2: where each tree is cut
    best_cut            also cut at all of BEST_CUT_THRESHOLDS, for the best silhouette
    index               of the server; None: its default
    side                of the activations
    n_null, seed        rotations that each neuron is compared with, in rows of hac; 0: none. Controls draw by the seed

    n_trees  trees that the server will make
    about    what the numbers depend on, for the file's metadata

    Raises InvalidArgument, UnknownIndex, UnknownNeuron, FailedPrecondition where the index does not hold a layer, and
    what `Client.info` raises.
    """

    def __init__(
        self,
        client: Clusterer,
        neurons: Sequence[NeuronLike] = ("*",),
        variants: Sequence[Variant] = variants(),
        *,
        distance_threshold: float = 0.5,
        best_cut: bool = True,
        index: str | None = None,
        side: Side = "positive",
        n_null: int = 0,
        seed: int = 0,
    ) -> None:
        check_distance_threshold(distance_threshold)
        check_one_of(side, SIDES, "side")
        check_clustering(Clustering(n_null=n_null, seed=seed))
        self._n_null, self._seed = n_null, seed
        self._side: Side = side
        self._client = client
        self._variants = variants
        self._threshold = distance_threshold
        self._grid = BEST_CUT_THRESHOLDS if best_cut else ()
        ranges = parse_neurons(*neurons)
        about = client.info()
        self._index = _index(client, index or about.default_index)
        self._version = about.version
        self._neurons = _neurons(ranges, self._index)
        self.n_trees = len(self._neurons) * len(variants)
        self.about: dict[str, Any] = {
            "software_version": about.version,
            "device": about.device,
            "index": asdict(self._index),
            "side": side,
            "neurons": [str(r) for r in ranges],
            "variants": [variant._asdict() for variant in variants],
            "distance_threshold": distance_threshold,
            "best_cut_thresholds": list(self._grid),
            "columns": {name: column.meaning for name, column in COLUMNS.items()},
        }
        if n_null:
            self.about["n_null"] = n_null
        if n_null or any(variant.embedding in CONTROLS for variant in variants):
            self.about["seed"] = seed

    @property
    def n_neurons(self) -> int:
        return len(self._neurons)

    def run(
        self,
        out: Path,
        progress: Progress = lambda n_trees: None,
        force: bool = False,
        executor: Executor | None = None,
    ) -> None:
        """Measure, and write the rows to `out`: by neuron, then in the order of the variants.

        Work goes on in OUT.tmp, a shard of neurons at a time; killed, it goes on there when it is run again, and ends
        with the same bytes. OUT appears in one rename.

        progress  told of every batch of trees that arrives, and of those that were done before
        executor  where servers are asked; None: the client's, a shard after another

        Raises what `Client.cluster` raises, and FailedPrecondition where `out` cannot be written or exists (unless
        `force`), where OUT.tmp holds other measurements, or where the server's index changes on the way.
        """
        with measurements.Writer(out, force) as writer:
            work = out.with_name(out.name + ".tmp")
            with measurements.translated(out, f"what is finished is kept in {str(work)!r}"):
                work.mkdir(exist_ok=True)
                with shards.sole_worker(work):
                    self._check_begun(work)
                    for part in self._finish(work, progress, executor or LocalExecutor(self._client)):
                        writer.write(self.about, shards.read(part.path))
        shutil.rmtree(work, ignore_errors=True)

    def _check_begun(self, work: Path) -> None:
        """OUT.tmp must hold shards of these very measurements."""
        path, about = work / "about.json", json.loads(json.dumps(self.about))
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(about, indent=1), "utf-8")
            partial.rename(path)
            return
        begun = json.loads(path.read_text("utf-8"))
        if differing := [name for name in about if about[name] != begun.get(name)]:
            raise FailedPrecondition(
                f"the unfinished measurements in {str(work)!r} were begun with another {' and '.join(differing)}; "
                "go on with the same arguments, or remove that folder"
            )

    def _finish(self, work: Path, progress: Progress, executor: Executor) -> list[Shard]:
        """All shards, done."""
        size = max(EXAMPLES_AT_ONCE // max(self._index.selection.max_examples, 1), 1)
        key = shards.key(**self.about)
        stage = shards.Stage(
            [
                Shard(first, last, work / f"{key}-{first:09d}.npz")
                for first, last in shards.ranges(len(self._neurons), size)
            ],
            lambda shard: self._neurons[shard.first : shard.last],
            MeasureShard(
                self._variants,
                self._threshold,
                self._grid,
                self._index.name,
                self._index.sha256,
                self._version,
                self._side,
                self._n_null,
                self._seed,
            ),
            progress,
            lambda shard: (shard.last - shard.first) * len(self._variants),
        )
        with closing(Ledger(work)) as ledger:
            executor.finish(ledger, stage)
        return list(stage.shards)


@dataclass(frozen=True)
class MeasureShard:
    """Measures shards of neurons with whoever holds the index; pickles."""

    variants: Sequence[Variant]
    threshold: float
    grid: Sequence[float]
    index: str
    index_sha256: str
    software_version: str
    side: Side = "positive"
    n_null: int = 0
    seed: int = 0

    def __call__(self, client: Clusterer, neurons: Array, advance: Progress) -> Callable[[], Rows]:
        """Ask for the trees of the neurons (B, 2); what is returned measures them."""
        asked = _ranges(neurons)
        pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="polysem-measure")
        try:
            answers = list(pool.map(lambda variant: self._ask(client, asked, variant, advance), self.variants))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is under way ends with the client's channel
        return partial(self._rows, answers)

    def _rows(self, answers: Sequence[ClusterBatch]) -> Rows:
        trees = {variant: Trees(answer, self.threshold) for variant, answer in zip(self.variants, answers, strict=True)}
        parts = [
            own_columns(variant, tree, self.side) | agreement_columns(variant, trees) | matched_columns(variant, trees)
            | best_cut_columns(self.grid, tree.batch.silhouettes) | significance_columns(tree.batch)
            | compared_columns(tree.batch)
            for variant, tree in trees.items()
        ]  # fmt: skip
        return {name: np.stack([part[name] for part in parts], axis=1).reshape(-1) for name in COLUMNS}

    def _ask(
        self, client: Clusterer, neurons: Sequence[NeuronRange], variant: Variant, advance: Progress
    ) -> ClusterBatch:
        batches: list[ClusterBatch] = []
        for answer in client.clusters(self._query(neurons, variant)):
            found = answer.provenance
            if (found.index_sha256, found.software_version) != (self.index_sha256, self.software_version):
                raise FailedPrecondition(f"the server's index {self.index!r} changed on the way; measure anew")
            advance(len(answer.batch.neurons))
            batches.append(answer.batch)
        return _joined(batches)

    def _query(self, neurons: Sequence[NeuronRange], variant: Variant) -> ClusterQuery:
        clustering = Clustering(
            variant.algorithm,
            variant.linkage or "average",
            self.threshold,
            silhouette_thresholds=tuple(self.grid),
            n_null=self.n_null if variant.algorithm == "hac" else 0,
            seed=self.seed,
            cut_silhouettes=bool(self.grid),
        )
        return ClusterQuery(tuple(neurons), self.index, variant.choice.seeded(self.seed), clustering, self.side)


def _index(client: Clusterer, name: str) -> IndexInfo:
    found = {index.name: index for index in client.indexes()}
    if name not in found:
        raise UnknownIndex(f"there is no index {name!r} at {client.target}; it has {', '.join(found)}")
    return found[name]


def _neurons(ranges: Iterable[NeuronRange], index: IndexInfo) -> Array:
    """(B, 2) int64 layer and number of the neurons that the ranges name, in the model's order."""
    named = np.zeros((index.n_layers, index.n_neurons_per_layer), bool)  # of latents as many as the widest layer has
    for r in ranges:
        if r.layer is None:
            named[list(index.held_layers)] = True
        elif r.layer >= index.n_layers or (r.last or 0) >= index.width(r.layer):
            raise UnknownNeuron(
                f"there is no {index.unit} {r.layer}.{r.last or 0}; index {index.name!r} has layers 0 to "
                f"{index.n_layers - 1} of {index.unit}s 0 to {index.width(r.layer) - 1}"
            )
        else:
            named[r.layer, r.first : None if r.last is None else r.last + 1] = True
    if absent := set(np.flatnonzero(named.any(axis=1)).tolist()) - set(index.held_layers):
        raise FailedPrecondition(
            f"layer {min(absent)} is not in the index {index.name!r}; measure layers that it holds"
        )
    for layer, width in zip(index.held_layers, index.widths, strict=True):
        named[layer, width:] = False
    return np.argwhere(named)


def _ranges(neurons: Array) -> list[NeuronRange]:
    """The neurons (B, 2), which are in order, as few ranges."""
    runs = groupby(enumerate(neurons.tolist()), key=lambda item: (item[1][0], item[1][1] - item[0]))
    found = []
    for (layer, _), run in runs:
        members = [neuron for _, (_, neuron) in run]
        found.append(NeuronRange(layer, members[0], members[-1]))
    return found


def _joined(batches: Sequence[ClusterBatch]) -> ClusterBatch:
    names = columns.LAYOUTS[ClusterBatch].axes
    return ClusterBatch(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})
