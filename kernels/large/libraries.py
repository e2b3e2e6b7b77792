"""Three libraries for the same three things: nearest neighbours, sums of a sparse matrix, a tree of neighbours.

cuml          cuML's search, CuPy's sparse sums, cuML's single linkage: on a GPU
scikit-learn  its search, SciPy's sparse sums: on the CPU
torch         a product and topk, a sort and index_add: on both

All calls of cuML and CuPy are here. `docs/cuml.md` has a verdict on each, and on those that are not made.

The default on the CPU is torch. Two idle cores, D = 768, k = 25, scikit-learn's time over torch's, three rounds
(`python tests/benchmarks/large.py --paths search --examples 1000 5000 20000 --rounds 3`): 2.4 to 2.6 at N = 1,000, 1.9
to 2.0 at 5,000, 1.9 at 20,000. No GPU has measured cuML beside torch yet; there the default is cuML
where it is installed, and `make gpu-cuml` prints the figure.

cuML's euclidean search takes squared distances below 1e-3 for 0 where two rows have equal float32 norms, as four of
five pairs of unit embeddings have: of 1,000 near-copies it found 15 % of the right 25 neighbours in the emulation of
tests/kernels/large, its cosine search 99 %. scikit-learn's euclidean search is float64 inside, and its cosine search
took half as long again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from polysem.kernels.large.embeddings import BLOCK

Library = Literal["cuml", "scikit-learn", "torch"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
EXTRAS = {"cuml": "server,cuda", "scikit-learn": "server"}


class Cells(NamedTuple):
    """Entries of a sparse matrix: rows and columns (E,) int64, values (E,) float64."""

    rows: Tensor
    columns: Tensor
    values: Tensor


def default_library(device: torch.device) -> Library:
    """The fastest library that is installed for the device, as far as that was measured (see the file's header)."""
    return "cuml" if is_gpu(device) and find_spec("cuml") and find_spec("cupy") else "torch"


def checked_library(library: Library | None, device: torch.device) -> Library:
    """The library, or the device's default. Raises ValueError for one that does not run there."""
    if library is None:
        return default_library(device)
    if library not in LIBRARIES:
        raise ValueError(f"library is {library!r}; expected one of {', '.join(LIBRARIES)}")
    if library != "torch" and is_gpu(device) != (library == "cuml"):
        others = "scikit-learn or torch" if library == "cuml" else "cuml or torch"
        raise ValueError(f"{library} does not run on {device}; choose {others}")
    return library


def is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def load(library: Library) -> None:
    """Import the library: seconds for cuML. Raises ModuleNotFoundError that says what to install."""
    for name in {
        "cuml": ("cupy", "cupyx.scipy.sparse", "cuml.neighbors", "cuml.cluster"),
        "scikit-learn": ("scipy.sparse", "sklearn.neighbors"),
        "torch": (),
    }[library]:
        _module(name, library)


def _module(name: str, library: Library) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        advice = f"{missing.name} is not installed, which {library} needs: pip install 'polysem[{EXTRAS[library]}]'"
        raise ModuleNotFoundError(advice, name=missing.name) from missing


# ---- Nearest neighbours


def search(unit: Tensor, k: int, library: Library) -> Tensor:
    """The k nearest rows of each row, itself among them unless copies of it crowd it out; (N, k) int64, in any order.

    unit     (N, D) float32, rows of length 1
    k        1..N

    By float32 products, so a row that is nearer by less than 1e-6 may be missing. N² D multiply-adds; memory beside
    `unit` and the answer: 64 MiB for torch, cuML's tiles of 512 rows by at most 262,144.
    """
    return _SEARCHES[library](unit, k)


def _search_by_torch(unit: Tensor, k: int) -> Tensor:
    columns = torch.empty(len(unit), k, dtype=torch.int64, device=unit.device)
    step = max(1, BLOCK // len(unit))
    for begin in range(0, len(unit), step):
        columns[begin : begin + step] = (unit[begin : begin + step] @ unit.T).topk(k, sorted=False).indices
    return columns


def _search_by_scikit_learn(unit: Tensor, k: int) -> Tensor:
    neighbors = _module("sklearn.neighbors", "scikit-learn")
    model = neighbors.NearestNeighbors(n_neighbors=k, metric="euclidean", algorithm="brute").fit(unit.numpy())
    return torch.from_numpy(model.kneighbors(unit.numpy(), return_distance=False))


def _search_by_cuml(unit: Tensor, k: int) -> Tensor:
    """The rows are named although they are those fitted: without, cuML drops the first column, whoever that is."""
    neighbors, cupy = _module("cuml.neighbors", "cuml"), _module("cupy", "cuml")
    with handed_over(unit):
        rows = cupy.from_dlpack(unit)
        model = neighbors.NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute", output_type="cupy")
        return from_dlpack(model.fit(rows).kneighbors(rows, return_distance=False)).long()


_SEARCHES: dict[Library, Callable[[Tensor, int], Tensor]] = {
    "cuml": _search_by_cuml,
    "scikit-learn": _search_by_scikit_learn,
    "torch": _search_by_torch,
}


@contextmanager
def handed_over(unit: Tensor) -> Iterator[None]:
    """Run another library on the tensor's device: torch's cache is freed, since RMM and CuPy cannot use it."""
    if unit.device.type != "cuda":
        yield
        return
    with torch.cuda.device(unit.device):
        torch.cuda.empty_cache()
        yield


# ---- Sums of a sparse matrix


def sums(cells: Cells, n: int, library: Library) -> Cells:
    """The cells of an (n, n) matrix, those of one place added up; in order of row and column, also where a sum is 0.

    The values are multiples of 2⁻²⁴ below 2²⁹, so their sums are exact in whatever order, and the same by each library.
    """
    return _SUMS[library](cells, n) if len(cells.values) else cells


def _sums_by_torch(cells: Cells, n: int) -> Cells:
    places, which = torch.unique(cells.rows * n + cells.columns, return_inverse=True)
    values = torch.zeros(len(places), dtype=torch.float64, device=places.device).index_add_(0, which, cells.values)
    return Cells(places // max(n, 1), places % max(n, 1), values)


def _sums_by_scikit_learn(cells: Cells, n: int) -> Cells:
    sparse = _module("scipy.sparse", "scikit-learn")
    data, row, column = (part.numpy() for part in (cells.values, cells.rows.int(), cells.columns.int()))
    matrix = sparse.coo_matrix((data, (row, column)), shape=(n, n)).tocsr()
    matrix.sort_indices()
    return _cells(matrix.tocoo(), torch.from_numpy)


def _sums_by_cuml(cells: Cells, n: int) -> Cells:
    cupy, sparse = _module("cupy", "cuml"), _module("cupyx.scipy.sparse", "cuml")
    with handed_over(cells.values):
        parts = cells.values, cells.rows.int(), cells.columns.int()
        data, row, column = (cupy.from_dlpack(part) for part in parts)
        return _cells(sparse.coo_matrix((data, (row, column)), shape=(n, n)).tocsr().tocoo(), from_dlpack)


def _cells(matrix: Any, tensor: Callable[[Any], Tensor]) -> Cells:
    return Cells(tensor(matrix.row).long(), tensor(matrix.col).long(), tensor(matrix.data))


_SUMS: dict[Library, Callable[[Cells, int], Cells]] = {
    "cuml": _sums_by_cuml,
    "scikit-learn": _sums_by_scikit_learn,
    "torch": _sums_by_torch,
}


# ---- A tree of neighbours


def cuml_children(unit: Tensor, k: int) -> Tensor:
    """The single-linkage tree that cuML makes of the k nearest rows of each: children (N - 1, 2) int64, no heights.

    unit  (N, D) float32, N >= 2, rows of length 1

    cuML takes floor(log2 N) + c nearest rows, oneself among them, by euclidean distance: of nearest neighbours it knows
    no other. So merges of near-copies are in any order (see the file's header).
    """
    cluster, cupy = _module("cuml.cluster", "cuml"), _module("cupy", "cuml")
    c = k + 1 - (len(unit).bit_length() - 1)
    with handed_over(unit):
        model = cluster.AgglomerativeClustering(
            metric="euclidean", connectivity="knn", linkage="single", c=c, output_type="cupy"
        )
        return from_dlpack(model.fit(cupy.from_dlpack(unit)).children_).long()
