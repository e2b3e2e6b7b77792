import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import agglomerative, metrics, scc
from polysem.kernels.distances import weighted_cosine_distances
from polysem.kernels.gpu import metrics as gpu
from polysem.kernels.tree import cut

THREE = torch.tensor([[[0.0, 0.25, 0.5], [0.25, 0.0, 1.0], [0.5, 1.0, 0.0]]])
TREE = torch.tensor([[[0, 1, 0.25, 2], [2, 3, 0.75, 3]]], dtype=torch.float64)
LINEAR = torch.arange(1, 51, dtype=torch.float64) / 50
NAN = float("nan")


def int32(*rows):
    return torch.tensor(rows, dtype=torch.int32)


@pytest.fixture
def there(device):
    """A GPU half, its arguments taken to its device, its result as it comes."""

    def on_device(function, *arguments):
        return function(*(argument.to(device) for argument in arguments))

    return on_device


def assert_equal_clusters(got, want):
    """To the byte, but for the silhouette, which the halves add in different orders."""
    for name, ours, theirs in zip(got._fields, got, want, strict=True):
        assert ours.dtype == theirs.dtype
        if name == "silhouette":
            assert_allclose(ours.cpu(), theirs, rtol=0, atol=1e-12)
        else:
            assert ours.cpu().numpy().tobytes() == theirs.numpy().tobytes(), name


def assert_equal_nodes(got, want):
    for ours, theirs in zip(got, want, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.cpu().numpy().tobytes() == theirs.numpy().tobytes()


def test_a_pair_and_a_singleton(there):
    got = there(gpu.cluster_metrics, THREE, int32([0, 0, 1]), torch.tensor([3]))
    assert [field.item() for field in got[:6]] == [3, 2, 1.0, 1.75 / 3, 0.25, 0.75]
    # 0: (0.5 - 0.25) / 0.5; 1: (1.0 - 0.25) / 1.0; the singleton scores 0
    assert got.silhouette.item() == pytest.approx((0.5 + 0.75 + 0.0) / 3)
    assert got.largest_share.item() == 2 / 3


def test_duplicates_score_zero(there):
    got = there(gpu.cluster_metrics, torch.zeros(1, 4, 4), int32([0, 0, 1, 1]), torch.tensor([4]))
    assert got.silhouette.item() == 0


def test_nodes_of_three_examples(there):
    got = there(gpu.tree_metrics, THREE, TREE, int32([0, 0, 1]), torch.tensor([3]))
    # of two, the lower index; of three the sums are 0.75, 1.25 and 1.5
    assert got.nodes.central.tolist() == [[0, 0]]
    assert got.nodes.mean_distance.tolist() == [[0.25, 1.75 / 3]]
    assert got.clusters.intra.item() == 0.25


def test_none_one_and_two_examples(there):
    trees = torch.full((3, 2, 4), NAN, dtype=torch.float64)
    trees[2, 0] = torch.tensor([0.0, 1.0, 0.25, 2.0])
    arguments = THREE.repeat(3, 1, 1), trees, int32([-1, -1, 9], [0, 9, 9], [0, 0, -1]), torch.tensor([0, 1, 2])
    got, want = there(gpu.tree_metrics, *arguments), metrics.tree_metrics(*arguments)
    assert got.nodes.central.tolist() == [[-1, -1], [-1, -1], [0, -1]]
    assert_equal_nodes(got.nodes, want.nodes)
    assert_equal_clusters(got.clusters, want.clusters)


@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 3), (2, 0), (2, 1)])
def test_empty_shapes(there, n_neurons, width):
    n_examples = torch.zeros(n_neurons, dtype=torch.int32)
    d, labels = torch.zeros(n_neurons, width, width), torch.empty(n_neurons, width, dtype=torch.int32)
    trees = torch.full((n_neurons, max(width - 1, 0), 4), NAN, dtype=torch.float64)
    got, want = (
        there(gpu.tree_metrics, d, trees, labels, n_examples),
        metrics.tree_metrics(d, trees, labels, n_examples),
    )
    assert_equal_nodes(got.nodes, want.nodes)
    assert_equal_clusters(got.clusters, want.clusters)


@pytest.mark.parametrize(
    ("width", "n_clusters", "n_levels"),
    [(2, 2, 2), (3, 2, 2), (17, 4, 1), (17, 4, 2), (17, 4, 2**20), (33, 33, 2), (130, 5, 2**20), (130, 1, 2)],
)
def test_any_labels_are_measured_as_on_the_cpu(
    there, random_distances, ragged_counts, spoil_padding, width, n_clusters, n_levels
):
    n_examples = ragged_counts(5, width)
    distances = spoil_padding(random_distances(width, 5, width, n_levels), n_examples, square=True)
    labels = torch.from_numpy(np.random.default_rng(0).integers(width - n_clusters, width, (5, width))).int()
    labels = spoil_padding(labels, n_examples, -7)
    got = there(gpu.cluster_metrics, distances, labels, n_examples)
    assert_equal_clusters(got, metrics.cluster_metrics(distances, labels, n_examples))
    for ours, reference in zip(got, metrics.cluster_metrics_reference(distances, labels, n_examples), strict=True):
        assert_allclose(ours.cpu(), reference, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("algorithm", "width", "n_levels"),  # bushy, chains, many equal heights
    [
        *((algorithm, width, 2) for algorithm in ("average", "single", "scc") for width in (2, 17)),
        ("average", 17, 2**20),
        ("single", 65, 2),
        ("scc", 65, 2**20),
    ],
)
def test_trees_are_measured_as_on_the_cpu(
    there, random_distances, ragged_counts, spoil_padding, width, n_levels, algorithm
):
    n_examples = ragged_counts(5, width)
    distances = spoil_padding(random_distances(width, 5, width, n_levels), n_examples, square=True)
    if algorithm == "scc":
        trees = scc.linkage(distances, n_examples, LINEAR)
    else:
        trees = agglomerative.linkage(distances, n_examples, algorithm)
    for threshold in (0.0, 0.7, 2.0):
        labels = cut(trees, n_examples, threshold)
        got = there(gpu.tree_metrics, distances, trees, labels, n_examples)
        want = metrics.tree_metrics(distances, trees, labels, n_examples)
        assert_equal_nodes(got.nodes, want.nodes)
        assert_equal_clusters(got.clusters, want.clusters)
    assert_equal_nodes(got.nodes, metrics.node_metrics_reference(distances, trees, n_examples))


def test_embeddings_are_measured_as_by_the_reference(there, clustered_embeddings):
    n_examples = torch.tensor([40, 23])
    d = weighted_cosine_distances(clustered_embeddings(0, 2, 40, 48), torch.ones(2, 48), n_examples)
    trees = agglomerative.linkage(d, n_examples)
    labels = cut(trees, n_examples, 0.6)
    got = there(gpu.tree_metrics, d, trees, labels, n_examples)
    assert_equal_nodes(got.nodes, metrics.node_metrics_reference(d, trees, n_examples))
    for ours, reference in zip(got.clusters, metrics.cluster_metrics_reference(d, labels, n_examples), strict=True):
        assert_allclose(ours.cpu(), reference, rtol=1e-12)


def test_batch_and_padding_change_no_bit(there, random_distances):
    alone, n_examples = random_distances(0, 1, 20), torch.tensor([20])
    batch, counts = random_distances(1, 3, 70), torch.tensor([3, 20, 0])
    batch[1] = torch.nan
    batch[1, :20, :20] = alone[0]
    results = []
    for d, n in ((alone, n_examples), (batch, counts)):
        trees = agglomerative.linkage(d, n)
        results.append(there(gpu.tree_metrics, d, trees, cut(trees, n, 0.5), n))
    (clusters, nodes), (many_clusters, many_nodes) = results
    for one, many in zip(clusters, many_clusters, strict=True):
        assert one[0].cpu().numpy().tobytes() == many[1].cpu().numpy().tobytes()
    for one, many in zip(nodes, many_nodes, strict=True):
        assert one[0].cpu().numpy().tobytes() == many[1, :19].cpu().numpy().tobytes()


def refused(function, *arguments):
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*arguments)
    return type(caught.value), str(caught.value)


def changed(tensor, place, value):
    result = tensor.clone()
    result[place] = value
    return result


@pytest.mark.parametrize(
    ("distances", "trees", "labels", "n_examples"),
    [
        (changed(THREE, (0, 2, 1), NAN), TREE, int32([0, 0, 1]), torch.tensor([3])),
        (changed(THREE, (0, 1, 2), -0.5), TREE, int32([0, 0, 1]), torch.tensor([3])),
        (changed(THREE, (0, 0, 1), 2.5), TREE, int32([0, 0, 1]), torch.tensor([3])),
        (THREE, TREE, int32([0, -1, 0]), torch.tensor([3])),
        (THREE, TREE, int32([0, 3, 0]), torch.tensor([3])),
        (THREE, TREE, int32([0, 1, 1]), torch.tensor([3])),  # no cut
        (THREE, TREE, int32([0, 1, 0]), torch.tensor([3])),
        (THREE, changed(TREE, (0, 1, 0), 0), int32([0, 0, 1]), torch.tensor([3])),  # no tree
        (THREE, TREE, int32([0, 0]), torch.tensor([3])),
        (THREE, TREE[:, :1], int32([0, 0, 1]), torch.tensor([3])),
        (THREE, TREE.float(), int32([0, 0, 1]), torch.tensor([3])),
        (THREE, TREE, torch.tensor([[0, 0, 1]]), torch.tensor([3])),
        (THREE.double(), TREE, int32([0, 0, 1]), torch.tensor([3])),
        (THREE, TREE, int32([0, 0, 1]), torch.tensor([4])),
    ],
)
def test_refuses_what_the_cpu_half_refuses_in_its_words(there, distances, trees, labels, n_examples):
    arguments = distances, trees, labels, n_examples
    assert refused(there, gpu.tree_metrics, *arguments) == refused(metrics.tree_metrics, *arguments)


@pytest.mark.parametrize("label", [-1, 3])
def test_refuses_labels_outside_the_slots(there, label):
    arguments = THREE.repeat(2, 1, 1), int32([0, 0, 9], [label, 0, 0]), torch.tensor([2, 3])
    assert refused(there, gpu.cluster_metrics, *arguments) == refused(metrics.cluster_metrics, *arguments)


@pytest.mark.gpu
@pytest.mark.parametrize(("n_neurons", "width"), [(200, 300), (16, 1000), (4, 2048)])
def test_equals_the_cpu_half_at_real_sizes(there, clustered_embeddings, ragged_counts, n_neurons, width):
    n_examples = ragged_counts(n_neurons, width)
    d = weighted_cosine_distances(clustered_embeddings(0, n_neurons, width, 64), torch.ones(n_neurons, 64), n_examples)
    rounds, average = scc.linkage(d, n_examples, LINEAR), agglomerative.linkage(d, n_examples)
    cuts = [cut(trees, n_examples, 0.5) for trees in (rounds, average)]
    for trees, labels in zip((rounds, average), cuts, strict=True):
        got = there(gpu.tree_metrics, d, trees, labels, n_examples)
        want = metrics.tree_metrics(d, trees, labels, n_examples)
        assert_equal_nodes(got.nodes, want.nodes)
        assert_equal_clusters(got.clusters, want.clusters)
