"""Similar clusters, against cosines of the embeddings that the server gives, in plain NumPy float64."""

import asyncio
import itertools

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose

from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, NotFound, UnknownIndex, UnknownNeuron
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.similar import SimilarQuery, encode_similar_query
from polysem.proto.wire import status

HOW = [
    {},
    {"algorithm": "scc", "distance_threshold": 0.3},
    {"embedding": "pre_mlp", "layer_norm": "raw", "linkage": "complete"},
]
ASKED = ["0.7", "1.95"]


def every_cluster(client, similarity, how):
    """[(neuron, cluster, unit embedding of its central example)] of the whole model."""
    layer_norm = how.get("layer_norm", "folded")
    embeddings = client.embed("*", embedding=similarity, layer_norm=layer_norm)
    for neuron, embedded in zip(client.cluster("*", **how), embeddings, strict=True):
        for cluster in sorted(neuron.clusters, key=lambda cluster: cluster.label):
            e = embedded.embeddings[cluster.central].astype(float)
            yield neuron.id, cluster, e / np.linalg.norm(e)


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("similarity", ["pre_mlp", "neuron"])
@pytest.mark.parametrize("every_layer", [False, True])
def test_similar_clusters_are_those_of_the_highest_cosines(polysem_client, how, similarity, every_layer):
    every = list(every_cluster(polysem_client, similarity, how))
    for asked in ASKED:
        found = polysem_client.similar(asked, similarity=similarity, every_layer=every_layer, limit=7, **how)
        by_cluster = {to: list(group) for to, group in itertools.groupby(found, key=lambda one: one.to)}
        own = {cluster.label: unit for id_, cluster, unit in every if str(id_) == asked}
        assert list(by_cluster) == list(own)
        for label, unit in own.items():
            want = sorted(
                (
                    (-float(other @ unit), id_, cluster)
                    for id_, cluster, other in every
                    if str(id_) != asked and (every_layer or str(id_.layer) == asked[0])
                ),
                key=lambda t: (round(t[0], 6), t[1], t[2].label),  # the same x̂ has the same cosine, but for rounding
            )
            ours = by_cluster[label]
            assert len(ours) == 7
            assert_allclose([one.similarity for one in ours], [-t[0] for t in want[:7]], atol=2e-6)
            sure = {(id_, c.label): (c.central, c.size, -cosine) for cosine, id_, c in want}
            for one in ours:
                central, size, cosine = sure[one.neuron, one.label]
                assert (one.central, one.size) == (central, size)
                assert_allclose(one.similarity, cosine, atol=2e-6)
            assert [one.similarity for one in ours] == sorted((one.similarity for one in ours), reverse=True)


def test_equals_stand_in_the_order_of_the_model(polysem_client):
    found = list(polysem_client.similar("0.7", limit=1000, every_layer=True))
    n_equal = 0
    for one, other in itertools.pairwise(found):
        if one.to == other.to and one.similarity == other.similarity:
            n_equal += 1
            assert (one.neuron, one.label) < (other.neuron, other.label)
    assert n_equal > 0  # neurons that share a key token


def test_all_that_there_are_come_where_more_are_asked_for(polysem_client):
    clusters = {(n.id, c.label) for n in polysem_client.cluster("0.*", distance_threshold=0.9) for c in n.clusters}
    found = polysem_client.similar("0.7", cluster=0, limit=1000, distance_threshold=0.9)
    others = {key for key in clusters if key[0] != (0, 7)}
    assert {(one.neuron, one.label) for one in found} == others
    assert len(found) == len(others) < 1000


def test_twenty_come_where_no_number_is_asked_for(polysem_client):
    assert len(polysem_client.similar("1.5", cluster=0)) == 20


def test_clusters_are_named_by_label_one_or_several(polysem_client):
    every = list(polysem_client.similar("1.5", distance_threshold=0.1))
    one = polysem_client.similar("1.5", cluster=1, distance_threshold=0.1)
    assert list(one) == [found for found in every if found.to == 1]
    some = list(polysem_client.similar("1.5", cluster=[2, 0, 2], distance_threshold=0.1))
    assert some == [found for label in (2, 0) for found in every if found.to == label]


def test_a_neuron_without_examples_is_similar_to_none(polysem_client):
    assert list(polysem_client.similar("1.3")) == []
    with pytest.raises(NotFound, match=r"neuron 1\.3 has no dataset examples, so no cluster 0"):
        list(polysem_client.similar("1.3", cluster=0))


def test_a_cluster_that_the_neuron_lacks_is_told_with_those_it_has(polysem_client):
    (neuron,) = polysem_client.cluster("1.5", distance_threshold=0.1)
    n = neuron.metrics.n_clusters
    with pytest.raises(NotFound, match=rf"neuron 1\.5 has no cluster {n}: cut at 0\.1 it has clusters 0 to {n - 1}"):
        list(polysem_client.similar("1.5", cluster=n, distance_threshold=0.1))
    with pytest.raises(NotFound, match=r"cut at 2 it has one cluster, 0"):
        list(polysem_client.similar("1.5", cluster=7, distance_threshold=2))


@pytest.mark.parametrize(
    ("neuron", "how", "error", "words"),
    [
        ("2.0", {}, UnknownNeuron, "there is no neuron 2.0"),
        ("1.*", {}, InvalidArgument, r"'1\.\*' is not one neuron: write 7.1234"),
        ("1.0-2", {}, InvalidArgument, "'1.0-2' is not one neuron"),
        ("x", {}, InvalidArgument, "'x' is not a neuron"),
        ("1.5", {"cluster": -1}, InvalidArgument, "-1 is not a cluster: they are counted from 0"),
        ("1.5", {"cluster": 0.5}, InvalidArgument, "0.5 is not a cluster"),
        ("1.5", {"similarity": "cosine"}, InvalidArgument, "unknown similarity 'cosine': choose pre_mlp or neuron"),
        ("1.5", {"limit": 0}, InvalidArgument, "n_similar is 0; it is a whole number from 1 to 1000"),
        ("1.5", {"limit": 1001}, InvalidArgument, "n_similar is 1001"),
        ("1.5", {"distance_threshold": 3}, InvalidArgument, "between 0 and 2"),
        ("1.5", {"index": "none"}, UnknownIndex, "there is no index 'none'"),
    ],
)
def test_wrong_questions_get_a_sentence(polysem_client, neuron, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.similar(neuron, **how))


def test_the_server_refuses_what_a_client_would(polysem_client):
    request = encode_similar_query(SimilarQuery(NeuronId(1, 5)))
    request.n_similar = 5000
    with pytest.raises(grpc.RpcError) as raised:
        list(polysem_client._stub.FindSimilarClusters(request))
    error = status.from_rpc_error(raised.value, polysem_client.target)
    assert isinstance(error, InvalidArgument)
    assert "n_similar is 5000" in error.message


def test_the_asynchronous_client_says_the_same(polysem_client):
    async def asked():
        async with AsyncClient(polysem_client.target) as client:
            return await client.similar("1.5", cluster=0, every_layer=True)

    assert list(asyncio.run(asked())) == list(polysem_client.similar("1.5", cluster=0, every_layer=True))
