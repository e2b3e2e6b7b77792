"""What neurons write, against plain NumPy over the checkpoint's arrays; and what is refused."""

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, UnknownIndex, UnknownNeuron

NEURONS = ["0.3", "1.0", "1.17", "1.64"]


@pytest.fixture(scope="session")
def want(small_truth):
    """A function: the effects (257,) of a neuron, standardised."""

    def effects(layer: int, neuron: int):
        w = small_truth.weights
        direction = w[f"h.{layer}.mlp.c_proj.weight"][neuron]
        logits = w["wte.weight"] @ (w["ln_f.weight"] * (direction - direction.mean()))
        return (logits - logits.mean()) / logits.std()

    return effects


def test_lists_are_the_tokens_of_the_largest_and_smallest_effects(polysem_client, want):
    for one in polysem_client.logit_effects("*", n_tokens=5):
        effects = want(*one.id)
        for listed, order in ((one.likelier, np.argsort(-effects)), (one.less_likely, np.argsort(effects))):
            assert_allclose([token.effect for token in listed], effects[order[:5]], atol=1e-5)
            assert_allclose([effects[token.id] for token in listed], effects[order[:5]], atol=1e-5)


def test_the_spread_is_that_of_the_whole_vocabulary(polysem_client, want):
    for one in polysem_client.logit_effects(*NEURONS):
        effects = want(*one.id)
        assert_allclose([one.skewness, one.kurtosis], [(effects**3).mean(), (effects**4).mean() - 3], atol=1e-4)
        counts, edges = np.histogram(effects, 64)
        assert np.abs(np.cumsum(one.histogram - counts)).max() <= 1  # float32 may round a token over an edge
        assert_allclose(one.bin_edges, edges, atol=1e-4)


def test_tokens_are_texts_and_parts_of_characters_their_bytes(polysem_client):
    (one,) = polysem_client.logit_effects("1.5", n_tokens=257)
    texts = {token.id: token.token for token in one.likelier}
    assert sorted(texts) == list(range(257))
    assert {"a", "~", " ", "\n", "<0xE6>", "<0xFF>", "<|endoftext|>"} <= set(texts.values())
    assert len(set(texts.values())) == 257
    assert [token.id for token in one.less_likely] == [token.id for token in one.likelier][::-1]


def test_a_neuron_has_the_same_bytes_in_any_company(polysem_client):
    whole = {one.id: one for one in polysem_client.logit_effects("*")}
    for name in NEURONS:
        (alone,) = polysem_client.logit_effects(name)
        together = whole[alone.id]
        assert alone.likelier == together.likelier
        assert alone.less_likely == together.less_likely
        assert (alone.skewness, alone.kurtosis) == (together.skewness, together.kurtosis)
        assert (alone.histogram == together.histogram).all()


def test_order_and_spelling_are_as_everywhere(polysem_client):
    found = polysem_client.logit_effects("1.4-5", "L0N7", (1, 4))
    assert [str(one.id) for one in found] == ["1.4", "1.5", "0.7"]
    assert repr(found[0]).startswith("<LogitEffects 1.4 likelier ")
    assert found.provenance.unembedding_sha256 == ""  # the token embeddings, which the model's own hash covers


def test_as_a_table(polysem_client):
    found = polysem_client.logit_effects("1.4", "1.5", n_tokens=2)
    tokens = found.to_pandas()
    assert tokens["list"].tolist() == ["likelier", "likelier", "less likely", "less likely"] * 2
    assert tokens["rank"].tolist() == [0, 1] * 4
    assert tokens["effect"].tolist()[:2] == [token.effect for token in found[0].likelier]
    neurons = found.to_pandas(per="neuron")
    assert neurons["kurtosis"].tolist() == [one.kurtosis for one in found]


def test_an_async_client_is_answered_the_same(polysem_client):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return [one.likelier async for one in client.logit_effects("1.5")]

    assert asyncio.run(ask()) == [polysem_client.logit_effects("1.5")[0].likelier]


@pytest.mark.parametrize("n_tokens", [0, 1001, -1, 2.5, True, "3"])
def test_a_number_of_tokens_that_cannot_be_is_refused(polysem_client, n_tokens):
    with pytest.raises(InvalidArgument, match=r"n_tokens is .*; it is a whole number from 1 to 1000"):
        polysem_client.logit_effects("1.5", n_tokens=n_tokens)


def test_neurons_and_indexes_that_are_not_there_are_refused(polysem_client):
    with pytest.raises(UnknownNeuron, match="layers 0 to 1"):
        polysem_client.logit_effects("2.0")[0]
    with pytest.raises(UnknownIndex, match="'none'"):
        polysem_client.logit_effects("1.0", index="none")[0]
