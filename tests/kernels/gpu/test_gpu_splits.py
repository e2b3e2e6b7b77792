"""Which merges are significant, on a GPU: as on the CPU. Its kernels are each tested beside their references."""

import numpy as np
import pytest
import torch

from polysem.kernels import agglomerative, splits
from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.significance import centring_offsets


def planted(sizes, d_model=64, spread=0.7):
    """Rows (n, D) around as many centres as there are sizes, and what the kernels take of it, as one neuron."""
    rng = np.random.default_rng(len(sizes))
    centres = np.repeat(rng.normal(size=(len(sizes), d_model)), sizes, axis=0)
    rows = torch.from_numpy(centres + spread * rng.normal(size=centres.shape)).float()
    n = len(rows)
    return rows, torch.arange(n)[None], torch.ones(1, d_model), torch.tensor([n])


def merges_of(device, arguments):
    arguments = [tensor.to(device) for tensor in arguments]
    offsets = centring_offsets(*arguments)
    trees = agglomerative.linkage(gathered_cosine_distances(*arguments, offsets), arguments[3])
    found = splits.significant_merges(*arguments, trees, offsets)
    return found, splits.significant_clusters(trees, found.significant, arguments[3])


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(40,), (30, 30), (20, 25, 30), (60, 50, 40, 30, 20, 10)])
def test_a_gpu_finds_the_merges_significant_that_the_cpu_does(sizes):
    arguments = planted(sizes)
    (got, n_clusters), (want, n_wanted) = merges_of("cuda", arguments), merges_of("cpu", arguments)
    assert got.significant.device.type == "cuda"
    assert torch.equal(got.significant.cpu(), want.significant)
    assert n_clusters.item() == n_wanted.item()
    difference = (got.p_value.cpu() - want.p_value).nan_to_num().abs()
    assert torch.equal(got.p_value.cpu().isnan(), want.p_value.isnan())
    assert difference.max() <= 0.03  # a rotation that ties may fall on either side


@pytest.mark.gpu
def test_a_neuron_on_a_gpu_has_the_same_bytes_in_any_company():
    rows, used, weights, n = planted((30, 30))
    company = torch.stack([used[0], used[0].flip(0)]), torch.cat([weights, weights * 2]), torch.tensor([60, 41])
    alone, _ = merges_of("cuda", (rows, used, weights, n))
    together, _ = merges_of("cuda", (rows, *company))
    assert torch.equal(alone.p_value[0].nan_to_num(-1), together.p_value[0].nan_to_num(-1))
    assert torch.equal(alone.significant[0], together.significant[0])
