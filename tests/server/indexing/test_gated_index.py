"""A whole index of each family: examples, activations and embeddings are what plain hooks in float64 say."""

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from polysem.proto.facts import Selection
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import ClusterQuery, EmbeddingChoice
from polysem.proto.questions.embedding import EmbedQuery
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import Index
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load
from polysem.server.questions import clustering, embedding
from polysem.server.questions.engine import Engine

from ..model import tiny_families
from ..model.plain_hooks import Seen, hooked
from ..model.tiny_families import TINY, Tiny

FRACTION = 0.6
TEXTS = [f"{'ab zq the 12'[i % 9 :]} neuron {i * 37 % 101} fires {'é日' * (i % 3)}" for i in range(14)]
EDGE = 1e-4  # of the maximum: float32 may put an activation on either side of a threshold


class Built(NamedTuple):
    """seen: of each context, of each layer. counted: units of each stage, as the build told."""

    tiny: Tiny
    engine: Engine
    index: Index
    seen: list[list[Seen]]
    modules: torch.nn.Module
    counted: Counter[str]

    def strengths(self, side: str, layer: int) -> np.ndarray:
        """(C, T, N) float64, −inf in padding and at BOS."""
        sign = 1 if side == "positive" else -1
        every = [sign * of[layer].a[0].numpy() for of in self.seen]
        found = np.full((len(every), max(map(len, every)), every[0].shape[1]), -np.inf)
        for row, a in zip(found, every, strict=True):
            row[1 : len(a)] = a[1:]
        return found


@pytest.fixture(scope="module", params=TINY)
def built(request, tmp_path_factory) -> Built:
    from transformers import AutoModel

    tiny = TINY[request.param]
    folder = tmp_path_factory.mktemp("family")
    model_folder = tiny_families.write(folder / "model", tiny)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    model = load(str(model_folder), "cpu")
    counted = Counter[str]()
    recipe = Recipe(Selection("first", FRACTION, 100), bos=True)
    index = build(
        model, Corpus(str(corpus)), folder / "index", recipe, lambda stage, n, total: counted.update({stage: n})
    )
    theirs = AutoModel.from_pretrained(model_folder, dtype=torch.float64).eval()
    seen = [hooked(theirs, tiny, torch.from_numpy(index.contexts.tokens(c))[None]) for c in range(len(TEXTS))]
    return Built(tiny, Engine(model, [index], "test"), index, seen, theirs, counted)


def test_gated_neurons_have_both_sides(built):
    assert built.index.info.sides == (("positive", "negative") if built.tiny.gated else ("positive",))


def test_a_second_pass_changes_no_byte(built, tmp_path):
    corpus = Corpus(str(built.index.folder.parent / "corpus.jsonl"))
    recipe = Recipe(Selection("first", FRACTION, 100), bos=True)
    assert build(built.engine.model, corpus, tmp_path / "two", recipe, keep_bytes=0).sha256 == built.index.sha256


def test_progress_counts_a_layer_once_whatever_its_sides(built):
    assert (built.counted["choose"], built.counted["write"]) == (2, 2)


def test_the_examples_are_those_that_the_rule_chooses(built):
    for side in built.index.info.sides:
        index = built.index.of(side)
        for layer in range(2):
            strengths, stored = built.strengths(side, layer), index.layer(layer)
            highest = strengths.max(axis=1)  # (C, N)
            for j, most in enumerate(highest.max(axis=0)):
                mine = slice(stored.offsets[j], stored.offsets[j + 1])
                chosen = stored.row_contexts[stored.rows[mine]]
                surely, perhaps = (
                    set(np.flatnonzero((highest[:, j] > 0) & (highest[:, j] >= (FRACTION + edge) * most)).tolist())
                    for edge in (EDGE, -EDGE)
                )
                assert surely <= set(chosen.tolist()) <= perhaps
                at = strengths[chosen, stored.row_positions[stored.rows[mine]], j]
                assert_allclose(at, highest[chosen, j], rtol=1e-3)  # the key token is the strongest
                assert_allclose(index.sign * stored.activations[mine], at, rtol=2e-4, atol=1e-4)


def test_statistics_are_of_each_side(built):
    for side in built.index.info.sides:
        index = built.index.of(side)
        for layer in range(2):
            highest = built.strengths(side, layer).max(axis=1)
            statistics = index.statistics
            assert_allclose(index.sign * statistics.maximum[layer], highest.max(axis=0), rtol=2e-4, atol=1e-4)
            assert_allclose(index.sign * statistics.mean[layer], highest.mean(axis=0), rtol=2e-4, atol=1e-4)
            assert_allclose(statistics.share_positive[layer], (highest > 0).mean(axis=0), atol=1e-6)
            assert statistics.histogram[layer].sum(axis=1).tolist() == (highest > 0).sum(axis=0).tolist()


def plain_embeddings(built: Built, side: str, layer: int, neuron: int) -> Any:
    """(n, D) float64: h ⊙ ∂z/∂h of the neuron's examples, by torch's own gradient of transformers' own matrices."""
    stored = built.index.of(side).layer(layer)
    rows = stored.rows[stored.offsets[neuron] : stored.offsets[neuron + 1]]
    module = built.modules.get_submodule(built.tiny.layers)[layer]
    found = []
    for context, position in zip(stored.row_contexts[rows], stored.row_positions[rows], strict=True):
        h = built.seen[context][layer].h[0, position].clone().requires_grad_()
        pre = [module.get_submodule(name)(h) for name in built.tiny.reads]
        pre = list(pre[0].chunk(2)) if "gate_up" in built.tiny.reads[0] else pre
        z = pre[0][neuron] * pre[1][neuron] if len(pre) == 2 else pre[0][neuron]
        (gradient,) = torch.autograd.grad(z, h)
        found.append((h * gradient).detach().numpy())
    return np.array(found)


def test_embeddings_and_trees_are_those_of_plain_arithmetic(built):
    choice = EmbeddingChoice("neuron", "raw")
    for side in built.index.info.sides:
        for layer, neuron in ((0, 3), (1, 17), (1, 39)):
            want = plain_embeddings(built, side, layer, neuron)
            ranges = (NeuronRange(layer, neuron, neuron),)
            embed = embedding.plan(built.engine, EmbedQuery(ranges, "", choice, side))
            got = embed.work.run(embed.items).embeddings
            assert_allclose(got, want, rtol=0.01, atol=2e-3 * np.abs(want).max(initial=0))  # x̂ is stored in float16
            cluster = clustering.plan(built.engine, ClusterQuery(ranges, "", choice, side=side))
            heights = cluster.work.run(cluster.items).heights
            if len(want) > 1:
                assert_allclose(heights, linkage(pdist(got.astype(float), "cosine"), "average")[:, 2], atol=1e-5)


@pytest.mark.parametrize("family", ["olmo2", "olmo3"])
def test_rows_that_no_norm_bounds_keep_values_of_a_million(family, tmp_path):
    """Their MLP reads the residual stream itself; float16 ends at 65,504."""
    folder = tiny_families.write(tmp_path / "model", TINY[family], scale=3e6)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    model = load(str(folder), "cpu")
    index = build(model, Corpus(str(corpus)), tmp_path / "index", Recipe(Selection("first", FRACTION, 100), bos=True))
    shown: list[torch.Tensor] = []
    engine, choice, ranges = Engine(model, [index], "test"), EmbeddingChoice("pre_mlp", "raw"), (NeuronRange(0, 3, 3),)
    embed = embedding.plan(engine, EmbedQuery(ranges, "", choice, "negative"))
    got = embed.work.run(embed.items).embeddings
    stored = index.of("negative").layer(0)
    rows = stored.rows[stored.offsets[3] : stored.offsets[4]]
    for e, context, position in zip(got, stored.row_contexts[rows], stored.row_positions[rows], strict=True):
        model.read(
            torch.from_numpy(index.contexts.tokens(int(context)))[None], lambda _l, x, _a: shown.append(x.clone())
        )
        want = shown[-2][0, position].numpy()  # of layer 0, of two
        assert np.abs(want).max() > 1e6
        assert_allclose(e, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())
    neuron = EmbeddingChoice("neuron", "raw")
    cluster = clustering.plan(engine, ClusterQuery(ranges, "", neuron, side="negative"))
    assert np.isfinite(cluster.work.run(cluster.items).heights).all()
    embed = embedding.plan(engine, EmbedQuery(ranges, "", neuron, "negative"))
    e = embed.work.run(embed.items).embeddings
    assert np.isfinite(e).all()
    assert np.abs(e).max() > 1e6
