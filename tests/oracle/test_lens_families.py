"""Families that TransformerLens knows: what the MLP reads, g, u and activations are what it sees (`make lens`)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.model.loading import load

from ..server.model import tiny_families
from ..server.model.tiny_families import TINY
from .see_family import TOKENS

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 on both sides, in another order of work


@pytest.fixture
def seen(tmp_path):
    """A function: the model of a family, and what TransformerLens sees in it."""

    def see(family):
        python = os.environ.get("TRANSFORMER_LENS_PYTHON")
        if python is None and importlib.util.find_spec("transformer_lens") is None:
            pytest.skip("set TRANSFORMER_LENS_PYTHON to a Python that has transformer-lens")
        folder = tiny_families.write(tmp_path / "model", TINY[family])
        script = Path(__file__).parent / "see_family.py"
        done = subprocess.run(
            [python or sys.executable, script, folder, tmp_path / "seen.npz"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return load(str(folder), "cpu"), np.load(tmp_path / "seen.npz")

    return see


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "qwen3"])
def test_what_is_read_and_written_is_what_transformer_lens_sees(family, seen):
    ours, lens = seen(family)
    assert ours.info.gated == ("up" in lens)
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    ours.read(torch.tensor([TOKENS]), lambda _layer, x, a: shown.append((x[0].clone(), a[0].clone())))
    neurons = torch.arange(ours.info.n_neurons_per_layer)
    for layer, (residual, activations) in enumerate(shown):
        assert_allclose(activations, lens["post"][layer], **CLOSE)
        xhat = ours.normalise(layer, residual)
        how = ours.embedding_weights(layer, neurons[:1], EmbeddingChoice("pre_mlp", "raw"))
        h = xhat * how.weights + (0 if how.offsets is None else how.offsets)
        assert_allclose(h, lens["h"][layer], **CLOSE)
        if ours.info.gated:
            how = ours.embedding_weights(layer, neurons, EmbeddingChoice("neuron", "raw"))
            assert_allclose(xhat @ how.weights.T + how.biases[:, 0], lens["pre"][layer], **CLOSE)
            assert_allclose(xhat @ how.up.T + how.biases[:, 1], lens["up"][layer], **CLOSE)
    directions = ours.directions(len(shown) - 1, neurons)  # through the norm behind the MLP, if there is one
    effects = (directions @ ours.unembedding[:257].T).numpy()
    assert_allclose(standardised(effects), standardised(lens["written"]), atol=2e-3)


def standardised(effects):
    """(N, V): of each neuron, in standard deviations from the mean over the vocabulary."""
    return (effects - effects.mean(axis=1, keepdims=True)) / effects.std(axis=1, keepdims=True)
