"""What neurons make of a text, against plain NumPy that reads it and measures each distance; and what is refused."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose

import polysem.server
from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.proto.facts import Selection
from polysem.proto.wire import status
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import load
from polysem.v1 import neuron_service_pb2 as pb

from . import plain_rules
from .plain_rules import BOS, BYTES
from .small_truth import N_LAYERS, N_NEURONS

TEXT = "a café sells 日本 tea 😀"
NEURONS = ["1.20-25", "0.7", "1.3", "0.0-3"]
HOW = [
    {},
    {"algorithm": "scc", "distance_threshold": 0.3, "min_activation_fraction": 0.1},
    {"embedding": "pre_mlp", "layer_norm": "raw", "linkage": "complete", "min_activation_fraction": 0.0},
    {"layer_norm": "raw", "distance_threshold": 0.05},
]


def read(truth, text):
    """(x̂ (T, D), activations (T, N)) of each layer, and the texts of the T tokens."""
    ids = [BYTES.index(byte) for byte in text.encode()]
    return [(x[1:], a[1:]) for x, a in truth.read([BOS, *ids])], plain_rules.texts(ids)


def embed(truth, neuron, xhat, embedding="neuron", layer_norm="folded"):
    w = truth.weights[f"h.{neuron.layer}.mlp.c_fc.weight"][:, neuron.neuron]
    gamma, beta = (truth.weights[f"h.{neuron.layer}.ln_2.{part}"] for part in ("weight", "bias"))
    h, w = (xhat, gamma * w) if layer_norm == "folded" else (xhat * gamma + beta, w)
    return h * w if embedding == "neuron" else h


def cosine_distances(a, b):
    unit_a, unit_b = (e / np.linalg.norm(e, axis=-1, keepdims=True) for e in (a, b))
    return 1 - unit_a @ unit_b.T


@pytest.mark.parametrize("how", HOW, ids=str)
def test_each_token_has_its_activations_and_falls_in_the_nearest_cluster(polysem_client, small_truth, how):
    fraction = how.get("min_activation_fraction", 0.25)
    choice = {name: how[name] for name in ("embedding", "layer_norm") if name in how}
    clustering = {name: value for name, value in how.items() if name != "min_activation_fraction"}
    threshold = how.get("distance_threshold", 0.5)
    neurons = polysem_client.cluster(*NEURONS, **clustering)
    members = [one.embeddings.astype(float) for one in polysem_client.embed(*NEURONS, **choice)]
    seen, texts = read(small_truth, TEXT)
    found = polysem_client.explain(TEXT, *NEURONS, **how)
    assert [token.text for token in found] == texts
    assert [token.position for token in found] == list(range(len(texts)))
    n_fired = n_far = 0
    for k, neuron in enumerate(neurons):
        firings = [token.firings[k] for token in found]
        assert {firing.neuron for firing in firings} == {neuron.id}
        xhat, activations = seen[neuron.id.layer][0], seen[neuron.id.layer][1][:, neuron.id.neuron]
        maximum = small_truth.key_activations(neuron.id.layer)[:, neuron.id.neuron].max()
        assert_allclose([firing.activation for firing in firings], activations, rtol=2e-4, atol=2e-5)
        if maximum <= 0:
            assert all(firing.share is firing.distance is firing.cluster is None for firing in firings)
            continue
        assert_allclose([firing.share for firing in firings], activations / maximum, rtol=2e-4, atol=1e-4)
        for firing, x, a in zip(firings, xhat, activations, strict=True):
            if abs(a - fraction * maximum) > 1e-4:
                assert firing.fires == (a > 0 and a >= fraction * maximum)
            if not firing.fires:
                assert firing.cluster is firing.distance is None
                continue
            d = cosine_distances(embed(small_truth, neuron.id, x, **choice)[None], members[k])[0]
            means = [d[neuron.labels == label].mean() for label in range(neuron.metrics.n_clusters)]
            assert_allclose(firing.distance, min(means), atol=1e-4)
            least, second = sorted([*means, 9])[:2]
            if second - least > 1e-4 and abs(least - threshold) > 1e-4:
                assert firing.cluster == (int(np.argmin(means)) if least <= threshold else None)
            n_fired += firing.cluster is not None
            n_far += firing.cluster is None
    assert n_fired + n_far > 20
    assert n_far > 0 or threshold > 0.1


def test_a_dataset_example_falls_in_its_own_cluster(polysem_client):
    """Its key token, read again, is as near to its cluster's members as it was in the index."""
    n = 0
    for neuron in polysem_client.cluster("0.0-9", distance_threshold=0.4):
        for example in polysem_client.examples(neuron.id, examples=[0, 5], whole_context=True):
            text = "".join(example.tokens[1:])
            if "�" in text:  # cut within a character
                continue
            token = polysem_client.explain(text, neuron.id, distance_threshold=0.4)[example.position - 1]
            (firing,) = token.firings
            assert firing.fires
            assert firing.activation == pytest.approx(example.activation, rel=1e-4)
            n += firing.cluster == neuron.labels[example.example]
    assert n >= 12  # of 20: under average linkage another cluster may be nearer on the mean


@pytest.mark.parametrize("k", [1, 5, 100])
def test_without_neurons_the_hardest_firing_come(polysem_client, small_truth, k):
    seen, texts = read(small_truth, TEXT)
    maximum = np.concatenate([small_truth.key_activations(layer).max(axis=0) for layer in range(N_LAYERS)])
    activations = np.concatenate([a for _, a in seen], axis=1)  # (T, L * N)
    usual = np.repeat([np.median([m for m in part if m > 0]) for part in np.split(maximum, N_LAYERS)], N_NEURONS)
    n_examples = np.array([neuron.n_examples for neuron in polysem_client.neurons()])
    kept = (maximum >= usual / 2) & (n_examples >= 5)
    assert 100 <= kept.sum() < (maximum > 0).sum()
    shares = np.where(kept, activations / np.where(kept, maximum, 1), -np.inf)
    found = polysem_client.explain(TEXT, n_strongest=k)
    assert [token.text for token in found] == texts
    for token, want, active in zip(found, shares, activations, strict=True):
        ours = [firing.neuron.layer * N_NEURONS + firing.neuron.neuron for firing in token.firings]
        assert len(set(ours)) == len(ours) == k
        assert kept[ours].all()
        assert_allclose([firing.share for firing in token.firings], np.sort(want)[::-1][:k], rtol=2e-4, atol=1e-4)
        assert_allclose([firing.activation for firing in token.firings], active[ours], rtol=2e-4, atol=2e-5)
        assert all(firing.cluster is firing.distance is None for firing in token.firings)
        for one, other in itertools.pairwise(token.firings):
            assert one.share >= other.share


def test_a_text_of_one_token_and_one_of_all_that_the_model_reads(polysem_client):
    assert [token.text for token in polysem_client.explain("x", "1.5")] == ["x"]
    assert len(polysem_client.explain("x" * 31, "1.5")) == 31  # beside BOS
    with pytest.raises(InvalidArgument, match="the text has 32 tokens, the model reads 31 at once beside BOS; shorten"):
        list(polysem_client.explain("x" * 32, "1.5"))


def test_without_bos_there_is_room_for_a_token_more(small_model, checkpoint, corpus_file, tmp_path):
    resident = load(str(checkpoint), "cpu")
    recipe = builder.Recipe(Selection("top", 0.75, 3), bos=False)
    builder.build(resident, Corpus(str(corpus_file)), tmp_path / "index", recipe)
    with polysem.server.local(tmp_path / "index", device="cpu") as client:
        assert len(client.explain("x" * 32, "1.5")) == 32
        with pytest.raises(InvalidArgument, match="the text has 33 tokens, the model reads 32 at once; shorten"):
            list(client.explain("x" * 33, "1.5"))


def test_a_special_tokens_name_is_ordinary_text(polysem_client):
    found = polysem_client.explain("<|endoftext|>", "1.5")
    assert [token.text for token in found] == list("<|endoftext|>")


def test_callers_with_the_same_text_share_its_reading_and_get_all_of_it(polysem_client):
    want = list(polysem_client.explain(TEXT, "0.*", "1.5"))
    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(lambda: list(polysem_client.explain(TEXT, "0.*", "1.5"))) for _ in range(8)]
        assert all(repr(one.result()) == repr(want) for one in asked)


@pytest.mark.parametrize(
    ("text", "neurons", "how", "error", "words"),
    [
        ("", [], {}, InvalidArgument, "there is no text to explain: give at least one character"),
        (None, [], {}, InvalidArgument, "the text to explain is of type NoneType, not str"),
        (b"x", [], {}, InvalidArgument, r"is of type bytes, not str; decode it first: text\.decode\(\)"),
        ("a\ud800b", [], {}, InvalidArgument, "the text is not valid Unicode: unpaired surrogate at index 1"),
        ("x" * 300_000, [], {}, InvalidArgument, "the text has 300000 bytes; explain at most 262144 at once"),
        ("x", ["2.0"], {}, UnknownNeuron, "there is no neuron 2.0"),
        ("x", ["y"], {}, InvalidArgument, "'y' is not a neuron"),
        ("x", ["1.5"], {"min_activation_fraction": 1.5}, InvalidArgument, "it is a share of the maximum, 0 to 1"),
        ("x", ["1.5"], {"min_activation_fraction": float("nan")}, InvalidArgument, "min_activation_fraction is nan"),
        ("x", [], {"n_strongest": 0}, InvalidArgument, "n_strongest is 0; it is a whole number from 1 to 100"),
        ("x", [], {"n_strongest": 101}, InvalidArgument, "n_strongest is 101"),
        ("x", ["1.5"], {"distance_threshold": -1}, InvalidArgument, "between 0 and 2"),
        ("x", ["1.5"], {"index": "none"}, UnknownIndex, "there is no index 'none'"),
    ],
)
def test_wrong_questions_get_a_sentence(polysem_client, text, neurons, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.explain(text, *neurons, **how))


def test_too_many_neurons_are_told(make_checkpoint, corpus_file, tmp_path):
    folder = make_checkpoint("wide", n_inner=300)
    builder.build(load(str(folder), "cpu"), Corpus(str(corpus_file)), tmp_path / "index", builder.Recipe())
    with polysem.server.local(tmp_path / "index", device="cpu") as client:
        with pytest.raises(InvalidArgument, match="300 neurons were named; explain a text by at most 256 at once"):
            list(client.explain("x", "1.*"))
        assert len(client.explain("x", "1.0-255")[0].firings) == 256


def test_the_server_refuses_what_a_client_would(polysem_client):
    for fields, words in [({}, "there is no text"), ({"text": "x", "n_strongest": 101}, "n_strongest is 101")]:
        with pytest.raises(grpc.RpcError) as raised:
            list(polysem_client._stub.ExplainText(pb.ExplainTextRequest(**fields)))
        error = status.from_rpc_error(raised.value, polysem_client.target)
        assert isinstance(error, InvalidArgument)
        assert words in error.message


def test_the_asynchronous_client_says_the_same(polysem_client):
    async def asked():
        async with AsyncClient(polysem_client.target) as client:
            return await client.explain(TEXT, "1.5")

    assert list(asyncio.run(asked())) == list(polysem_client.explain(TEXT, "1.5"))
