"""Small neurons in one launch: the bytes of the stages one after the other."""

import pytest
import torch

from polysem.kernels import clusterings as cpu
from polysem.kernels import faults

pytest.importorskip("triton")
from polysem.kernels.gpu import agglomerative, blocks, distances, metrics, scc, tree
from polysem.kernels.gpu.clusterings import hac_clusterings, scc_clusterings

from .counting import Counted

THREE = torch.tensor([[[0.0, 0.25, 1.0], [0.25, 0.0, 0.5], [1.0, 0.5, 0.0]]])
ROUNDS = torch.linspace(0.1, 1.9, 10, dtype=torch.float64)
ALGORITHMS = ["average", "complete", "single", "scc"]


def together(d, n, cut, algorithm):
    if algorithm == "scc":
        return scc_clusterings(d, n, cut, ROUNDS.to(d.device))
    return hac_clusterings(d, n, cut, algorithm)


def tree_of(d, n, algorithm):
    if algorithm == "scc":
        return scc.linkage(d, n, ROUNDS.to(d.device))
    return agglomerative.linkage(d, n, algorithm)


def in_turn(d, n, cut, algorithm):
    """Compute the clusterings by the GPU halves of the stages."""
    trees = tree_of(d, n, algorithm)
    labels = tree.cut(trees, n, cut)
    return trees, labels, metrics.tree_metrics(d, trees, labels, n)


def bytes_of(found):
    trees, labels, (clusters, nodes) = found
    return [(of.dtype, of.shape, of.cpu().numpy().tobytes()) for of in (trees, labels, *clusters, *nodes)]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Each takes several neurons, in the scratch of the one before."""
    monkeypatch.setattr(blocks, "RESIDENT", 2)


def test_three_examples_of_which_two_are_close(device):
    trees, labels, (clusters, nodes) = hac_clusterings(THREE.to(device), torch.tensor([3], device=device), 0.5)
    assert trees.tolist() == [[[0, 1, 0.25, 2], [2, 3, 0.75, 3]]]
    assert labels.tolist() == [[0, 0, 1]]
    assert [of.item() for of in clusters[:6]] == [3, 2, 1.0, 1.75 / 3, 0.25, 0.75]
    assert clusters.largest_share.item() == 2 / 3
    # 0: (1 - 0.25) / 1; 1: (0.5 - 0.25) / 0.5; the singleton scores 0
    assert clusters.silhouette.item() == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert nodes.central.tolist() == [[0, 1]]
    assert nodes.mean_distance.tolist() == [[0.25, 1.75 / 3]]


@pytest.mark.parametrize(
    ("width", "n_levels", "algorithm"),  # the fewer levels, the more ties
    [
        *((width, 1, algorithm) for width in (1, 2, 3) for algorithm in ALGORITHMS),
        *((17, 2, algorithm) for algorithm in ALGORITHMS),
        (17, 2**20, "average"),
        (17, 2**20, "scc"),
    ],
)
def test_equals_the_stages_to_the_byte(
    device, random_distances, ragged_counts, spoil_padding, width, n_levels, algorithm
):
    n = ragged_counts(4, width)
    d = spoil_padding(random_distances(width, 4, width, n_levels), n, square=True).to(device)
    n = n.to(device)
    cuts = torch.tensor([0.7, 0.5, 0.0, 2.0], dtype=torch.float64, device=device)
    want = bytes_of(in_turn(d, n, cuts, algorithm))
    assert bytes_of(together(d, n, cuts, algorithm)) == want


@pytest.mark.parametrize(("width", "algorithm"), [(128, "average"), (100, "scc")])
def test_equals_the_stages_on_clusters_of_real_sizes(device, clustered_embeddings, width, algorithm):
    rows, n = clustered_embeddings(0, 1, width, 24)[0].half(), torch.tensor([width], device=device)
    used = torch.arange(width)[None]
    d = distances.gathered_cosine_distances(rows.to(device), used.to(device), torch.ones(1, 24, device=device), n)
    assert bytes_of(together(d, n, 0.5, algorithm)) == bytes_of(in_turn(d, n, 0.5, algorithm))


@pytest.mark.parametrize("algorithm", ["average", "scc"])
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 3), (2, 0)])
def test_empty_shapes(device, n_neurons, width, algorithm):
    d, n = torch.zeros(n_neurons, width, width, device=device), torch.zeros(n_neurons, dtype=torch.int32, device=device)
    trees, labels, (clusters, nodes) = together(d, n, 0.5, algorithm)
    assert (trees.shape, labels.shape) == ((n_neurons, max(width - 1, 0), 4), (n_neurons, width))
    assert (nodes.central.shape, clusters.n_clusters.tolist()) == (trees.shape[:2], [0] * n_neurons)


@pytest.mark.parametrize("algorithm", ["average", "scc"])
def test_more_examples_go_through_the_stages(device, random_distances, algorithm):
    d, n = random_distances(0, 2, 129).to(device), torch.tensor([2, 1], device=device)
    assert bytes_of(together(d, n, 0.5, algorithm)) == bytes_of(in_turn(d, n, 0.5, algorithm))


@pytest.mark.parametrize("algorithm", ["average", "scc"])
def test_all_of_it_is_one_launch_and_waits_for_nothing(device, random_distances, algorithm):
    d, n = random_distances(0, 3, 5).to(device), torch.tensor([5, 0, 4], device=device)
    with Counted() as by_stages, faults.collected():
        in_turn(d, n, 0.5, algorithm)
    with Counted() as counted, faults.collected() as found:
        together(d, n, 0.5, algorithm)
    kernels = [name for name in counted.launches if name.endswith("_kernel")]
    assert counted.waits == {}
    assert (kernels, counted.launches["_clusterings_kernel"]) == (["_clusterings_kernel"], 1)
    assert 3 * sum(counted.launches.values()) < sum(by_stages.launches.values())
    assert not found


def flat(found):
    return [found.trees, found.labels, *found.metrics.clusters, *found.metrics.nodes]


@pytest.mark.parametrize("wrong", ["not a number", "a diagonal below 0", "not symmetric"])
def test_wrong_distances_are_told_as_on_the_cpu_and_leave_the_others_alone(device, random_distances, wrong):
    d, n = random_distances(0, 3, 4).to(device), torch.tensor([4, 3, 2], device=device)
    want = flat(hac_clusterings(d, n, 0.5))
    d = d.clone()
    if wrong == "not a number":
        d[1, 0, 1] = torch.nan
    elif wrong == "a diagonal below 0":
        d[1, 2, 2] = -0.5
    else:
        d[1, :3, :3] = torch.tensor([[0.0, 1.0, 0.5], [0.5, 0.0, 1.0], [1.0, 0.5, 0.0]])
    with pytest.raises(ValueError, match=r"distances\[1") as ours:
        hac_clusterings(d, n, 0.5)
    with pytest.raises(ValueError, match=r"distances\[1") as theirs:
        cpu.hac_clusterings(d.cpu(), n.cpu(), 0.5)
    assert str(ours.value) == str(theirs.value)
    with faults.collected() as found:
        got = flat(hac_clusterings(d, n, 0.5))
    assert found
    for mine, theirs in zip(got, want, strict=True):
        assert mine[::2].cpu().numpy().tobytes() == theirs[::2].cpu().numpy().tobytes()
    assert got[2].tolist() == [4, 0, 2]


@pytest.mark.parametrize("algorithm", ["average", "scc"])
def test_wrong_arguments_are_refused_as_on_the_cpu(device, algorithm):
    d, n = THREE.to(device), torch.tensor([3], device=device)
    for arguments in [(d.double(), n, 0.5), (d[0], n, 0.5), (d, torch.tensor([4], device=device), 0.5)]:
        with pytest.raises((TypeError, ValueError)) as got:
            together(*arguments, algorithm)
        with pytest.raises((TypeError, ValueError)) as want:
            in_turn(*arguments, algorithm)
        assert str(got.value) == str(want.value)
    with pytest.raises(ValueError, match="distance_threshold is nan; expected a number"):
        together(d, n, float("nan"), algorithm)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("n_neurons", "width"), [(5000, 100), (1000, 128), (1000, 17)])
def test_equals_the_stages_and_the_cpu_at_real_sizes(
    monkeypatch, clustered_embeddings, ragged_counts, n_neurons, width, algorithm
):
    monkeypatch.undo()
    n = ragged_counts(n_neurons, width)
    weights = torch.ones(n_neurons, 32, device="cuda")
    d = distances.weighted_cosine_distances(clustered_embeddings(0, n_neurons, width, 32).cuda(), weights, n.cuda())
    got = together(d, n.cuda(), 0.5, algorithm)
    assert got.trees.is_cuda
    assert bytes_of(got) == bytes_of(in_turn(d, n.cuda(), 0.5, algorithm))
    if algorithm == "scc":
        want = cpu.scc_clusterings(d.cpu(), n, 0.5, ROUNDS)
    else:
        want = cpu.hac_clusterings(d.cpu(), n, 0.5, algorithm)
    assert bytes_of(got)[:2] == bytes_of(want)[:2]
