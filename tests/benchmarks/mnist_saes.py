"""The two SAEs of MechMNISTic (neuron-embeddings/mechMNISTic): do latents fall apart less where the SAE was trained
with the neuron-embedding loss?

    python tests/benchmarks/mnist_saes.py FOLDER [--null 99] [--seed 0]

FOLDER is a checkout. Its own clusters give intra, inter and numbers of clusters as the author measured them on the
training images; those are not needed here. The 10,000 test images are read again: examples of a latent are the first
100 in which it reaches half of its maximum, its embeddings (h − b_dec) ⊙ W_enc. Latents with 25 examples or more are
tested with rotations, and pairs of the two SAEs that fire as often are compared.
"""

import argparse
import gzip
import json
from pathlib import Path

import given
import numpy as np
import torch
from monosemantic import LEAST, Units, pairs, report

from polysem.kernels import significance
from polysem.proto.arrays import Array

NAMES = ("Standard SAE", "Neuron Embedding SAE")
MOST = 100  # examples
STORED = {"intra": "intra-cluster_distance", "inter": "inter-cluster_distance", "clusters": "clusters"}


def stored(folder: Path) -> str:
    """Means over the latents of what the author measured."""
    clusters = json.loads((folder / "clusters.json").read_text())
    of_latents = [value[-1] for key, value in clusters.items() if key.startswith("1_")]
    means = {
        name: np.mean([one[key] for one in of_latents if one.get(key) is not None]) for name, key in STORED.items()
    }
    return ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())


def tested(folder: Path, images: torch.Tensor, n_null: int, seed: int) -> tuple[Units, dict[str, Array]]:
    """Latents with enough examples, and their measures."""
    sae, model = (torch.load(folder / name, weights_only=True, map_location="cpu") for name in ("sae.pt", "model.pt"))
    read = torch.relu(images @ model["layers.0.weight"].T + model["layers.0.bias"]) - sae["1.bias"]
    activations = torch.relu(read @ sae["0.weight"].T + sae["0.bias"])
    hard = (activations > 0) & (activations >= 0.5 * activations.amax(0))
    chosen = torch.nonzero(hard.sum(0) >= LEAST)[:, 0]
    embeddings, counts = torch.zeros(len(chosen), MOST, read.shape[1]), torch.zeros(len(chosen), dtype=torch.int32)
    for i, latent in enumerate(chosen.tolist()):
        rows = torch.nonzero(hard[:, latent])[:MOST, 0]
        embeddings[i, : len(rows)], counts[i] = read[rows] * sae["0.weight"][latent], len(rows)
    found = significance.rotation_test(embeddings, counts, n_null=n_null, seed=seed)
    measures = {
        "p <= .05": (found.p_value <= 0.05).double().numpy(),
        "excess silhouette": (found.best_silhouette - found.null_mean).double().numpy(),
    }
    units = Units(np.arange(len(chosen)), hard.double().mean(0)[chosen].numpy(), counts.numpy())
    return units, measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=given.folder)
    parser.add_argument("--null", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    how = parser.parse_args()
    raw = gzip.decompress((how.folder / "data/MNIST/raw/t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).view(-1, 784).float() / 255
    images = (pixels - 0.1307) / 0.3081  # as the models were trained
    both = [tested(how.folder / "models" / name, images, how.null, how.seed) for name in NAMES]
    for name, (units, measures) in zip(NAMES, both, strict=True):
        print(f"{name}: by its author {stored(how.folder / 'models' / name)}; {len(units.numbers)} latents tested:")
        print("  " + ", ".join(f"{measure} {values.mean():.3f}" for measure, values in measures.items()))
    paired = pairs(both[1][0], both[0][0], len(both[1][0].numbers), how.seed)
    one, other = (
        {name: values[[pair[i] for pair in paired]] for name, values in both[1 - i][1].items()} for i in (0, 1)
    )
    print()
    report(one, other, (NAMES[1], NAMES[0]))


if __name__ == "__main__":
    main()
