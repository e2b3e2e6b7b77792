"""Metrics of a flat clustering, and of every node of a tree.

cluster_metrics_reference  NumPy float64, pair by pair
cluster_metrics            CPU: the rows of each cluster's members are added up, cluster by cluster (Numba). O(n²)
node_metrics_reference     NumPy float64, every node anew. O(n³)
tree_metrics               CPU: both at once. The rows of a node's members add up to every example's sum of distances to
                           it, and those of its children to its own: children before parents, larger children first, at
                           most log2(n) + 1 such sums are alive, and each row of distances is read once (Numba). O(n²)
                           for the sums, and the sizes of all nodes for their centres
                           CUDA, both: `gpu/metrics.py`

Sums are in float64. Distances are multiples of 2⁻²⁴ (see distances.py), so sums of fewer than 2²⁸ of them are exact and
do not depend on the order of adding: ties between central examples are true ties.

Tried and dropped: one pass for the clusters and another for the nodes, in which each pair of examples was added at the
node where it meets (gathered by leaf order): 3 to 4 times as long as the one pass.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import (
    Array,
    Scalar,
    Sizes,
    as_array,
    as_counts,
    as_distances,
    check_distances,
    raise_if_outside,
)
from polysem.kernels.definitions import ClusterMetrics, NodeMetrics, TreeMetrics, raise_if_no_tree
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, compiled_sum, for_each_neuron
from polysem.kernels.tree import check_trees, children_first, is_tree, leaf_ranges


def cluster_metrics_reference(distances: Tensor, labels: Tensor, n_examples: Tensor) -> ClusterMetrics:
    """Compute `cluster_metrics` from the definitions."""
    matrix, clusters, counts = _cluster_arguments(distances, labels, n_examples)
    check_distances(matrix, counts)
    rows = []
    for b, n in enumerate(counts):
        d, label = matrix[b, :n, :n].astype(np.float64), clusters[b, :n]
        _raise_if_label_outside(np.array([((label < 0) | (label >= len(matrix[b]))).any()]), clusters[b:], counts[b:])
        pairs = np.triu_indices(n, 1)
        same = (label[:, None] == label[None, :])[pairs]
        of_pairs = d[pairs]
        sizes = np.unique(label, return_counts=True)[1]
        rows.append(
            (
                n,
                len(sizes),
                of_pairs.max(initial=-np.inf) if len(of_pairs) else np.nan,
                _mean(of_pairs),
                _mean(of_pairs[same]),
                _mean(of_pairs[~same]),
                silhouette_reference(d, label),
                sizes.max() / n if n else np.nan,
            )
        )
    columns = np.array(rows, np.float64).reshape(-1, 8)
    return cluster_metrics_of(counts, columns[:, 1].astype(np.int32), np.ascontiguousarray(columns[:, 2:].T))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.sum() / len(values)) if len(values) else np.nan


def silhouette_reference(d: NDArray[np.float64], label: NDArray[np.int32]) -> float:
    """Mean silhouette, -1..1, of one neuron's distances d (n, n) and labels (n,); NaN for 1 or n clusters."""
    names, sizes = np.unique(label, return_counts=True)
    if not 1 < len(names) < len(label):
        return np.nan
    scores = np.zeros(len(label))
    for i in range(len(label)):
        own = int(sizes[names == label[i]][0])
        if own > 1:
            a = d[i, label == label[i]].sum() / (own - 1)
            b = min(d[i, label == name].sum() / (label == name).sum() for name in names if name != label[i])
            scores[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0.0
    return float(scores.sum() / len(label))


@kernel
def cluster_metrics(distances: Tensor, labels: Tensor, n_examples: Tensor) -> ClusterMetrics:
    """The metrics of each neuron's flat clustering.

    distances   (B, N, N) float32 in [0, 2], symmetric, zero diagonal; padding is never read
    labels      (B, N) int32 within 0..N-1, each example's cluster, in any numbering; anything in padding
    n_examples  (B,) int32 or int64, 0..N
    returns     `ClusterMetrics` of (B,) tensors

    Raises TypeError or ValueError for wrong dtypes, shapes, counts, labels and distances.
    """
    matrix, clusters, counts = _cluster_arguments(distances, labels, n_examples)
    B = len(counts)
    n_clusters, numbers = np.zeros(B, np.int32), np.empty((6, B))
    bad_labels, bad_distances = np.zeros(B, np.bool_), np.zeros(B, np.bool_)
    for_each_neuron(_metrics_kernel, B, matrix, clusters, counts, n_clusters, numbers, bad_labels, bad_distances)
    _raise_if_label_outside(bad_labels, clusters, counts)
    raise_if_outside(bad_distances, matrix, counts)
    return cluster_metrics_of(counts, n_clusters, numbers)


def _cluster_arguments(
    distances: Tensor, labels: Tensor, n_examples: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    sizes: Sizes = {}
    matrix = as_distances(distances, sizes)
    return matrix, as_array("labels", labels, "B N", sizes, (torch.int32,)), as_counts(n_examples, sizes)


def _raise_if_label_outside(bad: Array, labels: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
    for b in np.flatnonzero(bad)[:1]:
        used = labels[b, : counts[b]]
        i = np.flatnonzero((used < 0) | (used >= labels.shape[1]))[0]
        raise ValueError(f"labels[{b}, {i}] is {used[i]}; expected 0..{labels.shape[1] - 1} (N - 1)")


def cluster_metrics_of(
    counts: NDArray[np.int64], n_clusters: NDArray[np.int32], numbers: NDArray[np.float64]
) -> ClusterMetrics:
    """numbers (6, B) in the order of the fields."""
    floats = [torch.from_numpy(row) for row in numbers]
    return ClusterMetrics(torch.from_numpy(counts.astype(np.int32)), torch.from_numpy(n_clusters), *floats)


@compiled
def _metrics_kernel(
    first: int,
    step: int,
    distances: Array,
    labels: Array,
    counts: Array,
    n_clusters: Array,
    numbers: Array,
    bad_labels: Array,
    bad_distances: Array,
) -> None:
    N = distances.shape[1]
    size = np.empty(N, np.int64)
    for b in range(first, len(counts), step):
        n = counts[b]
        numbers[:, b] = np.nan
        if not cluster_sizes(labels[b], n, size):
            bad_labels[b] = True
            continue
        n_clusters[b] = n_labels(size, n, numbers[:, b])
        if n > 1:
            bad_distances[b] = not _one_neuron(distances[b], labels[b, :n], size, n_clusters[b], numbers[:, b])


@compiled
def cluster_sizes(labels: Array, n: int, size: Array) -> bool:
    """False if a label is not in 0..N-1."""
    size[:] = 0
    for i in range(n):
        if labels[i] < 0 or labels[i] >= len(size):
            return False
        size[labels[i]] += 1
    return True


@compiled
def _one_neuron(d: Array, labels: Array, size: Array, k: int, numbers: Array) -> bool:
    """Maximum, mean, intra, inter and silhouette of two or more examples; False if a distance is not in 0..2."""
    n = len(labels)
    order = np.argsort(labels, kind="mergesort")
    to_cluster = np.empty(n)  # sum of distances from each example to one cluster
    own, other = np.zeros(n), np.full(n, np.inf)  # sum to the own cluster, least mean to another one
    total = within = pairs_within = 0.0
    begin = outside = 0
    largest: Scalar = np.int32(0)
    while begin < n:
        c = labels[order[begin]]
        members = order[begin : begin + size[c]]
        to_cluster[:] = 0.0
        for i in members:
            outside += _add_row(d, i, to_cluster)
            largest = max(largest, _largest_bits(d, i, n))
        _nearest_other(to_cluster, labels, c, size[c], other)
        for i in members:
            own[i] = to_cluster[i]
            within += to_cluster[i]
        total += _sum(to_cluster)
        pairs_within += size[c] * (size[c] - 1.0)
        begin += size[c]
    if outside > 0:
        return False
    pairs = n * (n - 1.0)  # each pair twice, as in the sums
    numbers[0] = np.array([largest], np.int32).view(np.float32)[0]
    numbers[1] = total / pairs
    if pairs_within > 0:
        numbers[2] = within / pairs_within
    if pairs_within < pairs:
        numbers[3] = (total - within) / (pairs - pairs_within)
    if 1 < k < n:
        numbers[4] = _silhouette(own, other, labels, size)
    return True


@compiled_sum
def _sum(values: Array) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


@compiled
def _add_row(d: Array, i: int, to_cluster: Array) -> int:
    """Add row i; how many of its entries are not in 0..2."""
    outside = 0
    for k in range(len(to_cluster)):
        to_cluster[k] += d[i, k]
        outside += 0 if (d[i, k] >= np.float32(0.0)) & (d[i, k] <= np.float32(2.0)) else 1
    return outside


@compiled
def _largest_bits(d: Array, i: int, n: int) -> Scalar:
    """The bits of row i's largest entry: floats from 0 up have their bits' order, and integer maxima use SIMD lanes."""
    bits = d[i].view(np.int32)
    largest = np.int32(0)
    for k in range(n):
        largest = max(largest, bits[k])
    return largest


@compiled
def _nearest_other(to_cluster: Array, labels: Array, c: int, size: int, other: Array) -> None:
    for i in range(len(labels)):
        mean = to_cluster[i] / size
        other[i] = mean if labels[i] != c and mean < other[i] else other[i]


@compiled
def _silhouette(own: Array, other: Array, labels: Array, size: Array) -> float:
    total = 0.0
    for i in range(len(labels)):
        n_own = size[labels[i]]
        a = own[i] / max(n_own - 1, 1)
        scale = max(a, other[i])
        if n_own > 1 and scale > 0:
            total += (other[i] - a) / scale
    return total / len(labels)


def node_metrics_reference(distances: Tensor, linkage: Tensor, n_examples: Tensor) -> NodeMetrics:
    """The nodes of `tree_metrics`, from the definitions."""
    matrix, trees, counts = _node_arguments(distances, linkage, n_examples)
    check_distances(matrix, counts)
    check_trees(trees, counts)
    central = np.full(trees.shape[:2], -1, np.int32)
    mean = np.full(trees.shape[:2], np.nan)
    for b, n in enumerate(counts):
        members = [[i] for i in range(n)]  # node -> examples
        for row in range(n - 1):
            u, v = trees[b, row, :2].astype(int)
            members.append(sorted(members[u] + members[v]))
            block = matrix[b][np.ix_(members[-1], members[-1])].astype(np.float64)
            size = len(block)
            central[b, row] = members[-1][int(np.argmin(block.sum(1)))]
            mean[b, row] = block.sum() / 2 / (size * (size - 1) / 2)
    return NodeMetrics(torch.from_numpy(central), torch.from_numpy(mean))


@kernel
def tree_metrics(distances: Tensor, linkage: Tensor, labels: Tensor, n_examples: Tensor) -> TreeMetrics:
    """`cluster_metrics` of a cut of each tree, and the central example and mean distance of all its nodes.

    distances   (B, N, N) float32 in [0, 2], symmetric, zero diagonal; padding is never read
    linkage     (B, max(N-1, 0), 4) float64, as every `linkage` here returns it
    labels      (B, N) int32, as `tree.cut` of that linkage gives them at any height
    n_examples  (B,) int32 or int64, 0..N
    returns     `ClusterMetrics` of (B,) tensors, and `NodeMetrics` of (B, max(N-1, 0)) tensors, whose entry r describes
                node n + r (an example is its own centre)

    The nodes are enough for any cut: its intra is the mean of its top nodes' mean distances, weighted by their pairs
    m (m - 1) / 2. A node made within a round of SCC, where no cut ends, is described as far as it has been joined.
    Raises TypeError or ValueError for wrong dtypes, shapes, counts, labels and distances, for what is no tree, and for
    labels that are no cut of it.
    """
    matrix, trees, counts = _node_arguments(distances, linkage, n_examples)
    clusters = _cluster_arguments(distances, labels, n_examples)[1]
    B = len(counts)
    central, mean = np.empty(trees.shape[:2], np.int32), np.empty(trees.shape[:2])
    n_clusters, numbers = np.zeros(B, np.int32), np.empty((6, B))
    bad = np.zeros(B, np.int32)
    for_each_neuron(_tree_kernel, B, matrix, trees, clusters, counts, n_clusters, numbers, central, mean, bad)
    _raise_if_label_outside(bad == BAD_LABEL, clusters, counts)
    raise_if_no_tree(bad == NO_TREE)
    raise_if_outside(bad == BAD_DISTANCE, matrix, counts)
    for b in np.flatnonzero(bad == NO_CUT)[:1]:
        raise ValueError(f"labels[{b}] is no cut of linkage[{b}]")
    nodes = NodeMetrics(torch.from_numpy(central), torch.from_numpy(mean))
    return TreeMetrics(cluster_metrics_of(counts, n_clusters, numbers), nodes)


def _node_arguments(
    distances: Tensor, linkage: Tensor, n_examples: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    sizes: Sizes = {"4": 4}
    matrix = as_distances(distances, sizes)
    sizes["N-1"] = max(sizes["N"] - 1, 0)
    trees = as_array("linkage", linkage, "B N-1 4", sizes, (torch.float64,))
    return matrix, trees, as_counts(n_examples, sizes)


BAD_LABEL, NO_TREE, BAD_DISTANCE, NO_CUT = 1, 2, 3, 4


@compiled
def _tree_kernel(
    first: int,
    step: int,
    distances: Array,
    trees: Array,
    labels: Array,
    counts: Array,
    n_clusters: Array,
    numbers: Array,
    central: Array,
    mean: Array,
    bad: Array,
) -> None:
    N = distances.shape[1]
    size, sums = np.empty(N, np.int64), node_buffer(N)
    for b in range(first, len(counts), step):
        n = counts[b]
        numbers[:, b] = np.nan
        central[b, max(n - 1, 0) :] = -1
        mean[b, max(n - 1, 0) :] = np.nan
        if not cluster_sizes(labels[b], n, size):
            bad[b] = BAD_LABEL
            continue
        if not is_tree(trees[b], n):
            bad[b] = NO_TREE
            continue
        n_clusters[b] = k = n_labels(size, n, numbers[:, b])
        if n > 1:
            found = sums, central[b], mean[b], numbers[:, b]
            bad[b] = measure_tree(distances[b], trees[b], labels[b, :n], size, k, *found)


@compiled
def node_buffer(N: int) -> Array:
    """Scratch of `measure_tree` for up to N examples."""
    return np.empty((int(np.log2(max(N, 1))) + 2, N))


@compiled
def n_labels(size: Array, n: int, numbers: Array) -> int:
    """Count the labels that n examples have, and note the share of the most frequent."""
    largest, k = 0, 0
    for c in range(len(size)):
        largest, k = max(largest, size[c]), k + (size[c] > 0)
    if n > 0:
        numbers[5] = largest / n
    return k


@compiled
def measure_tree(
    d: Array,
    tree: Array,
    labels: Array,
    cluster_size: Array,
    k: int,
    sums: Array,
    central: Array,
    mean: Array,
    numbers: Array,
) -> int:
    """All metrics of a tree of two or more examples; what is wrong, or 0.

    sums  (log2(N) + 2, N): entry i of a row is example i's sum of distances to the members of one node
    """
    n = len(labels)
    start, size, order = leaf_ranges(tree, n)
    whole = np.zeros(2 * n - 1, np.int32)  # the label that all of a node's members have, or -1
    whole[:n] = labels
    silhouette = 1 < k < n
    own, other = np.zeros(n), np.full(n, np.inf)  # sum to the own cluster, least mean to another one
    within = pairs_within = total = 0.0
    largest: Scalar = np.int32(0)
    top, outside, n_found = -1, 0, 0
    for row in children_first(tree, size, n):
        u, v, node = int(tree[row, 0]), int(tree[row, 1]), n + row
        if u >= n and v >= n:
            top -= 1
            _add(sums[top + 1, :n], sums[top, :n])
        elif u < n and v < n:
            top += 1
            sums[top, :n] = 0.0
        for leaf in (u, v):
            if leaf < n:
                outside += _add_row(d, leaf, sums[top, :n])
                largest = max(largest, _largest_bits(d, leaf, n))
        members = order[start[node] : start[node] + size[node]]
        total, central[row] = _centre(sums[top], members)
        mean[row] = total / (size[node] * (size[node] - 1.0))
        whole[node] = whole[u] if whole[u] == whole[v] else -1
        if whole[node] >= 0 and size[node] == cluster_size[whole[node]]:
            n_found += size[node]
            within += total
            pairs_within += size[node] * (size[node] - 1.0)
            if silhouette:
                _meet_cluster(sums[top, :n], members, own, other)
    for i in range(n):
        if cluster_size[labels[i]] == 1:
            n_found += 1
            if silhouette:
                _meet_singleton(d, i, other)
    if outside > 0:
        return BAD_DISTANCE
    if n_found < n:
        return NO_CUT
    pairs = n * (n - 1.0)  # each pair twice, as in the sums
    numbers[0] = np.array([largest], np.int32).view(np.float32)[0]
    numbers[1] = total / pairs
    if pairs_within > 0:
        numbers[2] = within / pairs_within
    if pairs_within < pairs:
        numbers[3] = (total - within) / (pairs - pairs_within)
    if silhouette:
        numbers[4] = _silhouette(own, other, labels, cluster_size)
    return 0


@compiled
def _add(values: Array, to: Array) -> None:
    for i in range(len(to)):
        to[i] += values[i]


@compiled
def _centre(sums: Array, members: Array) -> tuple[float, Scalar]:
    """The members' sum of sums, and the first member with the least."""
    total, least, central = 0.0, np.inf, len(sums)
    for i in members:
        total += sums[i]
        if sums[i] < least or (sums[i] == least and i < central):
            least, central = sums[i], i
    return total, central


@compiled
def _meet_cluster(to_cluster: Array, members: Array, own: Array, other: Array) -> None:
    for i in members:
        own[i] = to_cluster[i]
        to_cluster[i] = np.inf  # put back below: a cluster is not another one to its members
    size = len(members)
    for i in range(len(other)):
        mean = to_cluster[i] / size
        other[i] = mean if mean < other[i] else other[i]
    for i in members:
        to_cluster[i] = own[i]


@compiled
def _meet_singleton(d: Array, i: int, other: Array) -> None:
    before = other[i]
    for k in range(len(other)):
        other[k] = d[i, k] if d[i, k] < other[k] else other[k]
    other[i] = before
