import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from polysem.kernels import metrics, scc
from polysem.kernels.distances import weighted_cosine_distances
from polysem.kernels.large import embeddings
from polysem.kernels.large import metrics as large_metrics
from polysem.kernels.large import trees as large_trees
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.kernels.large.metrics import tree_metrics
from polysem.kernels.tree import cut

LINEAR = torch.tensor([r / 50 for r in range(1, 51)], dtype=torch.float64)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])


def unit(x):
    return unit_embeddings(x, torch.ones(x.shape[1]))


def noise(seed, n_examples, d_model):
    return unit(torch.randn(n_examples, d_model, generator=torch.Generator().manual_seed(seed)))


def clustered(seed, n_examples, d_model):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d_model, generator=generator)
    chosen = centres[torch.randint(5, (n_examples,), generator=generator)]
    return unit(chosen + torch.randn(chosen.shape, generator=generator))


def crowded(seed, n_examples, d_model):
    """All are nearest to the one that is nearest to the middle."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(n_examples, 1, generator=generator) * 0.6 + 0.3
    middle = torch.zeros(d_model)
    middle[0] = 1.0
    return unit(share * middle + (1 - share**2).sqrt() * noise(seed, n_examples, d_model))


def with_holes_and_copies(seed, n_examples, d_model):
    """Every seventh embedding is zero, every fifth is one of three."""
    x = clustered(seed, n_examples, d_model)
    everyone = torch.arange(n_examples)
    x[everyone % 7 == 3] = 0.0
    copies = (everyone % 5 == 1).nonzero()[:, 0]
    x[copies] = x[copies % 3]
    return x


KINDS = pytest.mark.parametrize("made_up", [noise, clustered, crowded])


def on_a_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def exact_distances(unit):
    x = unit.double()
    x = torch.nan_to_num(x / x.norm(dim=1, keepdim=True))
    d = (1 - x @ x.T).clamp(0, 2)
    return d.fill_diagonal_(0)


def distances_of(unit):
    """As the small kernels take them."""
    n, d_model = unit.shape
    return weighted_cosine_distances(unit[None], torch.ones(1, d_model), torch.tensor([n]))


def partitions(linkage, heights):
    n_examples = torch.tensor([len(linkage) + 1])
    return [cut(linkage[None], n_examples, height)[0] for height in heights]


class TestUnitEmbeddings:
    @DEVICES
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    @pytest.mark.parametrize("with_offsets", [False, True])
    def test_match_the_definition(self, device, dtype, with_offsets):
        rows, w, o = torch.randn(5000, 13).to(dtype), torch.randn(13), torch.randn(13)
        e = rows.double() * w.double() + (o.double() if with_offsets else 0.0)
        got = unit_embeddings(rows.to(device), w.to(device), o.to(device) if with_offsets else None)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.cpu().double(), e / e.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)

    def test_zero_stays_zero_and_extremes_keep_their_direction(self):
        rows = torch.tensor([[0.0, 0.0], [1e-30, 1e-30], [3e38, 0.0]])
        got = unit_embeddings(rows, torch.ones(2))
        torch.testing.assert_close(got, torch.tensor([[0.0, 0.0], [0.5**0.5, 0.5**0.5], [1.0, 0.0]]))

    def test_no_examples(self):
        assert unit_embeddings(torch.empty(0, 4), torch.ones(4)).shape == (0, 4)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_refuse_what_is_not_finite(self, value):
        rows = torch.ones(5, 3)
        rows[2, 1] = value
        with pytest.raises(ValueError, match=rf"^rows\[2, 1\] is {value}; expected finite numbers$"):
            unit_embeddings(rows, torch.ones(3))
        with pytest.raises(ValueError, match=rf"^weights\[1\] is {value}; expected finite numbers$"):
            unit_embeddings(torch.ones(5, 3), rows[2])
        with pytest.raises(ValueError, match=rf"^offsets\[1\] is {value}; expected finite numbers$"):
            unit_embeddings(torch.ones(5, 3), torch.ones(3), rows[2])

    def test_refuse_overflow_and_wrong_arguments(self):
        with pytest.raises(ValueError, match=r"^the embedding of example 1 overflows float32$"):
            unit_embeddings(torch.tensor([[1.0], [1e30]]), torch.tensor([1e30]))
        with pytest.raises(ValueError, match=r"weights has shape \(4,\); expected \(D\), D=3"):
            unit_embeddings(torch.ones(5, 3), torch.ones(4))
        with pytest.raises(TypeError, match=r"rows must be torch.float32 or torch.float16, not torch.float64"):
            unit_embeddings(torch.ones(5, 3).double(), torch.ones(3))


class TestAverageLinkage:
    def test_a_hand_traced_example(self):
        # At 0°, 60° and 180°: 0 and 1 at 1 − cos 60° = 0.5; with 2 on average (2 + (1 − cos 120°)) / 2 = 1.75
        got = large_trees.average_linkage(on_a_circle(0, 60, 180))
        torch.testing.assert_close(got, torch.tensor([[0, 1, 0.5, 2], [2, 3, 1.75, 3]]).double(), atol=1e-7, rtol=0)

    @DEVICES
    @KINDS
    @pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (17, 48), (100, 64), (599, 31)])
    def test_equals_scipy(self, device, made_up, n_examples, d_model):
        x = made_up(0, n_examples, d_model)
        got = large_trees.average_linkage(x.to(device)).cpu().numpy()
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "average")
        np.testing.assert_allclose(got[:, 2], want[:, 2], atol=1e-6)
        np.testing.assert_array_equal(got[:, [0, 1, 3]], want[:, [0, 1, 3]])

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, n_examples):
        assert large_trees.average_linkage(noise(0, n_examples, 4)).shape == (0, 4)

    @given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), d_model=st.sampled_from([1, 2, 9]))
    @settings(max_examples=40)
    def test_merges_are_means_and_never_descend_whatever_the_ties(self, seed, n_examples, d_model):
        x = with_holes_and_copies(seed, n_examples, d_model)
        got = large_trees.average_linkage(x)
        assert hierarchy.is_valid_linkage(got.numpy())
        assert hierarchy.is_monotonic(got.numpy())
        d, members = exact_distances(x), [[i] for i in range(n_examples)]
        for u, v, height, _ in got.tolist():
            u, v = members[int(u)], members[int(v)]
            assert abs(d[u][:, v].mean() - height) < 1e-6
            members.append(u + v)

    def test_copies_merge_at_zero_and_zeros_at_one(self):
        x = with_holes_and_copies(0, 300, 32)
        got = large_trees.average_linkage(x)
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "average")
        below_one = want[:, 2] < 1  # where zeros join is one of many ties
        np.testing.assert_allclose(got[below_one, 2], want[below_one, 2], atol=1e-6)
        n_zeros, n_copies = int((x == 0).all(1).sum()), len(x) - len(x.unique(dim=0))
        assert (got[:, 2] == 0).sum() == n_copies - (n_zeros - 1)
        assert (got[:, 2] == 1).sum() >= n_zeros - 1

    def test_all_equal_and_all_zero(self):
        ones, zeros = torch.ones(50, 1), torch.zeros(50, 3)
        assert (large_trees.average_linkage(ones)[:, 2] == 0).all()
        assert (large_trees.average_linkage(zeros)[:, 2] == 1).all()

    def test_blocks_change_nothing(self, monkeypatch):
        x = clustered(3, 200, 16)
        want = large_trees.average_linkage(x)
        monkeypatch.setattr(large_trees, "BLOCK", 700)
        monkeypatch.setattr(large_trees, "ROWS", 7)
        torch.testing.assert_close(large_trees.average_linkage(x), want, atol=1e-12, rtol=0)

    def test_embeddings_stay_as_they_are(self):
        x = clustered(0, 100, 8)
        before = x.clone()
        large_trees.average_linkage(x)
        large_trees.scc_linkage(x, LINEAR)
        assert torch.equal(x, before)


class TestScc:
    @DEVICES
    @KINDS
    @pytest.mark.parametrize("until_stable", [False, True])
    @pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (60, 48), (300, 9)])
    def test_equals_the_small_kernel(self, device, made_up, until_stable, n_examples, d_model):
        x = made_up(1, n_examples, d_model)
        got = large_trees.scc_linkage(x.to(device), LINEAR.to(device), until_stable).cpu()
        want = scc.linkage(distances_of(x), torch.tensor([n_examples]), LINEAR, until_stable)[0]
        assert torch.equal(got, want)

    @pytest.mark.parametrize("n_examples", [7, 40, 211])
    def test_equals_the_small_kernel_with_copies_and_zeros(self, n_examples):
        x, up_to_two = with_holes_and_copies(2, n_examples, 64), torch.linspace(0, 2, 41, dtype=torch.float64)
        got = large_trees.scc_linkage(x, up_to_two)
        want = scc.linkage(distances_of(x), torch.tensor([n_examples]), up_to_two)[0]
        assert torch.equal(got, want)

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, n_examples):
        assert large_trees.scc_linkage(noise(0, n_examples, 4), LINEAR).shape == (0, 4)

    @given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), d_model=st.sampled_from([1, 2, 9]))
    @settings(max_examples=30)
    def test_rounds_nest(self, seed, n_examples, d_model):
        got = large_trees.scc_linkage(with_holes_and_copies(seed, n_examples, d_model), LINEAR)
        assert hierarchy.is_valid_linkage(got.numpy())
        assert hierarchy.is_monotonic(got.numpy())
        labels = partitions(got, [0.0, *LINEAR.tolist(), 2.0])
        assert labels[-1].tolist() == [0] * n_examples
        for fine, coarse in pairwise(labels):
            assert all(len(coarse[fine == label].unique()) == 1 for label in fine.unique())

    def test_a_round_at_zero_merges_copies(self):
        x = on_a_circle(0, 90, 0, 45, 90, 0)
        got = large_trees.scc_linkage(x, torch.tensor([0.0], dtype=torch.float64))
        assert partitions(got, [0.0])[0].tolist() == [0, 1, 0, 2, 1, 0]

    def test_no_thresholds_leave_everything_to_the_last_height(self):
        got = large_trees.scc_linkage(noise(0, 3, 4), LINEAR[:0])
        assert got.tolist() == [[0, 1, 2.0, 2], [2, 3, 2.0, 3]]


class TestSingleLinkage:
    @DEVICES
    @KINDS
    @pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (17, 48), (100, 64), (599, 31)])
    def test_equals_scipy(self, device, made_up, n_examples, d_model):
        x = made_up(6, n_examples, d_model)
        got = large_trees.single_linkage(x.to(device)).cpu().numpy()
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "single")
        np.testing.assert_allclose(got[:, 2], want[:, 2], atol=1e-6)
        np.testing.assert_array_equal(got[:, [0, 1, 3]], want[:, [0, 1, 3]])

    @given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), d_model=st.sampled_from([1, 2, 9]))
    @settings(max_examples=40)
    def test_heights_equal_scipy_whatever_the_ties(self, seed, n_examples, d_model):
        x = with_holes_and_copies(seed, n_examples, d_model)
        got = large_trees.single_linkage(x).numpy()
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "single")
        assert hierarchy.is_valid_linkage(got)
        np.testing.assert_allclose(got[:, 2], want[:, 2], atol=1e-6)

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, n_examples):
        assert large_trees.single_linkage(noise(0, n_examples, 4)).shape == (0, 4)

    def test_all_equal_and_all_zero(self):
        assert (large_trees.single_linkage(torch.ones(50, 1))[:, 2] == 0).all()
        assert (large_trees.single_linkage(torch.zeros(50, 3))[:, 2] == 1).all()

    def test_small_blocks_and_few_at_once_change_nothing(self, monkeypatch):
        x = crowded(7, 200, 16)
        want = large_trees.single_linkage(x)
        monkeypatch.setattr(large_trees, "BLOCK", 700)
        monkeypatch.setattr(large_trees, "FEWEST_WAYS", 3)
        assert torch.equal(large_trees.single_linkage(x), want)


def test_components_of_chains_and_circles():
    #  0 <-> 1 <- 2,  3 alone,  4 -> 6 -> 5 -> 4 (rounding can make such a circle),  8 -> 7 <-> 9
    up = torch.tensor([1, 0, 1, 3, 6, 4, 5, 9, 7, 7])
    assert large_trees.components(up).tolist() == [0, 0, 0, 3, 4, 4, 4, 7, 7, 7]


def test_a_circle_of_nearest_neighbours_does_not_stop_the_rounds(monkeypatch):
    """As if rounding had every cluster find the next one."""

    def next_one(self, columns):
        live = torch.nonzero(~self.dead)[:, 0]
        after = live[(torch.searchsorted(live, columns) + 1) % len(live)]
        return torch.full((len(columns),), 0.5), after

    monkeypatch.setattr(large_trees._Clusters, "nearest", next_one)
    got = large_trees.average_linkage(noise(0, 20, 8))
    assert hierarchy.is_valid_linkage(got.numpy())


@pytest.mark.parametrize("degrees", [(0, 1, 3, 7), (7, 3, 1, 0)])
def test_a_merge_is_as_high_as_those_it_is_made_of_whatever_rounding_does(monkeypatch, degrees):
    """As if rounding had put each mean below the one before."""
    means = iter([0.3, 0.2, 0.1])
    monkeypatch.setattr(
        large_trees._Clusters, "distance", lambda self, u, v: torch.full((len(u),), next(means)).double()
    )
    got = large_trees.average_linkage(on_a_circle(*degrees))
    assert hierarchy.is_valid_linkage(got.numpy())
    assert got[:, 2].tolist() == [torch.tensor(0.3).item()] * 3


class TestTreeMetrics:
    @DEVICES
    @KINDS
    @pytest.mark.parametrize("algorithm", ["average", "scc", "single"])
    @pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (41, 48), (400, 9)])
    def test_equal_the_small_kernel(self, device, made_up, algorithm, n_examples, d_model):
        x = made_up(3, n_examples, d_model)
        self.check(x, self.tree(x, algorithm), 0.4, device)

    @pytest.mark.parametrize("n_examples", [9, 200])
    def test_equal_the_small_kernel_with_copies_and_zeros(self, n_examples):
        x = with_holes_and_copies(4, n_examples, 32)
        for height in (0.0, 0.7, 1.0, 2.0):
            self.check(x, self.tree(x, "average"), height, "cpu")

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, n_examples):
        linkage, labels = torch.empty(0, 4).double(), torch.zeros(n_examples, dtype=torch.int32)
        got = tree_metrics(noise(0, n_examples, 4), linkage, labels)
        distances, n = torch.zeros(1, n_examples, n_examples), torch.tensor([n_examples])
        want = metrics.tree_metrics(distances, linkage[None], labels[None], n)
        torch.testing.assert_close(got, want, equal_nan=True)

    def test_small_blocks_change_nothing(self, monkeypatch):
        x = clustered(5, 200, 16)
        monkeypatch.setattr(large_metrics, "BLOCK", 700)
        monkeypatch.setattr(large_metrics, "ROWS", 37)
        monkeypatch.setattr(large_metrics, "CHUNK", 5)
        for algorithm in ("average", "single"):
            self.check(x, self.tree(x, algorithm), 0.4, "cpu")

    @staticmethod
    def tree(x, algorithm):
        if algorithm == "scc":
            return large_trees.scc_linkage(x, LINEAR)
        return torch.from_numpy(hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), algorithm))

    @staticmethod
    def check(x, linkage, height, device):
        n = torch.tensor([len(x)])
        labels = cut(linkage[None], n, height)
        got = tree_metrics(x.to(device), linkage.to(device), labels[0].to(device))
        want = metrics.tree_metrics(distances_of(x), linkage[None], labels, n)
        for name, a, b in zip(want.clusters._fields, got.clusters, want.clusters, strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=2e-6, rtol=0, equal_nan=True, msg=name)
        assert torch.equal(got.nodes.central.cpu(), want.nodes.central)
        torch.testing.assert_close(got.nodes.mean_distance.cpu(), want.nodes.mean_distance, atol=1e-6, rtol=0)


class TestRefuses:
    CALLS = pytest.mark.parametrize(
        "call",
        [
            large_trees.average_linkage,
            large_trees.single_linkage,
            lambda x: large_trees.scc_linkage(x, LINEAR),
            lambda x: tree_metrics(x, torch.empty(0, 4).double(), torch.empty(0, dtype=torch.int32)),
        ],
        ids=["average_linkage", "single_linkage", "scc_linkage", "tree_metrics"],
    )

    @CALLS
    @pytest.mark.parametrize("value", [2.0, 0.5, float("nan"), float("inf")])
    def test_rows_that_are_not_normalised(self, call, value):
        x = torch.eye(4)
        x[2, 2] = value
        with pytest.raises(
            ValueError, match=rf"^unit\[2\] has length {value:g}; expected 1, or 0 for a zero embedding$"
        ):
            call(x)

    @CALLS
    def test_other_arrays(self, call):
        with pytest.raises(TypeError, match=r"unit must be torch.float32, not torch.float64"):
            call(torch.eye(3).double())
        with pytest.raises(ValueError, match=r"unit has shape \(1, 3, 3\); expected \(N, D\)"):
            call(torch.eye(3)[None])

    @CALLS
    def test_too_many(self, call, monkeypatch):
        monkeypatch.setattr(embeddings, "MAX_EXAMPLES", 3)
        with pytest.raises(ValueError, match="unit has 4 rows; expected at most 3"):
            call(torch.eye(4))

    def test_thresholds(self):
        for taus, message in (
            ([0.1, 2.5], r"thresholds\[1\] is 2.5; expected 0..2"),
            ([0.1, float("nan")], r"thresholds\[1\] is nan; expected 0..2"),
            ([0.5, 0.5], "thresholds must increase: 0.5 is followed by 0.5"),
        ):
            with pytest.raises(ValueError, match=message):
                large_trees.scc_linkage(torch.eye(3), torch.tensor(taus, dtype=torch.float64))
        with pytest.raises(TypeError, match="thresholds must be a torch tensor, not list"):
            large_trees.scc_linkage(torch.eye(3), [0.5])

    def test_what_is_no_tree_and_labels_outside(self):
        x, linkage, labels = torch.eye(3), large_trees.average_linkage(torch.eye(3)), torch.zeros(3, dtype=torch.int32)
        with pytest.raises(ValueError, match="linkage is not a tree of 3 leaves with ascending heights"):
            tree_metrics(x, linkage.flip(0), labels)
        for value in (-1, 3):
            labels[1] = value
            with pytest.raises(ValueError, match=rf"labels\[1\] is {value}; expected 0..2 \(N - 1\)"):
                tree_metrics(x, linkage, labels)


MEMORY = """
import torch
from pathlib import Path
from polysem.kernels import tree
from polysem.kernels.large import embeddings, metrics, neighbours, trees as large

def run(n):
    x = embeddings.unit_embeddings(torch.randn(n, 16), torch.ones(16))
    taus = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    trees = [large.average_linkage(x), large.single_linkage(x), large.scc_linkage(x, taus)]
    trees.append(neighbours.scc_linkage(x, taus))
    for linkage in trees:
        metrics.tree_metrics(x, linkage, tree.cut(linkage[None], torch.tensor([n]), 0.1)[0])

def peak_mib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10

run(1000)
before = peak_mib()
run(12_000)
print(peak_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_twelve_thousand_examples_need_no_square():
    """They need some 190 MiB for blocks, sparse graphs and sums; 12,000² bytes would be 137 MiB more."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 260
