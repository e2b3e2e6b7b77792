"""Maps over a real server, against groups made of the embeddings and clusters that the client reads."""

import asyncio
import shutil

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import polysem.server
from polysem.client import AsyncClient
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.server.mapping.groups import N_NEIGHBOURS, grouped


@pytest.fixture(scope="module")
def layer(polysem_client):
    return polysem_client.map(1)[0]


@pytest.fixture(scope="module")
def clusters(polysem_client):
    """Clusters of two examples or more of layer 1, by neuron and label, and their medoids' unit embeddings."""
    frame = {"embedding": "pre_mlp", "frame": "centred"}
    found, units = {}, []
    for neuron, embedded in zip(polysem_client.cluster("1.*"), polysem_client.embed("1.*", **frame), strict=True):
        for cluster in sorted(neuron.clusters, key=lambda one: one.label):
            if cluster.size > 1:
                found[neuron.id, cluster.label] = cluster
                units.append(embedded.embeddings[cluster.central].astype(float))
    units = np.array(units)
    return found, units / np.linalg.norm(units, axis=1, keepdims=True)


def test_clusters_are_those_of_the_default_clustering(layer, clusters):
    found, _ = clusters
    assert layer.n_clusters == len(found)
    assert layer.n_grouped == sum(len(group.clusters) for group in layer.groups)
    assert layer.n_groups == len(layer.groups) > 1
    every = [one for group in layer.groups for one in group.clusters]
    assert len({(one.neuron, one.cluster) for one in every}) == len(every)
    for one in every:
        want = found[one.neuron, one.cluster]
        assert (one.letter, one.size, one.central) == (want.letter, want.size, want.central)


def test_groups_are_those_of_scikit_learns_neighbours(layer, clusters):
    found, units = clusters
    distances, columns = NearestNeighbors(n_neighbors=N_NEIGHBOURS + 1, metric="cosine").fit(units).kneighbors(units)
    own = columns == np.arange(len(units))[:, None]
    kept = np.argsort(own, axis=1, kind="stable")[:, :N_NEIGHBOURS]  # copies may stand before oneself
    graph = (torch.from_numpy(np.take_along_axis(of, kept, 1)) for of in (distances.astype(np.float32), columns))
    distances, columns = graph
    want = grouped(torch.from_numpy(units).float(), torch.round(distances * 2**24) / 2**24, columns)
    keys, ends = list(found), np.cumsum(want.sizes)
    members = [{keys[i] for i in group} for group in np.split(want.order, ends[:-1])]
    got = [{(one.neuron, one.cluster) for one in group.clusters} for group in layer.groups]
    shared = sum(len(group) for group in got if group in members)
    assert shared > 0.9 * layer.n_grouped  # ties at the last neighbour fall either way
    assert layer.recall == 1.0


def test_similarities_are_cosines_of_what_the_client_embeds(layer, clusters):
    found, units = clusters
    place = {key: i for i, key in enumerate(found)}
    for group in layer.groups[:10]:
        of = units[[place[one.neuron, one.cluster] for one in group.clusters]]
        cosines = of @ of.T
        want = (cosines.sum(axis=1) - 1) / (len(of) - 1)
        np.testing.assert_allclose([one.similarity for one in group.clusters], want, atol=2e-6)


def test_groups_are_numbered_by_size_and_named(layer):
    sizes = [len(group.clusters) for group in layer.groups]
    assert sizes == sorted(sizes, reverse=True)
    assert [group.number for group in layer.groups] == list(range(layer.n_groups))
    assert all(group.text for group in layer.groups)
    assert all(group.n_neurons <= len(group.clusters) for group in layer.groups)
    scored = [group for group in layer.groups if group.score is not None]
    assert all(len(group.clusters) >= 8 and 0 <= group.score <= 1 and 0 <= group.null_score <= 1 for group in scored)


def test_groups_that_are_asked_for_are_those_of_the_whole(polysem_client, layer):
    (some,) = polysem_client.map(1, groups=[1, 0, 10_000])
    assert some.groups == (layer.groups[1], layer.groups[0])
    assert some._replace(groups=()) == layer._replace(groups=())
    (one,) = polysem_client.map(1, groups=0)
    assert one.groups == layer.groups[:1]


def test_without_layers_all_come_one_after_the_other(polysem_client, layer):
    found = polysem_client.map()
    assert [one.layer for one in found] == [0, 1]
    assert found[1] == layer
    table = found.to_pandas()
    assert len(table) == sum(one.n_groups for one in found)
    assert len(found.to_pandas(per="cluster")) == table.n_clusters.sum() == sum(one.n_grouped for one in found)


def test_asked_by_asyncio_it_is_the_same(polysem_client, layer):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return [one async for one in client.map(1)]

    assert asyncio.run(ask()) == [layer]


def test_wrong_questions_get_a_sentence(polysem_client):
    with pytest.raises(UnknownNeuron, match="layer 9"):
        polysem_client.map(9)[0]
    with pytest.raises(InvalidArgument, match="is not a layer"):
        polysem_client.map("all")
    with pytest.raises(InvalidArgument, match="is not a group"):
        polysem_client.map(1, groups=-1)
    with pytest.raises(FailedPrecondition, match="side"):
        polysem_client.map(1, side="negative")[0]
    with pytest.raises(UnknownIndex):
        polysem_client.map(1, index="none")[0]


def test_a_map_lies_beside_its_index_and_one_that_does_not_fit_is_made_anew(index_folder, tmp_path, layer):
    made = index_folder / "map-positive-1.npz"
    folder = tmp_path / "small"
    shutil.copytree(index_folder, folder)
    (folder / "map-positive-0.npz").write_bytes(b"damaged" * 1000)
    (folder / "map-positive-1.npz").write_bytes(made.read_bytes())
    with polysem.server.local(folder, device="cpu") as client:
        assert client.map(1)[0] == layer
        assert client.map(0)[0].n_groups
    assert (folder / "map-positive-1.npz").read_bytes() == made.read_bytes()  # nothing is made twice
    assert (folder / "map-positive-0.npz").read_bytes() == (index_folder / "map-positive-0.npz").read_bytes()
    assert [one.name for one in folder.iterdir() if one.name.startswith(".map")] == []
