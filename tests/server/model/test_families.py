"""What is read in each family is what plain hooks on transformers' own modules see, in float64."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.model import controls
from polysem.server.model.families import FAMILIES
from polysem.server.model.loading import load
from polysem.server.model.model import Model

from . import tiny_families
from .plain_hooks import Seen, hooked
from .tiny_families import TINY, Tiny

TOKENS = torch.tensor([[256, *range(40, 63)], [256, *[7, 7, 9] * 7, 200, 11]])
CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # float32, and transformers' RMSNorms are float32 in any case


class Case(NamedTuple):
    tiny: Tiny
    ours: Model
    theirs: torch.nn.Module
    plain: list[Seen]
    shown: list[tuple[Tensor, Tensor]]

    def layers(self):
        """(number, module, plain, residual, activations)"""
        modules = self.theirs.get_submodule(self.tiny.layers)
        for number, (plain, shown) in enumerate(zip(self.plain, self.shown, strict=True)):
            yield number, modules[number], plain, *shown

    def inputs(self, module: torch.nn.Module) -> list[tuple[Tensor, Tensor]]:
        """(weights (N, D), biases (N,)) of the gate and of up, or of the one input matrix."""
        linears = [module.get_submodule(name) for name in self.tiny.reads]
        weights = [linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight for linear in linears]
        biases = [
            torch.zeros(len(w)) if linear.bias is None else linear.bias
            for w, linear in zip(weights, linears, strict=True)
        ]
        if "gate_up" in self.tiny.reads[0]:
            return list(zip(weights[0].chunk(2), biases[0].chunk(2), strict=True))
        return list(zip(weights, biases, strict=True))


@pytest.fixture(scope="module", params=TINY)
def case(request, tmp_path_factory) -> Case:
    from transformers import AutoModel

    tiny = TINY[request.param]
    folder = tiny_families.write(tmp_path_factory.mktemp("family"), tiny)
    theirs = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    ours = load(str(folder), "cpu")
    shown: list[tuple[Tensor, Tensor]] = []
    ours.read(TOKENS, lambda _layer, residual, a: shown.append((residual.clone(), a.clone())))
    return Case(tiny, ours, theirs, hooked(theirs, tiny, TOKENS), shown)


ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ODD = [  # settings that move none of what a family says of itself
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu", "tie_word_embeddings": False}),
    ("gptj", {"rotary_dim": 12, "activation_function": "gelu", "n_inner": None}),
    ("gpt_neox", {"rotary_pct": 1.0, "attention_bias": False, "tie_word_embeddings": True, "layer_norm_eps": 1e-2}),
    ("phi", {"qk_layernorm": True, "partial_rotary_factor": 1.0, "num_key_value_heads": 2}),
    ("falcon, new", {"bias": True, "num_kv_heads": 2, "activation": "relu"}),
    ("bloom", {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-2}),
    (
        "llama",
        {"head_dim": 20, "rope_parameters": ROPE | {"original_max_position_embeddings": 32}, "hidden_act": "relu"},
    ),
    ("mistral", {"sliding_window": 3, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("gemma2", {"layer_types": ["full_attention"] * 2, "attention_bias": True, "attn_logit_softcapping": None}),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"], "rope_local_base_freq": 100.0}),
    ("olmo", {"clip_qkv": 0.5, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 4, "hidden_act": "gelu"}),
]


@pytest.mark.parametrize(("name", "settings"), ODD, ids=str)
def test_odd_settings_that_are_legal_change_nothing_of_where_it_reads(name, settings, tmp_path):
    from transformers import AutoModel

    tiny = TINY[name]._replace(config=TINY[name].config | settings)
    folder = tiny_families.write(tmp_path, tiny)
    plain = hooked(AutoModel.from_pretrained(folder, dtype=torch.float64).eval(), tiny, TOKENS)
    shown: list[tuple[Tensor, Tensor]] = []
    load(str(folder), "cpu").read(TOKENS, lambda _layer, residual, a: shown.append((residual.clone(), a.clone())))
    for seen, (residual, a) in zip(plain, shown, strict=True):
        assert_close(residual, seen.x.float(), **CLOSE)
        assert_close(a, seen.a.float(), rtol=2e-5, atol=2e-5 * float(seen.a.abs().max()))


def test_every_family_has_a_tiny_model():
    assert {tiny.model_type for tiny in TINY.values()} == set(FAMILIES)


def test_the_model_says_what_it_is(case):
    info, plain = case.ours.info, case.plain[0]
    assert (info.family, info.gated) == (case.tiny.model_type, case.tiny.gated)
    assert (info.n_layers, info.d_model, info.n_neurons_per_layer) == (2, plain.x.shape[-1], plain.a.shape[-1])
    assert info.context_length == (2048 if info.family == "bloom" else 64)


def test_the_vector_and_the_activations_are_those_of_the_modules(case):
    for _, _, plain, residual, a in case.layers():
        assert_close(residual, plain.x.float(), **CLOSE)
        assert_close(a, plain.a.float(), **CLOSE)


def test_xhat_with_the_norms_own_numbers_is_what_the_mlp_reads(case):
    for number, _, plain, residual, _ in case.layers():
        embedded = case.ours.embedding_weights(number, torch.arange(1), EmbeddingChoice("pre_mlp", "raw"))
        h = case.ours.normalise(number, residual) * embedded.weights
        assert_close(h if embedded.offsets is None else h + embedded.offsets, plain.h.float(), **CLOSE)
        folded = case.ours.embedding_weights(number, torch.arange(1), EmbeddingChoice("pre_mlp", "folded"))
        assert folded.offsets is None
        assert torch.equal(folded.weights, torch.ones(1, case.ours.info.d_model))


@pytest.mark.parametrize("layer_norm", ["folded", "raw"])
def test_gate_and_up_follow_from_xhat(case, layer_norm):
    neurons = torch.arange(case.ours.info.n_neurons_per_layer)
    for number, _, plain, residual, _ in case.layers():
        e = case.ours.embedding_weights(number, neurons, EmbeddingChoice("neuron", layer_norm))
        if not case.tiny.gated:
            assert (e.up, e.biases) == (None, None)
            continue
        xhat = case.ours.normalise(number, residual)
        for weights, biases, pre in zip((e.weights, e.up), e.biases.T, plain.pre, strict=True):
            assert_close(xhat @ weights.T + biases, pre.float(), **CLOSE)


@pytest.mark.parametrize("layer_norm", ["folded", "raw"])
def test_an_embedding_is_h_times_the_gradient_of_z(case, layer_norm):
    """z = w·h + b, or g·u; its gradient is torch's own."""
    neurons = torch.tensor([0, 3, case.ours.info.n_neurons_per_layer - 1])
    for number, module, plain, residual, _ in case.layers():
        h = plain.h[0, 5:9].clone().requires_grad_()
        pre = [h @ weights[neurons].T.double() + biases[neurons].double() for weights, biases in case.inputs(module)]
        z = pre[0] * pre[1] if len(pre) == 2 else pre[0]  # (4, 3)
        e = embeddings(case.ours, number, residual[0, 5:9], neurons, EmbeddingChoice("neuron", layer_norm))
        for j in range(3):
            (gradient,) = torch.autograd.grad(z[:, j].sum(), h, retain_graph=True)
            want = h.detach() * gradient
            beta = case.ours.mlps[number].beta
            if layer_norm == "folded" and beta is not None:  # β stays outside
                want = (h.detach() - beta.double()) * gradient
            assert_close(e[:, j], want.float(), **CLOSE)


def test_the_sum_of_an_embedding_is_z(case):
    """Σe = z − b; of gated neurons u·(g − b_g) + g·(u − b_u), which is 2 z without biases."""
    neurons = torch.arange(case.ours.info.n_neurons_per_layer)
    for number, module, plain, residual, _ in case.layers():
        e = embeddings(case.ours, number, residual[1], neurons, EmbeddingChoice("neuron", "raw"))  # (T, N, D)
        parts = [(pre[1], biases.double()) for pre, (_, biases) in zip(plain.pre, case.inputs(module), strict=True)]
        if len(parts) == 2:
            (g, b_g), (u, b_u) = parts
            want = u * (g - b_g) + g * (u - b_u)
        else:
            ((z, b),) = parts
            want = z - b
        assert_close(e.sum(dim=-1), want.float(), rtol=1e-4, atol=1e-4)


def test_gate_and_up_embeddings_are_of_gated_neurons(case):
    neurons = torch.tensor([1, 2])
    for kind, place in (("gate", 0), ("up", -1)):
        choice = EmbeddingChoice(kind, "raw")
        if not case.tiny.gated:
            with pytest.raises(InvalidArgument, match=f"{kind!r} is of gated neurons"):
                case.ours.embedding_weights(0, neurons, choice)
            continue
        for number, module, plain, residual, _ in case.layers():
            e = embeddings(case.ours, number, residual[0], neurons, choice)
            want = plain.h[0][:, None] * case.inputs(module)[place][0][neurons]
            assert_close(e, want.float(), **CLOSE)


@pytest.mark.parametrize("layer_norm", ["folded", "raw"])
def test_controls_are_the_neurons_formula_with_other_weights(case, layer_norm):
    neurons, n = torch.tensor([0, 3]), case.ours.info.n_neurons_per_layer
    for number, module, plain, residual, _ in case.layers():
        other = embeddings(case.ours, number, residual[0], neurons, EmbeddingChoice("other", layer_norm, seed=5))
        taken = controls.others(number, neurons, n, 5)
        want = embeddings(case.ours, number, residual[0], taken, EmbeddingChoice("neuron", layer_norm))
        assert torch.equal(other, want)
        if layer_norm == "folded" and case.ours.mlps[number].beta is not None:
            continue  # β stays outside
        order = controls.orders(number, neurons, case.ours.info.d_model, 5)
        h = plain.h[0][:, None]
        rows = [weights[neurons].double().gather(1, order) for weights, _ in case.inputs(module)]
        pre = [(h * w).sum(-1) + b[neurons].double() for w, (_, b) in zip(rows, case.inputs(module), strict=True)]
        want = h * rows[0] if len(rows) == 1 else h * (pre[1][..., None] * rows[0] + pre[0][..., None] * rows[1])
        permuted = embeddings(case.ours, number, residual[0], neurons, EmbeddingChoice("permuted", layer_norm, seed=5))
        assert_close(permuted, want.float(), **CLOSE)


def embeddings(model: Model, layer: int, x: Tensor, neurons: Tensor, choice: EmbeddingChoice) -> Tensor:
    """(T, B, D) of rows x (T, D), as the weights say."""
    xhat, how = model.normalise(layer, x), model.embedding_weights(layer, neurons, choice)
    weights = how.weights[None]
    if how.up is not None:
        g, u = xhat @ how.weights.T + how.biases[:, 0], xhat @ how.up.T + how.biases[:, 1]  # (T, B)
        weights = u[..., None] * how.weights + g[..., None] * how.up
    e = xhat[:, None] * weights
    return e if how.offsets is None else e + how.offsets


def test_padding_on_the_right_changes_nothing_before_it(case):
    padded = torch.cat([TOKENS, torch.full((2, 5), 3)], dim=1)
    seen = []
    case.ours.read(padded, lambda _layer, residual, a: seen.append((residual.clone(), a.clone())))
    for (residual, a), (x, want) in zip(seen, case.shown, strict=True):
        assert_close(residual[:, : x.shape[1]], x, **CLOSE)
        assert_close(a[:, : x.shape[1]], want, **CLOSE)


def test_tokens_that_all_rows_begin_with_can_be_read_once(case):
    for last_layer in (0, 1):
        past = case.ours.past(TOKENS[0, :11], last_layer)
        seen = []
        case.ours.read(TOKENS[:1, 11:], lambda *shown, seen=seen: seen.append(shown), last_layer, past)
        assert [layer for layer, _, _ in seen] == list(range(last_layer + 1))
        for layer, _, a in seen:
            assert_close(a, case.shown[layer][1][:1, 11:], **CLOSE)


@pytest.mark.parametrize(
    ("name", "switches", "named"),
    [
        ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "new_decoder_architecture"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn"),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_switches_that_are_not_read_are_refused_by_name(name, switches, named, tmp_path):
    import json

    folder = tiny_families.write(tmp_path, TINY[name])
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | switches))
    with pytest.raises(FailedPrecondition, match=named):
        load(str(folder), "cpu")
