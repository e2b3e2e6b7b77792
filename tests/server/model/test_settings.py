"""Settings of a config that its weights do not show: those that change a model's numbers count, the others do not."""

import re

import pytest
import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from polysem.server.model.settings import settings_of

from .tiny_families import TINY

TYPES = {tiny.model_type: tiny for tiny in TINY.values()}


def config_of(tiny, **values):
    return AutoConfig.for_model(tiny.model_type, **tiny.config | values)


def numbers(config, weights=None):
    """The last hidden states of a text, and the weights."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.load_state_dict(weights or model.state_dict())
    with torch.inference_mode():
        return model(torch.arange(1, 25)[None], use_cache=False).last_hidden_state, model.state_dict()


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_left_out_changes_no_number(model_type):
    config = config_of(TYPES[model_type])
    before, weights = numbers(config)
    counted = settings_of(config)
    for name in type(config)().to_dict().keys() - PretrainedConfig().to_dict().keys() - counted.keys():
        if isinstance(value := getattr(config, name), bool | float):
            setattr(config, name, not value if isinstance(value, bool) else 0.25)
    after, _ = numbers(config, weights)
    assert settings_of(config) == counted
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("model_type", TYPES)
def test_epsilons_angles_and_activation_functions_count(model_type):
    config = config_of(TYPES[model_type])
    before, weights = numbers(config)
    counted = settings_of(config)
    changes = {name: 0.5 for name in counted if re.search(r"eps(ilon)?$", name)}
    changes |= {
        name: "relu" if counted[name] != "relu" else "silu"
        for name in counted
        if re.search("act(ivation(_function)?)?$", name)
    }
    assert changes or model_type == "bloom"
    for name, value in changes.items():
        other = config_of(TYPES[model_type])
        setattr(other, name, value)
        after, _ = numbers(other, weights)
        assert not torch.allclose(after, before), name
        assert settings_of(other) == counted | {name: value}
    if "rope_parameters.rope_theta" in counted:
        other = config_of(TYPES[model_type])
        other.rope_parameters["rope_theta"] = 100.0
        assert not torch.allclose(numbers(other, weights)[0], before)
        assert settings_of(other) == counted | {"rope_parameters.rope_theta": 100.0}


def test_the_longest_text_counts_where_angles_are_scaled_by_it():
    llama = TYPES["llama"]
    assert settings_of(config_of(llama)) == settings_of(config_of(llama, max_position_embeddings=4096))
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    one, other = (settings_of(config_of(llama, max_position_embeddings=n, rope_parameters=scaled)) for n in (64, 4096))
    assert one != other
