"""What is told of a neuron's activations, against plain NumPy over the corpus; and what is refused."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, UnknownIndex, UnknownNeuron

from .small_truth import FRACTION, N_LAYERS, N_NEURONS

ALL = [(layer, neuron) for layer in range(N_LAYERS) for neuron in range(N_NEURONS)]
FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}


def test_statistics_are_those_of_the_key_activations(polysem_client, small_truth):
    found = polysem_client.statistics("*")
    assert [tuple(one.id) for one in found] == ALL
    for layer in range(N_LAYERS):
        highest = small_truth.key_activations(layer)
        ours = found[layer * N_NEURONS : (layer + 1) * N_NEURONS]
        assert_allclose([one.maximum_activation for one in ours], highest.max(axis=0), **FLOAT32)
        assert_allclose([one.mean_activation for one in ours], highest.mean(axis=0), **FLOAT32)
        assert_allclose([one.share_positive for one in ours], (highest > 0).mean(axis=0), **FLOAT32)


def test_the_histogram_counts_the_contexts_above_0(polysem_client, small_truth):
    n_at_an_edge = 0
    for one in polysem_client.statistics("*"):
        highest = small_truth.key_activations(one.id.layer)[:, one.id.neuron]
        positive = highest[highest > 0]
        assert one.histogram.sum() == len(positive)
        assert len(one.histogram) == 64
        assert_allclose(one.bin_edges[[0, -1]], [0, max(highest.max(), 0)], **FLOAT32)
        want, _ = np.histogram(positive, np.linspace(0, highest.max(), 65) if len(positive) else 64)
        n_at_an_edge += np.abs(np.cumsum(one.histogram - want)).sum()
    assert n_at_an_edge <= 3  # of 20,000: float32 may round a value over an edge


def test_the_band_is_that_of_the_dataset_examples(polysem_client, small_truth):
    for one in polysem_client.statistics("*"):
        highest = small_truth.key_activations(one.id.layer)[:, one.id.neuron]
        chosen = highest[small_truth.examples(*one.id)]
        assert one.n_examples == len(chosen)
        if len(chosen):
            assert_allclose([one.lowest_example, one.highest_example], [chosen.min(), chosen.max()], **FLOAT32)
            assert_allclose(one.threshold, FRACTION * highest.max(), **FLOAT32)
            assert one.threshold <= one.lowest_example * (1 + 1e-6)


def test_a_neuron_that_never_fires_has_no_band(polysem_client):
    (one,) = polysem_client.statistics("1.3")
    assert (one.n_examples, one.lowest_example, one.highest_example, one.threshold) == (0, None, None, None)
    assert one.maximum_activation <= 0
    assert one.histogram.sum() == 0
    assert (one.bin_edges == 0).all()


def test_order_and_spelling_are_as_everywhere(polysem_client):
    found = polysem_client.statistics("1.4-5", "L0N7", (1, 4))
    assert [str(one.id) for one in found] == ["1.4", "1.5", "0.7"]


@pytest.mark.parametrize(
    ("neurons", "how", "error", "words"),
    [
        (["2.0"], {}, UnknownNeuron, "there is no neuron 2.0: the model has layers 0 to 1"),
        (["x"], {}, InvalidArgument, "'x' is not a neuron"),
        ([], {}, InvalidArgument, "no neuron was named"),
        (["0.1"], {"index": "none"}, UnknownIndex, "there is no index 'none'"),
    ],
)
def test_wrong_questions_get_a_sentence(polysem_client, neurons, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.statistics(*neurons, **how))


async def _asked(target):
    async with AsyncClient(target) as client:
        return await client.statistics("1.0-3")


def test_the_asynchronous_client_says_the_same(polysem_client):
    import asyncio

    found = asyncio.run(_asked(polysem_client.target))
    for got, want in zip(found, polysem_client.statistics("1.0-3"), strict=True):
        assert (got.id, got.lowest_example, got.threshold) == (want.id, want.lowest_example, want.threshold)
        np.testing.assert_array_equal(got.histogram, want.histogram)
