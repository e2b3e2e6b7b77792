"""Search over a real server: its file is made on first use; what is found is what the client itself reads there."""

import asyncio
from collections import Counter

import pytest

import polysem.server
from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.server.searching.words import holds, line, parse


@pytest.fixture(scope="module")
def clusters(polysem_client):
    """Every cluster of two examples or more, with its texts."""
    texts = {}
    for example in polysem_client.examples("*"):
        texts[example.neuron, example.example] = example
    return {
        (neuron.id, cluster.label): [texts[neuron.id, member] for member in cluster.members.tolist()]
        for neuron in polysem_client.cluster("*")
        for cluster in neuron.clusters
        if cluster.size > 1
    }


def every(client, query, **how):
    """All pages."""
    found, cursor = [], ""
    while True:
        answer = client.search(query, limit=100, cursor=cursor, **how)
        found += answer.clusters
        cursor = answer.cursor
        if not cursor:
            return found


@pytest.mark.parametrize("query", ["model", '"the model"', "tea sells"])
def test_texts_are_found_as_one_reads_them(polysem_client, clusters, query):
    terms = parse(query).terms
    lines = {key: [line("".join(example.tokens)) for example in examples] for key, examples in clusters.items()}
    alone = {key for key, of in lines.items() if any(holds(one, terms) for one in of)}
    found = {(one.neuron, one.label): one for one in every(polysem_client, query, found_by="text")}
    if len(terms) == 1:
        assert set(found) == alone
    assert alone <= set(found)
    for key, one in found.items():
        assert one.n_texts == len(lines[key])
        assert one.n_with == sum(holds(text, terms) for text in lines[key])


def test_a_character_of_cjk_is_a_word(polysem_client, clusters):
    found = {(one.neuron, one.label) for one in every(polysem_client, "本", found_by="text")}
    having = {key for key, of in clusters.items() if any("本" in "".join(example.tokens) for example in of)}
    assert found <= having
    assert len(found) > 0.8 * len(having)  # at the edge of a text there may be half a character


def test_key_tokens_are_found_by_their_share(polysem_client, clusters):
    found = every(polysem_client, "e", found_by="key")
    shares = {}
    for key, examples in clusters.items():
        tokens = Counter(example.key_part.text.strip().lower() for example in examples)
        if tokens["e"] / len(examples) >= 0.05:
            shares[key] = tokens["e"] / len(examples)
    assert {(one.neuron, one.label): one.share for one in found} == pytest.approx(shares, abs=1e-4)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)


def test_counts_of_layers_are_those_of_what_is_found(polysem_client):
    found = [one.neuron.layer for one in every(polysem_client, "e", found_by="key")]
    answer = polysem_client.search("e", found_by="key", layer=1)
    assert answer.layers == Counter(found)
    assert {one.neuron.layer for one in answer.clusters} == {1}
    assert answer.counts["key"] == found.count(1)
    assert polysem_client.search("e", limit=1, cursor=polysem_client.search("e", limit=1).cursor).layers == {}


def test_names_are_those_of_labels_and_letters_those_of_clusters(polysem_client):
    found = polysem_client.search("e").clusters
    labels = {(one.neuron, one.cluster): one for one in polysem_client.labels(*{one.neuron for one in found})}
    for one in found:
        label = labels[one.neuron, one.label]
        assert (one.name, one.size, one.method) == (label.text, label.size, label.method)


def test_a_kept_name_is_found_first_and_gone_when_it_is_forgotten(polysem_client):
    polysem_client.name("0.5", "A", "Zürich's trams")
    try:
        answer = polysem_client.search("zurich")
        assert (answer.clusters[0].name, answer.clusters[0].method) == ("Zürich's trams", "person")
        assert [one.neuron for one in answer.clusters].count(answer.clusters[0].neuron) >= 1
        assert polysem_client.search("trams", limit=1, found_by="name").clusters[0].neuron == (0, 5)
        assert polysem_client.search("trams", found_by="text").clusters == []
        assert polysem_client.search("trams", layer=1).clusters == []
    finally:
        polysem_client.name("0.5", "A", "")
    assert polysem_client.search("trams").clusters == []


def test_an_example_text_finds_what_fires_in_it(polysem_client):
    found = polysem_client.firing("the model reads tea")
    assert found
    tokens = polysem_client.explain("the model reads tea", found[0].neuron)
    firing = tokens[found[0].place].firings[0]
    assert (firing.cluster, firing.share) == (found[0].cluster, found[0].share)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)


def test_what_fires_inside_a_character_names_it(polysem_client):
    found = polysem_client.firing("日")  # a token a byte
    assert {one.character for one in found} == {"日"}
    assert {(one.part, one.token) for one in found} <= {("1/3", ""), ("2/3", ""), ("3/3", "日")}
    assert {one.part for one in polysem_client.firing("the model")} == {""}


def test_a_layer_that_is_not_there_is_told(polysem_client):
    with pytest.raises(UnknownNeuron, match=r"^there is no layer 9: the model has layers 0 to 1\b"):
        polysem_client.search("model", layer=9)


def test_asked_by_asyncio_it_is_the_same(polysem_client):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return await client.search("model"), await client.firing("the model")

    assert asyncio.run(ask()) == (polysem_client.search("model"), polysem_client.firing("the model"))


def test_wrong_searches_get_a_sentence(polysem_client):
    for query, words in (("", "the query is empty"), ("x" * 300, "has 300 characters")):
        with pytest.raises(InvalidArgument, match=words):
            polysem_client.search(query)
    with pytest.raises(InvalidArgument, match="is not the cursor"):
        polysem_client.search("model", cursor="elsewhere")
    with pytest.raises(InvalidArgument, match="page_size"):
        polysem_client.search("model", limit=0)
    with pytest.raises(UnknownIndex):
        polysem_client.search("model", index="none")


def test_a_file_that_does_not_fit_is_made_anew(index_folder, tmp_path):
    import shutil

    folder = tmp_path / "small"
    shutil.copytree(index_folder, folder)
    path = folder / "search-positive.sqlite"
    path.write_bytes(b"damaged" * 1000)
    with polysem.server.local(folder, device="cpu") as client:
        found = client.search("model").clusters
        assert found
    made = path.read_bytes()
    with polysem.server.local(folder, device="cpu") as client:
        assert client.search("model", wait=False).clusters == found  # nothing is made twice
    assert path.read_bytes() == made
    assert [one.name for one in folder.iterdir() if one.name.startswith(".search")] == []
