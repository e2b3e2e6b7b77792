"""Batches are columns. Which axis each column lies on, and how to cut a batch between its items.

An item is what a batch is cut between: a neuron, or an example in a batch of examples. An axis gives each item some
rows: `offsets(batch)[axis][i] : [i + 1]` are item i's rows of every column on that axis.
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from polysem.proto.types import (
    ClusterBatch,
    EmbeddingBatch,
    ExampleBatch,
    ExplanationBatch,
    ImportanceBatch,
    NeuronTable,
    SimilarBatch,
    StatisticsBatch,
)

AnyBatch = (
    ClusterBatch
    | EmbeddingBatch
    | ExampleBatch
    | StatisticsBatch
    | NeuronTable
    | SimilarBatch
    | ImportanceBatch
    | ExplanationBatch
)
Batch = TypeVar("Batch", bound=AnyBatch)
Offsets = npt.NDArray[np.int64]

AXES: dict[type, dict[str, str]] = {
    ClusterBatch: {
        "neurons": "neuron",
        "n_examples": "neuron",
        "labels": "example",
        "merges": "merge",
        "heights": "merge",
        "node_centrals": "merge",
        "node_mean_distances": "merge",
        "n_clusters": "neuron",
        "max_distance": "neuron",
        "mean_distance": "neuron",
        "intra": "neuron",
        "inter": "neuron",
        "silhouette": "neuron",
        "largest_share": "neuron",
        "methods": "neuron",
        "silhouettes": "neuron",
    },
    EmbeddingBatch: {"neurons": "neuron", "n_examples": "neuron", "embeddings": "example"},
    ExampleBatch: {
        "neurons": "example",
        "places": "example",
        "documents": "example",
        "contexts": "example",
        "positions": "example",
        "activations": "example",
        "n_tokens": "example",
        "keys": "example",
        "tokens": "token",
        "token_activations": "token",
    },
    StatisticsBatch: dict.fromkeys(StatisticsBatch.__dataclass_fields__, "neuron"),
    NeuronTable: dict.fromkeys(NeuronTable.__dataclass_fields__, "neuron"),
    ExplanationBatch: {
        "positions": "token",
        "tokens": "token",
        "n_activations": "token",
        "active_neurons": "activation",
        "activations": "activation",
        "shares": "activation",
        "fires": "activation",
        "clusters": "activation",
        "distances": "activation",
    },
    ImportanceBatch: {
        "neurons": "example",
        "places": "example",
        "activations": "example",
        "n_tokens": "example",
        "tokens": "token",
        "importances": "token",
    },
    SimilarBatch: {
        "neurons": "cluster",
        "labels": "cluster",
        "centrals": "cluster",
        "n_similar": "cluster",
        "similar_neurons": "similar",
        "similar_labels": "similar",
        "similar_centrals": "similar",
        "similar_sizes": "similar",
        "similarities": "similar",
    },
}
TEXTS = frozenset({"documents", "tokens"})  # lists of str, all others are arrays


def offsets(batch: AnyBatch) -> dict[str, Offsets]:
    """Each axis's offsets (items + 1,)."""
    items = np.arange(len(batch.neurons) + 1, dtype=np.int64)
    if isinstance(batch, ExampleBatch | ImportanceBatch):
        return {"example": items, "token": from_counts(batch.n_tokens)}
    if isinstance(batch, StatisticsBatch | NeuronTable):
        return {"neuron": items}
    if isinstance(batch, ExplanationBatch):
        return {"token": items, "activation": from_counts(batch.n_activations)}
    if isinstance(batch, SimilarBatch):
        return {"cluster": items, "similar": from_counts(batch.n_similar)}
    return {
        "neuron": items,
        "example": from_counts(batch.n_examples),
        "merge": from_counts(np.maximum(batch.n_examples - 1, 0)),
    }


def from_counts(counts: npt.NDArray[Any]) -> Offsets:
    """Offsets (B + 1,) of B items with so many rows each."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def rows(batch: AnyBatch, offsets_: dict[str, Offsets], first: int, last: int) -> dict[str, Any]:
    """The columns of items first..last − 1, as views."""
    return {
        name: getattr(batch, name)[offsets_[axis][first] : offsets_[axis][last]]
        for name, axis in AXES[type(batch)].items()
    }


def take(batch: Batch, first: int, last: int) -> Batch:
    """Items first..last − 1 as a batch of its own."""
    if (first, last) == (0, len(batch.neurons)):
        return batch
    return type(batch)(**rows(batch, offsets(batch), first, last))
