"""What encoders read of each family, and what their latents do, beside plain hooks and sums of transformers' own."""

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.latents.encoder import POINTS, Latents, Origin
from polysem.server.latents.firing import ReLU
from polysem.server.model.families import FAMILIES
from polysem.server.model.latent_model import with_latents
from polysem.server.model.model import Model

from . import tiny_families
from .plain_hooks import hooked
from .tiny_families import TINY
from .tiny_saes import plain_activations, plain_read, sae

D, N_LAYERS = 24, 2
PARALLEL = ("gptj", "gpt_neox", "phi", "falcon", "falcon, new", "falcon, new, one norm")
OTHER_SUMS = ("granite", "bloom, residual behind the norm", "opt, norm behind")  # the residual stream is no plain sum
TOKENS = torch.tensor([[256, *b"the model reads"], [256, *b"a text, anew it"]])


class Family(NamedTuple):
    """One tiny model: ours, transformers' own in float64, and how it is made."""

    name: str
    ours: Any
    theirs: torch.nn.Module

    def read(self, point: str, layer: int, before_norm: bool = False) -> np.ndarray:
        """(b, T, D): what an encoder there gets, without doing anything itself."""
        eye = Latents(
            layer, point, torch.eye(D), ReLU(torch.zeros(D)), "eye", "", Origin("", "relu", "", None, before_norm)
        )
        found = []
        with_latents(self.ours, [eye]).read(TOKENS, lambda at, x, a: found.append((at, x.clone(), a)))
        ((seen, x, a),) = found
        assert seen == layer
        assert torch.equal(a, x.relu())
        return x.double().numpy()


@pytest.fixture(scope="module", params=TINY)
def family(request) -> Family:
    """Without tokenizer and unembedding, which none of this asks for."""
    transformer = tiny_families.made(TINY[request.param]).base_model.eval()
    theirs = copy.deepcopy(transformer).double()
    of = FAMILIES[TINY[request.param].model_type]
    ours = Model("tiny", of, transformer, None, torch.device("cpu"), "float32", "", None)
    return Family(request.param, ours, theirs)


def near(got, want):
    assert_allclose(got, want, atol=1e-3 * np.abs(want).max())  # float32 through two layers


def test_the_stream_is_what_transformers_hands_from_layer_to_layer(family):
    with torch.no_grad():
        states = family.theirs(TOKENS, output_hidden_states=True).hidden_states
    if "opt" not in family.name:  # which projects its first and last state
        near(family.read("resid_pre", 0), states[0].numpy())
    near(family.read("resid_post", 0), states[1].numpy())
    near(family.read("resid_pre", 1), states[1].numpy())


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_attention_and_mlp_add_up_to_what_a_layer_adds(family, layer):
    if family.name in OTHER_SUMS:
        return
    before, after, attention, mlp = (
        family.read(point, layer) for point in ("resid_pre", "resid_post", "attn_out", "mlp_out")
    )
    near(before + attention + mlp, after)
    if family.name in PARALLEL:
        with pytest.raises(FailedPrecondition, match=r"resid_mid, and a .* stand side by side"):
            family.read("resid_mid", layer)
    else:
        near(family.read("resid_mid", layer), before + attention)


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_what_the_mlp_reads_is_what_its_matrices_get(family, layer):
    seen = hooked(family.theirs, TINY[family.name], TOKENS)[layer]
    near(family.read("mlp_in", layer), seen.h.numpy())
    mlp = family.ours.mlps[layer]
    plain = family.read("mlp_normalised", layer)
    gamma = 1 if mlp.gamma is None else mlp.gamma.double().numpy()
    beta = 0 if mlp.beta is None else mlp.beta.double().numpy()
    near(plain * gamma + beta, seen.h.numpy())


def test_before_a_norm_behind_it_stands_the_output_matrix(family):
    written = []
    module = family.theirs.get_submodule(TINY[family.name].layers)[1].get_submodule(TINY[family.name].writes)
    hook = module.register_forward_hook(lambda _m, _given, made: written.append(made.clone()))
    with torch.no_grad():
        family.theirs(TOKENS)
    hook.remove()
    near(family.read("mlp_out", 1, before_norm=True), written[0].reshape(*TOKENS.shape, -1).numpy())


# ---- Latents of one model


@pytest.mark.parametrize("k", [None, 3])
def test_latents_of_several_layers_fire_as_plain_arithmetic_says(small_model, k):
    some = [sae(0, "resid_post", 40, D, 1, k), sae(1, "mlp_out", 17, D, 2, k)]
    model, found = with_latents(small_model, some), {}
    model.read(TOKENS, lambda layer, x, a: found.update({layer: (x.clone(), a.clone())}))
    eyes = [Family("gpt2", small_model, small_model._transformer).read(one.point, one.layer) for one in some]
    for latents, x in zip(some, eyes, strict=True):
        read, a = (of.double().numpy() for of in found[latents.layer])
        near(read, plain_read(latents, x))
        near(a, plain_activations(latents, x))
    assert [model.width(layer) for layer in range(N_LAYERS)] == [40, 17]


def test_a_reading_ends_at_the_last_layer_asked_for(small_model):
    some = [sae(0, "resid_post", 5, D), sae(1, "resid_post", 5, D)]
    seen = []
    model = with_latents(small_model, some)
    model.read(TOKENS, lambda layer, *_: seen.append(layer), last_layer=0)
    assert seen == [0]
    assert model.read(TOKENS, None) is None


@pytest.mark.parametrize("point", ["resid_pre", "mlp_in", "attn_out", "resid_post"])
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_what_stands_before_can_be_read_once(small_model, point, layer):
    model, whole, rest = with_latents(small_model, [sae(layer, point, 7, D)]), [], []
    model.read(TOKENS[:1], lambda _l, _x, a: whole.append(a[:, 6:]))
    model.read(TOKENS[:1, 6:], lambda _l, _x, a: rest.append(a), layer, model.past(TOKENS[0, :6], layer))
    assert_allclose(rest[0], whole[0], atol=1e-4)


def test_the_models_own_neurons_are_read_as_before(small_model):
    def activations():
        found = []
        small_model.read(TOKENS, lambda _l, _x, a: found.append(a.clone()))
        return torch.stack(found)

    before = activations()
    with_latents(small_model, [sae(0, "resid_pre", 5, D)]).read(TOKENS, lambda *_: None)
    assert torch.equal(activations(), before)


def test_a_latent_embeds_by_its_row(small_model):
    latents = sae(1, "mlp_in", 9, D)
    model, neurons = with_latents(small_model, [latents]), torch.tensor([4, 0])
    for layer_norm in ("folded", "raw"):
        how = model.embedding_weights(1, neurons, EmbeddingChoice("neuron", layer_norm))
        assert torch.equal(how.weights, latents.weights[[4, 0]])
        assert (how.offsets, how.up) == (None, None)
    assert torch.equal(model.embedding_weights(1, neurons, EmbeddingChoice("pre_mlp")).weights, torch.ones(2, D))
    other = model.embedding_weights(1, neurons, EmbeddingChoice("other", seed=3)).weights
    assert all(any(torch.equal(row, mine) for mine in latents.weights) for row in other)
    permuted = model.embedding_weights(1, neurons, EmbeddingChoice("permuted", seed=3)).weights
    assert torch.equal(permuted.sort().values, latents.weights[[4, 0]].sort().values)
    assert not torch.equal(permuted, latents.weights[[4, 0]])
    with pytest.raises(InvalidArgument, match="embedding 'gate' is of gated neurons, and these are latents"):
        model.embedding_weights(1, neurons, EmbeddingChoice("gate"))


@pytest.mark.parametrize(
    ("layer", "d", "words"),
    [
        (0, 32, "the SAE 'tiny-0' reads vectors of 32 elements, and those of .* have 24; give an SAE of this model"),
        (2, 24, "the SAE 'tiny-2' reads layer 2, and .* has layers 0 to 1; give an SAE of this model"),
    ],
)
def test_an_sae_of_another_model_is_refused(small_model, layer, d, words):
    with pytest.raises(InvalidArgument, match=words):
        with_latents(small_model, [sae(layer, "resid_pre", 5, d)])


@pytest.mark.parametrize(
    ("trained_on", "id_", "is_it"),
    [
        ("gpt2-small", "openai-community/gpt2", True),
        ("google/gemma-2-2b", "google/gemma-2-2b", True),
        ("gemma-2-2b", "google/gemma-2-2b", True),
        ("pythia-160m", "gpt2", False),
        ("pythia-160m", "/models/anything", True),  # a folder may be called anything
        (None, "gpt2", True),
    ],
)
def test_the_model_that_it_was_trained_on_is_compared_by_name(small_model, trained_on, id_, is_it):
    from dataclasses import replace

    from polysem.server.model.latent_model import check_fits

    latents = sae(0, "resid_pre", 5, D)
    latents = replace(latents, origin=latents.origin._replace(model=trained_on))
    if is_it:
        check_fits(latents, replace(small_model.info, id=id_))
    else:
        with pytest.raises(InvalidArgument, match="was trained on 'pythia-160m', not on 'gpt2'; give an SAE of this"):
            check_fits(latents, replace(small_model.info, id=id_))


def test_every_point_is_known():
    assert {"resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_normalised", "mlp_out", "attn_out"} == set(POINTS)
