"""Messages to watchers of jobs: of each job one look and one encoding, however many watch it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from polysem.v1 import job_service_pb2 as pb

LOOK_S = 0.1  # how often a watcher is sent a change, at most


class _Seen(NamedTuple):
    """A job as it was last seen, as the answers that say so, encoded."""

    changed: bytes
    unchanged: bytes
    finished: bool


class _Look:
    """One job's: the looks go on as long as somebody watches."""

    def __init__(self) -> None:
        self.n_watchers = 0
        self.seen: _Seen | None = None
        self.error: Exception | None = None
        self.turn = asyncio.Event()  # set, and replaced, at each change
        self.task: asyncio.Task[None]

    def tell(self) -> None:
        self.turn.set()
        self.turn = asyncio.Event()


class Watches:
    """Lives in one event loop.

    version  what changes with every change of any job; may raise what ends all watches
    job      a job as it is now
    """

    def __init__(self, version: Callable[[], object], job: Callable[[str], pb.Job]) -> None:
        self._version, self._job = version, job
        self._looks: dict[str, _Look] = {}

    async def messages(self, id_: str, heartbeat_s: float) -> AsyncIterator[bytes]:
        """The job's WatchJobResponses, encoded: now, at each change, and after each silence; they end with the job.

        Raises what `job` raises.
        """
        look = self._enter(id_)
        try:
            seen = None
            while True:
                if look.error is not None:
                    raise look.error
                if look.seen is not seen and look.seen is not None:
                    seen = look.seen
                    yield seen.changed
                    if seen.finished:
                        return
                elif not await _within(look.turn, heartbeat_s) and seen is not None and look.seen is seen:
                    yield seen.unchanged
        finally:
            self._leave(id_, look)

    def _enter(self, id_: str) -> _Look:
        look = self._looks.get(id_)
        if look is None:
            look = self._looks[id_] = _Look()
            look.task = asyncio.create_task(self._go_on_looking(id_, look))
        look.n_watchers += 1
        return look

    def _leave(self, id_: str, look: _Look) -> None:
        look.n_watchers -= 1
        if not look.n_watchers:
            look.task.cancel()
            self._forget(id_, look)

    def _forget(self, id_: str, look: _Look) -> None:
        """Whoever comes from here on begins another."""
        if self._looks.get(id_) is look:
            del self._looks[id_]

    async def _go_on_looking(self, id_: str, look: _Look) -> None:
        version: object = None
        latest: pb.Job | None = None
        try:
            while look.seen is None or not look.seen.finished:
                now = self._version()
                if now != version:
                    version = now
                    job = self._job(id_)
                    if job != latest:
                        latest, look.seen = job, _encoded(job)
                        look.tell()
                await asyncio.sleep(LOOK_S)
        except Exception as error:
            look.error = error
        finally:
            self._forget(id_, look)
            look.tell()


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it happens in so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _encoded(job: pb.Job) -> _Seen:
    changed, unchanged = (
        pb.WatchJobResponse(job=job, heartbeat=heartbeat).SerializeToString() for heartbeat in (False, True)
    )
    return _Seen(changed, unchanged, job.HasField("finished_at"))
