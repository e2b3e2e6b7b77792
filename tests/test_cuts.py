"""Kernels and client cut the trees of vectors/cuts.json as SciPy does; tests/browser holds the browser to the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polysem.client import cutting
from polysem.client.cutting import Tree
from polysem.kernels import tree as kernel

VECTORS = json.loads((Path(__file__).parent / "vectors" / "cuts.json").read_text())
CUTS = [pytest.param(v, c, id=f"{v['name']} at {c['distance_threshold']:.3g}") for v in VECTORS for c in v["cuts"]]


def tree_of(vector):
    merges = np.array(vector["merges"], np.int32)
    return Tree(merges, np.array(vector["heights"]), merges[:, 0], np.array(vector["mean_distances"]))


@pytest.mark.parametrize(("vector", "cut"), CUTS)
def test_the_client_cuts_as_scipy(vector, cut):
    tree, n = tree_of(vector), vector["n"]
    assert cutting.labels(tree, n, cut["distance_threshold"]).tolist() == cut["labels"]
    found = cutting.intra_and_inter(tree, n, cutting.top_nodes(tree, n, cut["distance_threshold"]))
    assert found == pytest.approx((cut["intra"], cut["inter"]), nan_ok=True)


@pytest.mark.parametrize(("vector", "cut"), CUTS)
def test_the_kernels_cut_as_scipy(vector, cut):
    linkage, n = torch.from_numpy(cutting.linkage(tree_of(vector)))[None], torch.tensor([vector["n"]])
    for function in (kernel.cut, kernel.cut_reference):
        assert function(linkage, n, cut["distance_threshold"])[0].tolist() == cut["labels"]


def test_the_vectors_are_what_their_script_makes(tmp_path, monkeypatch):
    import importlib.util

    path = Path(__file__).parent / "vectors" / "make_cuts.py"
    spec = importlib.util.spec_from_file_location("make_cuts", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    monkeypatch.setattr(made, "OUT", tmp_path / "cuts.json")
    made.main()
    again = json.loads((tmp_path / "cuts.json").read_text())
    assert [[cut["labels"] for cut in vector["cuts"]] for vector in again] == [
        [cut["labels"] for cut in vector["cuts"]] for vector in VECTORS
    ]
