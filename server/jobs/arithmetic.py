"""Arithmetic of a measure job, in a process of its own.

Work on many small arrays holds the interpreter: in the server it would keep every caller waiting (1.2 s was seen).

The child (`python -m polysem.server.jobs.arithmetic`) reads pickled (path, function) from its standard input, writes
each shard, and answers with None or the exception that was raised. It ends with whoever asks it.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from polysem.proto.errors import FailedPrecondition

if TYPE_CHECKING:
    from polysem.proto.work.shards import Arrays

NICENESS = 10  # callers go before jobs


@contextmanager
def elsewhere() -> Iterator["Callable[[Path, Callable[[], Arrays]], None]"]:
    """Yield `shards.make_shard`, done by a child process; any number of threads may call it, one is served at a time.

    It raises what `shards.make_shard` raises, and FailedPrecondition where the child is gone.
    """
    command, turns = [sys.executable, "-m", __spec__.name], Lock()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    asked, answers = child.stdin, child.stdout

    def make(path: Path, arrays: "Callable[[], Arrays]") -> None:
        with turns:
            try:
                pickle.dump((path, arrays), asked, pickle.HIGHEST_PROTOCOL)
                asked.flush()
                problem = pickle.load(answers)
            except (EOFError, BrokenPipeError) as error:
                raise FailedPrecondition(
                    "the process that works out measurements was ended from outside; begin the job again"
                ) from error
        if problem is not None:
            raise problem

    try:
        yield make
    finally:
        child.kill()
        child.wait()
        answers.close()
        with suppress(BrokenPipeError):  # of what it was not asked to the end
            asked.close()


def main() -> None:
    for stops in (signal.SIGINT, signal.SIGTERM):  # which a terminal or systemd sends to all: the server ends its child
        signal.signal(stops, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # before the imports, which take a second
    from polysem.proto.work import shards

    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            path, arrays = pickle.load(asked)
        except EOFError:
            return
        problem = None
        try:
            shards.make_shard(path, arrays)
        except Exception as error:
            problem = error
        pickle.dump(problem, answers)
        answers.flush()


if __name__ == "__main__":
    main()
