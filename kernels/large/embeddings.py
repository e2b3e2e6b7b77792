"""Unit embeddings of one large neuron: made, checked, rounded so that their sums are exact, and their distances."""

import torch
from torch import Tensor

from polysem.kernels.arrays import Sizes, checked
from polysem.kernels.definitions import check_gated

MAX_EXAMPLES = 2**18
GRID = 2.0**34
SAME = 2.0**-25  # distances below are 0, as in distances.py, where they are multiples of 2⁻²⁴
BLOCK = 2**24  # similarities at once: 64 MiB
ROWS = 4096  # embeddings at once, where they are gathered in float64
PAIRS = {"cpu": 512, "cuda": 2**14}  # differences of embeddings at once: in a CPU's cache, a GPU's launch


def unit_embeddings(
    rows: Tensor,
    weights: Tensor,
    offsets: Tensor | None = None,
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """The embeddings e = x ⊙ weights + offsets of one neuron's examples (paper eq. 1 to 3), each of length 1.

    With `up` and `factors`, as gated neurons have them, e = x ⊙ (factors[…, 0] · weights + factors[…, 1] · up).

    rows     (N, D) float16 or float32: x of each example
    weights  (D,) float32
    offsets  (D,) float32, or None for zeros
    up       (D,) float32, or None; not together with offsets
    factors  (N, 2) float32
    returns  (N, D) float32; a zero embedding stays zero

    Raises TypeError or ValueError for wrong dtypes and shapes and where an embedding is NaN or infinite. O(N · D).
    """
    sizes: Sizes = {}
    rows = checked("rows", rows, "N D", sizes, (torch.float32, torch.float16), rows.device)
    weights = checked("weights", weights, "D", sizes, (torch.float32,), rows.device)
    if offsets is not None:
        offsets = checked("offsets", offsets, "D", sizes, (torch.float32,), rows.device)
    check_gated(offsets, up, factors)
    if up is not None and factors is not None:
        up = checked("up", up, "D", sizes, (torch.float32,), rows.device)
        factors = checked("factors", factors, "N 2", sizes, (torch.float32,), rows.device)
    for name, vector in (("weights", weights), ("offsets", offsets), ("up", up)):
        if vector is not None:
            _raise_if_not_finite(name, vector)
    unit = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    for begin in range(0, len(rows), ROWS):
        of_examples = weights
        if up is not None and factors is not None:
            two = factors[begin : begin + ROWS, :, None]  # (R, 2, 1)
            of_examples = two[:, 0] * weights + two[:, 1] * up
        block = rows[begin : begin + ROWS].float() * of_examples
        if offsets is not None:
            block += offsets
        squares = block.double().square_().sum(1)
        for i in torch.nonzero(~squares.isfinite())[:1, 0].tolist():
            _raise_if_not_finite("rows", rows, begin + i)
            raise ValueError(f"the embedding of example {begin + i} overflows float32")
        unit[begin : begin + ROWS] = block.double() * _inverse(squares.sqrt())[:, None]
    return unit


def _raise_if_not_finite(name: str, values: Tensor, row: int | None = None) -> None:
    for d in torch.nonzero(~(values if row is None else values[row]).isfinite())[:1, 0].tolist():
        place, value = (d, values[d]) if row is None else (f"{row}, {d}", values[row, d])
        raise ValueError(f"{name}[{place}] is {value.item()}; expected finite numbers")


def _inverse(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, 1 / lengths, 0.0)


def checked_unit(unit: Tensor) -> Tensor:
    """unit (N, D) float32, each row of length 1 or 0 and not too many of them."""
    unit = checked("unit", unit, "N D", {}, (torch.float32,), unit.device)
    if len(unit) > MAX_EXAMPLES:
        raise ValueError(f"unit has {len(unit)} rows; expected at most {MAX_EXAMPLES}")
    lengths = torch.linalg.vector_norm(unit, dim=1, dtype=torch.float64)
    for i in torch.nonzero(~((lengths == 0) | ((lengths - 1).abs() < 1e-3)))[:1, 0].tolist():
        raise ValueError(f"unit[{i}] has length {lengths[i].item():g}; expected 1, or 0 for a zero embedding")
    return unit


def on_grid(unit: Tensor) -> Tensor:
    """The same, (N, D) float64, of length 1 to the last bits and then rounded to multiples of 2⁻³⁴."""
    result = torch.empty(unit.shape, dtype=torch.float64, device=unit.device)
    for rows, target in zip(torch.split(unit, ROWS), torch.split(result, ROWS), strict=True):
        exact = rows.double()
        torch.round(exact * (_inverse(exact.square().sum(1).sqrt()) * GRID)[:, None], out=target)
        target /= GRID
    return result


def snapped(distance: Tensor) -> Tensor:
    return torch.where(distance < SAME, 0.0, distance).clamp_(max=2.0)


def pair_distances(unit: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """½ |unit[u] − unit[v]|² pair by pair, 1 where either is zero.

    unit     (N, D) float32, rows of length 1 or 0
    u, v     (M,) int64, or v (M, C): each of u with C others
    returns  as v, float32 multiples of 2⁻²⁴ in [0, 2]; the same both ways and in any company
    """
    others = v if v.ndim == 2 else v[:, None]
    result = torch.empty(others.shape, dtype=torch.float32, device=unit.device)
    zero = (unit == 0).all(1)
    step = max(1, PAIRS[unit.device.type] // max(others.shape[1], 1))
    for begin in range(0, len(u), step):
        a, b = u[begin : begin + step, None], others[begin : begin + step]
        difference = unit[b]  # (step, C, D)
        difference -= unit[a]
        distance = difference.square_().sum(2) * 0.5
        distance.masked_fill_(zero[a] | zero[b], 1.0)
        result[begin : begin + step] = torch.round(distance * 2**24) * 2**-24
    return result.clamp_(max=2.0).reshape(v.shape)
