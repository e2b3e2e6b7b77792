"""A neuron with more examples than the linkage takes is left out of what asks about the whole index, in words."""

import numpy as np
import pytest

from polysem.proto.errors import FailedPrecondition
from polysem.server.questions import clustering


@pytest.fixture(params=["some", "all"])
def counts(request, polysem_client, monkeypatch):
    """Each neuron's number of examples; how many average linkage takes; a cut that is the test's own."""
    found = {neuron.id: neuron.n_examples for neuron in polysem_client.neurons()}
    most = max(found.values()) - 1 if request.param == "some" else 0
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", most)
    monkeypatch.setattr(clustering, "MAX_IN_LINEAR_MEMORY", most)
    cut = {"distance_threshold": 0.123 if request.param == "some" else 0.124}
    return found, most, cut


def test_its_metrics_are_empty_and_the_other_neurons_are_listed(polysem_client, counts):
    found, most, cut = counts
    listed = polysem_client.neurons(**cut)
    assert {neuron.id: neuron.n_examples for neuron in listed} == found
    for neuron in listed:
        too_large = neuron.n_examples > most
        assert (neuron.n_clusters is None) == too_large
        if too_large:
            assert neuron.intra is neuron.mean_distance is neuron.largest_share is neuron.second_share is None
            assert neuron.maximum_activation > 0
            assert not neuron.rare
    n_too_large = sum(n > most for n in found.values())
    assert n_too_large > 0
    by_clusters = list(polysem_client.neurons(sort_by="n_clusters", **cut))
    assert all(neuron.n_clusters is None for neuron in by_clusters[-n_too_large:])
    assert polysem_client.neurons(where={"n_clusters": (0, None)}, **cut).n_matching == len(found) - n_too_large
    assert np.isnan(listed.columns()["intra"]).sum() >= n_too_large


def test_it_is_similar_to_none_and_refused_where_it_is_asked_itself(polysem_client, counts):
    found, most, cut = counts
    too_large = next(id_ for id_, n in found.items() if n > most)
    with pytest.raises(FailedPrecondition, match=rf"neuron {too_large} has \d+ examples, and average linkage takes at"):
        list(polysem_client.similar(too_large, **cut))
    if other := next((id_ for id_, n in found.items() if 0 < n <= most), None):
        similar = list(polysem_client.similar(other, every_layer=True, limit=100, **cut))
        assert len(similar) >= 20
        assert all(found[one.neuron] <= most for one in similar)
