"""Groups of clusters: by hand, on the complete graph against SCC itself, and whatever order blocks come in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from polysem.kernels.large import trees
from polysem.kernels.large.neighbours import nearest_of
from polysem.kernels.tree import cut
from polysem.server.mapping.groups import grouped, recall


def at(*degrees):
    """Unit vectors in a plane."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def around(seed, n, d_model=16, n_centres=12):
    """Unit vectors around some centres."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_centres, d_model, generator=rng)
    x = centres[torch.randint(n_centres, (n,), generator=rng)] + 0.6 * torch.randn(n, d_model, generator=rng)
    return torch.nn.functional.normalize(x, dim=1)


def graph(unit, k):
    return nearest_of(unit, torch.arange(len(unit)), min(k, len(unit) - 1))


def test_groups_by_hand():
    found = grouped(unit := at(0, 90, 2, 180, 92, 4), *graph(unit, 5), 0.02)
    assert found.sizes.tolist() == [3, 2]  # 180 degrees is near none
    assert found.order.tolist() == [2, 0, 5, 1, 4]  # 2 degrees is nearest to the others; of equals the lower
    cosines = [np.cos(np.deg2rad(degrees)) for degrees in (2, 3, 3, 2, 2)]
    np.testing.assert_allclose(
        found.similarities, [cosines[0], *[(cosines[0] + np.cos(np.deg2rad(4))) / 2] * 2, *cosines[3:]], atol=1e-6
    )


def test_groups_as_large_come_by_their_lowest_cluster():
    found = grouped(unit := at(90, 0, 91, 1), *graph(unit, 3), 0.02)
    assert found.order.tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(("degrees", "n_groups"), [(72, 1), (75, 0)])
def test_the_last_round_is_at_a_distance_of_seven_tenths(degrees, n_groups):
    found = grouped(unit := at(0, degrees), *graph(unit, 1))  # 1 − cos 72° = 0.69, 1 − cos 75° = 0.74
    assert len(found.sizes) == n_groups


@pytest.mark.parametrize("degrees", [(7,), (0, 180), (0, 90, 180, 270)])
def test_clusters_that_are_near_none_are_in_no_group(degrees):
    found = grouped(unit := at(*degrees), *graph(unit, 3), 0.5)
    assert (len(found.order), len(found.sizes), len(found.similarities)) == (0, 0, 0)


def test_a_zero_embedding_is_in_no_group_and_copies_are_in_one():
    unit = torch.cat([torch.zeros(2, 2), at(10, 10, 10)])
    assert grouped(unit, *graph(unit, 4), 0.5).order.tolist() == [2, 3, 4]


@pytest.mark.parametrize(("n", "d_model"), [(2, 3), (17, 5), (61, 16)])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_on_the_complete_graph_they_are_those_of_scc(n, d_model, threshold):
    unit = around(n, n, d_model)
    rounds = torch.arange(1, 51, dtype=torch.float64) / 50
    labels = cut(trees.scc_linkage(unit, rounds)[None], torch.tensor([n]), threshold)[0].numpy()
    want = {tuple(np.flatnonzero(labels == label)) for label in np.unique(labels) if (labels == label).sum() > 1}
    found = grouped(unit, *graph(unit, n - 1), threshold)
    ends = np.cumsum(found.sizes)[:-1]
    assert {tuple(sorted(group)) for group in np.split(found.order, ends) if len(group)} == want


@given(st.integers(0, 99), st.integers(2, 80), st.integers(1, 25))
@settings(max_examples=30)
def test_similarities_are_means_of_cosines_and_never_rise_within_a_group(seed, n, k):
    unit = around(seed, n)
    found = grouped(unit, *graph(unit, k), 0.4)
    assert (np.diff(found.sizes) <= 0).all()
    assert len(np.unique(found.order)) == found.sizes.sum() == len(found.similarities)
    begin = 0
    for size in found.sizes.tolist():
        members = found.order[begin : begin + size]
        cosines = (unit[members].double() @ unit[members].double().T).numpy()
        want = (cosines.sum(axis=1) - np.diag(cosines)) / (size - 1)
        np.testing.assert_allclose(found.similarities[begin : begin + size], want, atol=1e-6)
        assert (np.diff(found.similarities[begin : begin + size]) <= 0).all()
        begin += size


def test_blocks_in_any_size_find_what_a_whole_search_finds():
    unit = around(3, 300, 24)
    whole = graph(unit, 25)
    for block in (1, 7, 300):
        parts = [nearest_of(unit, rows, 25) for rows in torch.split(torch.arange(300), block)]
        assert torch.equal(torch.cat([columns for _, columns in parts]), whole[1])
        assert torch.equal(torch.cat([distances for distances, _ in parts]), whole[0])


def test_neighbours_are_scikit_learns():
    unit = around(5, 200, 24)
    want = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(unit.double().numpy())
    distances, columns = want.kneighbors(unit.double().numpy())
    found = graph(unit, 10)
    assert (found[1].numpy() == columns[:, 1:]).all()
    np.testing.assert_allclose(found[0].numpy(), distances[:, 1:], atol=1e-6)


def test_recall_is_the_share_of_the_nearest_that_the_graph_has():
    unit = around(1, 100)
    _, columns = graph(unit, 10)
    assert recall(unit, columns) == 1.0
    far = (-(unit @ unit.T)).topk(5).indices
    assert recall(unit, torch.cat([columns[:, :5], far], 1)) == 0.5
    assert recall(at(5, 5, 5, 90), torch.tensor([[1], [0], [0], [0]])) == 1.0  # of equals any will do
    assert np.isnan(recall(at(5), torch.zeros(1, 0, dtype=torch.int64)))
