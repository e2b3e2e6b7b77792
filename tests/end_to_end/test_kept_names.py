"""Names that people give, on a real server: bound to the set of examples, for all who see the index."""

import asyncio

import pytest

from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, NotFound, UnknownNeuron
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName

NEURON, CUT = "0.5", 0.5


@pytest.fixture
def client(polysem_client):
    """The session's client; what was named is forgotten afterwards."""
    yield polysem_client
    polysem_client.keep_names(*(name._replace(text="") for name in polysem_client.names()))


@pytest.fixture
def largest(client):
    """The largest cluster of the neuron."""
    return client.cluster(NEURON)[0].clusters[0]


def test_a_name_that_was_given_stands_in_the_place_of_the_rules(client, largest):
    client.name(NEURON, "A", "  texts of a café ")
    first = client.labels(NEURON)[0]
    assert (first.text, first.method, first.score) == ("texts of a café", "person", None)
    assert {one.method for one in client.labels(NEURON)[1:]} <= {"rule"}
    (kept,) = client.names(NEURON)
    assert (kept.members, kept.author, kept.method) == (tuple(largest.members.tolist()), "anyone", "person")
    assert kept.time is not None


def test_a_name_survives_another_number_and_detaches_from_another_set(client):
    neuron = next(n for n in client.cluster("*") if len(n.clusters) > 2)
    second = neuron.clusters[1]
    client.name(neuron.id, second.label, "of this set")
    whole = client.cluster(neuron.id, distance_threshold=2.0)[0]
    (kept,) = client.names(neuron.id)
    assert whole.with_members(kept.members) is None  # detached
    assert "of this set" not in [one.text for one in client.labels(neuron.id, distance_threshold=2.0)]
    near = client.cluster(neuron.id, distance_threshold=CUT + 1e-6)[0]
    assert near.with_members(kept.members).size == second.size
    client.name(neuron.id, "A", "everything", distance_threshold=2.0)
    for algorithm in ("hac", "components"):  # another clustering that finds the same set
        found = client.labels(neuron.id, algorithm=algorithm, distance_threshold=2.0)
        assert [one.text for one in found] == ["everything"]


def test_history_shows_what_was_replaced_and_undo_is_to_keep_it_again(client):
    for text in ("first", "second"):
        client.name(NEURON, "A", text)
    earlier = client.names(NEURON, history=True)
    assert [name.text for name in earlier][-2:] == ["first", "second"]
    assert client.keep_names(earlier[-2]) == 1
    assert client.labels(NEURON)[0].text == "first"
    client.name(NEURON, "A", "")
    assert client.labels(NEURON)[0].method == "rule"
    assert list(client.names(NEURON)) == []


def test_wrong_names_get_a_sentence(client, largest):
    with pytest.raises(NotFound, match=r"neuron 0\.5 has no cluster 999"):
        client.name(NEURON, 999, "x")
    with pytest.raises(NotFound, match="has no cluster ZZ"):
        client.name(NEURON, "ZZ", "x")
    with pytest.raises(UnknownNeuron, match=r"there is no neuron 9\.5"):
        client.keep_names(KeptName(NeuronId(9, 5), (0,), "x"))
    with pytest.raises(InvalidArgument, match="so none has the number 500") as raised:
        client.keep_names(KeptName(NeuronId(0, 5), (0,), "x"), KeptName(NeuronId(0, 5), (0, 500), "x"))
    assert raised.value.field == "names[1].members"
    with pytest.raises(InvalidArgument, match="give at most 200"):
        client.name(NEURON, "A", "x" * 201)
    assert list(client.names()) == []


def test_asked_by_asyncio_it_is_the_same(client):
    async def ask():
        async with AsyncClient(client.target) as other:
            await other.name(NEURON, "A", "by asyncio")
            return await other.names(NEURON)

    assert [name.text for name in asyncio.run(ask())] == ["by asyncio"]
    assert client.names(NEURON).columns()["text"] == ["by asyncio"]
