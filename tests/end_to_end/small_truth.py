"""The truth about the small index of tests/conftest.py, in NumPy float64: plain_gpt2 over its corpus."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from . import plain_gpt2, plain_rules

N_LAYERS, N_NEURONS = 2, 96
CONTEXT_LENGTH = 32
FRACTION, MOST = 0.5, 30  # of its selection


class Truth:
    """contexts; xhat[layer][context] (T, D) and activations[layer][context] (T, N)."""

    def __init__(self, checkpoint: Path, corpus_file: Path) -> None:
        stored = load_file(checkpoint / "model.safetensors")
        self.weights = {name.removeprefix("transformer."): array.astype(float) for name, array in stored.items()}
        documents = [json.loads(line) for line in corpus_file.read_text().splitlines()]
        named = [(document["id"], document["text"]) for document in documents]
        self.contexts = plain_rules.contexts(named, CONTEXT_LENGTH, "first", bos=True)
        read = [self.read(context.ids) for context in self.contexts]
        self.xhat, self.activations = (
            [[seen[layer][part] for seen in read] for layer in range(N_LAYERS)] for part in (0, 1)
        )

    def read(self, ids: list[int]) -> list[tuple[Any, Any]]:
        """(x̂ (T, D), activations (T, N)) of each layer."""
        return list(plain_gpt2.read(self.weights, 2, ids))

    def key_activations(self, layer: int) -> Any:
        """(C, N) highest of each context, BOS apart."""
        return np.array([a[1:].max(axis=0) for a in self.activations[layer]])

    def examples(self, layer: int, neuron: int) -> Any:
        """Contexts (n,) of the dataset examples."""
        return plain_rules.first(self.key_activations(layer)[:, neuron], FRACTION, MOST)
