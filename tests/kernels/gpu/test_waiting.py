"""A batch goes through the kernels without a wait for the device; what is wrong with it is told in the end."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from polysem.kernels import faults

pytest.importorskip("triton")
from polysem.kernels.gpu import agglomerative, distances, gates, metrics, scc, silhouettes, tree

from .counting import Counted


class Batch(NamedTuple):
    """Arguments of `gathered_cosine_distances`."""

    rows: Tensor
    example_rows: Tensor
    weights: Tensor
    n_examples: Tensor


@pytest.fixture(scope="module")
def batch(clustered_embeddings, device):
    """Two neurons of 5 and 4 examples."""
    rows, weights = clustered_embeddings(0, 1, 9, 8)[0], clustered_embeddings(1, 1, 2, 8)[0]
    used, n_examples = torch.tensor([[8, 0, 3, 5, 1], [2, 7, 4, 0, 6]]), torch.tensor([5, 4], dtype=torch.int32)
    return Batch(*(of.to(device) for of in (rows, used, weights, n_examples)))


@pytest.fixture(scope="module")
def answer(batch):
    """A function: the batch's answer by an algorithm, and what was counted."""

    @cache
    def ask(algorithm):
        with Counted() as counted:
            return clustered(batch, algorithm), counted

    return ask


THRESHOLDS = torch.linspace(0.1, 1.9, 10, dtype=torch.float64)


def clustered(batch, algorithm):
    """All that an answer is made of, (tree, labels, metrics of clusters and nodes, silhouettes of cuts)."""
    d = distances.gathered_cosine_distances(*batch)
    if algorithm == "scc":
        trees = scc.linkage(d, batch.n_examples, THRESHOLDS.to(d.device), until_stable=True)
    else:
        trees = agglomerative.linkage(d, batch.n_examples, algorithm)
    labels = tree.cut(trees, batch.n_examples, 0.5)
    measured = metrics.tree_metrics(d, trees, labels, batch.n_examples)
    every = silhouettes.cut_silhouettes(d, trees, batch.n_examples)
    return trees, labels, *measured.clusters, *measured.nodes, every


def of_neuron(found, b):
    return [values[b].cpu().numpy().tobytes() for values in found]


@pytest.mark.parametrize("algorithm", ["average", "scc"])
def test_no_value_is_waited_for_before_the_results(batch, answer, algorithm):
    want, one_by_one = answer(algorithm)
    with Counted() as together, faults.collected() as found:
        got = clustered(batch, algorithm)
    assert sum(one_by_one.waits.values()) > 10
    assert together.waits == {}
    assert not found
    assert [of_neuron(got, b) for b in range(2)] == [of_neuron(want, b) for b in range(2)]


def test_gates_and_metrics_of_one_cut_wait_for_nothing_either(batch, device):
    biases = torch.zeros(2, 2, device=device)
    with Counted() as counted, faults.collected() as found:
        factors = gates.gated_factors(*batch[:3], batch.weights, biases, batch.n_examples)
        d = distances.gathered_cosine_distances(*batch, up=batch.weights, factors=factors)
        metrics.cluster_metrics(d, torch.zeros(2, 5, dtype=torch.int32, device=device), batch.n_examples)
    assert counted.waits == {}
    assert not found


def spoilt(batch, what):
    """The batch with something wrong of its neuron 1."""
    rows, used, weights, n_examples = (of.clone() for of in batch)
    if what == "a row that is not finite":
        rows = torch.cat([rows, torch.full_like(rows[:1], float("nan"))])
        used[1, 2] = 9
    elif what == "a row that is not there":
        used[1, 2] = 10
    elif what == "a row below none":
        used[1, 3] = -1
    elif what == "a weight that is not finite":
        weights[1, 3] = float("inf")
    elif what == "too many examples":
        n_examples[1] = 6
    else:
        n_examples[1] = -1
    return Batch(rows, used, weights, n_examples)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of the interpreter's NumPy; a GPU says nothing
@pytest.mark.parametrize(
    ("what", "algorithm"),
    [
        ("a row that is not finite", "average"),
        ("a row that is not finite", "scc"),
        ("a row that is not there", "average"),
        ("a row below none", "average"),
        ("a weight that is not finite", "average"),
        ("too many examples", "average"),
        ("too few examples", "average"),
    ],
)
def test_a_fault_is_told_in_the_end_and_leaves_the_other_neuron_alone(batch, answer, what, algorithm):
    (want, _), wrong = answer(algorithm), spoilt(batch, what)
    with pytest.raises(ValueError, match="expected"):
        clustered(wrong, algorithm)
    with faults.collected() as found:
        got = clustered(wrong, algorithm)
    assert found
    assert of_neuron(got, 0) == of_neuron(want, 0)


def no_tree(trees):
    spoilt = trees.clone()
    spoilt[1, 0, :2] = torch.tensor([400.0, -3.0])
    return spoilt


@pytest.mark.parametrize("ask", ["cut", "metrics", "silhouettes"])
def test_what_is_no_tree_is_read_by_nobody(batch, ask):
    d = distances.gathered_cosine_distances(*batch)
    trees = no_tree(agglomerative.linkage(d, batch.n_examples))
    labels = torch.zeros_like(batch.example_rows, dtype=torch.int32)
    with faults.collected() as found:
        if ask == "cut":
            tree.cut(trees, batch.n_examples, 0.5)
        elif ask == "metrics":
            metrics.tree_metrics(d, trees, labels, batch.n_examples)
        else:
            silhouettes.cut_silhouettes(d, trees, batch.n_examples)
    assert found


@pytest.mark.parametrize("bad", [2.5, float("nan")])
@pytest.mark.parametrize("how", ["average", "scc", "silhouettes", "clusters"])
def test_distances_outside_their_range_end_and_are_told(batch, how, bad):
    d = distances.gathered_cosine_distances(*batch)
    trees, n = agglomerative.linkage(d, batch.n_examples), batch.n_examples
    d[1, 2, 3] = bad
    with faults.collected() as found:
        if how == "average":
            agglomerative.linkage(d, n)
        elif how == "scc":
            scc.linkage(d, n, THRESHOLDS.to(d.device), until_stable=True)
        elif how == "silhouettes":
            silhouettes.cut_silhouettes(d, trees, n)
        else:
            metrics.cluster_metrics(d, torch.zeros_like(batch.example_rows, dtype=torch.int32), n)
    assert found


@pytest.mark.parametrize("thresholds", [[0.9, 0.1], [float("nan")]])
def test_thresholds_that_cannot_be_end_and_are_told(batch, thresholds):
    d = distances.gathered_cosine_distances(*batch)
    with faults.collected() as found:
        scc.linkage(d, batch.n_examples, torch.tensor(thresholds, dtype=torch.float64, device=d.device), True)
    assert found
