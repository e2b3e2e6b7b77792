"""What the GPU's precisions change on real embeddings: those of the demo model's neurons.

    python tests/benchmarks/precision.py [--neurons 64] [--device cuda]

For each precision: the largest error of a distance against float64, and of the average-linkage trees made of them the
largest difference between sorted heights and the adjusted Rand index (mean, least) of cuts at 0.3, 0.5 and 0.7. Without
a GPU the kernels run in Triton's interpreter, which rounds as they do; the CPU's own kernel stands beside them.
"""

import argparse
import os

import given
import machine
import numpy as np
import torch

from polysem.server.model.loading import load

CUTS = (0.3, 0.5, 0.7)


def embeddings(n_neurons):
    """Batches of neurons of the demo's index, as the server makes them; neurons with as many examples as any has."""
    from polysem.proto.questions.clustering import EmbeddingChoice
    from polysem.server.demo import indexes
    from polysem.server.index.format import open_index
    from polysem.server.questions import resident

    index = open_index(indexes.ensure())
    counts = index.n_examples
    full = np.argwhere(counts == counts.max())
    chosen = full[np.linspace(0, len(full) - 1, n_neurons).astype(int)].astype(np.int32)
    return list(resident.device_batches(load("demo", "cpu"), index, chosen, EmbeddingChoice()))


def against(batch, precise, distances):
    """Largest distance error, largest height difference, and the (B, 3) ARIs."""
    from polysem.kernels import agglomerative, tree

    n = batch.n_examples
    trees = [agglomerative.linkage(d, n) for d in (precise, distances)]
    heights = [t[..., 2] for t in trees]
    labels = [[tree.cut(t, n, cut) for cut in CUTS] for t in trees]
    return (
        (precise - distances).abs().max().item(),
        (heights[0] - heights[1]).abs().max().item(),
        torch.from_numpy(np.stack([agreements(a, b, n) for a, b in zip(*labels, strict=True)], 1)),
    )


def agreements(a, b, n_examples):
    """(B,) adjusted Rand indexes of padded labels (B, N)."""
    from polysem.client.measuring.agreement import adjusted_rand_indexes

    used = torch.arange(a.shape[1]) < n_examples[:, None]
    return adjusted_rand_indexes(a[used].numpy(), b[used].numpy(), n_examples.numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--device", default="cpu", type=given.device)
    arguments = parser.parse_args()
    if arguments.device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    from polysem.kernels import distances
    from polysem.kernels.gpu import distances as gpu

    def on_gpu(precision):
        def run(batch):
            tensors = [
                t if t is None else t.to(arguments.device) for t in (*batch[3:6], batch.n_examples, batch.offsets)
            ]
            return gpu.gathered_cosine_distances(*tensors, precision).cpu()

        return run

    contestants = {"CPU float32": lambda c: distances.gathered_cosine_distances(*c[3:6], c.n_examples, c.offsets)}
    where = "interpreter" if arguments.device.type == "cpu" else torch.cuda.get_device_name(arguments.device)
    contestants |= {f"{where}, {precision}": on_gpu(precision) for precision in ("float32", "tf32", "bf16")}
    batches = embeddings(arguments.neurons)
    exact = [
        distances.weighted_cosine_distances_reference(c.rows[c.example_rows], c.weights, c.n_examples, c.offsets)
        for c in batches
    ]
    n = np.concatenate([c.n_examples.numpy() for c in batches])
    print(machine.heading(arguments.device))
    print(f"{len(n)} neurons of {n.min()} to {n.max()} examples")
    print("| precision | distance | height | ARI at 0.3, mean (least) | at 0.5 | at 0.7 |\n|---|---|---|---|---|---|")
    for name, run in contestants.items():
        found = [against(batch, precise, run(batch)) for batch, precise in zip(batches, exact, strict=True)]
        ari = torch.cat([part[2] for part in found])
        shown = " | ".join(f"{ari[:, k].mean():.4f} ({ari[:, k].min():.3f})" for k in range(len(CUTS)))
        print(f"| {name} | {max(f[0] for f in found):.1e} | {max(f[1] for f in found):.1e} | {shown} |", flush=True)
    print("\nComplete.")


if __name__ == "__main__":
    with given.in_words():
        main()
