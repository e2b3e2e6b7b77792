"""Is a neuron's best clustering better than chance? The rotation test: its silhouette among those of rotated examples.

rotation_test_reference  NumPy float64, from the definitions
rotation_test            the best silhouette of the embeddings' cosine tree, and those of n_null rotations. Made of
                         other kernels (products.py, null_silhouettes.py …), so it runs where tensors are
gathered_rotation_test   the same, from a table of rows

The statistic is the best silhouette over all cuts of the average-linkage tree. With `centre`, the default, the neuron's
mean is subtracted before rotating (frame `own`): of sets without clusters, but with heavy tails, raw cosines reject far
too many. Calibration: tests/benchmarks/calibration.py.

A small p says that the examples are not one Gaussian cloud. It does not say how far apart clusters are: the excess
silhouette does, best_silhouette - null_mean.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from polysem.kernels import agglomerative, faults, products, rotations, silhouettes
from polysem.kernels.arrays import Sizes, checked
from polysem.kernels.definitions import Linkage
from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.null_silhouettes import null_silhouettes

TIE = 1e-5  # silhouettes nearer than this are equal: float32 distances are not better known
UNIT = 2.0**-40  # nulls are summed as integers, so in any order alike


class RotationTest(NamedTuple):
    """One number a neuron, each (B,) float64; NaN with fewer than 3 examples, where no cut can be scored."""

    best_silhouette: Tensor  # over all cuts of the tree; 0 where no cut separates anything
    null_mean: Tensor  # of the best silhouettes of the rotations
    null_sd: Tensor  # likewise (n_null - 1 in the denominator); NaN with one rotation
    p_value: Tensor  # (1 + how many rotations are as good or better) / (1 + n_null)


def rotation_test_reference(
    embeddings: Tensor,
    n_examples: Tensor,
    n_null: int = 99,
    seed: int = 0,
    *,
    centre: bool = True,
    method: Linkage = "average",
) -> RotationTest:
    """Compute `rotation_test` by the references of all its parts."""
    rotations.check_nulls(0, n_null, seed)
    rows, used, ones = _as_rows(embeddings, n_examples)
    offsets = -products.mean_embeddings_reference(rows, used, ones, n_examples) if centre else None
    gram = products.gathered_products_reference(rows, used, ones, n_examples, offsets)
    own = rotations.cosine_distances_reference(gram, n_examples)
    nulls = rotations.rotated_distances_reference(gram, n_examples, 0, n_null, seed)

    def best(distances: Tensor) -> Tensor:
        trees = agglomerative.linkage_reference(distances, n_examples, method)
        return silhouettes.best_of_cuts(silhouettes.cut_silhouettes_reference(distances, trees, n_examples), n_examples)

    return compared(best(own), torch.stack([best(nulls[:, r]) for r in range(n_null)], 1))


def rotation_test(
    embeddings: Tensor,
    n_examples: Tensor,
    n_null: int = 99,
    seed: int = 0,
    *,
    centre: bool = True,
    method: Linkage = "average",
) -> RotationTest:
    """Compare each neuron's best silhouette with those of random rotations of its embeddings.

    embeddings  (B, N, D) float16 or float32; padding is never read
    n_examples  (B,) int32 or int64, 0..N
    n_null      1 or more: rotations. No p is below 1 / (1 + n_null)
    seed        0..2⁶³ - 1: of the rotations, which depend on it and on the number of examples alone
    centre      subtract each neuron's mean embedding first (frame `own`)
    method      the linkage of the trees: "average", "complete" or "single"
    returns     `RotationTest` of (B,) tensors

    If the rows are draws of one Gaussian, whatever its mean and covariance, p is uniform on 1/(1 + n_null) … 1. A
    neuron gives the same bytes in any batch. Raises TypeError or ValueError for wrong dtypes, shapes, counts, seeds,
    and for embeddings that are NaN or infinite. O(n² D + n_null · 1.5 n³) multiply-adds a neuron; memory beside the
    arguments: 12 N² bytes a neuron, 40 N² a task (on a GPU 1 GiB of null distances, or one null where that is more).
    """
    rows, used, ones = _as_rows(embeddings, n_examples)
    return gathered_rotation_test(rows, used, ones, n_examples, None, n_null, seed, centre=centre, method=method)


def gathered_rotation_test(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    n_null: int = 99,
    seed: int = 0,
    *,
    centre: bool = True,
    method: Linkage = "average",
) -> RotationTest:
    """`rotation_test` of the embeddings rows[example_rows] ⊙ weights + offsets, which are never built on the CPU.

    The first five arguments are those of `distances.gathered_cosine_distances`, the others those of `rotation_test`.
    """
    rotations.check_nulls(0, n_null, seed)
    if centre:
        offsets = centring_offsets(rows, example_rows, weights, n_examples, offsets)
    best = statistics_of(rows, example_rows, weights, n_examples, offsets, method=method)
    gram = products.gathered_products(rows, example_rows, weights, n_examples, offsets)
    return compared(best, null_silhouettes(gram, n_examples, 0, n_null, seed, method))


def statistics_of(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    *,
    method: Linkage = "average",
) -> Tensor:
    """The test's statistic of the embeddings as they are, (B,) float64: the best silhouettes of their cosine trees."""
    distances = gathered_cosine_distances(rows, example_rows, weights, n_examples, offsets)
    return silhouettes.best_silhouettes(distances, agglomerative.linkage(distances, n_examples, method), n_examples)


def centring_offsets(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Offsets (B, D) float32 that subtract each neuron's mean embedding: frame `own`.

    The arguments are those of `distances.gathered_cosine_distances`.
    """
    mean = products.mean_embeddings(rows, example_rows, weights, n_examples, offsets)
    return -mean if offsets is None else offsets - mean


def compared(best: Tensor, nulls: Tensor) -> RotationTest:
    """The test's result from best silhouettes (B,) and those of the nulls (B, n_null)."""
    n_null = nulls.shape[1]
    mean = exact_sum(nulls) / n_null
    squares = exact_sum((nulls - mean[:, None]) ** 2)
    sd = (squares / (n_null - 1)).sqrt() if n_null > 1 else torch.full_like(mean, torch.nan)
    p = (1.0 + (nulls >= best[:, None] - TIE).sum(1).double()) / (1.0 + n_null)
    nothing = best.isnan()
    return RotationTest(best, *(values.masked_fill(nothing, torch.nan) for values in (mean, sd, p)))


def exact_sum(values: Tensor) -> Tensor:
    """The sum over dimension 1 of values below 2²² in size, NaN as 0, to multiples of UNIT: in any order alike."""
    return (values.nan_to_num() / UNIT).round().long().sum(1).double() * UNIT


def _as_rows(embeddings: Tensor, n_examples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The embeddings as a table, its rows of each neuron, and weights that change nothing."""
    sizes: Sizes = {}
    device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")
    e = checked("embeddings", embeddings, "B N D", sizes, (torch.float32, torch.float16), device)
    counts = checked("n_examples", n_examples, "B", sizes, (torch.int32, torch.int64), device)
    B, N, D = e.shape
    used = torch.arange(B * N, device=device).view(B, N)
    wrong = ~e.isfinite() & (torch.arange(N, device=device) < counts[:, None])[:, :, None]

    def explain() -> None:
        b, i, d = wrong.nonzero()[0].tolist()
        raise ValueError(f"embeddings[{b}, {i}, {d}] is {e[b, i, d]}; expected finite numbers")

    faults.check(wrong, explain)
    return e.view(B * N, D), used, torch.ones((B, D), device=device)
