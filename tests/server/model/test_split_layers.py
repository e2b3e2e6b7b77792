"""A model in parts: which device each part is on.

This machine has one device. Values are tried with it in the place of all; that nothing meets on two devices, with
tensors of torch's that have a device, a shape and no values, and refuse to meet (two devices of type "lazy", which
needs no driver). Weights are put on those as accelerate is told to; reading files onto two real cards is not tried.
"""

from typing import Any

import pytest
import torch
from accelerate import dispatch_model, hooks
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.model.families import FAMILIES
from polysem.server.model.loading import device_map, load
from polysem.server.model.model import Model
from polysem.server.settings import devices_of

from . import tiny_families
from .spoil import TOKENS, read
from .tiny_families import TINY

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


def empty(name: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.for_model(TINY[name].model_type, **TINY[name].config)
        return AutoModelForCausalLM.from_config(config).base_model


@pytest.mark.parametrize("name", TINY)
def test_each_part_has_one_device_and_the_layers_stand_in_order(name):
    model, layers = empty(name), TINY[name].layers
    found = device_map(model, 2, [FIRST, SECOND])
    assert (found[f"{layers}.0"], found[f"{layers}.1"]) == (FIRST, SECOND)
    for key in model.state_dict():
        assert sum(f"{key}.".startswith(f"{part}.") for part in found) == 1, key
    embeddings = next(key for key, module in model.named_modules() if module is model.get_input_embeddings())
    assert found[embeddings] == FIRST


def test_layers_are_shared_out_in_runs_of_equal_length():
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(5)])
    found = device_map(model, 5, [FIRST, SECOND])
    assert [found[f"layers.{i}"] for i in range(5)] == [FIRST, FIRST, FIRST, SECOND, SECOND]
    assert device_map(model, 5, [SECOND]) == {"": SECOND}


@pytest.mark.parametrize("name", ["gpt2", "opt", "falcon, new", "llama", "gemma2", "phi3"])
def test_a_model_in_parts_says_what_it_says_whole(name, tmp_path):
    folder = tiny_families.write(tmp_path, TINY[name])
    whole, parts = load(str(folder), "cpu"), load(str(folder), "cpu", split=["cpu", "cpu"])
    assert whole.info == parts.info
    for one, other in zip(read(whole, TOKENS), read(parts, TOKENS), strict=True):
        for expected, got in zip(one, other, strict=True):
            assert_close(got, expected)


HERE, THERE = torch.device("lazy:0"), torch.device("lazy:1")


def put(module: torch.nn.Module, name: str, device: torch.device, **_: Any) -> None:
    """What accelerate calls to move a weight; its own takes no tensors without values."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if last in owner._parameters:
        setattr(owner, last, torch.nn.Parameter(owner._parameters[last].detach().to(device), requires_grad=False))
    else:
        owner._buffers[last] = owner._buffers[last].to(device)


def test_two_devices_refuse_to_meet():
    with FakeTensorMode(), pytest.raises(Exception, match="lazy:1"):
        torch.ones(2, device=HERE) + torch.ones(2, device=THERE)


# gpt_neo, and falcon but with ALiBi, compute what such tensors cannot
@pytest.mark.parametrize("name", ["gpt2", "opt", "llama, biases", "gemma2", "olmo2", "phi3"])
def test_a_model_on_two_devices_is_read_on_each_and_embeds_on_the_first(name, monkeypatch):
    monkeypatch.setattr(hooks, "set_module_tensor_to_device", put)
    tiny = TINY[name]
    with FakeTensorMode(allow_non_fake_inputs=True):
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(tiny.model_type, **tiny.config)
        base = AutoModelForCausalLM.from_config(config).base_model
        dispatch_model(base, device_map(base, 2, [HERE, THERE]), main_device=HERE, force_hooks=True)
        family: Any = FAMILIES[tiny.model_type]
        model = Model("tiny", family, base, None, HERE, "float32", "", None)  # type: ignore[arg-type]
        seen = []

        def visit(layer: int, residual: torch.Tensor, activations: torch.Tensor) -> None:
            xhat = model.normalise(layer, residual[:, 0])
            seen.append((layer, residual.device, activations.device, xhat.device))

        model.read(torch.zeros((2, 5), dtype=torch.long), visit)
        assert seen == [(0, HERE, HERE, HERE), (1, THERE, THERE, THERE)]
        for choice in (EmbeddingChoice(), EmbeddingChoice("neuron", "raw"), EmbeddingChoice("pre_mlp", "raw")):
            how = model.embedding_weights(1, torch.arange(3, device=HERE), choice)
            assert {of.device for of in how if of is not None} == {HERE}
        assert model.directions(1, torch.arange(3, device=HERE)).device == HERE


def test_a_device_that_is_not_there_is_refused(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["gpt2"])
    with pytest.raises(InvalidArgument, match="cuda:7"):
        load(str(folder), "cpu", split=["cpu", "cuda:7"])


def test_devices_are_named_with_commas():
    assert devices_of("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert devices_of(None) == []
