"""The process that works out a job's measurements: it writes the same shards, raises the same errors, and may die."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import truediv

import numpy as np
import pytest

from polysem.proto.errors import FailedPrecondition
from polysem.proto.work import shards
from polysem.server.jobs.arithmetic import NICENESS, elsewhere


def counted(n):
    return {"values": np.arange(n)}


def niceness():
    return {"process": np.array([os.getpid(), os.nice(0)])}


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_shards_are_those_of_this_process(tmp_path):
    with elsewhere() as make:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda n: make(tmp_path / f"{n}.npz", partial(counted, n)), range(9)))
        make(tmp_path / "process.npz", niceness)
    for n in range(9):
        shards.make_shard(tmp_path / "here.npz", partial(counted, n))
        assert (tmp_path / f"{n}.npz").read_bytes() == (tmp_path / "here.npz").read_bytes()
    process, nice = shards.read(tmp_path / "process.npz")["process"]
    assert process != os.getpid()
    assert nice == os.nice(0) + NICENESS


def test_what_goes_wrong_there_is_raised_here_and_it_goes_on(tmp_path):
    with elsewhere() as make:
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            make(tmp_path / "a.npz", partial(truediv, 1, 0))
        with pytest.raises(FileNotFoundError, match="nowhere"):
            make(tmp_path / "nowhere" / "a.npz", partial(counted, 3))
        make(tmp_path / "a.npz", partial(counted, 3))
    assert shards.read(tmp_path / "a.npz")["values"].tolist() == [0, 1, 2]


def test_a_process_that_is_killed_ends_the_job_in_words(tmp_path):
    with elsewhere() as make:
        for _ in range(2):
            with pytest.raises(FailedPrecondition, match="ended from outside; begin the job again"):
                make(tmp_path / "a.npz", killed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stops", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_is_for_the_server_is_left_to_it(stops, tmp_path):
    with elsewhere() as make:
        make(tmp_path / "process.npz", niceness)
        process, _ = shards.read(tmp_path / "process.npz")["process"]
        os.kill(process, stops)
        make(tmp_path / "a.npz", partial(counted, 3))
    assert shards.read(tmp_path / "a.npz")["values"].tolist() == [0, 1, 2]


def test_it_ends_with_whoever_asks(tmp_path):
    with elsewhere() as make:
        make(tmp_path / "process.npz", niceness)
    process, _ = shards.read(tmp_path / "process.npz")["process"]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
