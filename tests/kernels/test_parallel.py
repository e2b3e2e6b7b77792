import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polysem.kernels import agglomerative, distances, metrics, parallel, scc, tree
from polysem.kernels import warm_up as warming
from polysem.kernels.warm_up import warm_beside, warm_up


def all_of_it(x):
    n_examples = torch.arange(x.shape[0]) % (x.shape[1] + 1)
    d = distances.weighted_cosine_distances(x, torch.ones(x.shape[0], x.shape[2]), n_examples)
    trees = agglomerative.linkage(d, n_examples)
    rounds = scc.linkage(d, n_examples, torch.arange(1, 51, dtype=torch.float64) / 50)
    labels = tree.cut(trees, n_examples, 0.5)
    results = (
        d,
        trees,
        rounds,
        labels,
        *metrics.cluster_metrics(d, labels, n_examples),
        *metrics.tree_metrics(d, trees, labels, n_examples).nodes,
    )
    return [result.numpy().tobytes() for result in results]


@pytest.fixture
def restore_threads():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_changes_no_bit(clustered_embeddings):
    x = clustered_embeddings(0, 40, 23, 16)
    results = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        results.append(all_of_it(x))
    assert results[0] == results[1] == results[2]


@pytest.mark.usefixtures("restore_threads")
def test_many_threads_may_call_at_once(clustered_embeddings):
    torch.set_num_threads(2)  # with one, none would enter the pool
    batches = [clustered_embeddings(seed, 30, 17, 16) for seed in range(6)]
    alone = [all_of_it(x) for x in batches]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(all_of_it, batches)) == alone


def test_the_gil_is_free_while_a_kernel_works(clustered_embeddings):
    warm_up()
    x = clustered_embeddings(0, 2, 1200, 768)
    n_examples, weights = torch.full((2,), 1200), torch.ones(2, 768)
    done = threading.Event()
    ticks = []

    def tick():
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    ticker = threading.Thread(target=tick)
    ticker.start()
    begin = time.perf_counter()
    agglomerative.linkage(distances.weighted_cosine_distances(x, weights, n_examples), n_examples)
    end = time.perf_counter()
    done.set()
    ticker.join()
    during = [t for t in ticks if begin < t < end]
    assert len(during) >= 3  # a kernel that held the GIL would let none through until it ended


@pytest.mark.parametrize("function", [all_of_it, eval("lambda x: x")], ids=["in a file", "in no file"])
@pytest.mark.parametrize("compiled", [parallel.compiled, parallel.compiled_sum])
def test_what_is_compiled_leaves_the_gil_wherever_it_is_kept(compiled, function):
    """Said of the function itself: what is kept compiled does not tell how it was asked for."""
    assert compiled(function).targetoptions["nogil"] is True


def test_room_is_as_large_as_was_asked_for_wherever_memory_begins():
    shapes = [(1, (1 << 20) + step) for step in range(0, 4 << 20, 300_001)]
    held = [parallel.room(shape, np.uint8) for shape in shapes]  # all at once, so that each begins elsewhere
    assert [array.shape for array in held] == shapes
    assert {array.ctypes.data % (1 << 21) for array in held} == {0}


def test_what_is_compiled_is_not_compiled_beside(monkeypatch):
    warm_up()  # now it is
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with warm_beside():
        pass


@pytest.mark.parametrize(
    "part", warming.ALL, ids=["clustering", "reading", "SCC", "testing", "other trees", "other reading"]
)
def test_a_part_is_known_to_be_compiled_by_its_last_kernel(part, tmp_path):
    part.run(torch.device("cpu"), 2)
    assert part.last.signatures
    assert not warming.wants_compiling(part)
    nowhere = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path)), py_func=part.last.py_func)
    nowhere.__name__ = part.last.__name__
    assert warming.wants_compiling(part._replace(last=nowhere))


def test_parts_that_lack_are_shared_by_two_processes(monkeypatch):
    asked = []
    monkeypatch.setattr(warming, "wants_compiling", lambda part: part is not warming.FIRST[0])
    monkeypatch.setattr(warming, "_process", lambda parts: asked.append(parts) or nullcontext())
    for parts in ((), warming.FIRST, warming.FIRST[:1]):
        with warm_beside(*parts):
            pass
    assert asked == [[1, 3, 5], [2, 4], [1]]


def test_compiling_beside_ends_with_what_it_was_for(monkeypatch):
    started, start = [], subprocess.Popen
    monkeypatch.setattr(warming, "wants_compiling", lambda part: True)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1])

    def stopped():
        with warm_beside():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("width", [2, 3, 7])
def test_what_is_warmed_up_is_a_tree_and_its_distances(width):
    d, trees, n_examples, labels = warming._clustered(torch.device("cpu"), width)
    assert (tree.cut(trees, n_examples, 2) == labels).all()
    assert metrics.tree_metrics(d, trees, labels, n_examples).nodes.mean_distance[0].tolist() == [1] * (width - 1)


def test_warm_up_leaves_nothing_to_compile(clustered_embeddings):
    warm_up()
    kernels = [
        distances._distance_kernel,
        agglomerative._linkage_kernel,
        scc._linkage_kernel,
        tree._cut_kernel,
        metrics._metrics_kernel,
        metrics._tree_kernel,
    ]
    before = [len(kernel.signatures) for kernel in kernels]
    all_of_it(clustered_embeddings(0, 5, 7, 16))
    all_of_it(clustered_embeddings(0, 5, 7, 16).half())
    assert [len(kernel.signatures) for kernel in kernels] == before
