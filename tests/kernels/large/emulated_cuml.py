"""cuML 26.10 and CuPy 14 as far as our calls reach, on a CPU: what they do with their arguments, by their sources.

No GPU, no CUDA: arrays are NumPy's behind `DeviceArray`, which can be handed over by DLPack and by nothing else, as
CuPy's refuse to become NumPy's. Signatures are those of the packages; `test_cuml_calls` holds them to a recorded table.
What is emulated on purpose, with the file of the source tree that says so:

oneself          `kneighbors` of the rows that were fitted finds each row itself, where nothing else is nearer
                 (cuml/neighbors/nearest_neighbors.pyx). Without X it asks one more, swaps oneself to the front only if
                 some second distance is exactly 0, and drops the first column, whoever that is
clamp            squared euclidean distances v with v² < 1e-6 are 0 where both rows have equal float32 norms
                 (cuvs distance_ops/l2_exp.cuh); cosine is 1 − product / (norm · norm), and may be below 0
kNN tree         single linkage is the minimum spanning tree of the graph of floor(log2 n) + c nearest rows, oneself
                 counted (cuvs knn_graph.cuh); where that falls apart, each part's nearest way out joins it (mst.cuh).
                 children_ are of int32, in no order within a row, and there are no heights
order of ties    whatever a parallel selection makes of it: here "lowest", "highest" or "shuffled" columns first
sums             duplicates of a sparse matrix are added in any order, by atomicAdd (cupyx/scipy/sparse/_coo.py)
"""

from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

LEAST_SQUARE = np.float32(1e-6)
AT_ONCE = 16  # products are added up in another order than NumPy's


class Machine:
    """What the emulated libraries share."""

    ties = "lowest"

    def __init__(self):
        self.calls = []  # what was asked of it, in a word or two

    def tie_order(self, shape):
        """Of equal values the one with the lower number stands first."""
        column = np.broadcast_to(np.arange(shape[-1]), shape)
        if self.ties == "lowest":
            return column
        if self.ties == "highest":
            return -column
        return np.random.default_rng(0).permuted(column, axis=-1)


MACHINE = Machine()


class DeviceArray:
    """A NumPy array that only DLPack gets at."""

    def __init__(self, values):
        self.values = np.ascontiguousarray(values)
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


def from_dlpack(array, *, device=None, copy=None):
    if device is not None or copy is not None:
        raise NotImplementedError("as our calls leave them")
    return DeviceArray(np.array(np.from_dlpack(array)))


def fitted(x):
    assert isinstance(x, DeviceArray), "cuML takes NumPy arrays, too, but copies them"
    return x.values.astype(np.float32)


def products(x, y):
    total = np.zeros((len(x), len(y)), np.float32)
    for begin in range(0, x.shape[1], AT_ONCE):
        total += x[:, begin : begin + AT_ONCE] @ y[:, begin : begin + AT_ONCE].T
    return total


def squared_norms(x):
    return (x * x).sum(1, dtype=np.float32)


def distances(metric, x, y):
    """float32 (len(x), len(y))."""
    if metric == "cosine":
        norms = np.sqrt(squared_norms(x))[:, None] * np.sqrt(squared_norms(y))
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - products(x, y) / norms  # NaN of a zero row
    if metric not in ("euclidean", "l2"):
        raise ValueError(f"Metric {metric} is not supported")
    a, b = squared_norms(x)[:, None], squared_norms(y)
    value = a + b - 2 * products(x, y)
    clamped = (value * value < LEAST_SQUARE) & (a == b)
    return np.sqrt(np.where(clamped, 0, np.maximum(value, 0)))


def selected(d, k):
    """The k least of each row, ascending: distances and int64 columns."""
    columns = np.lexsort((MACHINE.tie_order(d.shape), d), axis=1)[:, :k]
    return np.take_along_axis(d, columns, 1), columns.astype(np.int64)


class NearestNeighbors:
    def __init__(
        self,
        *,
        n_neighbors=5,
        radius=1.0,
        algorithm="auto",
        metric="euclidean",
        p=2,
        algo_params=None,
        metric_params=None,
        n_jobs=None,
        verbose=False,
        output_type=None,
    ):
        if algorithm != "brute":
            raise NotImplementedError("as our calls have it: brute")
        if output_type not in (None, "cupy"):
            raise NotImplementedError("as our calls have it: CuPy's arrays")
        self.n_neighbors, self.metric = n_neighbors, metric

    def fit(self, X, y=None):
        self._fit_X = fitted(X)
        distances(self.metric, self._fit_X[:1], self._fit_X[:1])
        return self

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True, *, two_pass_precision=False):
        n_neighbors = self.n_neighbors if n_neighbors is None else n_neighbors
        without_self = X is None
        x = self._fit_X if without_self else fitted(X)
        n_neighbors += without_self
        if n_neighbors <= 0:
            raise ValueError("k or n_neighbors must be a positive integers")
        if n_neighbors > len(self._fit_X):
            raise ValueError("n_neighbors must be <= number of samples in index")
        MACHINE.calls.append(f"{self.metric} {n_neighbors}")
        found, columns = selected(distances(self.metric, x, self._fit_X), n_neighbors)
        if without_self:
            if (found[:, 1:2] == 0).any():
                for row in range(len(columns)):
                    for place in np.flatnonzero(columns[row, 1:] == row)[:1] + 1:
                        columns[row, [0, place]] = columns[row, [place, 0]]
                        found[row, [0, place]] = found[row, [place, 0]]
            found, columns = found[:, 1:], columns[:, 1:]
        answer = DeviceArray(found), DeviceArray(columns)
        return answer if return_distance else answer[1]


class AgglomerativeClustering:
    def __init__(
        self,
        n_clusters=2,
        *,
        metric="euclidean",
        connectivity="knn",
        linkage="single",
        c=15,
        verbose=False,
        output_type=None,
    ):
        if output_type not in (None, "cupy"):
            raise NotImplementedError("as our calls have it: CuPy's arrays")
        self.n_clusters, self.c = n_clusters, c
        self.metric, self.connectivity, self.linkage = metric, connectivity, linkage

    def fit(self, X, y=None):
        x = fitted(X)
        if len(x) < 2:
            raise ValueError(f"Found array with {len(x)} sample(s) while a minimum of 2 is required.")
        if self.linkage != "single":
            raise ValueError("Only single linkage clustering is supported currently")
        if self.connectivity != "knn" or self.metric not in ("euclidean", "l2"):
            raise NotImplementedError("as our calls have it: the nearest neighbours, euclidean")
        if not 1 <= self.n_clusters <= len(x):
            raise ValueError(f"Expected 1 <= n_clusters <= n_rows ({len(x)}), got {self.n_clusters=}")
        MACHINE.calls.append(f"tree {n_nearest(len(x), self.c)}")
        self.children_ = DeviceArray(knn_tree(x, self.c))
        return self


def n_nearest(n, c):
    """Of each row, oneself among them."""
    return min(n, max(2, int(np.floor(np.log2(n))) + c))


def knn_tree(x, c):
    """(n − 1, 2) int32 children, as the dendrogram on the host makes them of the sorted edges."""
    n = len(x)
    k = n_nearest(n, c)
    d = distances("euclidean", x, x)
    weights, columns = selected(d, k)
    u, v = np.repeat(np.arange(n), k), columns.ravel()
    loops = u == v
    edges, colour = spanning_forest(n, u[~loops], v[~loops], weights.ravel()[~loops])
    for _ in range(9):
        if len(np.unique(colour)) == 1:
            break
        apart = np.where(colour[:, None] == colour, np.float32(np.inf), d)
        nearest = apart.argmin(1)
        more, colour = spanning_forest(n, np.arange(n), nearest, apart[np.arange(n), nearest], colour)
        edges += more
    if len(np.unique(colour)) != 1:
        raise RuntimeError("KNN graph could not be connected in 10 iterations.")
    edges.sort(key=lambda edge: edge[0])
    parent, children = list(range(2 * n - 1)), []
    for row, (_, a, b) in enumerate(edges):
        a, b = root(parent, a), root(parent, b)
        parent[a] = parent[b] = n + row
        children.append((b, a) if row % 2 else (a, b))
    return np.array(children, np.int32)


def spanning_forest(n, u, v, weights, colour=None):
    """Edges (weight, u, v) that join what they can, and the component of each."""
    parent = list(range(n)) if colour is None else colour.tolist()
    chosen = []
    for i in np.lexsort((MACHINE.tie_order((1, len(u)))[0], weights)):
        a, b = root(parent, u[i]), root(parent, v[i])
        if a != b:
            parent[max(a, b)] = min(a, b)
            chosen.append((weights[i], u[i], v[i]))
    return chosen, np.array([root(parent, i) for i in range(n)])


def root(parent, i):
    while parent[i] != i:
        i = parent[i]
    return i


class CooMatrix:
    """cupyx.scipy.sparse.coo_matrix."""

    def __init__(self, arg1, shape=None, dtype=None, copy=False, *, maxprint=None):
        data, (row, col) = arg1
        self.data, self.row, self.col, self.shape = data, row, col, shape
        if len({array.shape for array in (data, row, col)}) != 1:
            raise ValueError("row, column, and data array must all be the same length")

    def tocsr(self, copy=False):
        rows, columns = (array.values.astype(np.int64) for array in (self.row, self.col))
        cells, places = np.unique(rows * self.shape[1] + columns, return_inverse=True)
        total = np.zeros(len(cells), self.data.dtype)
        order = np.random.default_rng(len(cells)).permutation(len(places))
        np.add.at(total, places[order], self.data.values[order])
        row, column = (DeviceArray(part.astype(np.int32)) for part in np.divmod(cells, self.shape[1]))
        return type(self)((DeviceArray(total), (row, column)), shape=self.shape)

    def tocoo(self, copy=False):
        return self


def modules():
    """By name, for sys.modules."""
    made = {name: ModuleType(name) for name in ("cuml", "cuml.neighbors", "cuml.cluster", "cupy", "cupyx")}
    made |= {name: ModuleType(name) for name in ("cupyx.scipy", "cupyx.scipy.sparse")}
    for name, module in made.items():
        module.__spec__ = ModuleSpec(name, None)
        above, _, own = name.rpartition(".")
        if above:
            setattr(made[above], own, module)
    made["cuml.neighbors"].NearestNeighbors = NearestNeighbors
    made["cuml.cluster"].AgglomerativeClustering = AgglomerativeClustering
    made["cupy"].from_dlpack = from_dlpack
    made["cupyx.scipy.sparse"].coo_matrix = CooMatrix
    return made
