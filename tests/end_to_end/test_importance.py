"""Token importance against plain NumPy that masks each token itself; and what is refused."""

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polysem.server
from polysem.client import AsyncClient
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import load
from polysem.server.questions import examples, importance

from . import plain_rules
from .plain_rules import BOS

NEURONS = ["0.0-5", "1.20-25"]


def want_of(truth, example, tokens_before, mask):
    """1 − a_masked / a of the tokens up to the example's key token."""
    ids = truth.contexts[example.context].ids[: example.position + 1]
    layer, neuron = example.neuron
    a = truth.read(ids)[layer][1][-1, neuron]
    lost = []
    for i in range(max(example.position - tokens_before, 1), len(ids)):
        masked = [*ids[:i], mask, *ids[i + 1 :]]
        lost.append(1 - truth.read(masked)[layer][1][-1, neuron] / a)
    return a, lost


@pytest.mark.parametrize(("how", "mask"), [({}, BOS), ({"tokens_before": 3}, BOS), ({"mask_token": 7}, 7)], ids=str)
def test_importance_is_what_the_key_activation_loses(polysem_client, small_truth, how, mask):
    examples = polysem_client.examples(*NEURONS, examples=[0, 9])
    found = polysem_client.importance(*NEURONS, examples=[0, 9], **how)
    assert [(one.neuron, one.example) for one in found] == [(e.neuron, e.example) for e in examples]
    for one, example in zip(found, examples, strict=True):
        a, lost = want_of(small_truth, example, how.get("tokens_before", 20), mask)
        assert_allclose(one.activation, a, rtol=1e-4)
        assert_allclose(one.importances, lost, atol=2e-4 / min(a, 1))  # float32 activations over a
        texts = plain_rules.texts(small_truth.contexts[example.context].ids[: example.position + 3])
        assert list(one.tokens) == texts[: example.position + 1][-len(lost) :]


def parts_by_hand(ids):
    """Each token, which is a byte here, as (character, number, of); BOS stands for itself."""
    text = bytes(plain_rules.BYTES[i] for i in ids if i != BOS).decode()
    bos = [("<|endoftext|>", 1, 1)] * (ids[0] == BOS)
    return bos + [(c, number + 1, n) for c in text for n in [len(c.encode())] for number in range(n)]


def test_tokens_within_a_character_are_named_by_it(polysem_client, small_truth):
    n_seen = 0
    for one, example in zip(
        polysem_client.importance("0.*", examples=[0]), polysem_client.examples("0.*", examples=[0]), strict=True
    ):
        ids = small_truth.contexts[example.context].ids
        if "\ufffd" in plain_rules.texts(ids)[-1]:
            continue  # the window's end cuts a character
        want = parts_by_hand(ids)[: example.position + 1][-len(one.tokens) :]
        assert [tuple(part) for part in one.parts] == want
        n_seen += sum(of > 1 for _, _, of in want)
    assert n_seen > 10


def test_relative_importance_is_of_the_key_tokens_own(polysem_client):
    for one in polysem_client.importance("0.*", examples=[0]):
        assert len(one.relative) == len(one.tokens) == len(one.importances)
        own = one.importances[-1]
        if own > 0:
            assert one.relative[-1] == 1
            assert_allclose(one.relative, np.clip(one.importances / own, 0, 1))
        else:
            assert not one.relative.any()


def test_nothing_before_the_key_token_is_masked_where_none_is_asked_for(polysem_client):
    (one,) = polysem_client.importance("1.5", examples=[0], tokens_before=0)
    (longer,) = polysem_client.importance("1.5", examples=[0])
    assert len(one.tokens) == 1 < len(longer.tokens)
    assert_allclose(one.importances[0], longer.importances[-1], atol=1e-5)


def test_company_changes_no_bit(polysem_client):
    together = {(one.neuron, one.example): one for one in polysem_client.importance("0.0-9", "1.5")}
    for place in (0, 3, 29):
        (alone,) = polysem_client.importance("1.5", examples=[place])
        np.testing.assert_array_equal(alone.importances, together[alone.neuron, place].importances)


def test_readings_taken_one_by_one_say_the_same(polysem_client, monkeypatch):
    want = list(polysem_client.importance(*NEURONS, examples=[0, 1]))
    assert len(want) > 10
    monkeypatch.setattr(importance, "FORWARD_TOKENS", {"cpu": 1})
    for got, one in zip(polysem_client.importance(*NEURONS, examples=[0, 1]), want, strict=True):
        assert (got.neuron, got.example, got.tokens) == (one.neuron, one.example, one.tokens)
        assert_allclose(got.importances, one.importances, atol=1e-4 / min(one.activation, 1))


def test_more_than_a_server_does_for_one_request_is_refused(polysem_client, monkeypatch):
    monkeypatch.setattr(examples, "MAX_EXAMPLES_PER_REQUEST", 100)
    with pytest.raises(InvalidArgument, match=r"3 examples of each of 50 neurons were named in one request"):
        list(polysem_client.examples("0.0-49", examples=[0, 1, 2, 1000]))
    monkeypatch.setattr(importance, "MAX_NEURONS_PER_REQUEST", 100)
    with pytest.raises(InvalidArgument, match=r"takes \d+ forwards of the model; ask for at most 100 at once"):
        list(polysem_client.importance("0.0-50"))


def test_places_that_a_neuron_lacks_are_passed_over(polysem_client):
    assert list(polysem_client.importance("1.5", examples=[500])) == []
    assert list(polysem_client.importance("1.3")) == []  # it never fires


@pytest.mark.parametrize(
    ("neurons", "how", "error", "words"),
    [
        (["2.0"], {}, UnknownNeuron, "there is no neuron 2.0"),
        ([], {}, InvalidArgument, "no neuron was named"),
        (["1.5"], {"places": [-1]}, InvalidArgument, "-1 is not an example: they are counted from 0"),
        (["1.5"], {"tokens_before": -1}, InvalidArgument, "tokens_before is -1; it is a whole number from 0"),
        (["1.5"], {"mask_token": 0.5}, InvalidArgument, "mask_token is 0.5"),
        (["1.5"], {"mask_token": 257}, InvalidArgument, "mask_token is 257; the model's tokens have the ids 0 to 256"),
        (["1.5"], {"index": "none"}, UnknownIndex, "there is no index 'none'"),
    ],
)
def test_wrong_questions_get_a_sentence(polysem_client, neurons, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.importance(*neurons, **how))


def test_a_model_without_bos_needs_a_mask_token(make_checkpoint, corpus_file, tmp_path):
    folder = make_checkpoint("no-bos", bos=False)
    recipe = builder.Recipe(Selection("top", 0.75, 3), bos=False)
    builder.build(load(str(folder), "cpu"), Corpus(str(corpus_file)), tmp_path / "index", recipe)
    with polysem.server.local(tmp_path / "index", device="cpu") as client:
        with pytest.raises(FailedPrecondition, match="has no BOS token to mask with; name a mask_token"):
            list(client.importance("0.1"))
        found = client.importance("0.1", mask_token=0)
        assert [len(one.tokens) for one in found] == [min(e.position, 20) + 1 for e in client.examples("0.1")]


def test_the_asynchronous_client_says_the_same(polysem_client):
    async def asked():
        async with AsyncClient(polysem_client.target) as client:
            return await client.importance("1.5", examples=[1])

    (got,), (want,) = asyncio.run(asked()), polysem_client.importance("1.5", examples=[1])
    np.testing.assert_array_equal(got.importances, want.importances)
