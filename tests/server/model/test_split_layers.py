"""A model in parts: which device each part is on. This machine has one device, which stands for all."""

import pytest
import torch
from torch.testing import assert_close

from polysem.proto.errors import InvalidArgument
from polysem.server.model.loading import device_map, load
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


def test_a_device_that_is_not_there_is_refused(tmp_path):
    folder = tiny_families.write(tmp_path, TINY["gpt2"])
    with pytest.raises(InvalidArgument, match="cuda:7"):
        load(str(folder), "cpu", split=["cpu", "cuda:7"])


def test_devices_are_named_with_commas():
    assert devices_of("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert devices_of(None) == []
