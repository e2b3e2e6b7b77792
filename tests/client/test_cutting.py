"""A cut on the client is the answer that the server would give at that threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from polysem.client import cutting
from polysem.client.cutting import Tree
from polysem.proto.errors import InvalidArgument

ALGORITHMS = [
    {"linkage": "average"},
    {"linkage": "complete"},
    {"linkage": "single"},
    {"linkage": "average", "embedding": "pre_mlp", "layer_norm": "raw"},
    {"algorithm": "components"},
    {"algorithm": "scc"},
    {"algorithm": "scc", "thresholds": "geometric", "until_stable": True},
    {"algorithm": "scc", "thresholds": [0.05, 0.2, 0.6]},
]
THRESHOLDS = [0.0, 0.05, 0.2, 0.3, 0.42, 0.5, 0.6, 0.8, 1.0, 1.7, 2.0]

#     node  5 = 3+4, 6 = 1+2, 7 = 0+5, 8 = all
TREE = Tree(
    merges=np.array([[3, 4], [1, 2], [0, 5], [6, 7]], np.int32),
    heights=np.array([0.1, 0.2, 0.5, 0.9]),
    centrals=np.array([3, 1, 3, 0], np.int32),
    mean_distances=np.array([0.1, 0.2, 0.4, 0.7]),
)


# ---- By hand


@pytest.mark.parametrize(
    ("threshold", "labels", "tops"),
    [
        (0.0, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (0.1, [0, 1, 2, 3, 3], [0, 1, 2, 5]),  # a merge at the threshold counts
        (0.3, [0, 1, 1, 2, 2], [0, 6, 5]),
        (0.5, [0, 1, 1, 0, 0], [7, 6]),
        (2.0, [0, 0, 0, 0, 0], [8]),
    ],
)
def test_merges_up_to_the_threshold_count(threshold, labels, tops):
    assert cutting.labels(TREE, 5, threshold).tolist() == labels
    assert cutting.labels(TREE, 5, threshold).dtype == np.int32
    assert cutting.top_nodes(TREE, 5, threshold) == tops


def test_intra_and_inter_follow_from_the_means_of_nodes():
    # clusters {0, 3, 4} with 3 pairs of mean 0.4 and {1, 2} with one of 0.2; all 10 pairs have mean 0.7
    intra, inter = cutting.intra_and_inter(TREE, 5, [7, 6])
    assert intra == pytest.approx((3 * 0.4 + 0.2) / 4)
    assert inter == pytest.approx((10 * 0.7 - 1.4) / 6)
    assert cutting.intra_and_inter(TREE, 5, [0, 1, 2, 3, 4]) == (None, pytest.approx(0.7))
    assert cutting.intra_and_inter(TREE, 5, [8]) == (pytest.approx(0.7), None)


@pytest.mark.parametrize("n", [0, 1])
def test_trees_without_merges_are_cut_too(n):
    bare = Tree(np.zeros((0, 2), np.int32), np.zeros(0), np.zeros(0, np.int32), np.zeros(0))
    assert cutting.labels(bare, n, 0.5).tolist() == [0] * n
    assert cutting.top_nodes(bare, n, 0.5) == list(range(n))
    assert cutting.intra_and_inter(bare, n, list(range(n))) == (None, None)


# ---- Against SciPy


@given(
    n=st.integers(2, 20),
    seed=st.integers(0, 2**32 - 1),
    n_levels=st.sampled_from([4, 10**6]),
    method=st.sampled_from(["average", "complete", "single"]),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.51, 1.0, 2.0]),
)
def test_a_cut_is_scipys_and_its_means_are_those_of_the_pairs(n, seed, n_levels, method, threshold):
    rng = np.random.default_rng(seed)
    d = np.triu(rng.integers(0, n_levels, (n, n)) / n_levels * 2, 1)
    d += d.T
    Z = hierarchy.linkage(squareform(d), method)
    members = [[i] for i in range(n)]
    for a, b in Z[:, :2].astype(int):
        members.append(members[a] + members[b])
    means = np.array([d[np.ix_(m, m)].sum() / (len(m) * (len(m) - 1)) for m in members[n:]])
    tree = Tree(Z[:, :2].astype(np.int32), Z[:, 2], np.zeros(n - 1, np.int32), means)

    np.testing.assert_array_equal(cutting.linkage(tree), Z)
    labels = cutting.labels(tree, n, threshold)
    theirs = hierarchy.fcluster(Z, threshold, "distance")
    same = labels[:, None] == labels
    np.testing.assert_array_equal(same, theirs[:, None] == theirs)
    assert list(dict.fromkeys(labels.tolist())) == list(range(labels.max() + 1))  # numbered by first appearance
    intra, inter = cutting.intra_and_inter(tree, n, cutting.top_nodes(tree, n, threshold))
    pairs = np.triu(np.ones((n, n), bool), 1)
    for got, of in ((intra, d[pairs & same]), (inter, d[pairs & ~same])):
        assert (got is None) == (len(of) == 0)
        if len(of):
            assert got == pytest.approx(of.mean(), abs=1e-12)


# ---- Against the server


def assert_equal(ours, theirs):
    """The cut `ours` is the server's `theirs`, in all but the silhouette; both without rotations."""
    assert ours.id == theirs.id
    assert ours.distance_threshold == theirs.distance_threshold
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.labels.dtype == theirs.labels.dtype
    assert str(ours.clusters) == str(theirs.clusters)
    for name in ("n_examples", "n_clusters", "max_distance", "mean_distance", "largest_share"):
        assert getattr(ours.metrics, name) == getattr(theirs.metrics, name), name
    for name in ("intra", "inter"):
        got, want = getattr(ours.metrics, name), getattr(theirs.metrics, name)
        assert (got is None) == (want is None), name
        assert got is None or got == pytest.approx(want, abs=1e-9), name


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
@pytest.mark.parametrize("index", ["small", "pairs", "single"])
def test_a_cut_is_what_the_server_says_at_that_threshold(client, options, index):
    once = client.cluster("1.*", index=index, **options)
    for threshold in THRESHOLDS:
        asked = client.cluster("1.*", index=index, distance_threshold=threshold, **options)
        for neuron, theirs in zip(once, asked, strict=True):
            assert_equal(neuron.cut(threshold), theirs)


def test_a_cut_exactly_at_a_merge_is_the_servers(client):
    for linkage in ("average", "complete", "single"):
        for name in ("1.5", "0.17", "1.80"):
            (neuron,) = client.cluster(name, linkage=linkage, n_null=0)
            for height in np.unique(neuron.linkage[:, 2])[::3].tolist():
                for threshold in (height, np.nextafter(height, 0), np.nextafter(height, 2)):
                    (theirs,) = client.cluster(name, linkage=linkage, distance_threshold=threshold, n_null=0)
                    assert_equal(neuron.cut(threshold), theirs)


def test_a_cut_of_a_cut_is_a_cut(client):
    (neuron,) = client.cluster("1.5", n_null=0)
    assert_equal(neuron.cut(0.1).cut(0.5), neuron)
    assert neuron.distance_threshold == 0.5  # and left as it was


def test_a_cut_has_no_silhouette_and_keeps_the_rest(client):
    (neuron,) = client.cluster("1.5")
    cut = neuron.cut(0.2)
    assert cut.metrics.silhouette is None
    assert cut.linkage is not None
    assert cut.provenance == neuron.provenance
    assert [example.text for example in cut.examples] == [example.text for example in neuron.examples]


@pytest.mark.parametrize("threshold", [-0.1, 2.1, float("nan"), float("inf"), "0.5", None, True])
def test_a_cut_outside_the_distances_is_refused(client, threshold):
    with pytest.raises(InvalidArgument) as raised:
        client.cluster("1.5")[0].cut(threshold)
    assert raised.value.field == "distance_threshold"


def test_numpys_numbers_are_thresholds_too(client):
    (neuron,) = client.cluster("1.5", n_null=0)
    assert_equal(neuron.cut(np.float32(0.5)), neuron)
