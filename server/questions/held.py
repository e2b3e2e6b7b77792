"""Tests of its neurons that an index holds: which answers they belong to, and those of each neuron.

Both are of neuron embeddings, folded. The rotation test is in frame own: there all frames but `standardised` are one,
as the neuron's own mean is subtracted in any case. Tests of clusters are of one clustering, `CLUSTERING` in frame raw.
"""

import numpy as np

from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.server.index import nulls
from polysem.server.index.format import Index

CHOICE = EmbeddingChoice()
CLUSTERING = Clustering()


def held_nulls(index: Index, choice: EmbeddingChoice) -> nulls.HeldNulls | None:
    """The tests that the index holds by this embedding; None where it holds none."""
    is_held = (choice.embedding, choice.layer_norm) == (CHOICE.embedding, CHOICE.layer_norm)
    return index.nulls if is_held and choice.frame != "standardised" else None


def held_tests(index: Index, choice: EmbeddingChoice, neurons: IntArray) -> DoubleArray:
    """(B, 4) the tests of neurons (B, 2) that the index holds."""
    held = held_nulls(index, choice)
    assert held is not None
    tests: DoubleArray = held.tests[index.places(neurons)]
    return tests


def held_clusters(index: Index, choice: EmbeddingChoice, clustering: Clustering) -> DoubleArray:
    """Return the tests of clusters of all neurons of the index, (J, 3) by `nulls.CLUSTER_COLUMNS`; NaN where unknown.

    Significant clusters and prediction strength are of the tree, whatever its cut; stability is of one cut.
    """
    found: Array = np.full((len(index.every_neuron), len(nulls.CLUSTER_COLUMNS)), np.nan)
    held = index.nulls
    asked = (clustering.algorithm, clustering.linkage, clustering.neighbours)
    same_tree = choice == CHOICE and asked == (CLUSTERING.algorithm, CLUSTERING.linkage, CLUSTERING.neighbours)
    if held is None or held.clusters is None or not same_tree:
        return found
    found[:] = held.clusters
    if clustering.distance_threshold != CLUSTERING.distance_threshold:
        found[:, nulls.CLUSTER_COLUMNS.index("stability")] = np.nan
    return found
