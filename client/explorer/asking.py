"""Questions of many browsers on their way to one server: each is answered in words within ten seconds.

A question is asked in a thread of its own, and goes on when its browser has been told to come back; the same address,
asked meanwhile, gets the same answer. A browser that waits on a page in grey finds the answer kept when it comes back.
Whatever is not a question (scripts, styles) passes by.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from starlette.responses import Response

from polysem.proto.errors import DeadlineExceeded, Overloaded, PolysemError, Unavailable

AT_ONCE = 32  # questions with the server
MAX_WAITING = 256
PATIENCE_S = 5.0  # that a browser waits before it is told
HEALTH_S = 2.5  # that the server has to say that it is there
KEPT_S = 30.0  # that an answer is kept for the browsers that wait for it
SAYS_NOTHING = "the server says nothing: it is stopped, or the way to it is blocked"


@dataclass(eq=False)
class _Question:
    """answer: what comes of it. awaited: whether a browser was told to come back for it."""

    answer: "Future[Response]"
    since: float = field(default_factory=time.monotonic)
    awaited: bool = False


class Asking:
    """serving: whether the server says within so many seconds that it serves; may raise PolysemError."""

    def __init__(self, serving: Callable[[float], bool]) -> None:
        self._serving = serving
        self._asked = ThreadPoolExecutor(AT_ONCE, "polysem-question")
        self._health = ThreadPoolExecutor(4, "polysem-health")
        self._under_way: dict[str, _Question] = {}  # and what is kept, by ticket

    async def answer(self, address: str, ask: Callable[[], Response]) -> Response:
        """An answer of `ask`.

        Raises what it raises, Overloaded where too many ask, DeadlineExceeded where the server is at work on it,
        Unavailable where the server says nothing.
        """
        question = self._question(address, ask)
        if await _done(question, PATIENCE_S):
            return self._given(address, question)
        if not await self.serves():
            raise Unavailable(SAYS_NOTHING)
        raise DeadlineExceeded("the server is still at work on this")

    async def soon(self, address: str, ask: Callable[[], Response], patience_s: float) -> Response | None:
        """An answer of `ask`; None where it takes longer: the browser is to come back once it is `ready`.

        Raises what `ask` raises, Overloaded, and Unavailable where the server has said nothing for PATIENCE_S.
        """
        question = self._question(address, ask)
        if await _done(question, patience_s):
            return self._given(address, question)
        question.awaited = True
        if time.monotonic() - question.since > PATIENCE_S and not await self.serves():
            raise Unavailable(SAYS_NOTHING)
        return None

    async def ready(self, ticket_: str) -> bool:
        """Whether the answer with this ticket is there, or is not under way; waits up to PATIENCE_S for it."""
        question = self._under_way.get(ticket_)
        return question is None or await _done(question, PATIENCE_S)

    def _question(self, address: str, ask: Callable[[], Response]) -> _Question:
        """The question at an address, which is begun if it is not under way."""
        if found := self._under_way.get(ticket(address)):
            return found
        if len(self._under_way) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} questions of other browsers wait already; try again in a few seconds", 5.0)
        question = self._under_way[ticket(address)] = _Question(self._asked.submit(ask))
        loop = asyncio.get_running_loop()

        def ended(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, address, question)

        question.answer.add_done_callback(ended)
        return question

    def _ended(self, address: str, question: _Question) -> None:
        if question.awaited:
            asyncio.get_running_loop().call_later(KEPT_S, self._forget, address, question)
        else:
            self._forget(address, question)

    def _forget(self, address: str, question: _Question) -> None:
        if self._under_way.get(ticket(address)) is question:
            del self._under_way[ticket(address)]

    def changed(self) -> None:
        """Forget the answers that are kept: something that they show has changed."""
        for key, question in list(self._under_way.items()):
            if question.answer.done():
                del self._under_way[key]

    def _given(self, address: str, question: _Question) -> Response:
        """The answer, for one browser; a failure is told once, then asked anew."""
        if question.answer.exception():
            self._forget(address, question)
        return _copy(question.answer.result())

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


def ticket(address: str) -> str:
    """A short name of an address, which may hold a long text."""
    return hashlib.sha256(address.encode()).hexdigest()[:24]


async def _done(question: _Question, within_s: float) -> bool:
    future = asyncio.wrap_future(question.answer)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it has been seen
    await asyncio.wait((future,), timeout=within_s)
    return question.answer.done()


def _copy(answer: Response) -> Response:
    """For one browser: what compresses an answer changes its headers."""
    copy = Response(answer.body, answer.status_code)
    copy.raw_headers = list(answer.raw_headers)
    return copy
