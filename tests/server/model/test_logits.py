"""Logits, and logits where activations are changed, are transformers' own by plain hooks in float64."""

import pytest
import torch
from torch.testing import assert_close

from polysem.proto.errors import FailedPrecondition
from polysem.server.model.loading import load

from . import tiny_families
from .spoil import change_weights
from .tiny_families import TINY

TOKENS = torch.tensor([[256, 9, 77, 30, 5], [256, 81, 4, 4, 200]])
HEADS = {  # switches of what stands behind the final norm
    "granite, logits divided": TINY["granite"]._replace(config=TINY["granite"].config | {"logits_scaling": 4.0}),
    "gemma3_text, softcap": TINY["gemma3_text"]._replace(
        config=TINY["gemma3_text"].config | {"final_logit_softcapping": 2.0}
    ),
}


def plain_logits(folder, tiny, changed=None):
    """(2, 5, V) float64; changed: layer, row, position, neuron and the activation it is set to."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    if changed:
        layer, row, position, neuron, value = changed

        def hook(_module, inputs):
            a = inputs[0].clone().view(2, 5, -1)  # some modules see all tokens one after the other
            a[row, position, neuron] = value
            return (a.view_as(inputs[0]), *inputs[1:])

        model.base_model.get_submodule(tiny.layers)[layer].get_submodule(tiny.writes).register_forward_pre_hook(hook)
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("name", [*TINY, *HEADS])
def test_logits_are_those_of_the_whole_model_also_with_an_activation_changed(name, tmp_path):
    tiny = (TINY | HEADS)[name]
    folder = tiny_families.write(tmp_path, tiny)
    model = load(str(folder), "cpu")
    assert_close(model.logits(model.last(TOKENS, None)), plain_logits(folder, tiny).float(), rtol=1e-4, atol=2e-4)

    def visit(layer, _residual, a):
        if layer == 0:
            a[1, 2, 7] = 3.0

    changed = model.logits(model.last(TOKENS, visit))
    want = plain_logits(folder, tiny, (0, 1, 2, 7, 3.0)).float()
    assert_close(changed, want, rtol=1e-4, atol=2e-4)
    assert (want[1, 2:] - plain_logits(folder, tiny).float()[1, 2:]).abs().max() > 1e-2


def test_a_bias_that_the_checkpoint_lacks_is_told(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["phi"])
    whole = load(str(folder), "cpu")
    with_bias = whole.head.sha256
    change_weights(folder, lambda weights: {name: t for name, t in weights.items() if name != "lm_head.bias"})
    model = load(str(folder), "cpu")
    assert model.info.sha256 == whole.info.sha256
    assert model.head.sha256 != with_bias
    with pytest.raises(FailedPrecondition, match=r"have a bias, and its checkpoint holds no lm_head\.bias"):
        model.logits(model.last(TOKENS, None))


def test_a_bias_of_another_size_is_refused(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["phi"])
    change_weights(folder, lambda weights: weights | {"lm_head.bias": weights["lm_head.bias"][:9].clone()})
    with pytest.raises(FailedPrecondition, match=r"lm_head\.bias has the shape \(9,\)"):
        load(str(folder), "cpu")
