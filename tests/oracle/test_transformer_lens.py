"""What Polysem reads in a GPT-2 is what TransformerLens reads, in both LayerNorm modes.

Against arrays that TransformerLens left in goldens/, and against TransformerLens itself where the Python at
$TRANSFORMER_LENS_PYTHON (else this one) has it. It runs as a process of its own, so it needs no environment with us.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.corpus.documents import Document
from polysem.server.index.contexts import Contexts
from polysem.server.indexing.windows import Windowing, write
from polysem.server.model.loading import load
from polysem.server.model.model import Model

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
TEXTS = ["the cat sat, café 😀", "a", "def f(x):\n    return x", "<|end|> 日本 12"]
CASES = ("goldens", "live, same checkpoint", "live, odd sizes", "live, fp16 weights")
MODES = ("folded", "raw")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 on both sides, in another order of work


class Case(NamedTuple):
    """A model of ours, what it saw, and what TransformerLens saw; residual (L, T, D), post (L, T, N), BOS included."""

    model: Model
    tokens: list[np.ndarray]
    residual: torch.Tensor
    post: torch.Tensor
    lens: dict[str, np.ndarray]

    @property
    def xhat(self) -> torch.Tensor:  # (L, T, D)
        return torch.stack([self.model.normalise(i, residual) for i, residual in enumerate(self.residual)])

    def embeddings(self, layer: int, choice: EmbeddingChoice) -> torch.Tensor:
        """(T, N, D): of every token for every neuron."""
        neurons = torch.arange(self.model.info.n_neurons_per_layer)
        weights, offsets, *_ = self.model.embedding_weights(layer, neurons, choice)
        return self.xhat[layer][:, None] * weights + (0 if offsets is None else offsets)


@pytest.fixture(scope="module", params=CASES)
def case(request, make_checkpoint, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("oracle")
    checkpoint = GOLDENS / "checkpoint"
    arrays = GOLDENS / "transformer_lens.npz"
    if request.param.startswith("live"):
        if "odd" in request.param:
            checkpoint = make_checkpoint("odd", n_layer=3, n_embd=21, n_head=3, n_inner=37, layer_norm_epsilon=1e-3)
        if "fp16" in request.param:
            checkpoint = make_checkpoint("fp16")
            halve(checkpoint / "model.safetensors")
        arrays = ask_transformer_lens(checkpoint, folder / "lens.npz")
    with np.load(arrays) as lens:
        return Case(*read(checkpoint, folder), dict(lens))


def read(checkpoint: Path, folder: Path) -> tuple[Model, list[np.ndarray], torch.Tensor, torch.Tensor]:
    ours = load(str(checkpoint), "cpu")
    windowing = Windowing(ours.info.context_length, "first", ours.tokenizer.bos_id)
    write(folder, [Document(str(i), text) for i, text in enumerate(TEXTS)], ours.tokenizer, windowing)
    tokens = [Contexts(folder).tokens(i) for i in range(len(TEXTS))]
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(ids) for ids in tokens], batch_first=True)
    real = torch.nn.utils.rnn.pad_sequence([torch.ones(len(ids)) for ids in tokens], batch_first=True) == 1  # (b, T)
    seen = []
    ours.read(padded, lambda layer, residual, post: seen.append((residual[real], post[real])))
    residual, post = (torch.stack(part) for part in zip(*seen, strict=True))
    return ours, tokens, residual, post


def ask_transformer_lens(checkpoint: Path, out: Path) -> Path:
    python = os.environ.get("TRANSFORMER_LENS_PYTHON")
    if python is None and importlib.util.find_spec("transformer_lens") is None:
        pytest.skip("set TRANSFORMER_LENS_PYTHON to a Python that has transformer-lens")
    command = [python or sys.executable, HERE / "make_goldens.py", "--checkpoint", checkpoint, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def halve(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: weight.half() for name, weight in load_file(file).items()}, file, {"format": "pt"})


def test_tokens_are_the_same_with_bos_first(case):
    assert [len(ids) for ids in case.tokens] == case.lens["lengths"].tolist()
    assert np.concatenate(case.tokens).tolist() == case.lens["tokens"].tolist()
    assert all(ids[0] == case.model.tokenizer.bos_id for ids in case.tokens)


@pytest.mark.parametrize("mode", MODES)
def test_xhat_is_hook_normalized(case, mode):
    assert_allclose(case.xhat, case.lens[f"{mode}_normalized"], **CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_activations_are_hook_post(case, mode):
    assert_allclose(case.post, case.lens[f"{mode}_post"], **CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_pre_mlp_embeddings_are_what_the_mlp_reads(case, mode):
    for layer, h in enumerate(case.lens[f"{mode}_h"]):  # (T, D)
        embeddings = case.embeddings(layer, EmbeddingChoice("pre_mlp", mode))
        assert_allclose(embeddings, np.broadcast_to(h[:, None], embeddings.shape), **CLOSE)


def test_raw_neuron_embeddings_are_h_times_the_column_of_w_in(case):
    for layer, (h, w_in) in enumerate(zip(case.lens["raw_h"], case.lens["raw_w_in"], strict=True)):
        want = h[:, None, :] * w_in.T  # (T, N, D)
        assert_allclose(case.embeddings(layer, EmbeddingChoice("neuron", "raw")), want, **CLOSE)


def test_folded_neuron_embeddings_are_h_times_gamma_and_the_column_of_w_in(case):
    lens = case.lens
    for layer, (h, gamma, w_in) in enumerate(zip(lens["folded_h"], lens["raw_gamma"], lens["raw_w_in"], strict=True)):
        want = h[:, None, :] * (gamma * w_in.T)  # (T, N, D)
        assert_allclose(case.embeddings(layer, EmbeddingChoice("neuron", "folded")), want, **CLOSE)


def test_transformer_lens_also_centres_the_folded_columns(case):
    """Which changes no activation, as x̂ sums to 0, but is not the glossary's γ⊙W_in: cosines with its W_in differ."""
    neurons = torch.arange(case.model.info.n_neurons_per_layer)
    for layer, w_in in enumerate(case.lens["folded_w_in"]):
        weights, *_ = case.model.embedding_weights(layer, neurons, EmbeddingChoice("neuron", "folded"))  # (N, D)
        assert_allclose(weights - weights.mean(dim=1, keepdim=True), w_in.T, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_sum_of_an_embedding_and_the_bias_is_the_pre_activation(case, mode):
    choice = EmbeddingChoice("neuron", mode)
    for layer, pre in enumerate(case.lens[f"{mode}_pre"]):  # (T, N)
        mlp = case.model.mlps[layer]
        bias = mlp.biases if mode == "raw" else mlp.biases + mlp.weights @ mlp.beta
        assert_allclose(case.embeddings(layer, choice).sum(dim=-1) + bias, pre, **CLOSE)


def test_the_modes_differ_and_nothing_is_trivial(case):
    lens = case.lens
    assert np.abs(lens["folded_h"] - lens["raw_h"]).max() > 0.1
    assert np.abs(lens["folded_w_in"] - lens["raw_w_in"]).max() > 0.1
    assert (lens["raw_post"] > 0.5).mean() > 0.02
    assert (lens["raw_post"] < 0).mean() > 0.02
