"""The signatures of cuML and CuPy that our calls rely on, as an installation has them; needs no GPU and no CUDA.

    python tests/kernels/large/signatures.py SITE > tests/kernels/large/signatures.json

SITE is where `make cuml-signatures` has put the two packages without what they depend on. cuML's are read from the
.pyx files that its wheel holds, since importing it wants CUDA; CuPy can be imported.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

CUML = {
    "cuml.neighbors.NearestNeighbors": ("cuml/neighbors/nearest_neighbors.pyx", "NearestNeighbors.__init__"),
    "cuml.neighbors.NearestNeighbors.fit": ("cuml/neighbors/nearest_neighbors.pyx", "NeighborsBase.fit"),
    "cuml.neighbors.NearestNeighbors.kneighbors": ("cuml/neighbors/nearest_neighbors.pyx", "NeighborsBase.kneighbors"),
    "cuml.cluster.AgglomerativeClustering": ("cuml/cluster/agglomerative.pyx", "AgglomerativeClustering.__init__"),
    "cuml.cluster.AgglomerativeClustering.fit": ("cuml/cluster/agglomerative.pyx", "AgglomerativeClustering.fit"),
}
CUPY = {
    "cupy.from_dlpack": ("cupy", "from_dlpack"),
    "cupyx.scipy.sparse.coo_matrix": ("cupyx.scipy.sparse._coo", "_coo_base.__init__"),
    "cupyx.scipy.sparse.coo_matrix.tocsr": ("cupyx.scipy.sparse._coo", "_coo_base.tocsr"),
    "cupyx.scipy.sparse.coo_matrix.tocoo": ("cupyx.scipy.sparse._coo", "_coo_base.tocoo"),
}


# Where a metric is looked up: file, and what the list of their names stands between.
METRICS = {
    "cuml.neighbors.NearestNeighbors": ("cuml/neighbors/__init__.py", r'^VALID_METRICS = .*?"brute": set\((.*?)\)'),
    "cuml.cluster.AgglomerativeClustering": ("cuml/cluster/agglomerative.pyx", r"^_metrics_mapping = {(.*?)}"),
}


def installed(site: Path) -> dict[str, dict[str, object]]:
    """Of each call: its signature, the package with its version, where it stands in it, and the metrics it knows."""
    found: dict[str, dict[str, object]] = {}
    version = _version(site, "cuml_cu13")
    for call, (file, name) in CUML.items():
        found[call] = {"signature": _of_cython(site / file, name), "package": version, "source": file}
    for call, (file, names) in METRICS.items():
        listed = re.search(names, (site / file).read_text(), re.MULTILINE | re.DOTALL)
        assert listed, f"{file} has no list of metrics"
        found[call]["metrics"] = sorted(re.findall(r'^\s*"(\w+)"', listed[1], re.MULTILINE))
    sys.path.insert(0, str(site))
    version = _version(site, "cupy_cuda13x")
    for call, (module, name) in CUPY.items():
        found[call] = {"signature": _of_object(module, name), "package": version, "source": f"{module}.{name}"}
    return found


def _version(site: Path, package: str) -> str:
    (folder,) = site.glob(f"{package}-*.dist-info")
    distribution = PathDistribution(folder)
    return f"{distribution.name} {distribution.version}"


def _of_cython(file: Path, name: str) -> str:
    """The arguments of a plain `def` of a class in Cython's text, as Python writes them."""
    class_, method = name.split(".")
    body = re.split(rf"^class {class_}\b.*:$", file.read_text(), flags=re.MULTILINE)[1]
    body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]
    head = re.search(rf"^    def {method}(\(.*?\))(?: -> [^\n]*)?:$", body, re.MULTILINE | re.DOTALL)
    assert head, f"{file} has no {name}"
    function = ast.parse(f"def {method}{re.sub(r'  #.*', '', head[1])}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return plain(f"({ast.unparse(function.args)})")


def _of_object(module: str, name: str) -> str:
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    try:
        return plain(str(inspect.signature(value)))
    except ValueError:  # Cython has written it into the docstring
        return plain((value.__doc__ or "").splitlines()[0].removeprefix(name))


def plain(signature: str) -> str:
    """Without what differs between ways of writing it: spaces around =, kinds of quotes."""
    return re.sub(r"\s*=\s*", "=", signature).replace('"', "'")


if __name__ == "__main__":
    print(json.dumps(installed(Path(sys.argv[1])), indent=1))
