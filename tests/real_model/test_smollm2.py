"""Real weights through the whole product: SmolLM2-135M, 30 layers of 1,536 gated neurons. `make smollm2` runs it."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.testing import assert_close

import polysem.server
from polysem.client import Client
from polysem.client.measuring import measurements, table1
from polysem.client.measuring.measure import Measuring, variants
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import Index
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load
from polysem.server.model.model import Model

from ..server.model.plain_hooks import hooked
from ..server.model.tiny_families import TINY

FOLDER = os.environ.get("POLYSEM_SMOLLM2")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="make smollm2")
TEXT = "The committee met again this year, and the Budget of 1998 was read to the House in full."


class Case(NamedTuple):
    model: Model
    index: Index
    client: Client


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("smollm2")
    model = load(str(FOLDER), "cpu")
    index = build(model, Corpus("pydocs", max_documents=500), folder / "index", Recipe(context_length=128))
    with polysem.server.local(folder / "index", device="cpu") as client:
        yield Case(model, index, client)


def test_it_is_read_as_what_it_is(case):
    info = case.client.info().model
    assert (info.family, info.gated, info.n_layers, info.n_neurons_per_layer, info.d_model) == (
        "llama", True, 30, 1536, 576,
    )  # fmt: skip
    (index,) = case.client.indexes()
    assert index.sides == ("positive", "negative")
    assert index.n_contexts == 500
    assert index.n_neurons_with_examples > 46_000
    assert index.n_neurons_with_negative_examples > 46_000


def test_what_is_read_is_what_plain_hooks_see(case):
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokens = torch.tensor(case.model.tokenizer.encode([TEXT]))
    plain = hooked(theirs, TINY["llama"], tokens)
    shown: list[Any] = []
    case.model.read(tokens, lambda _layer, residual, a: shown.append((residual.clone(), a.clone())))
    neurons = torch.arange(1536)
    from polysem.proto.questions.clustering import EmbeddingChoice

    for layer, ((residual, a), seen) in enumerate(zip(shown, plain, strict=True)):
        assert_close(residual, seen.x, rtol=1e-4, atol=1e-3)
        assert_close(a, seen.a, rtol=1e-4, atol=1e-3)
        xhat = case.model.normalise(layer, residual[0])
        gamma = theirs.layers[layer].post_attention_layernorm.weight
        assert_close(xhat * gamma, seen.h[0], rtol=1e-4, atol=1e-3)
        e = case.model.embedding_weights(layer, neurons, EmbeddingChoice("neuron", "folded"))
        for weights, pre in zip((e.weights, e.up), seen.pre, strict=True):  # g, u
            assert_close(xhat @ weights.T, pre[0], rtol=1e-4, atol=1e-3)


def test_examples_are_the_strongest_of_what_the_model_says(case):
    """Whole contexts read again: nowhere is the neuron stronger than at the key token."""
    for side, sign in (("positive", 1), ("negative", -1)):
        for example in case.client.examples("20.34", "12.324", side=side, whole_context=True)[:6]:
            strengths = sign * example.activations
            assert strengths.max() == pytest.approx(sign * example.activation, rel=1e-3)
            assert strengths[example.position] == pytest.approx(strengths.max(), rel=1e-3)


def test_table_1_of_all_embeddings(case, tmp_path):
    """Every tenth layer: prints the table, and holds its numbers against the answers they come from."""
    asked = variants(("hac",), ("neuron", "pre_mlp", "gate", "up"), ("folded",), linkage="average")
    layers = ("2.*", "12.*", "22.*")
    for side in ("positive", "negative"):
        Measuring(case.client, layers, asked, best_cut=False, side=side).run(tmp_path / f"{side}.parquet")
        measured = measurements.read(tmp_path / f"{side}.parquet")
        Console(width=140).print(table1.tables(measured))
        rows = {row.embedding: row for row in table1.rows(measured)}
        assert set(rows) == {"neuron", "pre_mlp", "gate", "up"}
        intra = np.array(
            [
                [np.nan if neuron.metrics.intra is None else neuron.metrics.intra for neuron in answer]
                for answer in (case.client.cluster(*layers, side=side, embedding=embedding) for embedding in rows)
            ]
        )
        paired = np.isfinite(intra).all(axis=0)  # neurons for which it is defined by every embedding
        for row, values in zip(rows.values(), intra, strict=True):
            assert row.numbers["intra"].median == pytest.approx(np.median(values[paired]), abs=1e-9)
            assert row.numbers["intra"].n_paired == paired.sum() > 100
