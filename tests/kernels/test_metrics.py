import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import silhouette_score

from polysem.kernels import agglomerative, scc
from polysem.kernels.distances import weighted_cosine_distances
from polysem.kernels.metrics import (
    cluster_metrics,
    cluster_metrics_reference,
    node_metrics_reference,
    tree_metrics,
)
from polysem.kernels.tree import cut

CLUSTER = pytest.mark.parametrize("function", [cluster_metrics, cluster_metrics_reference])


def nodes_of(distances, linkage, n_examples):
    """Of `tree_metrics`, with all examples in one cluster."""
    labels = torch.zeros(distances.shape[:2], dtype=torch.int32, device=distances.device)
    return tree_metrics(distances, linkage, labels, n_examples).nodes


NODE = pytest.mark.parametrize("function", [nodes_of, node_metrics_reference])

NAN = float("nan")
THREE = torch.tensor([[[0.0, 0.25, 0.5], [0.25, 0.0, 1.0], [0.5, 1.0, 0.0]]])


def int32(*rows):
    return torch.tensor(rows, dtype=torch.int32)


@CLUSTER
def test_a_pair_and_a_singleton(function):
    got = function(THREE, int32([0, 0, 1]), torch.tensor([3]))
    assert got.n_examples.tolist() == [3]
    assert got.n_clusters.tolist() == [2]
    assert got.max_distance.item() == 1.0
    assert got.mean_distance.item() == pytest.approx((0.25 + 0.5 + 1.0) / 3)
    assert got.intra.item() == 0.25
    assert got.inter.item() == 0.75
    # 0: (0.5 - 0.25) / 0.5; 1: (1.0 - 0.25) / 1.0; the singleton scores 0
    assert got.silhouette.item() == pytest.approx((0.5 + 0.75 + 0.0) / 3)
    assert got.largest_share.item() == pytest.approx(2 / 3)
    assert [field.dtype for field in got] == [torch.int32] * 2 + [torch.float64] * 6


@CLUSTER
def test_one_cluster_has_no_inter_and_no_silhouette(function):
    got = function(THREE, int32([0, 0, 0]), torch.tensor([3]))
    assert got.intra.item() == pytest.approx(1.75 / 3)
    assert got.inter.isnan().item()
    assert got.silhouette.isnan().item()


@CLUSTER
def test_singletons_have_no_intra_and_no_silhouette(function):
    got = function(THREE, int32([0, 1, 2]), torch.tensor([3]))
    assert got.intra.isnan().item()
    assert got.inter.item() == pytest.approx(1.75 / 3)
    assert got.silhouette.isnan().item()


@CLUSTER
def test_intra_pools_pairs_not_clusters(function):
    # a pair at 0.5, a trio at 1.0: one pair against three
    d = torch.ones(1, 5, 5)
    d[0, 0, 1] = d[0, 1, 0] = 0.5
    d[0].fill_diagonal_(0)
    got = function(d, int32([0, 0, 1, 1, 1]), torch.tensor([5]))
    assert got.intra.item() == pytest.approx((0.5 + 3 * 1.0) / 4)


@CLUSTER
def test_no_example_and_one_example(function):
    got = function(torch.zeros(2, 1, 1), int32([-1], [0]), torch.tensor([0, 1]))
    assert got.n_examples.tolist() == [0, 1]
    assert got.n_clusters.tolist() == [0, 1]
    for field in (got.max_distance, got.mean_distance, got.intra, got.inter, got.silhouette):
        assert field.isnan().all()
    assert_allclose(got.largest_share, [NAN, 1.0])


@CLUSTER
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 3), (2, 0)])
def test_empty_shapes(function, n_neurons, width):
    n_examples = torch.zeros(n_neurons, dtype=torch.int32)
    got = function(torch.zeros(n_neurons, width, width), torch.empty(n_neurons, width, dtype=torch.int32), n_examples)
    assert all(field.shape == (n_neurons,) for field in got)


@CLUSTER
def test_duplicates_score_as_in_scikit_learn(function):
    d = torch.zeros(1, 4, 4)  # all at one place, yet in two clusters: 0 / 0 counts 0
    got = function(d, int32([0, 0, 1, 1]), torch.tensor([4]))
    assert got.silhouette.item() == 0


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(0, 20),
    n_levels=st.sampled_from([2, 2**20]),
    n_clusters=st.integers(1, 20),
)
def test_matches_reference_and_scikit_learn(device, random_distances, seed, width, n_levels, n_clusters):
    rng = np.random.default_rng(seed)
    distances = random_distances(seed, 3, width, n_levels)
    n_examples = torch.tensor([width, width // 2, min(width, 2)])
    labels = torch.from_numpy(rng.integers(0, max(min(n_clusters, width), 1), (3, width))).int()
    got = cluster_metrics(distances.to(device), labels, n_examples)
    for ours, reference in zip(got, cluster_metrics_reference(distances, labels, n_examples), strict=True):
        assert_allclose(ours.cpu(), reference, rtol=1e-13)
    for b, n in enumerate(n_examples.tolist()):
        label = labels[b, :n]
        if 1 < len(label.unique()) < n:
            theirs = silhouette_score(distances[b, :n, :n].double().numpy(), label, metric="precomputed")
            assert got.silhouette[b].item() == pytest.approx(theirs, abs=1e-12)


def test_mean_distance_is_the_pair_weighted_mean_of_intra_and_inter(device, clustered_embeddings):
    n_examples = torch.tensor([100, 40])
    d = weighted_cosine_distances(clustered_embeddings(0, 2, 100, 768), torch.ones(2, 768), n_examples)
    labels = cut(agglomerative.linkage(d, n_examples), n_examples, 0.6)
    got = cluster_metrics(d, labels, n_examples)
    for b, n in enumerate(n_examples.tolist()):
        sizes = labels[b, :n].bincount()
        within = (sizes * (sizes - 1)).sum().item() / (n * (n - 1))
        pooled = within * got.intra[b] + (1 - within) * got.inter[b]
        assert got.mean_distance[b].item() == pytest.approx(pooled.item(), rel=1e-12)


@NODE
def test_nodes_of_three_examples(function):
    trees = torch.tensor([[[0, 1, 0.25, 2], [2, 3, 0.75, 3]]], dtype=torch.float64)
    got = function(THREE, trees, torch.tensor([3]))
    # of two, the lower index; of three the sums are 0.75, 1.25 and 1.5
    assert got.central.tolist() == [[0, 0]]
    assert_allclose(got.mean_distance, [[0.25, 1.75 / 3]])


@NODE
def test_the_most_central_of_three_on_a_line_is_the_middle(function):
    x = torch.tensor([1.5, 0.0, 1.0])
    d = (x[:, None] - x).abs()[None]
    trees = torch.tensor([[[0, 2, 0.5, 2], [1, 3, 1.25, 3]]], dtype=torch.float64)
    assert function(d, trees, torch.tensor([3])).central.tolist() == [[0, 2]]


@NODE
def test_nodes_in_padding_are_minus_one_and_nan(function):
    trees = torch.full((3, 2, 4), NAN, dtype=torch.float64)
    trees[2, 0] = torch.tensor([0.0, 1.0, 0.25, 2.0])
    got = function(THREE.repeat(3, 1, 1), trees, torch.tensor([0, 1, 2]))
    assert got.central.tolist() == [[-1, -1], [-1, -1], [0, -1]]
    assert_allclose(got.mean_distance, [[NAN, NAN], [NAN, NAN], [0.25, NAN]])
    assert (got.central.dtype, got.mean_distance.dtype) == (torch.int32, torch.float64)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 20), n_levels=st.sampled_from([2, 2**20]))
def test_nodes_match_reference(device, random_distances, seed, width, n_levels):
    distances = random_distances(seed, 2, width, n_levels)
    n_examples = torch.tensor([width, width // 2])
    for trees in (
        agglomerative.linkage(distances, n_examples),
        scc.linkage(distances, n_examples, torch.arange(1, 51, dtype=torch.float64) / 50),
    ):
        got = nodes_of(distances.to(device), trees, n_examples)
        want = node_metrics_reference(distances, trees, n_examples)
        assert torch.equal(got.central.cpu(), want.central)
        assert got.mean_distance.numpy().tobytes() == want.mean_distance.numpy().tobytes()  # exact sums


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.8])
def test_intra_of_any_cut_follows_from_its_nodes(device, clustered_embeddings, threshold):
    n = 60
    n_examples = torch.tensor([n])
    d = weighted_cosine_distances(clustered_embeddings(1, 1, n, 64), torch.ones(1, 64), n_examples)
    tree = agglomerative.linkage(d, n_examples)
    nodes = nodes_of(d, tree, n_examples)
    kept = np.flatnonzero(tree[0, :, 2].numpy() <= threshold)
    inner = tree[0, kept, :2].flatten().tolist()
    top = [row for row in kept if n + row not in inner]
    pairs = tree[0, top, 3] * (tree[0, top, 3] - 1) / 2
    got = (nodes.mean_distance[0, top] * pairs).sum() / pairs.sum()
    want = cluster_metrics(d, cut(tree, n_examples, threshold), n_examples).intra
    assert_allclose(got, want[0], rtol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 20))
def test_batch_and_padding_change_no_bit(device, random_distances, seed, width):
    alone, n_examples = random_distances(seed, 1, width), torch.tensor([width])
    batch = random_distances(seed + 1, 3, width + 4)
    batch[1] = torch.nan
    batch[1, :width, :width] = alone[0]
    counts = torch.tensor([3, width, 0])
    tree, trees = agglomerative.linkage(alone, n_examples), agglomerative.linkage(batch, counts)
    label, labels = cut(tree, n_examples, 0.5), cut(trees, counts, 0.5)
    single = cluster_metrics(alone, label if width > 1 else int32([0]), n_examples)
    for one, many in zip(single, cluster_metrics(batch, labels, counts), strict=True):
        assert one[0].numpy().tobytes() == many[1].numpy().tobytes()
    for one, many in zip(nodes_of(alone, tree, n_examples), nodes_of(batch, trees, counts), strict=True):
        assert one[0].numpy().tobytes() == many[1, : width - 1].numpy().tobytes()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.1, 2.0])
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 24), n_levels=st.sampled_from([2, 8, 2**20]))
def test_a_tree_and_its_cut_in_one_pass_as_one_by_one(device, random_distances, seed, width, n_levels, threshold):
    distances = random_distances(seed, 4, width, n_levels)
    n_examples = torch.tensor([width, width // 2, min(width, 2), min(width, 1)])
    for trees in (
        agglomerative.linkage(distances, n_examples),
        agglomerative.linkage(distances, n_examples, "single"),
        scc.linkage(distances, n_examples, torch.arange(1, 51, dtype=torch.float64) / 25),
    ):
        labels = torch.full((4, width), -1, dtype=torch.int32)
        found = cut(trees, n_examples, threshold)
        labels[:, : found.shape[1]] = found
        got = tree_metrics(distances.to(device), trees.to(device), labels.to(device), n_examples.to(device))
        for one, alone in zip(got.clusters, cluster_metrics(distances, labels, n_examples), strict=True):
            assert_allclose(one.cpu(), alone, rtol=1e-13)
        assert torch.equal(got.nodes.central.cpu(), node_metrics_reference(distances, trees, n_examples).central)


class TestRefuses:
    @pytest.mark.parametrize("labels", [[0, 1, 0], [0, 1, 1], [2, 0, 2]])
    def test_labels_that_are_no_cut_of_the_tree(self, labels):
        trees = torch.tensor([[[0, 1, 0.25, 2], [2, 3, 0.75, 3]]], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"labels\[0\] is no cut of linkage\[0\]"):
            tree_metrics(THREE, trees, int32(labels), torch.tensor([3]))

    @CLUSTER
    @pytest.mark.parametrize("label", [-1, 3])
    def test_labels_outside_the_slots(self, function, label):
        with pytest.raises(ValueError, match=rf"labels\[0, 1\] is {label}; expected 0..2"):
            function(THREE, int32([0, label, 0]), torch.tensor([3]))

    @CLUSTER
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 2.5])
    def test_distances_outside_their_range(self, function, value):
        d = THREE.clone()
        d[0, 2, 1] = value
        with pytest.raises(ValueError, match=rf"distances\[0, 2, 1\] is {value}; expected 0..2"):
            function(d, int32([0, 0, 1]), torch.tensor([3]))

    @NODE
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 2.5])
    def test_distances_of_nodes_outside_their_range(self, function, value):
        d = THREE.clone()
        d[0, 2, 1] = d[0, 1, 2] = value
        trees = torch.tensor([[[0, 1, 0.25, 2], [2, 3, 0.75, 3]]], dtype=torch.float64)
        with pytest.raises(ValueError, match=rf"distances\[0, 1, 2\] is {value}; expected 0..2"):
            function(d, trees, torch.tensor([3]))

    @NODE
    def test_what_is_not_a_tree(self, function):
        trees = torch.tensor([[[0, 1, 0.25, 2], [0, 3, 0.75, 3]]], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"linkage\[0\] is not a tree"):
            function(THREE, trees, torch.tensor([3]))

    @CLUSTER
    def test_wrong_shapes_and_dtypes(self, function):
        with pytest.raises(ValueError, match=r"labels has shape \(1, 2\); expected \(B, N\), B=1, N=3"):
            function(THREE, int32([0, 0]), torch.tensor([3]))
        with pytest.raises(TypeError, match=r"labels must be torch.int32, not torch.int64"):
            function(THREE, torch.tensor([[0, 0, 0]]), torch.tensor([3]))
