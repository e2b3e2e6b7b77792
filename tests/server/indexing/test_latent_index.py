"""A whole index of latents, two layers of different widths: what plain arithmetic in float64 says of them."""

import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from polysem.proto.errors import DamagedIndex, FailedPrecondition, InvalidArgument, UnknownNeuron
from polysem.proto.facts import Selection
from polysem.proto.neurons import NeuronId, NeuronRange, parse_neurons
from polysem.proto.questions.ablation import AblateQuery
from polysem.proto.questions.clustering import ClusterQuery, EmbeddingChoice
from polysem.proto.questions.embedding import EmbedQuery
from polysem.proto.questions.explain import ExplainQuery
from polysem.proto.questions.logit_effects import LogitEffectsQuery
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import Index, open_index
from polysem.server.indexing import widths
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.latent_model import LatentModel, with_latents
from polysem.server.questions import ablation, clustering, embedding, explain, logit_effects
from polysem.server.questions.engine import Engine

from ..model.tiny_saes import plain_activations, plain_read, sae

D, FRACTION, DEAD = 24, 0.6, 5
EDGE = 1e-4  # of the maximum: float32 may put an activation on either side of a threshold
RECIPE = Recipe(Selection("first", FRACTION, 100), bos=True)
TEXTS = [f"{'ab zq the 12'[i % 9 :]} latent {i * 37 % 101} fires {'é日' * (i % 3)}"[:31] for i in range(14)]


class Built(NamedTuple):
    """read, a: of each layer, of each context, what its encoder multiplies (T, D), and activations (T, F), float64."""

    model: LatentModel
    index: Index
    engine: Engine
    read: list[list[np.ndarray]]
    a: list[list[np.ndarray]]


def saes():
    return [sae(0, "resid_post", 40, D, 1, dead=[DEAD]), sae(1, "mlp_out", 17, D, 2, k=4)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return Corpus(str(path))


@pytest.fixture(scope="module")
def built(small_model, corpus, tmp_path_factory) -> Built:
    model = with_latents(small_model, saes(), "sae:/nowhere")
    index = build(model, corpus, tmp_path_factory.mktemp("built") / "latents", RECIPE)
    read, a = ([[], []] for _ in range(2))
    gpt2 = small_model._transformer
    for context in range(len(index.contexts)):
        written, tokens = [], torch.from_numpy(index.contexts.tokens(context))[None]
        hook = gpt2.h[1].mlp.c_proj.register_forward_hook(lambda _m, _given, made, to=written: to.append(made))
        with torch.no_grad():
            states = gpt2(tokens, output_hidden_states=True).hidden_states
        hook.remove()
        for layer, (latents, x) in enumerate(zip(saes(), (states[1], written[0]), strict=True)):
            read[layer].append(plain_read(latents, x[0].numpy()))
            a[layer].append(plain_activations(latents, x[0].numpy()))
    return Built(model, index, Engine(small_model, [index], "test"), read, a)


def highest(built, layer):
    """(C, F) float64: key activations, never at BOS."""
    return np.array([a[1:].max(axis=0) for a in built.a[layer]])


def test_each_layer_has_its_own_width(built):
    info = built.index.info
    assert (info.unit, info.widths, info.n_neurons_per_layer, info.held_layers) == ("latent", (40, 17), 40, (0, 1))
    assert [(e.name, e.point, e.kind, e.n_latents) for e in info.encoders] == [
        ("tiny-0", "resid_post", "relu", 40),
        ("tiny-1", "mlp_out", "topk", 17),
    ]
    assert built.index.manifest["format"] == 4
    assert len(built.index.every_neuron) == 57
    assert built.index.neurons(parse_neurons("1.*")).tolist() == [[1, j] for j in range(17)]
    assert np.array_equal(built.index.neurons(parse_neurons("*")), built.index.every_neuron)
    assert built.index.places(built.index.every_neuron).tolist() == list(range(57))
    with pytest.raises(UnknownNeuron, match=r"there is no latent 1\.17: layer 1 has latents 0 to 16"):
        built.index.neurons(parse_neurons("1.17"))


def test_the_examples_are_those_that_the_rule_chooses(built):
    for layer in range(2):
        most, stored = highest(built, layer), built.index.layer(layer)
        for f in range(most.shape[1]):
            mine = slice(stored.offsets[f], stored.offsets[f + 1])
            chosen = stored.row_contexts[stored.rows[mine]]
            surely, perhaps = (
                set(np.flatnonzero((most[:, f] > 0) & (most[:, f] >= (FRACTION + edge) * most[:, f].max())).tolist())
                for edge in (EDGE, -EDGE)
            )
            assert surely <= set(chosen.tolist()) <= perhaps
            assert_allclose(stored.activations[mine], most[chosen, f], rtol=1e-3, atol=1e-4)


def test_statistics_are_those_of_plain_activations(built):
    for layer, width in enumerate((40, 17)):
        most, statistics = highest(built, layer), built.index.statistics
        assert_allclose(statistics.maximum[layer, :width], most.max(axis=0), rtol=1e-3, atol=1e-3)
        assert_allclose(statistics.share_positive[layer, :width], (most > 0).mean(axis=0), atol=1e-6)
        assert statistics.histogram[layer, :width].sum(axis=1).tolist() == (most > 0).sum(axis=0).tolist()
        assert not statistics.maximum[layer, width:].any()


def test_embeddings_and_trees_are_read_times_a_row_of_the_encoder(built):
    for layer, f in np.argwhere(built.index.n_examples >= 3)[::6].tolist():
        stored, ranges = built.index.layer(layer), (NeuronRange(layer, f, f),)
        rows = stored.rows[stored.offsets[f] : stored.offsets[f + 1]]
        places = zip(stored.row_contexts[rows], stored.row_positions[rows], strict=True)
        x = np.array([built.read[layer][context][position] for context, position in places]).reshape(-1, D)
        want = x * saes()[layer].weights[f].double().numpy()
        embed = embedding.plan(built.engine, EmbedQuery(ranges, ""))
        got = embed.work.run(embed.items).embeddings
        assert_allclose(got, want, rtol=0.01, atol=2e-3 * np.abs(want).max(initial=0))  # x̂ is stored in float16
        assert len(want) > 1
        for frame in ("raw", "own"):
            plan = clustering.plan(built.engine, ClusterQuery(ranges, "", EmbeddingChoice(frame=frame)))
            e = got.astype(float) - (got.mean(axis=0) if frame == "own" else 0)
            heights = plan.work.run(plan.items).heights
            assert_allclose(heights, linkage(pdist(e, "cosine"), "average")[:, 2], atol=1e-5)


def test_dead_latents_are_answered_and_have_no_examples(built):
    plan = clustering.plan(built.engine, ClusterQuery((NeuronRange(0, DEAD, DEAD),)))
    found = plan.work.run(plan.items)
    assert (found.n_examples.tolist(), found.n_clusters.tolist()) == ([0], [0])
    assert plan.provenance.unit == "latent"


def test_a_text_is_read_by_the_encoder_itself(built, monkeypatch):
    monkeypatch.setattr("polysem.server.questions.units.open_units", lambda where, layers: saes())
    engine = Engine(built.engine.model, [built.index], "test")
    query = ExplainQuery("latent fires", (NeuronRange(1, 2, 2), NeuronRange(0, 3, 3)))
    plan = explain.plan(engine, query).plan([np.zeros(0, np.int32)] * 2)
    found = plan.work.run(plan.items)
    model, wanted = with_latents(built.engine.model, saes()), {}
    ids = torch.tensor([[256, *plan.work.ids]])
    model.read(ids, lambda layer, _x, a: wanted.update({layer: a[0, 1:].numpy().copy()}))
    assert_allclose(found.activations.reshape(-1, 2), np.stack([wanted[1][:, 2], wanted[0][:, 3]], 1), atol=1e-5)
    strongest = explain.plan(engine, ExplainQuery("latent fires", ())).plan([])
    of = strongest.work.run(strongest.items).active_neurons
    assert all(neuron < (40, 17)[layer] for layer, neuron in of.tolist())


def test_without_the_sae_clusters_are_answered_and_texts_are_not(built):
    plan = explain.plan(built.engine, ExplainQuery("latent fires", (NeuronRange(1, 2, 2),))).plan([np.zeros(0)])
    with pytest.raises(
        FailedPrecondition, match=r"for latents of 'latents' only with their SAE: .*nowhere.* --units sae:"
    ):
        plan.work.run(plan.items)


def test_another_sae_than_the_indexs_is_refused(built, monkeypatch):
    others = [dataclasses.replace(one, sha256="f" * 64) for one in saes()]
    monkeypatch.setattr("polysem.server.questions.units.open_units", lambda where, layers: others)
    engine = Engine(built.engine.model, [built.index], "test")
    plan = explain.plan(engine, ExplainQuery("latent fires", (NeuronRange(1, 2, 2),))).plan([np.zeros(0)])
    with pytest.raises(
        FailedPrecondition, match=r"'tiny-0' .* is not the one whose latents 'latents' holds at layer 0"
    ):
        plan.work.run(plan.items)


def test_what_a_latent_writes_is_refused_in_words(built):
    with pytest.raises(FailedPrecondition, match="logit effects of latents cannot be told: Polysem reads what"):
        logit_effects.plan(built.engine, LogitEffectsQuery((NeuronRange(0, 3, 3),)))
    with pytest.raises(FailedPrecondition, match="effects of ablations of latents cannot be told"):
        ablation.plan(built.engine, AblateQuery(NeuronId(0, 3)))


def test_layers_that_no_encoder_reads_and_a_negative_side_are_refused(small_model, corpus, tmp_path):
    model = with_latents(small_model, saes()[:1])
    for recipe, words in (
        (dataclasses.replace(RECIPE, layers=(1,)), "no encoder reads layer 1: those given read layer 0"),
        (dataclasses.replace(RECIPE, sides="both"), "latents have no negative side; leave out --sides both"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            build(model, corpus, tmp_path / "index", recipe)
    with pytest.raises(InvalidArgument, match="maxima of a file are of neurons; leave them out for latents"):
        build(model, corpus, tmp_path / "index", RECIPE, max_activations=np.ones((2, 96)))


def test_one_layer_of_two_is_kept(built, corpus, tmp_path):
    index = build(built.model, corpus, tmp_path / "one", dataclasses.replace(RECIPE, layers=(1,)))
    assert (index.info.layers, index.info.widths) == ((1,), (17,))
    both, one = built.index.layer(1), index.layer(1)
    assert np.array_equal(both.rows, one.rows)
    assert np.array_equal(both.xhat, one.xhat)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["encoders"][0].update(n_latents=41), "the shape"),
        (lambda m: m["encoders"][0].update(n_latents=0), "says n_latents 0, which is no whole number"),
        (lambda m: m["encoders"][0].update(layer=1), "encoders of other layers"),
    ],
)
def test_encoders_that_do_not_fit_the_arrays_are_told(built, tmp_path, change, words):
    import hashlib
    import shutil

    folder = shutil.copytree(built.index.folder, tmp_path / "damaged")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    text = json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")
    with pytest.raises(DamagedIndex, match=words):
        open_index(folder)


def test_memory_is_bounded_by_the_width_of_an_sae(small_model, corpus, built, monkeypatch, tmp_path):
    """As many activations at a time as the limits say, or one context's; and the same index to the rounding."""
    of = saes()[0]
    sizes: list[tuple[int, int]] = []
    fire = type(of.fire)

    def recorded(self, z):
        sizes.append(tuple(z.shape))
        return fire_before(self, z)

    fire_before = fire.__call__
    monkeypatch.setattr(fire, "__call__", recorded)
    monkeypatch.setitem(widths.BATCH_LATENTS, "cpu", 40 * 64)  # 64 tokens
    monkeypatch.setattr(widths, "HELD_ACTIVATIONS", 40 * 3)  # 3 contexts
    held: list[int] = []
    reduced = widths.contexts_at_once
    monkeypatch.setattr(widths, "contexts_at_once", lambda *of: held.append(reduced(*of)) or held[-1])
    index = build(with_latents(small_model, [of]), corpus, tmp_path / "narrow", RECIPE)
    assert held == [3]
    assert max(n_tokens for n_tokens, _ in sizes) <= 64
    for name in ("offsets", "row_contexts", "row_positions"):
        assert np.array_equal(getattr(index.layer(0), name), getattr(built.index.layer(0), name))
    assert_allclose(index.layer(0).activations, built.index.layer(0).activations, rtol=1e-4)


def test_vectors_of_a_million_are_kept(small_model, corpus, tmp_path):
    """No norm bounds a residual stream; float16 ends at 65,504."""
    of = sae(0, "resid_pre", 8, D, 3)
    scaled = dataclasses.replace(of, normalise=lambda x: x * 3e6, weights=of.weights * 1e-6)
    index = build(with_latents(small_model, [scaled]), corpus, tmp_path / "index", RECIPE)
    assert index.layer(0).scales is not None
    engine = Engine(small_model, [index], "test")
    embed = embedding.plan(engine, EmbedQuery((NeuronRange(0),), "", EmbeddingChoice("pre_mlp")))
    found = embed.work.run(embed.items).embeddings
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 1e6
