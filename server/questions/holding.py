"""Testing every neuron of an index, once and for all: what the index then holds (held.py).

Shards of neurons are made in INDEX/nulls.tmp; killed, it goes on there when it is asked for again.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import torch

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import FailedPrecondition, PolysemError
from polysem.proto.questions.clustering import Clustering, check_clustering
from polysem.proto.questions.tested import mean_stability, significant_clusters
from polysem.proto.sides import Side
from polysem.proto.work import shards
from polysem.proto.work.shards import Advance, Arrays, Executor, Ledger, LocalExecutor, Shard
from polysem.server.index import nulls
from polysem.server.index.format import Index
from polysem.server.model.model import Model, ModelDescription
from polysem.server.questions import rotation_tests
from polysem.server.questions.clustering import ClusterWork
from polysem.server.questions.held import CHOICE, CLUSTERING
from polysem.server.questions.resident import device_batches
from polysem.server.questions.units import model_of

NEURONS_A_SHARD = 512
AT_ONCE = 32  # neurons whose clusters are tested, some seconds
WORK = "nulls.tmp"  # of the index's folder, while its neurons are tested


def hold(
    model: ModelDescription,
    index: Index,
    n_null: int = 99,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] = lambda stage, n, total: None,
    clusters: bool = False,
    executor: Executor | None = None,
) -> None:
    """Test every neuron of the index, on all its sides, and keep that beside it: neuron embeddings, folded, frame own.

    progress  told of neurons as they are done: the stage, how many since it was last told, and how many in all
    clusters  also test the merges of each neuron's tree, and how stable its clusters are (HAC with average linkage,
              frame raw, cut at 0.5): several times the cost
    executor  whose workers hold model and index, as a pair; None: this process does, and `model` is a Model

    Answers about an index that is open already have them once it is opened anew. Raises InvalidArgument for n_null and
    seeds that cannot be, ForeignIndex for another model, FailedPrecondition where the index's folder cannot be written.
    """
    check_clustering(Clustering(n_null=n_null, seed=seed))
    index.check_model(model.info, model.settings)
    work, n_all = index.folder / WORK, len(index.every_neuron) * len(index.info.sides)

    def advance(n: int) -> None:
        progress("test", n, n_all)

    try:
        work.mkdir(exist_ok=True)
        where = executor or LocalExecutor((model, index))
        with shards.sole_worker(work):
            found: dict[str, Array] = {}
            for side in index.info.sides:
                found |= _tests(where, index.of(side), _TestShard(side, n_null, seed, clusters), advance)
            nulls.write(index, n_null, seed, version("polysem"), found)
        shutil.rmtree(work)
    except PolysemError:  # some of which are OSErrors: a cluster that is away
        raise
    except OSError as error:
        raise FailedPrecondition(
            f"cannot keep the tests in {str(index.folder)!r}: {error.strerror}; what is finished is kept, and the same "
            "command goes on"
        ) from error


def _tests(executor: Executor, index: Index, tested: "_TestShard", advance: Advance) -> Arrays:
    """One side's arrays, as `nulls.write` takes them."""
    work, every = index.folder / WORK, index.every_neuron
    key = shards.key(
        index=index.sha256,
        side=index.side,
        n_null=tested.n_null,
        seed=tested.seed,
        clusters=tested.clusters,
        version=version("polysem"),
        size=NEURONS_A_SHARD,
    )
    stage = shards.Stage(
        [
            Shard(first, last, work / f"{key}-{first:09d}.npz")
            for first, last in shards.ranges(len(every), NEURONS_A_SHARD)
        ],
        lambda shard: every[shard.first : shard.last],
        tested,
        advance,
        lambda shard: shard.last - shard.first,
    )
    with closing(Ledger(work)) as ledger:
        executor.finish(ledger, stage)
    parts = [tested.arrays(np.zeros(0, np.int32)), *(shards.read(shard.path) for shard in stage.shards)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class _TestShard:
    side: Side
    n_null: int
    seed: int
    clusters: bool

    def arrays(self, neurons: IntArray) -> Arrays:
        """Its arrays of these neurons, none of them tested yet."""
        widths: dict[str, int] = {self.side: nulls.COLUMNS}
        if self.clusters:
            widths[nulls.of_clusters(self.side)] = len(nulls.CLUSTER_COLUMNS)
        return {name: np.full((len(neurons), width), np.nan) for name, width in widths.items()}

    def __call__(self, held: tuple[Model, Index], neurons: IntArray, advance: Advance) -> Callable[[], Arrays]:
        index = held[1].of(self.side)
        model = model_of(held[0], index)
        arrays = self.arrays(neurons)
        n_examples = index.n_examples[neurons[:, 0], neurons[:, 1]]
        small = np.flatnonzero(n_examples <= rotation_tests.MAX_TESTED)
        advance(len(neurons) - len(small))
        for places, *found in (self._with_clusters if self.clusters else self._alone)(model, index, neurons[small]):
            for array, values in zip(arrays.values(), found, strict=True):
                array[small[places]] = values
            advance(len(places))
        return lambda: arrays

    def _alone(self, model: Model, index: Index, neurons: IntArray) -> Iterator[tuple[Array, ...]]:
        """Places, and their tests."""
        for batch in device_batches(model, index, neurons, CHOICE, True):
            found = rotation_tests.tests_of(batch, self.n_null, self.seed)
            yield batch.places, torch.stack(list(found), 1).cpu().numpy()

    def _with_clusters(self, model: Model, index: Index, neurons: IntArray) -> Iterator[tuple[Array, ...]]:
        """Places, their tests, and those of their clusters."""
        work = ClusterWork(model, index, CHOICE, replace(CLUSTERING, n_null=self.n_null, seed=self.seed))
        for places in np.split(np.arange(len(neurons)), range(AT_ONCE, len(neurons), AT_ONCE)):
            batch = work.run(neurons[places])
            strength = batch.prediction_strength[:, 0]
            found = np.stack([significant_clusters(batch), mean_stability(batch), strength], 1)
            found[np.isnan(batch.significance[:, 0])] = np.nan  # too few examples
            yield places, batch.significance, found
