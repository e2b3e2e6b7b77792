"""Baselines of a clustering: its key tokens, its singletons, and what chance gives at the same cut."""

import itertools
from typing import NamedTuple

import numpy as np

from polysem.client.mutual_information import adjusted_mutual_information
from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.wire.columns import from_counts

OF_NULLS = ("null_n_clusters", "null_intra", "null_inter", "null_silhouette")


class Baselines(NamedTuple):
    """The baselines of one neuron's clustering at a cut. None: undefined, or the server is older and does not say.

    token_agreement     adjusted mutual information of clusters and key tokens: 1 if clusters are the tokens, about 0 by
                        chance
    single_token_share  0..1: of the clusters of two examples or more, those whose examples have one key token
    singleton_share     0..1: of the clusters, those of one example
    null_n_clusters … null_silhouette  means over rotations of the examples, clustered and cut in the same way, of those
                        where the metric is defined: the same mean and covariance, no clusters. None where no rotations
                        were asked for, and after a `cut` on the client
    """

    token_agreement: float | None
    single_token_share: float | None
    singleton_share: float | None
    null_n_clusters: float | None
    null_intra: float | None
    null_inter: float | None
    null_silhouette: float | None


def baseline_columns(batch: ClusterBatch) -> dict[str, DoubleArray]:
    """Each of `Baselines` for B neurons, (B,) float64; NaN where it is None."""
    tokens = key_tokens_of(batch)
    B = len(batch.n_examples)
    nulls = batch.null_metrics if _has_nulls(batch) else np.full((B, len(OF_NULLS)), np.nan)
    return token_columns(batch.labels, tokens, batch.n_examples) | dict(zip(OF_NULLS, nulls.T, strict=True))


def key_tokens_of(batch: ClusterBatch) -> Array | None:
    """(E,) id of each example's key token; None from an older server."""
    return None if len(batch.key_tokens) != len(batch.labels) else batch.key_tokens


def nulls_of(batch: ClusterBatch, i: int) -> DoubleArray | None:
    """The batch's means over rotations of neuron i, (4,); None where it has none."""
    return batch.null_metrics[i] if _has_nulls(batch) else None


def _has_nulls(batch: ClusterBatch) -> bool:
    return batch.null_metrics.ndim == 2 and batch.null_metrics.shape[1] == len(OF_NULLS)


def token_columns(labels: Array, tokens: Array | None, n_examples: Array) -> dict[str, DoubleArray]:
    """The first three of `Baselines` for B neurons, from labels and key tokens (E,), neuron by neuron."""
    n = n_examples.astype(np.int64)
    neuron = np.repeat(np.arange(len(n)), n)
    clusters, cluster = np.unique(np.stack([neuron, labels], 1), axis=0, return_inverse=True)
    sizes, of_neuron = np.bincount(cluster.ravel(), minlength=len(clusters)), clusters[:, 0]
    nothing = np.full(len(n), np.nan)
    found = {
        "token_agreement": nothing,
        "single_token_share": nothing,
        "singleton_share": _share(sizes == 1, of_neuron, len(n)),
    }
    if tokens is None:
        return found
    pairs = np.unique(np.stack([cluster.ravel(), tokens.astype(np.int64)], 1), axis=0)[:, 0]
    one_token = np.bincount(pairs, minlength=len(clusters)) == 1
    several = sizes > 1
    ends = from_counts(n)
    agreements = [
        adjusted_mutual_information(labels[first:last], tokens[first:last])
        for first, last in itertools.pairwise(ends.tolist())
    ]
    return found | {
        "token_agreement": np.array([np.nan if value is None else value for value in agreements]),
        "single_token_share": _share(one_token[several], of_neuron[several], len(n)),
    }


def _share(true: Array, of_neuron: Array, B: int) -> DoubleArray:
    """(B,) share of each neuron's clusters for which it is true; NaN without one."""
    of = np.bincount(of_neuron, minlength=B)
    share: DoubleArray = np.divide(np.bincount(of_neuron, true, minlength=B), of, out=np.full(B, np.nan), where=of > 0)
    return share


def baselines_of(labels: Array, tokens: Array | None, nulls: DoubleArray | None) -> Baselines:
    """The baselines of one neuron.

    labels, tokens  (n,) ids: each example's cluster and key token; tokens are None from an older server
    nulls           (4,) means over rotations, in the order of OF_NULLS, or None
    """
    found = token_columns(labels, tokens, np.array([len(labels)]))
    means = [np.nan] * len(OF_NULLS) if nulls is None else nulls.tolist()
    values = [*(float(column[0]) for column in found.values()), *means]
    return Baselines(*(None if value != value else value for value in values))
