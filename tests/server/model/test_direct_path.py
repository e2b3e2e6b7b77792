"""What a neuron writes is what transformers' own modules make of its output weights, in float64."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from polysem.proto.errors import FailedPrecondition
from polysem.server.model import direct_path
from polysem.server.model.loading import load

from . import tiny_families
from .spoil import change_config, change_weights
from .tiny_families import TINY, Tiny

STEP = 1e-15  # an activation so small that every norm is linear: eps rules its scale
ATTENTION_OUT = re.compile(r"(attn|attention)\.(\w+\.)?(c_proj|out_proj|dense|o_proj)\.weight$")
NEURONS = torch.tensor([0, 7, 39])


def plain_effects(folder, tiny: Tiny, layer: int, neuron: int) -> torch.Tensor:
    """(V,) float64: half of what logits change from activation -STEP to STEP of one neuron, in a model where nothing
    else speaks: no embeddings, no biases, no attention, no other neuron."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for name, weights in model.named_parameters():
        if name.endswith("bias") or "wpe" in name or "embed_positions" in name or ATTENTION_OUT.search(name):
            weights.data.zero_()
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output * 0)
    given = {}

    def alone(number):
        def hook(_module, inputs):
            a = inputs[0] * 0
            a[..., neuron] = given["a"] if number == layer else 0.0
            return (a, *inputs[1:])

        return hook

    for number, module in enumerate(model.base_model.get_submodule(tiny.layers)):
        module.get_submodule(tiny.writes).register_forward_pre_hook(alone(number))
    logits = []
    for given["a"] in (STEP, -STEP):
        with torch.no_grad():
            logits.append(model(torch.tensor([[5]])).logits[0, 0].double())
    return (logits[0] - logits[1]) / 2


def standardised(effects: torch.Tensor) -> torch.Tensor:
    effects = effects.double()
    return (effects - effects.mean(-1, keepdim=True)) / effects.std(-1, keepdim=True, correction=0)


def ours(folder, layer: int) -> torch.Tensor:
    model = load(str(folder), "cpu")
    return standardised(model.directions(layer, NEURONS) @ model.unembedding.T)


@pytest.mark.parametrize("name", TINY)
def test_effects_of_both_layers_are_those_of_the_modules(name, tmp_path):
    tiny = TINY[name]
    folder = tiny_families.write(tmp_path, tiny)
    for layer in (0, 1):
        want = [plain_effects(folder, tiny, layer, neuron) for neuron in NEURONS.tolist()]
        assert_close(ours(folder, layer), standardised(torch.stack(want)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "olmo"])  # an RMSNorm and a LayerNorm, without biases
def test_in_a_context_logits_move_by_effects_and_by_the_scale_of_the_final_norm(name, tmp_path):
    """d logits = s · effects - t · logits + u: the second term is what the final norm's scale takes back, s > 0."""
    from transformers import AutoModelForCausalLM

    tiny = TINY[name]
    folder = tiny_families.write(tmp_path, tiny)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    writes = model.base_model.get_submodule(tiny.layers)[-1].get_submodule(tiny.writes)
    more = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    writes.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + more,))
    logits = model(torch.tensor([[256, 9, 77, 30]])).logits[0, -1]
    along = torch.zeros(257, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(logits, more, along, create_graph=True)
    (moved,) = torch.autograd.grad(gradient[7], along)  # of all logits along the activation of neuron 7
    terms = torch.stack([ours(folder, 1)[1], logits.detach(), torch.ones(257, dtype=torch.float64)], dim=1)
    found = torch.linalg.lstsq(terms, moved[:, None]).solution
    assert found[0] > 0
    assert_close(terms @ found, moved[:, None], rtol=1e-5, atol=1e-5 * float(moved.abs().max()))


def test_a_direction_has_length_one_or_zero(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["gpt2"])
    silent = "transformer.h.1.mlp.c_proj.weight"
    change_weights(folder, lambda weights: weights | {silent: weights[silent].index_fill(0, torch.tensor([7]), 0.1)})
    lengths = load(str(folder), "cpu").directions(1, NEURONS).norm(dim=1)
    assert_close(lengths, torch.tensor([1.0, 0.0, 1.0]))  # LayerNorm subtracts what neuron 7 adds to all alike


# ---- The unembedding in a checkpoint


@pytest.fixture
def tied(tmp_path):
    """A Gemma, whose unembedding is its token embeddings."""
    return tiny_families.write(tmp_path, TINY["gemma"])


@pytest.fixture
def untied(tmp_path):
    return tiny_families.write(tmp_path, TINY["llama"])


def head(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).get_output_embeddings().weight.detach()


def test_tied_embeddings_are_it_and_take_no_memory_of_their_own(tied):
    model = load(str(tied), "cpu")
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    embeddings = model._transformer.get_input_embeddings().weight
    assert model.unembedding.data_ptr() == embeddings.data_ptr()
    assert model.head.sha256 == ""
    assert torch.equal(model.unembedding, head(tied))


def test_one_of_its_own_is_read_when_asked_for_and_is_not_in_the_models_hash(untied):
    model = load(str(untied), "cpu")
    assert torch.equal(model.unembedding, head(untied))
    sha256 = model.head.sha256
    change_weights(untied, lambda weights: weights | {"lm_head.weight": weights["lm_head.weight"] + 1})
    other = load(str(untied), "cpu")
    assert model.info.sha256 == other.info.sha256  # an index holds nothing of it
    assert sha256 != other.head.sha256
    assert torch.equal(other.unembedding, model.unembedding + 1)


def test_one_that_is_stored_though_the_config_ties_it_has_precedence_as_in_transformers(tied):
    change_weights(
        tied, lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"].flip(0).clone()}
    )
    model = load(str(tied), "cpu")
    assert torch.equal(model.unembedding, head(tied))
    assert not torch.equal(model.unembedding, model._transformer.get_input_embeddings().weight)


def test_a_stored_copy_of_the_embeddings_takes_no_memory_of_its_own(tied):
    change_weights(tied, lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    model = load(str(tied), "cpu")
    assert model.unembedding.data_ptr() == model._transformer.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_held_as_narrow_as_it_is_stored(untied, stored):
    change_weights(untied, lambda weights: weights | {"lm_head.weight": weights["lm_head.weight"].to(stored)})
    held = load(str(untied), "cpu").unembedding
    assert held.dtype == (torch.float32 if stored == torch.float64 else stored)
    assert_close(held.float(), head(untied))


def test_rows_that_no_token_has_are_left_out(tmp_path):
    tiny = TINY["llama"]._replace(config=TINY["llama"].config | {"vocab_size": 320})
    assert load(str(tiny_families.write(tmp_path, tiny)), "cpu").unembedding.shape == (257, 24)


WRONG = {
    "has no unembedding: its checkpoint holds no lm_head.weight or embed_out.weight": lambda w: {
        name: tensor for name, tensor in w.items() if name != "lm_head.weight"
    },
    r"lm_head.weight has the shape \(256, 24\), by the config \(257, 24\)": lambda w: (
        w | {"lm_head.weight": w["lm_head.weight"][1:]}
    ),
    "is quantised: lm_head.weight holds whole numbers": lambda w: (
        w | {"lm_head.weight": w["lm_head.weight"].to(torch.int8)}
    ),
    "holds numbers that are not finite": lambda w: (
        w | {"lm_head.weight": w["lm_head.weight"].index_fill(0, torch.tensor([3]), torch.nan)}
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_one_is_refused_by_name_and_harms_nothing_else(untied, words):
    change_weights(untied, WRONG[words])
    model = load(str(untied), "cpu")
    model.read(torch.tensor([[256, 3]]), None)
    with pytest.raises(FailedPrecondition, match=words) as caught:
        _ = model.unembedding
    assert str(untied) in caught.value.message


def test_files_that_change_under_a_server_are_told(untied):
    models = [load(str(untied), "cpu") for _ in range(3)]
    change_weights(untied, lambda weights: weights | {"lm_head.weight": weights["lm_head.weight"] + 1})
    words = r"model\.safetensors is not the file that it was; its files have changed since the server started"
    with pytest.raises(FailedPrecondition, match=words):
        _ = models[0].unembedding
    with pytest.raises(FailedPrecondition, match=words):
        _ = models[0].head.sha256
    with (untied / "model.safetensors").open("r+b") as file:
        file.truncate(models[1].head.stored[1].begin + 9)
    with pytest.raises(FailedPrecondition, match=r"model\.safetensors is shorter than it was"):
        _ = models[1].unembedding
    (untied / "model.safetensors").unlink()
    with pytest.raises(FailedPrecondition, match="No such file"):
        _ = models[2].head.sha256


def test_one_that_does_not_fit_is_refused_with_both_numbers(untied, monkeypatch):
    monkeypatch.setattr(direct_path, "free_bytes", lambda device: 1000)
    with pytest.raises(FailedPrecondition, match=r"takes 0.0 GB, and cpu has 0.0 GB free"):
        _ = load(str(untied), "cpu").unembedding


def test_a_family_that_is_tied_by_its_config_alone_needs_no_more(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["llama"]._replace(config=TINY["llama"].config | {"vocab_size": 257}))
    change_weights(folder, lambda weights: {name: t for name, t in weights.items() if name != "lm_head.weight"})
    change_config(folder, tie_word_embeddings=True)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    model = load(str(folder), "cpu")
    assert torch.equal(model.unembedding, model._transformer.get_input_embeddings().weight)
