"""The executor on a cluster of three one-CPU machines, each with a GPU that is none (all on this one)."""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polysem.proto.errors import FailedPrecondition, InvalidArgument, Unavailable
from polysem.proto.work.shards import Ledger, LocalExecutor, Shard, Stage, read
from polysem.server.ray_cluster import driver
from polysem.server.ray_cluster import pool as worker_pool
from polysem.server.ray_cluster.pool import RayOptions, _blocks
from polysem.server.ray_cluster.worker import Versions

if os.environ.get("POLYSEM_NEEDS_RAY"):
    import ray
else:
    ray = pytest.importorskip("ray")


@dataclass(frozen=True)
class Nothing:
    """What workers hold where the stage needs nothing. here: the driver's process, which alone sees the folder's place.

    folder  that they lack
    """

    folder: Path | None = None
    here: int = 0
    device: str = "cpu"

    @property
    def folders(self):
        if self.folder is None:
            return {}
        return {"things": self.folder if os.getpid() == self.here else self.folder.with_name("no") / self.folder.name}

    def reaches(self):
        return False

    def open(self, stack: ExitStack, folders) -> tuple[Any, str]:
        return {
            name: {p.name: p.read_bytes() for p in folder.iterdir()} for name, folder in folders.items()
        }, self.device


def squares(held, taken, advance):
    advance(1)
    return lambda: {"squares": np.arange(taken) ** 2}


def slow_squares(held, taken, advance):
    time.sleep(0.2)
    return squares(held, taken, advance)


def whose(held, taken, advance):
    time.sleep(0.1)
    return lambda: {"pid": np.array(os.getpid())}


def stage(folder, compute=squares, n=12, take=lambda shard: shard.last):
    found = [Shard(i, i + 1, folder / f"s-{i:03d}.npz") for i in range(n)]
    told = []
    return Stage(found, take, compute, told.append, lambda shard: 1), told


def finish(executor, folder, made):
    with closing(Ledger(folder)) as ledger:
        executor.finish(ledger, made)
        return [ledger.has(shard) for shard in made.shards]


@pytest.fixture(scope="module", autouse=True)
def travels():
    """What is defined here goes to workers by value: they cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="class")
def executor(cluster):
    with driver.ray_executor(Nothing(), RayOptions()) as found:
        yield found


class TestOneCrew:
    def test_every_shard_is_made_once_and_told(self, executor, tmp_path):
        made, told = stage(tmp_path)
        assert all(finish(executor, tmp_path, made))
        assert sum(told) == 12
        for shard in made.shards:
            np.testing.assert_array_equal(read(shard.path)["squares"], np.arange(shard.last) ** 2)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "ledger.sqlite",
            *(s.path.name for s in made.shards),
        ]
        again, told = stage(tmp_path, compute=None)  # nothing is computed any more
        finish(executor, tmp_path, again)
        assert sum(told) == 12

    def test_the_files_are_those_of_the_local_executor(self, executor, tmp_path):
        for name, where in (("a", executor), ("b", LocalExecutor(None))):
            (tmp_path / name).mkdir()
            finish(where, tmp_path / name, stage(tmp_path / name)[0])
        for path in (tmp_path / "a").glob("*.npz"):
            np.testing.assert_equal(read(path), read(tmp_path / "b" / path.name))

    def test_a_shard_that_fails_three_times_is_named_and_the_others_are_finished(self, executor, tmp_path):
        tries = tmp_path / "tries"

        def bad(held, taken, advance):
            if taken in (5, 7) and not (tries.with_name("mended")).exists():
                with tries.open("a") as file:
                    file.write(f"{taken}\n")
                raise FailedPrecondition("neuron 3.4 is not finite") if taken == 5 else ValueError("odd")
            return squares(held, taken, advance)

        made, told = stage(tmp_path, bad)
        with pytest.raises(FailedPrecondition) as error:
            finish(executor, tmp_path, made)
        assert "2 of 12 shards failed 3 times each" in error.value.message
        assert "4 to 4 (neuron 3.4 is not finite)" in error.value.message
        assert "6 to 6 (ValueError: odd)" in error.value.message
        assert sorted(tries.read_text().split()) == ["5"] * 3 + ["7"] * 3
        assert sum(told) == 10
        tries.with_name("mended").touch()
        assert all(finish(executor, tmp_path, made))

    def test_a_shard_that_kills_its_workers_is_named_and_the_others_are_finished(self, executor, tmp_path):
        def deadly(held, taken, advance):
            if taken == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return squares(held, taken, advance)

        made, told = stage(tmp_path, deadly, n=8)
        with pytest.raises(FailedPrecondition, match=r"1 of 8 shards failed 3 times each: 1 to 1 \(ActorDiedError"):
            finish(executor, tmp_path, made)
        assert sum(told) == 7

    def test_another_worker_answers_where_one_died(self, executor):
        first = executor.ask(lambda held: os.getpid())
        os.kill(first, signal.SIGKILL)
        assert executor.ask(lambda held: os.getpid()) != first

    def test_whoever_is_told_can_stop_it(self, executor, tmp_path):
        def enough(n):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finish(executor, tmp_path, stage(tmp_path)[0]._replace(advance=enough))
        assert all(finish(executor, tmp_path, stage(tmp_path)[0]))


def test_without_a_shared_folder_results_come_in_pieces(cluster, tmp_path):
    def large(held, taken, advance):
        return lambda: {"large": np.full(9 << 20, taken)}  # 72 MiB

    with driver.ray_executor(Nothing(), RayOptions(shares=False, workers=1)) as executor:
        made, _ = stage(tmp_path, large, n=3)
        assert all(finish(executor, tmp_path, made))
    for shard in made.shards:
        assert (read(shard.path)["large"] == shard.last).all()


def test_a_killed_worker_and_a_removed_machine_are_replaced_by_the_others(cluster, tmp_path):
    machine = cluster.add_node(num_cpus=1, num_gpus=1)
    statuses = []
    with driver.ray_executor(Nothing(), RayOptions(workers=4), statuses.append) as executor:
        made, _ = stage(tmp_path, slow_squares, n=40)
        seen = [0]

        def disturb(n):
            seen[0] += n
            if seen[0] == 4 and n:
                os.kill(executor.ask(lambda held: os.getpid()), signal.SIGKILL)
            if seen[0] == 10 and n:
                cluster.remove_node(machine)

        assert all(finish(executor, tmp_path, made._replace(advance=disturb)))
    assert "failed tries" in statuses[-1]
    assert statuses[-1].startswith("40/40 shards")


def test_a_folder_that_workers_lack_is_sent(cluster, tmp_path):
    things = tmp_path / "my things"
    things.mkdir()
    (things / "empty").touch()
    (things / "large").write_bytes(bytes(range(256)) * (33 << 12))  # more than one block
    (things / "work.tmp").mkdir()  # which goes on here meanwhile
    (things / "work.tmp" / "part").touch()
    with driver.ray_executor(Nothing(things, os.getpid()), RayOptions(workers=2)) as executor:
        assert executor.ask(lambda held: sorted(held["things"])) == ["empty", "large"]
        assert executor.ask(lambda held: held["things"]["empty"]) == b""
        assert executor.ask(lambda held: held["things"]["large"]) == (things / "large").read_bytes()
        made, _ = stage(tmp_path, whose, n=60)
        finish(executor, tmp_path, made)
    assert len({int(read(shard.path)["pid"]) for shard in made.shards}) == 2  # the second found it there


def test_work_goes_on_while_a_worker_is_sent_what_it_lacks(cluster, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class OneLacks(Nothing):
        @property
        def folders(self):
            if os.getpid() == self.here:
                return {"things": self.folder}
            with locked(self.folder):
                mine = self.folder.with_name(f"worker-{os.getpid()}")
                mine.write_text(mine.read_text() if mine.exists() else "lacks" if self._others() else "has")
            return {"things": self.folder if mine.read_text() == "has" else self.folder.with_name("no") / "things"}

        def _others(self):
            return list(self.folder.parent.glob("worker-*"))

    worked, blocks = threading.Event(), _blocks

    def slowly(path):
        seen.append(worked.wait(60))
        yield from blocks(path)

    seen = []
    monkeypatch.setattr(worker_pool, "_blocks", slowly)
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "one").write_bytes(b"1")
    made, _ = stage(tmp_path, whose, n=40)
    with driver.ray_executor(OneLacks(tmp_path / "things", os.getpid()), RayOptions(workers=2)) as executor:
        assert all(finish(executor, tmp_path, made._replace(advance=lambda n: worked.set() if n else None)))
        executor.wait_for(2)
    assert seen == [True]


@pytest.fixture
def clock(monkeypatch):
    """The driver's clock; `clock.seconds` is how far it has been put on."""

    class Clock:
        seconds = 0.0
        sleep = time.sleep

        def monotonic(self):
            return time.monotonic() + self.seconds

    clock = Clock()
    monkeypatch.setattr(worker_pool, "time", clock)
    return clock


def test_a_worker_that_is_still_sent_things_is_waited_for(cluster, tmp_path, monkeypatch, clock):
    said = []

    def slowly(path):
        clock.seconds += 1000
        n = len(said)
        while len(said) < n + 3:  # the driver has looked at the clock
            time.sleep(0.05)
        yield np.zeros(1, np.uint8)

    monkeypatch.setattr(worker_pool, "_blocks", slowly)
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "one").touch()
    held, options = Nothing(tmp_path / "things", os.getpid()), RayOptions(workers=1, wait_s=300)
    with driver.ray_executor(held, options, said.append) as executor:
        assert executor.ask(lambda held: held["things"]["one"]) == b"\0"
    assert "a worker is sent things" in said


def test_a_worker_that_loads_for_long_is_waited_for(cluster, tmp_path, clock):
    go = tmp_path / "go"

    @dataclass(frozen=True)
    class Loads(Nothing):
        def open(self, stack, folders):
            while not go.exists():
                time.sleep(0.05)
            return "loaded", "cpu"

    def put_on(status):
        if status == "a worker loads what it needs":
            clock.seconds += 1000
            if clock.seconds > 3000:
                go.touch()

    with driver.ray_executor(Loads(), RayOptions(workers=1, wait_s=300), put_on) as executor:
        assert executor.ask(lambda held: held) == "loaded"
    assert clock.seconds > 3000


def test_who_leaves_does_not_wait_until_all_is_sent(cluster, tmp_path, monkeypatch):
    sending = threading.Event()

    def endless(path):
        while True:
            sending.set()
            yield np.zeros(1, np.uint8)

    monkeypatch.setattr(worker_pool, "_blocks", endless)
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "one").touch()

    def leave(status):
        if sending.is_set():
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        driver.ray_executor(Nothing(tmp_path / "things", os.getpid()), RayOptions(workers=1), leave) as executor,
    ):
        executor.wait_for(1)


def test_workers_of_another_version_are_refused(cluster, monkeypatch):
    here = Versions.here()
    monkeypatch.setattr(worker_pool.Versions, "here", staticmethod(lambda: Versions("9.9", here.index_format)))
    with (
        pytest.raises(FailedPrecondition, match=rf"{socket.gethostname()} runs Polysem 0\S+ .* the driver 9.9"),
        driver.ray_executor(Nothing(), RayOptions(workers=1)) as executor,
    ):
        _ = executor.device


def test_workers_on_other_devices_are_refused(cluster):
    @dataclass(frozen=True)
    class Mixed(Nothing):
        def open(self, stack, folders):
            with locked(self.folder):
                n = len(list(self.folder.glob("worker-*")))
                (self.folder / f"worker-{os.getpid()}").touch()
            return None, "cpu" if n % 2 else "cuda"

        @property
        def folders(self):
            return {}

    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(FailedPrecondition, match="some workers compute on"),
        driver.ray_executor(Mixed(Path(folder)), RayOptions(workers=2)) as executor,
    ):
        finish(executor, Path(folder), stage(Path(folder), slow_squares, n=60)[0])


def test_what_never_comes_is_told_with_what_was_asked_and_what_there_is(cluster):
    statuses = []
    with (
        driver.ray_executor(Nothing(), RayOptions(gpus=8, wait_s=2), statuses.append) as executor,
        pytest.raises(Unavailable, match=r"within 2 s: each asks for 8 GPUs and 1 CPUs, and the cluster has 3 GPUs"),
    ):
        _ = executor.device
    assert statuses[0] in ("waiting for a worker, 1 s of 2", "waiting for a worker, 2 s of 2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RayOptions(address="ray://head:10001"), "carries no bulk work"),
        (RayOptions(address="head"), "neither auto nor local nor HOST:PORT"),
        (RayOptions(gpus=1.5), "cannot have 1.5 GPUs"),
        (RayOptions(gpus=-1), "cannot have -1 GPUs"),
        (RayOptions(gpus=float("nan")), "cannot have nan GPUs"),
        (RayOptions(workers=0), "0 workers can do nothing"),
        (RayOptions(wait_s=0), "ray_wait_s is 0"),
        (RayOptions(wait_s=float("nan")), "ray_wait_s is nan"),
    ],
)
def test_what_cannot_be_is_told(options, message):
    with pytest.raises(InvalidArgument, match=message):
        options.check()


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(FailedPrecondition, match=r"pip install 'polysem\[ray\]'"),
        driver.ray_executor(Nothing(), RayOptions()),
    ):
        pass


@contextmanager
def locked(folder):
    import fcntl

    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
