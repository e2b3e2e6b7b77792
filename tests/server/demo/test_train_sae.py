"""Training of an SAE: it finds directions that were planted, by a seed; what it writes is what it measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from polysem.proto.errors import FailedPrecondition
from polysem.server.corpus.documents import Corpus
from polysem.server.demo import train_sae
from polysem.server.demo.train_sae import Recipe
from polysem.server.index.contexts import Cut
from polysem.server.latents.folder import read_latents
from polysem.server.model.loading import DEMO_MODEL, load

TINY = Recipe(n_latents=64, k=3, n_tokens=1_500, epochs=1, batch=512, dead_after=1_000)
PLANTED = Recipe(n_latents=20, k=2, epochs=30, batch=128, learning_rate=1e-2, dead_after=1_000)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def model():
    return load(DEMO_MODEL, "cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """120 small texts; the hashes of some names say that they are held out."""
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    texts = (f"def f{n}(x):\n    return {n} * x  # {'a' * (n % 7)}\n" for n in range(120))
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return Corpus(str(path))


@pytest.fixture(scope="module")
def planted():
    """10 directions in 12 dimensions, two at a time: vectors (P, 12), directions (10, 12)."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn((10, 12), generator=generator))
    chosen = torch.rand((1_024, 10), generator=generator).topk(2).indices
    strengths = torch.zeros((1_024, 10)).scatter(1, chosen, 1 + torch.rand((1_024, 2), generator=generator))
    return (strengths @ directions).half(), directions


def test_it_finds_the_directions_that_were_planted(planted):
    x, directions = planted
    sae = train_sae.fit(x, PLANTED)
    cosines = (directions @ torch.nn.functional.normalize(sae.decoder).T).max(dim=1).values
    assert (cosines > 0.9).sum() >= 8
    measured = train_sae.measure(sae, x, PLANTED.k)
    assert measured.variance_explained > 0.9
    assert measured.l0 <= 2


def test_the_same_seed_gives_the_same_sae(planted):
    x, _ = planted
    short = Recipe(n_latents=20, k=2, epochs=1, batch=128)
    first, again, other = (train_sae.fit(x, replace(short, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(*parts) for parts in zip(first, again, strict=True))
    assert not torch.equal(first.encoder, other.encoder)


def test_what_it_writes_is_read_as_what_it_measured(model, corpus, tmp_path):
    train_sae.train(TINY, model, corpus, tmp_path)
    (latents,) = read_latents(tmp_path)
    assert (latents.layer, latents.point, latents.origin.model) == (2, "mlp_in", "demo")
    assert latents.weights.shape == (64, 256)
    _, held_out = train_sae.read(model, corpus, TINY)
    activations = latents.activations(latents.read(held_out))
    l0, n_silent = (activations > 0).float().sum(1).mean().item(), int((activations <= 0).all(0).sum())
    assert f"| {l0:.1f} | {n_silent} |" in (tmp_path / "README.md").read_text("utf-8")


def test_it_reads_what_the_neurons_read(model):
    """Their activations are gelu(h · w + b) of it."""
    tokens = model.tokenizer.encode(["def f(x): return x"])[0]
    shown = []
    model.read(torch.tensor([tokens]), lambda layer, _x, a: shown.append(a[0].clone()), last_layer=2)
    some = [np.array(tokens), np.array([0, len(tokens)]), *[np.zeros(0)] * 4]
    (h,) = train_sae.vectors(model, Cut(*some), 2, skip=False)
    mlp = model.mlps[2]
    expected = torch.nn.functional.gelu(h.float() @ mlp.weights.T + mlp.biases, approximate="tanh")
    torch.testing.assert_close(shown[2], expected, atol=2e-2, rtol=1e-2)  # h is float16


def test_bos_is_left_out_and_so_is_what_is_held_out(model, corpus):
    seen, held_out = train_sae.read(model, corpus, replace(TINY, n_tokens=100_000))
    n = sum(map(len, model.tokenizer.encode([document.text for document in corpus.documents()])))
    assert len(seen) + len(held_out) == n
    assert 0 < len(held_out) < len(seen)
    assert len(train_sae.read(model, corpus, replace(TINY, n_tokens=100))[0]) == 100


def test_a_corpus_with_nothing_to_hold_out_is_refused(model, tmp_path):
    (tmp_path / "one.txt").write_text("a line of text\n")
    with pytest.raises(FailedPrecondition, match="has no documents to hold out"):
        train_sae.read(model, Corpus(str(tmp_path / "one.txt")), TINY)
