"""The rotation test of each neuron of an index, once and for all: what the index then holds of it.

Shards of neurons are made in INDEX/nulls.tmp; killed, it goes on there when it is asked for again.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch

from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice, check_clustering
from polysem.proto.work import shards
from polysem.proto.work.shards import Advance, Arrays, Ledger, LocalExecutor, Shard
from polysem.server.index import nulls
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.questions import rotation_tests
from polysem.server.questions.resident import device_batches

CHOICE = EmbeddingChoice()
NEURONS_A_SHARD = 512
WORK = "nulls.tmp"  # of the index's folder, while its neurons are tested


def hold(
    model: Model,
    index: Index,
    n_null: int = 99,
    seed: int = 0,
    progress: Callable[[str, int, int | None], None] = lambda stage, n, total: None,
) -> None:
    """Test every neuron of the index, on all its sides, and keep that beside it: neuron embeddings, folded, frame own.

    progress  told of neurons as they are done: the stage, how many since it was last told, and how many in all

    Answers about an index that is open already have them once it is opened anew. Raises InvalidArgument for n_null and
    seeds that cannot be, ForeignIndex for another model, FailedPrecondition where the index's folder cannot be written.
    """
    check_clustering(Clustering(n_null=n_null, seed=seed))
    index.check_model(model.info)
    work, n_all = index.folder / WORK, len(index.every_neuron) * len(index.info.sides)

    def advance(n: int) -> None:
        progress("test", n, n_all)

    try:
        work.mkdir(exist_ok=True)
        with shards.sole_worker(work):
            tests: dict[str, Array] = {
                side: _tests(model, index.of(side), n_null, seed, advance) for side in index.info.sides
            }
            nulls.write(index, n_null, seed, version("polysem"), tests)
        shutil.rmtree(work)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot keep the tests in {str(index.folder)!r}: {error.strerror}; what is finished is kept, and the same "
            "command goes on"
        ) from error


def _tests(model: Model, index: Index, n_null: int, seed: int, advance: Advance) -> DoubleArray:
    """(J, 4) of one side's neurons."""
    work, every = index.folder / WORK, index.every_neuron
    key = shards.key(
        index=index.sha256, side=index.side, n_null=n_null, seed=seed, version=version("polysem"), size=NEURONS_A_SHARD
    )
    stage = shards.Stage(
        [
            Shard(first, last, work / f"{key}-{first:09d}.npz")
            for first, last in shards.ranges(len(every), NEURONS_A_SHARD)
        ],
        lambda shard: every[shard.first : shard.last],
        _TestShard(index, n_null, seed),
        advance,
        lambda shard: shard.last - shard.first,
    )
    with closing(Ledger(work)) as ledger:
        LocalExecutor(model).finish(ledger, stage)
    parts = [shards.read(shard.path)["tests"] for shard in stage.shards]
    tests: DoubleArray = np.concatenate([np.empty((0, nulls.COLUMNS)), *parts])
    return tests


@dataclass(frozen=True)
class _TestShard:
    index: Index
    n_null: int
    seed: int

    def __call__(self, model: Model, neurons: IntArray, advance: Advance) -> Callable[[], Arrays]:
        tests: Array = np.full((len(neurons), nulls.COLUMNS), np.nan)
        n_examples = self.index.n_examples[neurons[:, 0], neurons[:, 1]]
        small = np.flatnonzero(n_examples <= rotation_tests.MAX_TESTED)
        advance(len(neurons) - len(small))
        for batch in device_batches(model, self.index, neurons[small], CHOICE, True):
            found = rotation_tests.tests_of(batch, self.n_null, self.seed)
            tests[small[batch.places]] = torch.stack(list(found), 1).cpu().numpy()
            advance(len(batch.places))
        return lambda: {"tests": tests}


def held_nulls(index: Index, choice: EmbeddingChoice) -> nulls.HeldNulls | None:
    """The tests that the index holds by this embedding; None where it holds none.

    In frame own all frames but `standardised` are one: the neuron's own mean is subtracted in any case.
    """
    is_held = (choice.embedding, choice.layer_norm) == (CHOICE.embedding, CHOICE.layer_norm)
    return index.nulls if is_held and choice.frame != "standardised" else None


def held_tests(index: Index, choice: EmbeddingChoice, neurons: IntArray) -> DoubleArray:
    """(B, 4) the tests of neurons (B, 2) that the index holds."""
    held = held_nulls(index, choice)
    assert held is not None
    place = np.zeros(index.info.n_layers, np.int64)
    place[list(index.info.held_layers)] = np.arange(len(index.info.held_layers))
    tests: DoubleArray = held.tests[place[neurons[:, 0]] * index.info.n_neurons_per_layer + neurons[:, 1]]
    return tests
