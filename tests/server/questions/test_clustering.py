"""Clustering work: large neurons take other ways to the same answer, and a device short of memory goes on in halves."""

import numpy as np
import pytest
import torch

from polysem.kernels import tree
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.clustering import LIBRARIES, METHODS, Clustering, EmbeddingChoice
from polysem.proto.wire import columns
from polysem.server.index.format import open_index
from polysem.server.model.loading import load
from polysem.server.questions import clustering, resident
from polysem.server.questions.clustering import ClusterWork

EVERY = np.array([(layer, j) for layer in range(2) for j in range(0, 96, 3)], np.int32)
SOME = EVERY[::4]


@pytest.fixture(scope="module")
def work_of(checkpoint, index_folder):
    resident, index = load(str(checkpoint), "cpu"), open_index(index_folder)

    def make(choice=EmbeddingChoice(), library="torch", **clustering_):
        return ClusterWork(resident, index, choice, Clustering(**clustering_), library)

    return make


def neurons_of(batch):
    """(rows, number of examples) of each neuron."""
    offsets = columns.offsets(batch)
    for i, n in enumerate(batch.n_examples):
        yield columns.rows(batch, offsets, i, i + 1), int(n)


def libraries_of(batch, which=slice(None)):
    return {LIBRARIES[number - 1] for number in batch.libraries[which]}


def assert_same_answers(got, want):
    for (one, n), (other, _) in zip(neurons_of(got), neurons_of(want), strict=True):
        np.testing.assert_allclose(one["heights"], other["heights"], atol=2e-6)
        for threshold in (0.2, 0.5, 0.8):
            cuts = []
            for rows in (one, other):
                sizes = np.zeros(max(n - 1, 0))
                z = np.column_stack([rows["merges"], rows["heights"], sizes])
                cuts.append(tree.cut(torch.from_numpy(z)[None], torch.tensor([n]), threshold))
            assert torch.equal(*cuts)
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_array_equal(one["node_centrals"][-1:], other["node_centrals"][-1:])
        for name in ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share", "n_clusters"):
            np.testing.assert_allclose(one[name], other[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "how",
    [
        {"algorithm": "hac"},
        {"algorithm": "hac", "distance_threshold": 0.7},
        {"algorithm": "hac", "linkage": "single"},
        {"algorithm": "components", "linkage": "single"},
        {"algorithm": "scc"},
        {"algorithm": "scc", "until_stable": True},
    ],
    ids=str,
)
def test_a_large_neuron_gets_the_same_answer_without_a_matrix(work_of, monkeypatch, how):
    work = work_of(**how)
    want = work.run(EVERY[::3])
    assert {METHODS[m - 1] for m in want.methods} == {"matrix"}
    assert libraries_of(want) == {"polysem"}
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 9)
    got = work.run(EVERY[::3])
    large = got.n_examples > 9
    assert large.any()
    assert not large.all()
    assert {METHODS[m - 1] for m in got.methods[large]} == {"linear"}
    assert {METHODS[m - 1] for m in got.methods[~large]} == {"matrix"}
    assert libraries_of(got) == {"polysem"}
    assert_same_answers(got, want)


@pytest.mark.parametrize("choice", [EmbeddingChoice("pre_mlp", "raw"), EmbeddingChoice("neuron", "raw")])
def test_offsets_count_in_a_large_neuron_too(work_of, monkeypatch, choice):
    want = work_of(choice).run(EVERY[:14])
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 9)
    assert_same_answers(work_of(choice).run(EVERY[:14]), want)


def test_a_very_large_neuron_is_clustered_on_its_nearest_neighbours(work_of, monkeypatch):
    want = work_of(algorithm="scc").run(EVERY)
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 9)
    monkeypatch.setattr(clustering, "MAX_IN_LINEAR_MEMORY", 12)
    got = work_of(algorithm="scc").run(EVERY)
    assert {METHODS[m - 1] for m in got.methods[got.n_examples > 12]} == {"neighbours"}
    assert libraries_of(got, got.n_examples > 12) == {"torch"}
    assert libraries_of(got, got.n_examples <= 12) == {"polysem"}
    few = (got.n_examples > 12) & (got.n_examples <= 26)  # 25 neighbours are all there are
    for i in np.flatnonzero(few):
        assert got.n_clusters[i] == want.n_clusters[i]


NEIGHBOURS = pytest.mark.parametrize(
    ("how", "method"),
    [
        ({"algorithm": "scc"}, "neighbours"),
        ({"algorithm": "scc", "until_stable": True}, "neighbours"),
        ({"algorithm": "hac", "linkage": "single"}, "neighbour_tree"),
        ({"algorithm": "components", "linkage": "single"}, "neighbour_tree"),
    ],
    ids=str,
)


@NEIGHBOURS
@pytest.mark.parametrize("library", ["torch", "scikit-learn"])
def test_with_all_neighbours_the_answer_is_the_exact_one(work_of, how, method, library):
    want = work_of(**how).run(SOME)
    got = work_of(**how, neighbours=30, library=library).run(SOME)
    assert {METHODS[m - 1] for m in got.methods} == {method}
    assert libraries_of(got) == {library}
    assert_same_answers(got, want)


@NEIGHBOURS
@pytest.mark.parametrize("choice", [EmbeddingChoice(), EmbeddingChoice("pre_mlp", "raw")])
def test_neighbours_are_the_same_question_at_any_size(work_of, monkeypatch, how, method, choice):
    """In a batch whose other work is done together, and alone as a large neuron."""
    want = work_of(choice, **how, neighbours=3).run(SOME)
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 9)
    got = work_of(choice, **how, neighbours=3).run(SOME)
    assert {METHODS[m - 1] for m in got.methods} == {METHODS[m - 1] for m in want.methods} == {method}
    for name in ("merges", "heights", "labels"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    assert_same_answers(got, want)


def test_fewer_neighbours_are_another_clustering(work_of):
    few, all_ = (work_of(algorithm="scc", neighbours=k).run(SOME) for k in (1, 30))
    assert (few.n_clusters > all_.n_clusters).any()


def test_no_number_of_examples_is_too_large_for_single_linkage_and_scc(work_of, monkeypatch):
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 2)
    monkeypatch.setattr(clustering, "MAX_IN_LINEAR_MEMORY", 3)
    for how in ({"algorithm": "scc", "neighbours": 4}, {"linkage": "single"}, {"linkage": "single", "neighbours": 4}):
        assert work_of(**how).run(EVERY[:5]).n_examples.max() > 3


def test_trees_that_are_made_one_by_one_go_in_small_batches(work_of):
    exact, by_itself = (work_of(algorithm="scc", neighbours=k).costs(EVERY) for k in (None, 25))
    assert (by_itself - exact == clustering.COST_OF_ONE["cpu"]).all()


@pytest.mark.parametrize(("linkage", "most"), [("complete", "9"), ("average", "12")])
def test_a_neuron_too_large_for_its_linkage_is_refused_in_words(work_of, monkeypatch, linkage, most):
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 9)
    monkeypatch.setattr(clustering, "MAX_IN_LINEAR_MEMORY", 12)
    work = work_of(linkage=linkage)
    large = np.flatnonzero(work.index.n_examples.ravel() > 12)[0]
    with pytest.raises(
        FailedPrecondition, match=rf"neuron \d\.\d+ has \d+ examples, and {linkage} linkage takes at most {most}; ask"
    ):
        work.run(EVERY[large : large + 1])


def test_out_of_memory_a_chunk_goes_on_in_halves(work_of, monkeypatch, caplog):
    work = work_of()
    want = work.run(EVERY)
    cluster, sizes = ClusterWork._cluster, []

    def cluster_few(self, batch):
        sizes.append(len(batch.places))
        if len(batch.places) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return cluster(self, batch)

    monkeypatch.setattr(ClusterWork, "_cluster", cluster_few)
    got = work.run(EVERY)
    assert max(sizes) > 5 >= min(sizes)
    for name in columns.LAYOUTS[type(got)].axes:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    assert "out of memory with 32 neurons" in caplog.text


@pytest.mark.parametrize("where", ["_cluster", "_tree"])
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB"),
        MemoryError("std::bad_alloc: out_of_memory: CUDA error at: /rmm/mr/cuda_memory_resource.hpp"),  # RMM, by cuML
        RuntimeError(
            "CUDA error encountered at: file=raft.hpp: call='x', Reason=cudaErrorMemoryAllocation:out of memory"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_neuron_that_does_not_fit_by_itself_is_told(work_of, monkeypatch, where, error):
    """The distances of one neuron, and a large neuron, whichever library it was that found no memory."""

    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(ClusterWork, where, fail)
    if where == "_tree":
        monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 2)
    with pytest.raises(
        FailedPrecondition, match=r"not enough memory free for a neuron of \d+ examples; serve"
    ) as raised:
        work_of().run(EVERY[:3])
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("where", ["_cluster", "_tree"])
def test_other_errors_stay_what_they_are(work_of, monkeypatch, where):
    def fail(self, *arguments):
        raise RuntimeError("linkage is no tree")

    monkeypatch.setattr(ClusterWork, where, fail)
    if where == "_tree":
        monkeypatch.setattr(clustering, "MAX_IN_MATRIX", 2)
    with pytest.raises(RuntimeError, match=r"^linkage is no tree$"):
        work_of().run(EVERY[:3])


def test_chunks_of_any_size_give_the_same_bytes(work_of, monkeypatch):
    want = work_of().run(EVERY)
    for n_bytes in (1, 40_000):
        monkeypatch.setattr(resident, "batch_bytes", lambda device, n_bytes=n_bytes: n_bytes)
        got = work_of().run(EVERY)
        for name in columns.LAYOUTS[type(got)].axes:
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
