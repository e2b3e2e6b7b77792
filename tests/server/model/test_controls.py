"""Controls: which weights they have. Their formulas on every family are in test_families.py."""

import numpy as np
import torch

from polysem.server.model import controls


def test_another_neuron_is_never_the_same_and_each_may_be_drawn():
    neurons = torch.arange(5).repeat(200)
    for seed in range(3):
        assert (controls.others(1, torch.arange(5), 5, seed) != torch.arange(5)).all()
    drawn = torch.stack([controls.others(1, torch.arange(5), 5, seed) for seed in range(200)]).flatten()
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (neurons.numpy(), drawn.numpy()), 1)
    assert (counts[~np.eye(5, dtype=bool)] > 25).all()  # 50 each


def test_what_is_drawn_depends_on_layer_neuron_and_seed_alone():
    alone = controls.others(2, torch.tensor([7]), 96, 4), controls.orders(2, torch.tensor([7]), 24, 4)
    in_company = (
        controls.others(2, torch.tensor([3, 7]), 96, 4)[1:],
        controls.orders(2, torch.tensor([3, 7]), 24, 4)[1:],
    )
    for a, b in zip(alone, in_company, strict=True):
        assert torch.equal(a, b)
    orders = [
        controls.orders(layer, torch.tensor([j]), 24, seed) for layer, j, seed in ((2, 7, 5), (2, 8, 4), (1, 7, 4))
    ]
    assert not any(torch.equal(alone[1], order) for order in orders)
    assert (alone[1].sort(1).values == torch.arange(24)).all()


def test_a_layer_of_one_neuron_has_no_other():
    assert controls.others(0, torch.tensor([0]), 1, 0).tolist() == [0]
    assert controls.orders(0, torch.arange(0), 24, 0).shape == (0, 24)
