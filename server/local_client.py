"""Engine and batcher of this process as a `Clusterer`, without a wire in between.

Jobs ask here. A gRPC client of the own port would need the port's certificate and a key of its own, and would encode
and decode every answer for nothing; the batcher sees the same requests either way.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from polysem.proto.clusterer import Clusterer
from polysem.proto.errors import Cancelled, Overloaded, QuotaExceeded
from polysem.proto.facts import Answer, IndexInfo, ServerInfo
from polysem.proto.questions.clustering import ClusterQuery
from polysem.server.opening import open_batcher, open_engine
from polysem.server.questions import clustering
from polysem.server.questions.engine import Engine, Plan
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.callers import ANYONE, Caller
from polysem.server.serving.info import server_info
from polysem.server.settings import Settings

JOBS = Caller(share="jobs", class_="bulk")  # whose jobs are of no key


class LocalClient:
    """A `Clusterer`, for threads beside the batcher's event loop, never inside it.

    Where the queue is full it waits and asks again.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, loop: asyncio.AbstractEventLoop, caller: Caller = JOBS
    ) -> None:
        self.target = "this server"
        self._engine, self._batcher, self._loop, self._caller = engine, batcher, loop, caller
        self._changing = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._closed = threading.Event()

    def of(self, caller: Caller) -> "LocalClient":
        """Another one, for another caller."""
        return LocalClient(self._engine.seen_by(caller.scope), self._batcher, self._loop, caller)

    def info(self) -> ServerInfo:
        return server_info(self._engine, self._batcher, self._caller)

    def indexes(self) -> list[IndexInfo]:
        return [index.facts for index in self._engine.indexes.values()]

    def clusters(self, query: ClusterQuery) -> Iterator[Answer]:
        """Also raises Cancelled once this client is closed, QuotaExceeded where its caller's is used up."""
        plan = clustering.plan(self._engine, query)
        while True:
            try:
                yield from self._stream(plan)
                return
            except QuotaExceeded:
                raise
            except Overloaded as error:  # comes before the first answer
                self._closed.wait(error.retry_after_s)

    def _stream(self, plan: Plan) -> Iterator[Answer]:
        stream: Any = self._batcher.stream(plan.work, plan.items, self._caller)
        try:
            while (answer := self._await(anext, stream, None)) is not None:
                yield Answer(answer.batch, plan.provenance, answer.timing)
        finally:
            with suppress(Cancelled):
                self._await(stream.aclose)

    def _await(self, function: Any, *arguments: Any) -> Any:
        """Return what the event loop makes of it; raises Cancelled once this client is closed."""

        async def wait() -> Any:
            return await function(*arguments)

        with self._changing:
            if self._closed.is_set():
                raise Cancelled("its job has ended")
            waiting = asyncio.run_coroutine_threadsafe(wait(), self._loop)
            self._waiting.add(waiting)
        try:
            return waiting.result()
        except CancelledError as error:
            raise Cancelled("its job has ended") from error
        finally:
            with self._changing:
                self._waiting.discard(waiting)

    def close(self) -> None:
        """Let go of all that waits."""
        with self._changing:
            self._closed.set()
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()


@contextmanager
def opened(
    *index: str | Path, model: str | None = None, device: str = "auto", dtype: str = "float32"
) -> Iterator[LocalClient]:
    """Engine and batcher of these indexes (none: the demo's) in this process; no gRPC server, port or jobs.

    The arguments are those of `polysem.server.local`. Raises what `open_engine` raises.
    """
    settings = Settings(
        index=[Path(one) for one in index],
        model=model,
        device=device,
        dtype=dtype,  # type: ignore[arg-type]
    )
    engine = open_engine(settings, warm=False)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="polysem-batcher", daemon=True)
    thread.start()
    batcher = open_batcher(settings, engine)

    async def start() -> None:
        batcher.start()

    asyncio.run_coroutine_threadsafe(start(), loop).result()
    client = LocalClient(engine, batcher, loop, ANYONE)
    try:
        yield client
    finally:
        client.close()
        asyncio.run_coroutine_threadsafe(batcher.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def measuring(
    folder: Path | None, options: Mapping[str, Any], note: Callable[[str], None]
) -> Iterator[tuple[Clusterer, None]]:
    """Whom `Measuring.run` asks in this process: the entry point "local" of polysem.executors."""
    with opened(*([] if folder is None else [folder])) as client:
        yield client, None
