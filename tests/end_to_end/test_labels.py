"""Names of clusters from a real server: by the texts that it gives, whatever else is asked."""

import asyncio

import numpy as np
import pytest

from polysem.client import AsyncClient
from polysem.proto.errors import UnknownIndex, UnknownNeuron

HOW = [{"distance_threshold": 0.2}, {"algorithm": "scc", "embedding": "pre_mlp", "frame": "centred"}]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_every_cluster_has_a_name_largest_first(polysem_client, how):
    found = polysem_client.labels("0.0-19", **how)
    clusters = [(n.id, c.label, c.letter, c.size) for n in polysem_client.cluster("0.0-19", **how) for c in n.clusters]
    assert [(one.neuron, one.cluster, one.letter, one.size) for one in found] == clusters
    assert all(one.text and one.method == "rule" for one in found)
    assert found.provenance.choice.embedding == how.get("embedding", "neuron")


def key_names(examples):
    """What a name calls each example's key token."""
    names = []
    for example in examples:
        part = example.key_part
        text = f"{part.text.strip()} {part.fraction}" if part.fraction else part.text.strip()
        names.append(f"`{text}`" if text else "a line break" if "\n" in part.text else "spaces")
    return names


def test_a_cluster_of_one_key_token_is_named_by_it(polysem_client):
    named = 0
    for neuron in polysem_client.cluster("*", distance_threshold=0.2):
        keys = key_names(neuron.examples) if len(neuron.labels) else []
        texts = {one.cluster: one.text for one in polysem_client.labels(neuron.id, distance_threshold=0.2)}
        for cluster in neuron.clusters:
            tokens = {keys[member] for member in cluster.members}
            if len(tokens) == 1:
                assert texts[cluster.label].startswith(tokens.pop()), (neuron.id, cluster.label)
                named += 1
        if named > 50:
            break
    assert named > 50


def test_clusters_of_eight_examples_or_more_have_scores_beside_chance(polysem_client):
    found = polysem_client.labels("0.0-30", "1.0-30", distance_threshold=0.8)
    scored = [one for one in found if one.score is not None]
    assert len(scored) > 20
    assert all(one.size >= 8 for one in scored)
    for one in scored:
        numbers = one.score, one.null_score, one.neuron_score, one.recall, one.precision
        assert all(0 <= number <= 1 for number in numbers if number is not None)


def test_names_do_not_depend_on_what_else_is_asked(polysem_client):
    together = [one for one in polysem_client.labels("0.0-9", "1.0-9") if one.neuron.neuron % 4 == 1]
    alone = [one for neuron in dict.fromkeys(one.neuron for one in together) for one in polysem_client.labels(neuron)]
    assert [one[:4] for one in together] == [one[:4] for one in alone]
    np.testing.assert_array_equal(
        np.array([one[4:9] for one in together], float), np.array([one[4:9] for one in alone], float)
    )


def test_asked_by_asyncio_they_are_the_same(polysem_client):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return await client.labels("1.5-9")

    assert list(asyncio.run(ask())) == list(polysem_client.labels("1.5-9"))


def test_a_neuron_without_examples_has_no_names(polysem_client):
    assert list(polysem_client.labels("1.3")) == []


def test_columns_are_the_rows(polysem_client):
    found = polysem_client.labels("1.5-9")
    columns = found.columns()
    assert sorted(columns["text"]) == sorted(one.text for one in found)
    assert columns["size"].sum() == sum(one.size for one in found)


def test_wrong_questions_get_a_sentence(polysem_client):
    with pytest.raises(UnknownNeuron, match=r"there is no neuron 7\.1"):
        list(polysem_client.labels("7.1"))
    with pytest.raises(UnknownIndex, match="there is no index 'none'"):
        list(polysem_client.labels("1.5", index="none"))
