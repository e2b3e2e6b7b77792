"""What a neuron shows: clusters, centres, tree, texts."""

import numpy as np
import pytest
from scipy.cluster import hierarchy

from polysem.client import Cluster, Example, NeuronId

ALGORITHMS = [{}, {"linkage": "complete"}, {"algorithm": "scc"}, {"algorithm": "components"}, {"embedding": "pre_mlp"}]


def cosine_distances(embeddings):
    """(n, n) float64; a zero embedding is at distance 1 from every other, 0 from itself."""
    e = embeddings.astype(np.float64)
    norms = np.linalg.norm(e, axis=1, keepdims=True)
    unit = np.divide(e, norms, out=np.zeros_like(e), where=norms > 0)
    d = 1 - unit @ unit.T
    np.fill_diagonal(d, 0)
    return d


@pytest.fixture(scope="module")
def with_distances(client):
    """A function: all neurons clustered so, each with the distances of its examples."""

    def ask(**options):
        embeddings = client.embed("*", embedding=options.get("embedding", "neuron"))
        return [
            (neuron, cosine_distances(e.embeddings))
            for neuron, e in zip(client.cluster("*", **options), embeddings, strict=True)
        ]

    return ask


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
def test_clusters_are_the_labels_largest_first(client, options):
    for neuron in client.cluster("*", **options):
        assert [cluster.size for cluster in neuron.clusters] == sorted(np.bincount(neuron.labels), reverse=True)
        assert sorted(cluster.label for cluster in neuron.clusters) == list(range(neuron.metrics.n_clusters))
        for cluster in neuron.clusters:
            assert isinstance(cluster, Cluster)
            np.testing.assert_array_equal(cluster.members, np.flatnonzero(neuron.labels == cluster.label))
        sizes = [(-cluster.size, cluster.label) for cluster in neuron.clusters]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
def test_the_central_example_is_the_nearest_to_the_rest_of_its_cluster(with_distances, options):
    for neuron, d in with_distances(**options):
        for cluster in neuron.clusters:
            within = d[np.ix_(cluster.members, cluster.members)]
            to_the_rest = within.sum(axis=1)
            assert cluster.central in cluster.members
            place = cluster.members.tolist().index(cluster.central)
            assert to_the_rest[place] <= to_the_rest.min() + 1e-4  # float32 distances of 30 members
            n = cluster.size
            if n == 1:
                assert cluster.mean_distance is None
            else:
                assert cluster.mean_distance == pytest.approx(within.sum() / (n * (n - 1)), abs=1e-5)


@pytest.mark.parametrize("options", ALGORITHMS, ids=str)
def test_metrics_are_those_of_the_distances(with_distances, options):
    for neuron, d in with_distances(**options):
        n = len(neuron.labels)
        pairs = np.triu(np.ones((n, n), bool), 1)
        same = neuron.labels[:, None] == neuron.labels
        for name, of in {
            "mean_distance": d[pairs],
            "intra": d[pairs & same],
            "inter": d[pairs & ~same],
        }.items():
            got = getattr(neuron.metrics, name)
            assert (got is None) == (len(of) == 0)
            assert got is None or got == pytest.approx(of.mean(), abs=1e-5)


@pytest.mark.parametrize("method", ["average", "complete", "single"])
def test_the_linkage_is_scipys(with_distances, method):
    for neuron, d in with_distances(linkage=method):
        if len(d) < 2:
            assert neuron.linkage.shape == (0, 4)
            continue
        want = hierarchy.linkage(d[np.triu_indices(len(d), 1)], method)
        np.testing.assert_allclose(neuron.linkage[:, 2], want[:, 2], atol=1e-5)
        assert neuron.linkage[-1, 3] == len(d)
        assert hierarchy.is_valid_linkage(neuron.linkage)


def test_components_are_what_single_linkage_cuts(client):
    for one, other in zip(
        client.cluster("*", algorithm="components"), client.cluster("*", linkage="single"), strict=True
    ):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.linkage, other.linkage)


def test_embeddings_are_what_the_mode_says(client, small_model):
    import torch

    mlp = small_model.mlps[1]
    gamma, beta, w = mlp.gamma.numpy(), mlp.beta.numpy(), mlp.weights[5].numpy()
    got = {
        (embedding, layer_norm): client.embed("1.5", embedding=embedding, layer_norm=layer_norm)[0].embeddings
        for embedding in ("neuron", "pre_mlp")
        for layer_norm in ("folded", "raw")
    }
    x = got["pre_mlp", "folded"]
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(got["pre_mlp", "raw"], x * gamma + beta, **close)
    np.testing.assert_allclose(got["neuron", "folded"], x * (gamma * w), **close)
    np.testing.assert_allclose(got["neuron", "raw"], (x * gamma + beta) * w, **close)
    before = got["neuron", "raw"].sum(axis=1) + mlp.biases[5].numpy()  # h·w + b
    activations = [example.activation for example in client.examples("1.5")]
    gelu = torch.nn.functional.gelu(torch.from_numpy(before), approximate="tanh").numpy()
    np.testing.assert_allclose(gelu, activations, rtol=2e-3, atol=2e-3)  # x̂ is kept in float16


def test_a_neuron_shows_what_matters(client):
    (neuron,) = client.cluster("1.5")
    m, sizes = neuron.metrics, [cluster.size for cluster in neuron.clusters]
    assert repr(neuron).startswith(f"<Neuron 1.5: {m.n_examples} examples in {m.n_clusters} clusters ({sizes[0]}")
    assert "at distance 0.5, intra 0." in repr(neuron)
    assert repr(client.cluster("1.3")[0]).endswith("intra undefined, inter undefined>")


def test_an_id_prints_as_it_is_written(client):
    (neuron,) = client.cluster("1.5")
    assert isinstance(neuron.id, NeuronId)
    assert str(neuron.id) == f"{neuron.id}" == "1.5"
    assert neuron.id == (1, 5)


def test_an_example_marks_its_key_token():
    example = Example(NeuronId(1, 5), 0, "d", 3, 4, 1.25, ["a ", "key", " z"], np.zeros(3, np.float32), 1)
    assert example.text == "a key z"
    assert repr(example) == "<Example 1.5 #0 1.25 'a [[key]] z'>"
