"""What chance gives at a cut: against rotations that NumPy makes and SciPy clusters."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from polysem.kernels import agglomerative, products, rotations, tree
from polysem.kernels.metrics import silhouette_reference
from polysem.server.questions import nulls

CUT = 0.6


def labels_of(d, n):
    return tree.cut(agglomerative.linkage(d, n, "average"), n, CUT)


def gram_of(sets):
    width = max(map(len, sets))
    e = torch.zeros((len(sets), width, sets[0].shape[1]))
    for b, rows in enumerate(sets):
        e[b, : len(rows)] = torch.from_numpy(rows)
    used = torch.arange(e.shape[0] * width).view(-1, width)
    counts = torch.tensor([len(rows) for rows in sets], dtype=torch.int32)
    return products.gathered_products(e.flatten(0, 1), used, torch.ones(len(sets), e.shape[2]), counts), counts


def expected(rows, n_null, seed):
    """Means over rotations R·E, made and clustered one by one."""
    n = len(rows)
    q, found = rotations.rotation(n, seed), []
    for order in rotations.orders(n, 0, n_null, seed):
        turned = (q.T[:, order] @ q) @ rows.astype(np.float64)
        np.testing.assert_allclose(turned.mean(0), rows.mean(0), atol=1e-5)  # the mean stays
        unit = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        d = np.clip(1 - unit @ unit.T, 0, 2)
        np.fill_diagonal(d, 0)
        labels = fcluster(linkage(squareform(d, checks=False), "average"), CUT, "distance") - 1
        pairs = np.triu_indices(n, 1)
        same = (labels[:, None] == labels)[pairs]
        intra, inter = (d[pairs][which].mean() if which.any() else np.nan for which in (same, ~same))
        found.append((labels.max() + 1, intra, inter, silhouette_reference(d, labels)))
    table = np.array(found)
    defined = ~np.isnan(table)
    return np.where(defined.any(0), np.where(defined, table, 0).sum(0) / np.maximum(defined.sum(0), 1), np.nan)


def sets(*counts):
    rng = np.random.default_rng(len(counts))
    return [(rng.normal(size=(n, 12)) + 0.4).astype(np.float32) for n in counts]


@pytest.mark.parametrize("n_null", [1, 7])
def test_means_are_those_of_rotations_made_one_by_one(n_null):
    rows = sets(17, 5, 3)
    found = nulls.null_metrics(*gram_of(rows), labels_of, n_null, 4).numpy()
    for got, mine in zip(found, rows, strict=True):
        np.testing.assert_allclose(got, expected(mine, n_null, 4), atol=1e-4)


def test_beyond_twenty_no_more_rotations_are_made():
    many, twenty = (nulls.null_metrics(*gram_of(sets(11)), labels_of, n, 0) for n in (99, 20))
    assert torch.equal(many, twenty)


def test_company_changes_no_bit(monkeypatch):
    rows = sets(30, 4, 19, 8)
    together = nulls.null_metrics(*gram_of(rows), labels_of, 9, 1)
    monkeypatch.setattr(nulls, "ROOM", 1)  # a neuron at a time
    assert torch.equal(together, nulls.null_metrics(*gram_of(rows), labels_of, 9, 1))
    for b, mine in enumerate(rows):
        assert torch.equal(together[b], nulls.null_metrics(*gram_of([mine]), labels_of, 9, 1)[0])


def test_below_three_examples_there_are_none():
    found = nulls.null_metrics(*gram_of(sets(2, 1, 6)), labels_of, 3, 0)
    assert found.isnan().all(1).tolist() == [True, True, False]


def test_where_every_example_is_alone_intra_is_undefined():
    alone = torch.arange(6, dtype=torch.int32)
    found = nulls.null_metrics(*gram_of(sets(6)), lambda d, n: alone.expand(len(d), 6).contiguous(), 3, 0)
    assert found[0, 0] == 6
    assert found[0, [1, 3]].isnan().all()
    assert found[0, 2] > 0
