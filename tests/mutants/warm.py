"""The process that tests mutants: it has imported what is slow to import and is not ours, and forks for each mutant.

python warm.py SOCKET MODULE TESTS…   serve; MODULE is a path such as kernels/scc.py, in the tree of the current folder
python warm.py SOCKET                 ask: the exit status is that of the tests, 0 where the mutant survived

Numba would compile each mutant for seconds, so the mutated module's kernels, and those that call them, are run by the
interpreter, which also notices an index out of bounds. Those that only LLVM can run (`COMPILED`) are compiled.
"""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPILED = ("kernels/gram.py", "kernels/distances.py")  # made of vector instructions
TIMEOUT_S = 120


def serve(path: str, module: str, tests: list[str]) -> None:
    import hypothesis.extra.numpy
    import numba
    import numpy
    import pytest
    import scipy.cluster.hierarchy
    import sklearn.metrics
    import torch

    numpy.seterr(all="ignore")  # as compiled code has it
    torch.set_num_threads(1)
    imported = hypothesis, numba, numpy, scipy, sklearn, torch
    assert imported
    sys.dont_write_bytecode = True  # two mutants of one size in one second would share it
    sys.path.insert(0, str(Path("src").absolute()))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    print("ready", flush=True)
    while True:
        asked, _ = listening.accept()
        with asked:
            asked.send(bytes([_tested(pytest.main, module, tests)]))


def _tested(run: Callable[[list[str]], int], module: str, tests: list[str]) -> int:
    """The exit status of the tests in a child; 1 where they take too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(TIMEOUT_S)
        said = os.open("last-tests.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        status = 1
        try:
            _interpret(module)
            status = run(
                ["-x", "-q", "--assert=plain", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider", *tests]
            )
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(int(status))
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended) and 1


def _interpret(module: str) -> None:
    if not module.startswith(("kernels/", "server/indexing/")):
        return
    if module in COMPILED:
        import numba

        numba.config.CACHE_DIR = tempfile.mkdtemp()  # it does not see what a kernel calls in another file
        return
    try:
        from polysem.kernels import parallel
    except Exception:  # the mutant's, which the tests will meet again
        return
    mine = set(_callers(module))

    def unless_mine(jit: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda function: function if function.__module__ in mine else jit(function)

    parallel.compiled = unless_mine(parallel.compiled)
    parallel.compiled_sum = unless_mine(parallel.compiled_sum)


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


def ask(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        return asking.recv(1)[0]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.exit(ask(sys.argv[1]))
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
