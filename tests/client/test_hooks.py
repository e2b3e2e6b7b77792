"""Neurons in TransformerLens: names, and where a cluster fires on a text. tests/oracle asks the library itself."""

import pytest

from polysem.client import hooks
from polysem.proto.errors import NotFound

TEXT = "a neuron fires at tea 日本"


def test_a_hook_is_a_name_an_index_and_a_line(polysem_client):
    found = polysem_client.cluster("1.7")[0].hook
    assert found == hooks.Hook("blocks.1.mlp.hook_post", 7)
    assert found.code == 'cache["blocks.1.mlp.hook_post"][..., 7]'


@pytest.mark.parametrize("distance_threshold", [0.3, 0.7])
def test_positions_are_those_that_explain_says(polysem_client, distance_threshold):
    how = {"distance_threshold": distance_threshold, "min_activation_fraction": 0.1}
    n_fired = 0
    for neuron in polysem_client.cluster("0.0-15", distance_threshold=distance_threshold):
        explained = list(polysem_client.explain(TEXT, neuron.id, **how))
        for cluster in neuron.clusters:
            named = cluster.label if cluster.size == 1 else cluster.letter.lower()
            mask = hooks.fires(polysem_client, TEXT, neuron.id, named, **how, prepend_bos=False)
            assert len(mask) == len(explained)
            assert hooks.fires(polysem_client, TEXT, neuron.id, named, **how).tolist() == [False, *mask.tolist()]
            want = [token.position for token in explained if token.firings[0].cluster == cluster.label]
            assert mask.nonzero()[0].tolist() == want
            n_fired += len(want)
    assert n_fired


def test_a_cluster_that_is_not_there_is_told(polysem_client):
    neuron = max(polysem_client.cluster("0.*"), key=lambda one: one.metrics.n_examples)
    with pytest.raises(NotFound, match=f"neuron {neuron.id} has no cluster ZZ: cut at 0.5 it has"):
        hooks.fires(polysem_client, TEXT, neuron.id, "zz")
    with pytest.raises(NotFound, match=f"neuron {neuron.id} has no cluster 99: cut at 0.5 it has"):
        hooks.fires(polysem_client, TEXT, neuron.id, 99)
