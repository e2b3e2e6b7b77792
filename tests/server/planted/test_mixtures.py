"""Which examples are mixed, on a corpus of few words, against a GPT-2 in NumPy over the same corpus."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import open_index
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load
from polysem.server.planted.mixtures import KINDS, LEAST_EXAMPLES, N_EXAMPLES, mixtures, pre_activations

from ...end_to_end.small_truth import N_LAYERS, Truth
from ..model import tiny_families
from ..model.tiny_families import TINY


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """200 documents of 4 to 15 of eight words, so that neurons share key tokens."""
    path, drawing = tmp_path_factory.mktemp("words") / "words.jsonl", np.random.default_rng(0)
    words = ["the", "model", "reads", "a", "window", "of", "each", "text"]
    documents = [" ".join(drawing.choice(words, drawing.integers(4, 16))) for _ in range(200)]
    path.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(documents)))
    return path


@pytest.fixture(scope="module")
def truth(checkpoint, corpus):
    return Truth(checkpoint, corpus)


@pytest.fixture(scope="module")
def index(small_model, corpus):
    build(small_model, Corpus(str(corpus)), corpus.parent / "index", Recipe(Selection("first", 0.5, 60)))
    return open_index(corpus.parent / "index")


@pytest.fixture(scope="module")
def found(small_model, index):
    return mixtures(small_model, index, 6, 0)


def z_of(truth, layer, neuron, x):
    """Pre-activations (n,) of a neuron at x̂ (n, D), float64."""
    w = {name: truth.weights[f"h.{layer}.{name}"] for name in ("ln_2.weight", "ln_2.bias")}
    matrix, biases = (truth.weights[f"h.{layer}.mlp.c_fc.{name}"] for name in ("weight", "bias"))
    return (w["ln_2.weight"] * x + w["ln_2.bias"]) @ matrix[:, neuron] + biases[neuron]


def stored_of(index, layer, neuron):
    """Rows of x̂ of a neuron's examples, strongest first."""
    stored = index.layer(layer)
    mine = slice(*stored.offsets[neuron : neuron + 2])
    return stored.rows[mine][np.argsort(-stored.activations[mine], kind="stable")]


def row_of(index, layer, x):
    """The row that has this x̂."""
    (rows,) = np.nonzero((index.layer(layer).xhat == x.numpy().astype(np.float16)).all(1))
    return rows


def test_there_are_mixtures_of_every_kind_in_every_layer(found):
    assert {(mixture.kind, mixture.layer) for mixture in found} == {
        (kind, layer) for kind in KINDS for layer in range(N_LAYERS)
    }


def test_each_source_gives_as_many_examples(found):
    for mixture in found:
        counts = np.bincount(mixture.truth)
        assert len(counts) == (3 if mixture.kind == "three" else 2)
        assert len(set(counts.tolist())) == 1
        assert counts[0] >= LEAST_EXAMPLES
        assert len(mixture.truth) == len(mixture.x) <= N_EXAMPLES
        assert len(mixture.neurons) == (1 if mixture.kind == "random" else len(counts))


def test_a_neuron_is_in_one_mixture_of_a_kind(found):
    for kind in KINDS:
        for layer in range(N_LAYERS):
            used = [j for of in found if (of.kind, of.layer) == (kind, layer) for j in of.neurons]
            assert len(used) == len(set(used))


def test_examples_are_the_strongest_in_which_no_other_of_the_neurons_fires(found, truth, index):
    for mixture in (of for of in found if of.kind in ("two", "three")):
        layer = mixture.layer
        x, contexts = index.layer(layer).xhat.astype(float), index.layer(layer).row_contexts
        for i, neuron in enumerate(mixture.neurons):
            rows = stored_of(index, layer, neuron)
            left = np.ones(len(rows), bool)
            for other in set(mixture.neurons) - {neuron}:
                theirs = stored_of(index, layer, other)
                z, own = (z_of(truth, layer, other, x[of]) for of in (rows, theirs))
                left &= ~np.isin(contexts[rows], contexts[theirs]) & (z < np.sort(own)[(len(own) - 1) // 2] / 2)
            mine = mixture.x[torch.from_numpy(mixture.truth == i)]
            assert_allclose(mine, x[rows[left][: len(mine)]])


def test_contexts_of_two_sources_are_never_the_same(found, index):
    for mixture in (of for of in found if of.kind != "random"):
        contexts = [
            {int(index.layer(mixture.layer).row_contexts[row]) for row in row_of(index, mixture.layer, x)}
            for x in mixture.x
        ]
        for i, k in combinations(range(len(contexts)), 2):
            if mixture.truth[i] != mixture.truth[k]:
                assert contexts[i] != contexts[k]


def test_neurons_with_a_token_in_common_are_mixed_at_that_token(found, index):
    for mixture in (of for of in found if of.kind == "token"):
        stored = index.layer(mixture.layer)
        tokens = [
            {int(index.contexts.tokens(stored.row_contexts[r])[stored.row_positions[r]]) for r in rows}
            for rows in (row_of(index, mixture.layer, x) for x in mixture.x)
        ]
        assert len(set.intersection(*tokens)) == 1


def test_random_contexts_are_read_where_the_neuron_is_most_active(found, truth, index):
    for mixture in (of for of in found if of.kind == "random"):
        layer, (neuron,) = mixture.layer, mixture.neurons
        rows = stored_of(index, layer, neuron)
        own = z_of(truth, layer, neuron, index.layer(layer).xhat[rows].astype(float))
        examples = set(index.layer(layer).row_contexts[rows].tolist())
        strongest = {}
        for c, activations in enumerate(truth.activations[layer]):
            if c not in examples and len(activations) > 1:
                strongest[c] = truth.xhat[layer][c][1 + activations[1:, neuron].argmax()]
        candidates = np.stack(list(strongest.values()))
        for x in mixture.x[torch.from_numpy(mixture.truth == 1)].numpy():
            assert np.abs(candidates - x).max(1).min() < 1e-4
            assert z_of(truth, layer, neuron, x) < np.sort(own)[(len(own) - 1) // 2] / 2
        assert_allclose(mixture.x[: len(mixture.x) // 2], index.layer(layer).xhat[rows[: len(mixture.x) // 2]])


def test_the_same_seed_mixes_the_same_and_another_does_not(small_model, index, found):
    again, other = (mixtures(small_model, index, 6, seed) for seed in (0, 1))
    assert len(again) == len(found)
    for one, same in zip(found, again, strict=True):
        assert one[:3] == same[:3]
        assert torch.equal(one.x, same.x)
    assert [of.neurons for of in other] != [of.neurons for of in found]


def test_no_more_mixtures_than_asked_for(small_model, index):
    counts = [of[:2] for of in mixtures(small_model, index, 2, 0)]
    assert max(counts.count(of) for of in counts) == 2


def test_pre_activations_are_those_of_gpt2(small_model, truth):
    x = np.concatenate(truth.xhat[1])[:50]
    found = pre_activations(small_model, 1, [3, 40], torch.from_numpy(x.astype(np.float32)))
    assert_allclose(found, np.stack([z_of(truth, 1, j, x) for j in (3, 40)], 1), atol=1e-4)


def test_pre_activations_of_gated_neurons_are_g_times_u(tmp_path):
    model = load(str(tiny_families.write(tmp_path / "model", TINY["llama, biases"])), "cpu")
    mlp, x = model.mlps[1], torch.randn(7, model.info.d_model, generator=torch.Generator().manual_seed(0))
    h = x * mlp.gamma
    j = [2, 5]
    wanted = (h @ mlp.weights[j].T + mlp.biases[j]) * (h @ mlp.up[j].T + mlp.up_biases[j])
    assert_allclose(pre_activations(model, 1, j, x), wanted, atol=1e-5)
