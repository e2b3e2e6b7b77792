"""The change by storing x̂ as float16: distances and trees of an index's neurons, beside those of the model's x̂.

    python tests/benchmarks/rounding.py [--index FOLDER] [--neurons 16]

The contexts of the neurons' examples are read again, and x̂ at their key tokens is kept in float32. Of the distances:
the largest difference of a neuron, median and greatest over neurons. Of average-linkage trees: the largest difference
of sorted heights, and the least adjusted Rand index of cuts at 0.3, 0.5 and 0.7.
"""

import argparse
from pathlib import Path

import given
import machine
import numpy as np
import torch
from precision import agreements

from polysem.kernels import agglomerative, distances, tree
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.demo import indexes
from polysem.server.index.format import open_index
from polysem.server.model.loading import load

CUTS = (0.3, 0.5, 0.7)


def read_again(model, index, layer, rows):
    """(n, D) float32 of rows of a layer's x̂: before they were stored."""
    stored = index.layer(layer)
    contexts, positions = stored.row_contexts[rows], stored.row_positions[rows]
    found = torch.empty(len(rows), model.info.d_model)
    for context in np.unique(contexts):
        mine = np.flatnonzero(contexts == context)
        at = torch.from_numpy(positions[mine].astype(np.int64))

        def visit(seen, residual, _, mine=mine, at=at):
            if seen == layer:
                found[mine] = model.normalise(layer, residual[0, at])

        model.read(torch.from_numpy(index.contexts.tokens(int(context)))[None], visit, layer)
    return found


def linked(x, weights):
    """Distances (1, n, n) of examples (n, D), in float64 but for the last step, and their average-linkage tree."""
    n = torch.tensor([len(x)], dtype=torch.int32)
    made = distances.weighted_cosine_distances_reference(x[None], weights, n)
    return made, agglomerative.linkage(made, n), n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--neurons", type=int, default=16)
    arguments = parser.parse_args()
    index = open_index(arguments.index or indexes.ensure())
    model = load(index.info.model_id, "cpu")
    full = np.argwhere(index.n_examples >= min(100, index.n_examples.max()))
    chosen = full[np.linspace(0, len(full) - 1, arguments.neurons).astype(int)]
    print(machine.heading(torch.device("cpu")))
    print("| embedding | distance, median (greatest) | height | ARI, least |\n|---|---|---|---|")
    rows = {(layer, j): index.layer(layer).rows[slice(*index.layer(layer).offsets[[j, j + 1]])] for layer, j in chosen}
    exact = {key: read_again(model, index, key[0], np.asarray(of)) for key, of in rows.items()}
    for embedding in ("pre_mlp", "gate" if model.info.gated else "neuron"):
        moved, heights, least = [], [], []
        for (layer, j), x in exact.items():
            as_stored = torch.from_numpy(np.asarray(index.layer(layer).xhat[rows[layer, j]], np.float32))
            weights = model.embedding_weights(layer, torch.tensor([j]), EmbeddingChoice(embedding)).weights
            (a, ta, n), (b, tb, _) = (linked(of, weights) for of in (x, as_stored))
            moved.append((a - b).abs().max().item())
            heights.append((ta[..., 2].sort().values - tb[..., 2].sort().values).abs().max().item())
            least += [agreements(tree.cut(ta, n, cut), tree.cut(tb, n, cut), n).min() for cut in CUTS]
        print(f"| {embedding} | {np.median(moved):.1e} ({max(moved):.1e}) | {max(heights):.1e} | {min(least):.3f} |")
    print("\nComplete.")


if __name__ == "__main__":
    with given.in_words():
        main()
