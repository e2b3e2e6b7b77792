"""Names of the overview's rows: those by rules are remembered, within bounds, and kept ones come before them."""

import pytest

from polysem.client.explorer import naming
from polysem.client.explorer.naming import RowNames
from polysem.client.explorer.questions import View


@pytest.fixture
def neurons(polysem_client):
    """Two neurons whose largest cluster has two examples or more; what was named is forgotten afterwards."""
    found = [one for one in polysem_client.cluster("0.0-20", n_null=0) if one.clusters and one.clusters[0].size > 1]
    yield found[:2]
    polysem_client.keep_names(*(name._replace(text="") for name in polysem_client.names()))


def test_names_by_rules_are_remembered_of_so_many_neurons_by_their_clustering(polysem_client, neurons, monkeypatch):
    monkeypatch.setattr(naming, "MAX_REMEMBERED", 1)
    names, (first, second) = RowNames(polysem_client), neurons
    assert names.known(View(), neurons) == {first.id: {}, second.id: {}}
    asked = names.asked(View(), [first.id, second.id])
    texts = {one.cluster: one.text for one in polysem_client.labels(second.id) if one.size > 1}
    assert asked[second.id].keys() == texts.keys()
    assert names.known(View(), neurons) == {first.id: {}, second.id: asked[second.id]}
    assert names.known(View(distance_threshold=0.4), [second]) == {second.id: {}}


def test_a_kept_name_comes_first_and_is_not_remembered_as_one_by_rules(polysem_client, neurons):
    names, neuron = RowNames(polysem_client), neurons[0]
    largest = neuron.clusters[0].label
    polysem_client.name(neuron.id, "A", "kept")
    assert names.known(View(), [neuron]) == {neuron.id: {largest: "kept"}}
    others = names.asked(View(), [neuron.id])[neuron.id]
    assert others.pop(largest) == "kept"
    polysem_client.name(neuron.id, "A", "")
    assert names.known(View(), [neuron]) == {neuron.id: others}
