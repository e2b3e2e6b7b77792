import importlib
import inspect

import pytest
import torch

from polysem.kernels import (
    agglomerative,
    clusterings,
    dispatch,
    distances,
    gates,
    key_tokens,
    logit_effects,
    metrics,
    null_silhouettes,
    scc,
    tree,
)

KERNELS = [
    agglomerative.linkage,
    clusterings.hac_clusterings,
    clusterings.scc_clusterings,
    distances.gathered_cosine_distances,
    distances.weighted_cosine_distances,
    gates.gated_factors,
    key_tokens.key_tokens,
    logit_effects.logit_effects,
    metrics.cluster_metrics,
    metrics.tree_metrics,
    null_silhouettes.null_silhouettes,
    scc.linkage,
    tree.cut,
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.__module__}.{kernel.__name__}")
def test_every_kernel_has_a_gpu_half_with_its_arguments(kernel):
    pytest.importorskip("triton")
    half = importlib.import_module(kernel.__module__.replace("kernels.", "kernels.gpu."))
    assert list(inspect.signature(getattr(half, kernel.__name__)).parameters) == list(
        inspect.signature(kernel).parameters
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_a_first_tensor_on_a_gpu_decides(monkeypatch, by_name):
    asked = []

    class Half:
        @staticmethod
        def cut(*args, **kwargs):
            asked.append((args, kwargs))
            return "done there"

    tree_on_gpu, n_examples = torch.empty(0), torch.tensor([1])
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: tensor is tree_on_gpu)
    monkeypatch.setattr(dispatch, "import_module", lambda name: {"polysem.kernels.gpu.tree": Half}[name])
    if by_name:
        assert tree.cut(n_examples=n_examples, linkage=tree_on_gpu, distance_threshold=0.5) == "done there"
    else:
        assert tree.cut(tree_on_gpu, n_examples, 0.5) == "done there"
    assert len(asked) == 1


def test_a_first_tensor_on_the_cpu_needs_no_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    assert tree.cut(torch.empty(1, 0, 4, dtype=torch.float64), torch.tensor([1]), 0.5).tolist() == [[0]]


def test_a_kernel_keeps_its_name_docstring_and_arguments():
    assert tree.cut.__name__ == "cut"
    assert "numbered by first appearance" in tree.cut.__doc__
    assert list(inspect.signature(tree.cut).parameters) == ["linkage", "n_examples", "distance_threshold"]
