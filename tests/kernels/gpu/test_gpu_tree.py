import pytest
import torch

from polysem.kernels import agglomerative, scc, tree
from polysem.kernels.gpu.tree import cut

# examples 0..4; nodes 5 = 3+4, 6 = 1+2, 7 = 0+5, 8 = all
TREE = torch.tensor([[[3.0, 4.0, 0.125, 2], [1.0, 2.0, 0.25, 2], [0.0, 5.0, 0.5, 3], [6.0, 7.0, 0.9, 5]]]).double()
LINEAR = torch.arange(1, 51, dtype=torch.float64) / 50


@pytest.fixture
def gpu_cut(device):
    """The GPU half on its device, its result on the CPU."""

    def cut_there(linkage, n_examples, threshold):
        there = threshold.to(device) if isinstance(threshold, torch.Tensor) and threshold.ndim else threshold
        return cut(linkage.to(device), n_examples.to(device), there).cpu()

    return cut_there


def test_hand_sized_cuts(gpu_cut):
    trees, n_examples = TREE.repeat(6, 1, 1), torch.tensor([5] * 6)
    got = gpu_cut(trees, n_examples, torch.tensor([-1.0, 0.125, 0.3, 0.5, 0.8, torch.inf]))
    assert got.dtype == torch.int32
    assert got.tolist() == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 3],  # a merge at the threshold counts
        [0, 1, 1, 2, 2],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("counts", [[0, 0], [0, 1], []])
def test_no_rows_may_mean_no_slot_or_one(gpu_cut, counts):
    nothing, n_examples = torch.empty(len(counts), 0, 4, dtype=torch.float64), torch.tensor(counts, dtype=torch.int32)
    got, want = gpu_cut(nothing, n_examples, 0.5), tree.cut(nothing, n_examples, 0.5)
    assert got.shape == want.shape
    assert torch.equal(got, want)


@pytest.mark.parametrize("algorithm", ["average", "complete", "single", "scc"])
@pytest.mark.parametrize("n_levels", [3, 2**20])
@pytest.mark.parametrize("width", [2, 3, 17, 64, 129])
def test_equals_the_cpu_half(gpu_cut, random_distances, ragged_counts, width, n_levels, algorithm):
    n_examples = ragged_counts(6, width)
    distances = random_distances(width, 6, width, n_levels)
    if algorithm == "scc":
        trees = scc.linkage(distances, n_examples, LINEAR)
    else:
        trees = agglomerative.linkage(distances, n_examples, algorithm)
    for threshold in (0.0, 0.2, 1 / 3, 0.5, 0.98, torch.tensor(1.0), 2.0, torch.linspace(0, 1, 6)):
        got = gpu_cut(trees, n_examples, threshold)
        assert torch.equal(got, tree.cut(trees, n_examples, threshold))
    assert torch.equal(got, tree.cut_reference(trees, n_examples, threshold))


def test_a_chain_of_nodes_is_followed_to_its_end(gpu_cut):
    n = 1000  # every row joins the next example to the node before
    row = torch.arange(n - 1, dtype=torch.float64)
    chain = torch.stack([torch.where(row == 0, 0, row + n - 1), row + 1, row / n, row + 2], 1)[None]
    got = gpu_cut(chain, torch.tensor([n]), (n - 3) / n)
    assert got[0].tolist() == [0] * (n - 1) + [1]


def test_garbage_in_padding_changes_nothing(gpu_cut):
    trees = torch.full((3, 6, 4), 3.0, dtype=torch.float64)
    trees[1, :4] = TREE[0]
    got = gpu_cut(trees, torch.tensor([0, 5, 1]), 0.5)
    assert got.tolist() == [[-1] * 7, [0, 1, 1, 0, 0, -1, -1], [0] + [-1] * 6]


def refused(function, *arguments):
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*arguments)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (0, 0, 5.0),  # a node not made yet
        (0, 0, -1.0),
        (0, 0, float("nan")),
        (0, 0, 1e300),
        (1, 0, 3.0),  # used before
        (1, 2, 0.05),  # below the row before
        (0, 2, float("nan")),
        (3, 2, float("nan")),
    ],
)
def test_refuses_what_is_not_a_tree(gpu_cut, row, column, value):
    broken = TREE.repeat(3, 1, 1)
    broken[1:, row, column] = value
    arguments = broken, torch.tensor([5, 5, 0]), 0.5
    assert refused(gpu_cut, *arguments) == refused(tree.cut, *arguments)


@pytest.mark.parametrize(
    ("linkage", "n_examples", "threshold"),
    [
        (TREE, torch.tensor([5]), float("nan")),
        (TREE, torch.tensor([5]), torch.tensor([0.5, 0.5])),
        (TREE, torch.tensor([5]), torch.tensor([1])),
        (TREE[:, :, :3], torch.tensor([5]), 0.5),
        (TREE.float(), torch.tensor([5]), 0.5),
        (TREE, torch.tensor([6]), 0.5),
    ],
)
def test_refuses_what_the_cpu_half_refuses_in_its_words(gpu_cut, linkage, n_examples, threshold):
    assert refused(gpu_cut, linkage, n_examples, threshold) == refused(tree.cut, linkage, n_examples, threshold)


@pytest.mark.gpu
def test_equals_the_cpu_half_at_real_sizes(random_distances, ragged_counts):
    n_examples = ragged_counts(32, 1000)
    trees = agglomerative.linkage(random_distances(0, 32, 1000), n_examples)
    thresholds = torch.linspace(0.5, 1.0, 32)
    got = tree.cut(trees.cuda(), n_examples.cuda(), thresholds.cuda())
    assert got.is_cuda
    assert torch.equal(got.cpu(), tree.cut(trees, n_examples, thresholds))
