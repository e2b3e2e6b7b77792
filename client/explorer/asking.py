"""Questions of many browsers on their way to one server: each is answered in words within ten seconds.

A question is asked in a thread of its own, and goes on when its browser has been told to come back; the same address,
asked meanwhile, gets the same answer. Whatever is not a question (scripts, styles) passes by.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from starlette.responses import Response

from polysem.proto.errors import DeadlineExceeded, Overloaded, PolysemError, Unavailable

AT_ONCE = 32  # questions with the server
MAX_WAITING = 256
PATIENCE_S = 5.0  # that a browser waits before it is told
HEALTH_S = 2.5  # that the server has to say that it is there


class Asking:
    """serving: whether the server says within so many seconds that it serves; may raise PolysemError."""

    def __init__(self, serving: Callable[[float], bool]) -> None:
        self._serving = serving
        self._asked = ThreadPoolExecutor(AT_ONCE, "polysem-question")
        self._health = ThreadPoolExecutor(4, "polysem-health")
        self._under_way: dict[str, Future[Response]] = {}

    async def answer(self, address: str, ask: Callable[[], Response]) -> Response:
        """An answer of `ask`.

        Raises what it raises, Overloaded where too many ask, DeadlineExceeded where the server is at work on it,
        Unavailable where the server says nothing.
        """
        question = asyncio.wrap_future(self._under_way.get(address) or self._begin(address, ask))
        question.add_done_callback(lambda question: question.cancelled() or question.exception())  # it has been seen
        await asyncio.wait((question,), timeout=PATIENCE_S)
        if question.done():
            return _copy(question.result())
        if not await self.serves():
            raise Unavailable("the server says nothing: it is stopped, or the way to it is blocked")
        raise DeadlineExceeded("the server is still at work on this")

    def _begin(self, address: str, ask: Callable[[], Response]) -> "Future[Response]":
        if len(self._under_way) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} questions of other browsers wait already; try again in a few seconds", 5.0)
        question = self._asked.submit(ask)
        self._under_way[address] = question
        loop = asyncio.get_running_loop()

        def ended(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._under_way.pop, address, None)

        question.add_done_callback(ended)
        return question

    async def serves(self) -> bool:
        """Whether the server says that it serves."""
        try:
            asked = asyncio.wrap_future(self._health.submit(self._serving, HEALTH_S))
            return await asyncio.wait_for(asyncio.shield(asked), HEALTH_S + 1)
        except (PolysemError, TimeoutError):
            return False

    def close(self) -> None:
        """Let go of what waits; what is with the server ends with its client."""
        for pool in (self._asked, self._health):
            pool.shutdown(wait=False, cancel_futures=True)


def _copy(answer: Response) -> Response:
    """For one browser: what compresses an answer changes its headers."""
    copy = Response(answer.body, answer.status_code)
    copy.raw_headers = list(answer.raw_headers)
    return copy
