"""The line of code that a neuron's hook gives reads that neuron's activations in TransformerLens (`make lens`)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polysem.server
from polysem.client import hooks
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load

from ..server.model import tiny_families
from ..server.model.tiny_families import TINY

TEXT = "the neuron fires at one token"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_its_activations_are_read_and_the_mask_is_where_it_fires(family, tmp_path, corpus_file):
    python = os.environ.get("TRANSFORMER_LENS_PYTHON")
    if python is None and importlib.util.find_spec("transformer_lens") is None:
        pytest.skip("set TRANSFORMER_LENS_PYTHON to a Python that has transformer-lens")
    folder = tiny_families.write(tmp_path / "model", TINY[family])
    recipe = Recipe(Selection("first", 0.2, 30), bos=True)
    build(load(str(folder), "cpu"), Corpus(str(corpus_file), max_documents=60), tmp_path / "index", recipe)
    with polysem.server.local(tmp_path / "index", device="cpu") as client:
        neuron = next(n for n in client.cluster("1.*") if n.metrics.n_clusters)
        explained = list(client.explain(TEXT, neuron.id, min_activation_fraction=0.0))
        masks = [hooks.fires(client, TEXT, neuron.id, c.label, min_activation_fraction=0.0) for c in neuron.clusters]
    script = Path(__file__).parent / "see_hook.py"
    command = [python or sys.executable, script, folder, TEXT, neuron.hook.code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    theirs = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert len(theirs) == len(masks[0]) == len(explained) + 1
    assert_allclose([token.firings[0].activation for token in explained], theirs[1:], rtol=1e-4, atol=1e-4)
    assert not np.logical_or.reduce(masks)[theirs < -1e-4].any()
