"""Planted embeddings: of one unit they are the server's own; of several, what the definitions say."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Selection
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import open_index
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load
from polysem.server.planted.mixtures import Mixture
from polysem.server.planted.planting import planted_embeddings
from polysem.server.questions.embedding import EmbedWork

from ..model import tiny_families
from ..model.tiny_families import TINY

LAYER = 1
COMPATIBLE = Path(__file__).parents[2] / "compatibility"
CHOICES = list(product(("folded", "raw"), ("raw", "centred", "standardised", "own")))


@pytest.fixture(scope="module")
def opened(small_model, index_folder, tmp_path_factory, corpus_file):
    """A model that is not gated and one that is, each with its index."""
    folder = tmp_path_factory.mktemp("gated")
    gated = load(str(tiny_families.write(folder / "model", TINY["llama, biases"])), "cpu")
    recipe = Recipe(Selection("first", 0.5, 30), bos=True)
    build(gated, Corpus(str(corpus_file), max_documents=60), folder / "index", recipe)
    return {"gpt2": (small_model, open_index(index_folder)), "llama": (gated, open_index(folder / "index"))}


def mixture_of(index, *neurons):
    """All examples of these neurons."""
    stored = index.layer(LAYER)
    rows = [stored.rows[stored.offsets[j] : stored.offsets[j + 1]] for j in neurons]
    x = torch.from_numpy(stored.xhat[np.concatenate(rows)].astype(np.float32))
    return Mixture("two", LAYER, neurons, x, np.repeat(np.arange(len(rows)), list(map(len, rows))))


@pytest.mark.parametrize(("layer_norm", "frame"), CHOICES)
@pytest.mark.parametrize(
    ("name", "embedding"),
    [("gpt2", "neuron"), ("gpt2", "pre_mlp"), *(("llama", e) for e in ("neuron", "pre_mlp", "gate", "up"))],
)
def test_one_unit_has_the_embeddings_that_the_server_gives(opened, name, embedding, layer_norm, frame):
    model, index = opened[name]
    choice = EmbeddingChoice(embedding, layer_norm, frame)
    neuron = int(np.argmax(index.n_examples[LAYER]))
    wanted = EmbedWork(model, index, choice).run(np.array([[LAYER, neuron]], np.int32)).embeddings
    assert len(wanted) >= 5
    for planting in ("units", "weights"):
        found = planted_embeddings(model, index, mixture_of(index, neuron), choice, planting)
        assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("layer_norm", "frame"), CHOICES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_units_add_up(opened, name, layer_norm, frame):
    """e = e_A + e_B + e_C in every frame, for frames are linear."""
    model, index = opened[name]
    choice = EmbeddingChoice("neuron", layer_norm, frame)
    mixture = mixture_of(index, 3, 8, 21)
    whole = planted_embeddings(model, index, mixture, choice)
    parts = [planted_embeddings(model, index, mixture._replace(neurons=(j,)), choice) for j in (3, 8, 21)]
    assert_allclose(whole, sum(parts), atol=2e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("frame", ["raw", "centred", "standardised", "own"])
def test_added_weights_are_added_units_where_nothing_is_gated(opened, frame):
    model, index = opened["gpt2"]
    mixture, choice = mixture_of(index, 3, 8), EmbeddingChoice("neuron", "raw", frame)
    units, weights = (planted_embeddings(model, index, mixture, choice, of) for of in ("units", "weights"))
    assert_allclose(units, weights, atol=1e-6)


def test_a_gated_neuron_with_added_weights_is_what_autograd_says(opened):
    """e = x̂ ⊙ ∂z/∂x̂ of z = (Σ g)(Σ u), which is not Σ g·u."""
    model, index = opened["llama"]
    mlp, mixture = model.mlps[LAYER], mixture_of(index, 3, 8)
    choice = EmbeddingChoice("neuron", "folded")
    x = mixture.x.double().requires_grad_()
    j = list(mixture.neurons)
    g, u = (
        (x * mlp.gamma.double()) @ matrix[j].double().T + biases[j].double()
        for matrix, biases in ((mlp.weights, mlp.biases), (mlp.up, mlp.up_biases))
    )
    for planting, z in (("weights", g.sum(1) * u.sum(1)), ("units", (g * u).sum(1))):
        (gradient,) = torch.autograd.grad(z.sum(), x, retain_graph=True)
        found = planted_embeddings(model, index, mixture, choice, planting)
        assert_allclose(found, (x * gradient).detach(), atol=1e-5)


def test_pre_mlp_knows_no_units(opened):
    model, index = opened["gpt2"]
    choice = EmbeddingChoice("pre_mlp")
    mixture = mixture_of(index, 3, 8)
    assert_array_equal(planted_embeddings(model, index, mixture, choice), mixture.x)


def test_what_a_model_or_an_index_lacks_is_refused(opened):
    model, index = opened["gpt2"]
    mixture = mixture_of(index, 3)
    with pytest.raises(InvalidArgument, match="embedding 'gate' is of gated neurons"):
        planted_embeddings(model, index, mixture, EmbeddingChoice("gate"))
    old = open_index(COMPATIBLE / "index")
    with pytest.raises(FailedPrecondition, match="no frame 'centred'; use raw or own"):
        planted_embeddings(model, old, mixture, EmbeddingChoice("neuron", "folded", "centred"))
