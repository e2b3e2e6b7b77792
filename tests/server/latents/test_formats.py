"""An encoder of each format and kind reads and fires as its library's formulas say, in float64."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.server.latents.encoder import POINTS, Latents
from polysem.server.latents.folder import read_latents
from polysem.server.latents.hooks import POINT_OF

from .tiny import CASES, DEC, B, F, W, X, sparsify, tensors

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 against float64, at numbers of some 10


@pytest.fixture(scope="module", params=CASES)
def read(request, tmp_path_factory):
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("latents") / "sae"
    case.write(folder)
    return case, folder, read_latents(f"{folder}{case.given}")


def test_it_is_where_its_files_say(read):
    case, _, (latents,) = read
    assert (latents.layer, latents.point, latents.origin.kind) == (case.layer, case.point, case.kind)
    assert (latents.origin.model, latents.origin.before_norm) == (case.model, case.before_norm)
    assert latents.point in POINTS


def test_it_reads_and_fires_as_its_library(read):
    case, _, (latents,) = read
    x = torch.from_numpy(X).float()
    what = latents.read(x)
    assert_allclose(what, case.read(X), **CLOSE)
    activations = latents.activations(what)
    expected = case.activations(X)
    assert_allclose(activations, expected, **CLOSE)
    assert 0 < (expected > 0).mean() < 1
    assert (x == torch.from_numpy(X).float()).all()


def test_an_embedding_is_of_the_weights_of_its_latent(read):
    _, _, (latents,) = read
    assert latents.weights.dtype == torch.float32
    cosines = torch.nn.functional.cosine_similarity(latents.weights, torch.from_numpy(W).float())
    assert_allclose(cosines, 1, atol=1e-6)


def test_its_hash_is_of_its_files_and_not_of_their_place(read, tmp_path):
    case, folder, (latents,) = read
    case.write(tmp_path / "other" / folder.name)
    (again,) = read_latents(f"{tmp_path / 'other'}{case.given}")
    assert len(latents.sha256) == 64
    if "params.npz" not in {path.name for path in folder.rglob("*")}:  # a zip has times in it
        assert again.sha256 == latents.sha256


def test_it_moves_to_a_device_whole(read):
    _, _, (latents,) = read
    moved = latents.to(torch.device("meta"))
    tensors = [
        value for value in (*vars(moved).values(), *vars(moved.fire).values()) if isinstance(value, torch.Tensor)
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) >= 2
    assert isinstance(moved, Latents)


def test_every_point_has_a_name():
    assert set(POINT_OF.values()) == set(POINTS)


def test_layers_come_in_order_and_only_those_wanted(tmp_path):
    for layer in (3, 0, 11):
        sparsify(f"layers.{layer}", num_latents=F)(tmp_path)
    found = [(one.layer, one.name) for one in read_latents(tmp_path)]
    assert found == [(0, "layers.0"), (3, "layers.3"), (11, "layers.11")]
    assert [one.layer for one in read_latents(tmp_path, [11, 0])] == [0, 11]


def test_bfloat16_and_float16_are_read_as_float32(tmp_path):

    for dtype in (torch.bfloat16, torch.float16):
        arrays = {"W_enc": W, "b_enc": B, "W_dec": DEC, "b_dec": np.zeros(W.shape[1])}
        tensors(tmp_path / "layer_0.safetensors", dtype, **arrays)
        (latents,) = read_latents(f"{tmp_path}@mlp.hook_in")
        assert latents.weights.dtype == torch.float32
        assert_allclose(latents.weights, torch.from_numpy(W).to(dtype).float())
