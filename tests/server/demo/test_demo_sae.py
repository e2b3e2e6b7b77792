"""The embedded SAE as shipped: its size, what it is of, and that its card says what it does."""

import re
from pathlib import Path

import pytest
import torch

import polysem.server.demo
from polysem.server.corpus.documents import PYDOCS, Corpus
from polysem.server.demo import train_sae
from polysem.server.demo.train_sae import Recipe, Sae
from polysem.server.latents.folder import read_latents
from polysem.server.model.loading import DEMO_MODEL, load

FOLDER = Path(polysem.server.demo.__file__).parent / "sae"
CARD = (FOLDER / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def latents():
    (found,) = read_latents(FOLDER)
    return found


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {path.name for path in files} == {"cfg.json", "sae_weights.safetensors", "README.md"}


def test_it_is_of_the_embedded_model(latents):
    recipe = Recipe()
    model = load(DEMO_MODEL, "cpu")
    assert (latents.layer, latents.point) == (recipe.layer, "mlp_in")
    assert latents.weights.shape == (recipe.n_latents, model.info.d_model)
    assert (latents.origin.model, latents.origin.kind) == ("demo", "topk")
    assert f"sha256 {model.info.sha256}" in CARD


def test_its_card_says_what_it_does(latents):
    """Figures of 60 documents are near those of all."""
    x, _ = train_sae.read(load(DEMO_MODEL, "cpu"), Corpus(PYDOCS, max_documents=60), Recipe())
    fire = latents.fire
    with torch.inference_mode():
        activations = latents.activations(latents.read(x))
    explained, l0 = map(float, re.search(r"held-out tokens .*\| (0\.\d+) \| ([\d.]+) \|", CARD).groups())
    assert (activations > 0).float().sum(1).mean().item() == pytest.approx(l0, abs=1)
    decoder = train_sae.stored(FOLDER)
    assert isinstance(decoder, Sae)
    assert train_sae.measure(decoder, x, fire.k).variance_explained == pytest.approx(explained, abs=0.05)
