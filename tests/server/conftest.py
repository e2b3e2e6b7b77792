"""A real server in this process with any settings, and a certificate for one."""

import asyncio
import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

Served = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def served(index_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A function: `with served(**settings) as target`, a server over the small index; `load` gives another engine."""

    @contextmanager
    def serve_(load: Callable[[], Any] | None = None, **flags: Any) -> Iterator[str]:
        from polysem.server import app, settings
        from polysem.server.opening import open_engine
        from polysem.server.serving import address

        state = tmp_path_factory.mktemp("state")  # a server goes on with the jobs that it finds
        usual = {"index": [index_folder], "port": 0, "device": "cpu", "state": state}
        given = settings.read(**usual | flags)
        stopped = asyncio.Event()
        started: Future[tuple[int, asyncio.AbstractEventLoop]] = Future()

        async def main() -> None:
            async with app.running(given, load or (lambda: open_engine(given))) as port:
                started.set_result((port, asyncio.get_running_loop()))
                await stopped.wait()

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                started.set_exception(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            port, loop = started.result(timeout=120)
            try:
                yield address.target(given, port)
            finally:
                loop.call_soon_threadsafe(stopped.set)
        finally:
            thread.join()

    return serve_


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Leaves logging as it was."""
    loggers = (logging.getLogger(), logging.getLogger("polysem.audit"))
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


class SmallDisk:
    """A file system of its own, of some MiB, and a way to fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take all room but none of the files."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """Paths of a certificate of 127.0.0.1 and localhost (`cert`), its key (`key`), and the CA's certificate (`ca`)."""
    files = {name: tmp_path / f"{name}.pem" for name in ("cert", "key", "ca")}
    write_certificate(authority, files)
    authority.cert_pem.write_to_path(files["ca"])
    return files


def write_certificate(authority: trustme.CA, files: dict[str, Path]) -> None:
    """A new certificate and key into the files, each replaced whole."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    for name, blob in (("key", issued.private_key_pem), ("cert", issued.cert_chain_pems[0])):
        fresh = files[name].with_suffix(".new")
        blob.write_to_path(fresh)
        fresh.replace(files[name])


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of three one-CPU machines, each with a GPU that is none; this process is its driver."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 200 << 20}
    found = Cluster(initialize_head=True, head_node_args=machine)
    try:
        for _ in range(2):
            found.add_node(**machine)
        ray.init(address=found.address, log_to_driver=False, logging_level="error")
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
