"""SAEs and transcoders that their libraries saved fire as the libraries' own `encode` says (`make saes`)."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.server.latents.folder import read_latents
from polysem.server.latents.hooks import POINT_OF

PEERS = Path(__file__).parent.parent.parent / "build" / "peers"
KINDS = (
    *("standard", "standard+none", "standard+layer_norm", "standard+constant_norm_rescale", "standard+scaled"),
    *("jumprelu", "jumprelu+layer_norm", "topk", "topk+rescaled", "gated", "gated+constant_norm_rescale"),
    *("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"),
    *("batchtopk", "batchtopk+finished", "matryoshka_batchtopk", "matryoshka_batchtopk+finished"),
)
SPARSIFY = ("layers.1", "layers.1.mlp", "h.1.mlp")
OTHERS = ("circuit-tracer-relu", "circuit-tracer-jumprelu", "cross-layer-relu", "cross-layer-jump_relu")
NAMES = (*(f"saelens-{kind}" for kind in KINDS), *(f"sparsify-{name}" for name in SPARSIFY), *OTHERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    python = os.environ.get("SAES_PYTHON")
    if python is None:
        pytest.skip("set SAES_PYTHON to a Python that has sae-lens and eai-sparsify")
    out = tmp_path_factory.mktemp("saes")
    script = Path(__file__).parent / "save_saes.py"
    done = subprocess.run([python, script, out, PEERS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def test_all_that_was_saved_is_compared(saved):
    assert {path.name for path in saved.iterdir() if path.is_dir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_latents_fire_as_the_library_says(saved, name):
    seen = np.load(saved / name / "seen.npz")
    (latents,) = read_latents(saved / name / "sae", [1])
    activations = latents.activations(latents.read(torch.from_numpy(seen["x"])))
    assert_allclose(activations, seen["activations"], rtol=1e-4, atol=1e-5)  # float32 on both sides
    assert 0 < (seen["activations"] > 0).mean() < 1


def test_places_are_called_as_in_transformer_lens(saved):
    """Except mlp.hook_in and mlp.hook_out, which only its bridges to transformers have."""
    hooks = json.loads((saved / "hooks.json").read_text())
    ours = {f"blocks.1.{name}" for name in POINT_OF if not name.startswith("mlp.")}
    assert ours <= set(hooks)
