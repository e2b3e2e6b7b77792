"""Random rotations on a GPU: the two products of `polysem.kernels.rotations` a null, by the kernel of products.py.

The random numbers are those of the CPU half; the products are rounded in another order, so distances differ in their
last bits. Memory: three arrays of the size of the result.
"""

import torch
from torch import Tensor

from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.gpu.products import products as multiplied
from polysem.kernels.rotations import check_nulls, orders, rotation


def rotated_distances(products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0) -> Tensor:
    """Compute `polysem.kernels.rotations.rotated_distances` for tensors of one device."""
    check_nulls(first, last, seed)
    sizes: Sizes = {}
    gram = checked("products", products, "B N N", sizes, (torch.float32,), products.device)
    counts = checked_counts(n_examples, sizes, gram.device)
    B, N = gram.shape[:2]
    n_nulls = last - first
    slot = torch.arange(N, device=gram.device)
    used = slot < counts[:, None]
    both = used[:, :, None] & used[:, None, :]
    turn, order = _drawn(counts, N, first, last, seed)
    turned = _symmetric(multiplied(multiplied(turn, gram.where(both, 0.0)), turn))  # Q G Qᵀ
    left = turn.transpose(1, 2)[:, None].expand(B, n_nulls, N, N).gather(3, order[:, :, None].expand(-1, -1, N, -1))
    left = left.reshape(B * n_nulls, N, N)
    rotated = _symmetric(multiplied(multiplied(left, turned, n_nulls), left)).view(B, n_nulls, N, N)
    return _cosine_distances(rotated).masked_fill_(~both[:, None], torch.inf)


def _drawn(counts: Tensor, N: int, first: int, last: int, seed: int) -> tuple[Tensor, Tensor]:
    """Each neuron's Q (B, N, N), 0 in padding, and its orders (B, last - first, N), which leave padding alone."""
    sizes, which = counts.cpu().unique(return_inverse=True)
    matrices = torch.zeros(len(sizes), N, N)
    order = torch.arange(N).repeat(len(sizes), last - first, 1)
    for s, n in enumerate(sizes.tolist()):
        matrices[s, :n, :n] = torch.from_numpy(rotation(n, seed))
        order[s, :, :n] = torch.from_numpy(orders(n, first, last, seed))
    which = which.to(counts.device)
    return matrices.to(counts.device)[which], order.to(counts.device)[which]


def _symmetric(matrices: Tensor) -> Tensor:
    """Copy what is below the diagonal to above it."""
    return matrices.tril() + matrices.tril(-1).transpose(1, 2)


def _cosine_distances(rotated: Tensor) -> Tensor:
    squares = torch.diagonal(rotated, dim1=-2, dim2=-1)
    inverse = squares.double().rsqrt().float().where(squares > 0, 0.0)
    lower = (1.0 - rotated * inverse[..., :, None] * inverse[..., None, :]).clamp_(0.0, 2.0).tril(-1)
    return lower + lower.transpose(-2, -1)
