"""A checkpoint that a test may spoil, and the sentence that loading it ends in."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polysem.proto.errors import PolysemError
from polysem.server.model.loading import load
from polysem.server.model.model import Model

TOKENS = torch.tensor([[256, 10, 20, 30, 40, 50, 60], [256, 7, 7, 7, 9, 9, 9]])


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor.contiguous() for name, tensor in change(weights).items()}, path, {"format": "pt"})


def as_gpt2_model(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout that GPT2Model saves, from GPT2LMHeadModel's."""
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}


def read(loaded: Model, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(residual, activations) of each layer, in the order in which they were shown."""
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    loaded.read(tokens, lambda layer, residual, a: seen.append((layer, residual.float(), a.float())))
    assert [layer for layer, _, _ in seen] == list(range(loaded.info.n_layers))
    return [(residual, activations) for _, residual, activations in seen]


def refusal(name: str | Path, error: type[PolysemError], **arguments: str) -> str:
    with pytest.raises(error) as caught:
        load(str(name), **{"device": "cpu", **arguments})
    (message,) = caught.value.message.splitlines()  # one sentence: one line
    return message
