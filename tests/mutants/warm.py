"""The process that tests mutants: it has imported what is slow to import and is not ours, and forks for each mutant.

python warm.py SOCKET                 serve, for the tree of the current folder
python warm.py SOCKET MODULE TESTS…   ask; MODULE is a path such as kernels/scc.py, TESTS are pytest's arguments.
                                      The exit status is that of the tests, 0 where the mutant survived

Numba would compile each mutant for seconds, so the mutated module's kernels, and those that call them, are run by the
interpreter, which also notices an index out of bounds. Those that only LLVM can run (`COMPILED`) are compiled.

The first tests of a module are those of it unchanged; what takes several times as long hangs.
"""

import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

VECTORS = "gram", "distances", "products", "rotations", "logit_effects"  # made of vector instructions
COMPILED = tuple(f"kernels/{name}.py" for name in VECTORS)
OPTIONS = (*("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-profile", "mutants"),)
N_DRAWN = 20  # of a property, where its test does not say how many


class Limits(NamedTuple):
    """Seconds of the clock and of the processor that tests may take."""

    clock_s: float = 1800
    processor_s: float = 1800

    @staticmethod
    def around(clock_s: float, processor_s: float) -> "Limits":
        """Those of tests that took so long; other processes may slow them."""
        return Limits(4 * clock_s + 20, 2 * processor_s + 5)


def serve(path: str) -> None:
    import google.protobuf.message
    import grpc
    import hypothesis.extra.numpy
    import numba
    import numpy
    import pytest
    import scipy.cluster.hierarchy
    import sklearn.metrics
    import tokenizers
    import torch

    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, max_examples=N_DRAWN)
    torch.set_num_threads(1)
    imported = google, grpc, hypothesis, numba, numpy, scipy, sklearn, tokenizers, torch
    assert imported
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    sys.dont_write_bytecode = True  # two mutants of one size in one second would share it
    sys.path.insert(0, str(Path("src").absolute()))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    print("ready", flush=True)
    limits: dict[str, Limits] = {}  # of each module
    while True:
        asked, _ = listening.accept()
        with asked, asked.makefile("rb") as words:
            module, *tests = json.load(words)
            begun = time.monotonic()
            status, processor_s = _tested(pytest.main, module, tests, limits.get(module, Limits()))
            if module not in limits and not status:
                limits[module] = Limits.around(time.monotonic() - begun, processor_s)
            asked.send(bytes([status]))


def _tested(run: Callable[[list[str]], int], module: str, tests: list[str], limits: Limits) -> tuple[int, float]:
    """The exit status of the tests in a child, 1 where they take too long; and the processor time that they took."""
    with tempfile.TemporaryDirectory(prefix="polysem-mutant-", ignore_cleanup_errors=True) as temporary:
        return _in_child(run, module, tests, limits, temporary)


def _in_child(
    run: Callable[[list[str]], int], module: str, tests: list[str], limits: Limits, temporary: str
) -> tuple[int, float]:
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(int(limits.clock_s))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limits.processor_s), int(limits.processor_s)))
        tempfile.tempdir = os.environ["TMPDIR"] = temporary  # a child leaves files behind, above all one that hangs
        said = os.open("last-tests.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        status = 1
        try:
            warnings = _interpret(module)
            status = run([*OPTIONS, *warnings, *tests])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(int(status))
    _, ended, used = os.wait4(child, 0)
    return int(bool(os.waitstatus_to_exitcode(ended))), used.ru_utime + used.ru_stime


def _interpret(module: str) -> tuple[str, ...]:
    """Pytest's options for tests of what the interpreter runs from now on in the place of compiled code."""
    if "@compiled" not in Path(module).read_text("utf-8"):  # nothing of it is in what was compiled
        return ()
    if module in COMPILED:
        import numba

        numba.config.CACHE_DIR = tempfile.mkdtemp()  # it does not see what a kernel calls in another file
        return ()
    import numpy as np

    try:
        from polysem.kernels import parallel
    except Exception:  # the mutant's, which the tests will meet again
        return ()
    mine = set(_callers(module))

    def unless_mine(jit: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda function: function if function.__module__ in mine else jit(function)

    parallel.compiled = unless_mine(parallel.compiled)
    parallel.compiled_sum = unless_mine(parallel.compiled_sum)
    np.seterr(all="ignore")  # as compiled code has it
    return "-W", "ignore::RuntimeWarning"


def _callers(module: str) -> set[str]:
    """The module and those that import it, directly or not, by name."""
    sources = {
        "polysem." + path.with_suffix("").as_posix().replace("/", "."): path.read_text("utf-8")
        for path in [*Path("kernels").rglob("*.py"), *Path("server/indexing").rglob("*.py")]
        if path.as_posix() not in COMPILED
    }
    found = {"polysem." + module.removesuffix(".py").replace("/", ".")}
    while (
        more := {name for name, text in sources.items() if any(f"from {one} import" in text for one in found)} - found
    ):
        found |= more
    return found


def ask(path: str, words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        asking.sendall(json.dumps(words).encode())
        asking.shutdown(socket.SHUT_WR)
        return asking.recv(1)[0]


if __name__ == "__main__":
    _, path, *words = sys.argv
    if words:
        sys.exit(ask(path, words))
    serve(path)
