"""Compiles what one large neuron needs, and loads the library that searches neighbours, before a request waits."""

import torch

from polysem.kernels.large import metrics, neighbour_tree, neighbours, trees
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.kernels.large.libraries import Library


def warm_up(device: torch.device = torch.device("cpu"), library: Library = "torch") -> None:
    """Run what one large neuron goes through, and the search of nearest neighbours, on 40 examples.

    With cuML its import comes first, 10 to 22 s; on a GPU each library also loads its code there.
    """
    angles = torch.linspace(0, 3, 40, device=device)
    unit = unit_embeddings(torch.stack([angles.cos(), angles.sin()], 1), torch.ones(2, device=device))
    thresholds = torch.tensor([0.1], dtype=torch.float64, device=device)
    trees.scc_linkage(unit, thresholds)
    trees.single_linkage(unit)
    neighbours.scc_linkage(unit, thresholds, library=library)
    neighbour_tree.single_linkage(unit, library=library)
    made = trees.average_linkage(unit)
    metrics.tree_metrics(unit, made, torch.zeros(len(unit), dtype=torch.int32, device=device))


if __name__ == "__main__":
    warm_up()
