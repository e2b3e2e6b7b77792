"""The door: how many calls of one key, or without keys of one connection, are looked at together.

The event loop is shared by all callers, so fairness begins before a request is even read. Calls of a share beyond what
it may have at work wait in a line of their own, where they take nobody's time; another share's calls pass by. What may
last (streams, watches, uploads) counts until it ends. Refusals are spaced out, so that a caller who comes back at once
is answered no faster.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from polysem.proto.errors import Overloaded
from polysem.server.serving.callers import Company
from polysem.server.serving.metrics import Metrics

LEAST_IN_HAND = 8
# While several shares call, one call leaves the lines every SPACING_S, or once SPACING_CALLS have arrived: gRPC's own
# queue, which all share, must empty faster than the lines.
SPACING_S = 0.005
SPACING_CALLS = 3
ALONE_SPACING_S = 0.0005
STILL_S = 0.05  # that the lines stand still at most, while a share without a line is computed for
REFUSAL_EVERY_S = 0.01  # of one share
WINDOW_S = 0.05  # in which a share passes without a line as often as it may have calls at once
MAX_HELD_S = 30.0  # of a refusal that is held back
MAX_HELD = 2048  # refusals held back together
RETRY_AFTER_S = 2.0


class Kind(NamedTuple):
    """Calls that are counted together.

    at_once  of one share, up to their first answer; further ones wait
    in_hand  of one share, up to their end
    waits    whether those beyond `in_hand` wait, or are refused
    total    of all shares, up to their end; 0: no bound but those of each share
    """

    name: str
    at_once: int
    in_hand: int
    waits: bool = True
    total: int = 0


PING = Kind("pings", 8, 8)
WORK = Kind("requests", 32, 64)
JOB = Kind("calls about jobs", 4, 4)
RESULT = Kind("results being read", 4, 8, total=256)
UPLOAD = Kind("uploads", 2, 2, waits=False, total=16)
WATCH = Kind("watches", 4, 64, waits=False, total=1024)
HEALTH = Kind("watches of health", 8, 16, waits=False, total=2048)

_JOBS, _NEURONS, _HEALTH = "/polysem.v1.JobService/", "/polysem.v1.NeuronService/", "/grpc.health.v1.Health/"
_OF_METHOD = {
    f"{_NEURONS}GetServerInfo": PING,
    f"{_NEURONS}ListIndexes": PING,
    f"{_JOBS}UploadCorpus": UPLOAD,
    f"{_JOBS}WatchJob": WATCH,
    f"{_JOBS}ReadJobResult": RESULT,
    f"{_HEALTH}Check": PING,
    f"{_HEALTH}Watch": HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": WATCH,
}


def kind_of(method: str) -> Kind:
    """Return what calls of a method count as."""
    return _OF_METHOD.get(method) or (JOB if method.startswith(_JOBS) else WORK)


class _Lane:
    """One share's calls of one kind. beginning: before their first answer; in_hand: all; line: those that wait."""

    def __init__(self, share: str, kind: Kind, in_hand: int) -> None:
        self.share, self.kind, self.most = share, kind, in_hand
        self.beginning = self.in_hand = self._entered = 0
        self.window_s = 0.0  # when it began
        self.forgetting = False
        self.line: deque[asyncio.Future[None]] = deque()

    @property
    def has_room(self) -> bool:
        return self.beginning < self.kind.at_once and self.in_hand < self.most

    @property
    def lets_pass(self) -> bool:
        """Whether a call comes in without joining the line.

        Calls that end at once never fill a lane; but for this bound a flood of them would wait in gRPC's own queue,
        which serves all callers in one row.
        """
        now = time.monotonic()
        if now - self.window_s > WINDOW_S:
            self.window_s, self._entered = now, 0
        return not self.line and self.has_room and self._entered < self.kind.at_once

    @property
    def empty(self) -> bool:
        return not (self.in_hand or self.line)

    def take(self) -> None:
        self._entered += 1
        self.beginning += 1
        self.in_hand += 1

    def let_in(self) -> None:
        """Give a place to who is first in line."""
        turn = self.line.popleft()
        self.take()
        turn.set_result(None)


class Place:
    """A call that has come in."""

    def __init__(self, door: "Door", share: str, lane: _Lane) -> None:
        self._door, self._share, self._lane = door, share, lane
        self._beginning = True

    def begun(self) -> None:
        """Its first answer is on its way."""
        if self._beginning:
            self._beginning = False
            self._door.begun(self._lane)

    def left(self) -> None:
        """It has ended; once."""
        self._door.leave(self._share, self._lane, self._beginning)


class Door:
    """Lives in one event loop.

    max_requests  the server's bound on requests: so many calls of a share may stand in its line, and a sixteenth of it
                  may be in hand

    computed_for  the shares with new interactive requests that are not answered yet; set once it is known
    """

    computed_for: Callable[[], Iterable[str]] = staticmethod(tuple)

    def __init__(self, max_requests: int, metrics: Metrics | None = None) -> None:
        self._max_in_line = max_requests
        self._in_hand = max(max_requests // 16, LEAST_IN_HAND)
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._lined: deque[_Lane] = deque()  # those with a line, whose turn is next first
        self._timer: asyncio.TimerHandle | None = None  # until the next turn
        self._n_come = 0  # calls since the last one
        self._moved_s = 0.0  # when the last one was let in
        self._company = Company()
        self._totals: Counter[str] = Counter()
        self._next_refusal_s: dict[str, float] = {}
        self._held = 0
        self.metrics = metrics or Metrics()
        self.metrics.gauge("calls_in_hand", "Calls that have come in, by what they count as", "kind", self._counts)
        self.metrics.gauge("calls_in_line", "Calls that wait at the door", "kind", self._waiting)

    async def enter(self, share: str, kind: Kind, max_in_flight: int | None = None) -> Place:
        """The call's place, once there is one. Raises Overloaded. max_in_flight: the key's own cap, if it has one."""
        self._n_come += 1
        self._company.met(share)
        if self._timer is not None and self._n_come >= SPACING_CALLS:
            self._next()
        most = max(self._in_hand, max_in_flight or 0) if kind is WORK else kind.in_hand
        lane = self._lanes.setdefault((share, kind.name), _Lane(share, kind, most))
        lane.most = most
        try:
            if not kind.waits and lane.in_hand + len(lane.line) >= most:
                raise self._refusal(f"{most} {kind.name} are open already, as many as one key or connection may have")
            if lane.lets_pass:
                lane.take()
            else:
                await self._wait(lane)
        except BaseException:
            self._forget(share, lane)
            raise
        self._totals[kind.name] += 1
        place = Place(self, share, lane)
        if kind.total and self._totals[kind.name] > kind.total:
            place.left()
            raise self._refusal(f"{kind.total} {kind.name} are open already, as many as this server takes")
        return place

    async def _wait(self, lane: _Lane) -> None:
        if len(lane.line) >= self._max_in_line:
            raise self._refusal(
                f"{len(lane.line)} {lane.kind.name} wait already, as many as one key or connection may have"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not lane.line:
            self._lined.append(lane)
        lane.line.append(turn)
        self._move()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                lane.line.remove(turn)
            else:  # its turn came in this very moment
                lane.beginning -= 1
                lane.in_hand -= 1
                self._move()
            raise

    def begun(self, lane: _Lane) -> None:
        lane.beginning -= 1
        self._move()

    def leave(self, share: str, lane: _Lane, beginning: bool) -> None:
        lane.beginning -= beginning
        lane.in_hand -= 1
        self._totals[lane.kind.name] -= 1
        self._move()
        self._forget(share, lane)

    def _forget(self, share: str, lane: _Lane) -> None:
        """Let go of a lane that nobody is in, once its window is over."""
        if lane.empty and not lane.forgetting:
            lane.forgetting = True
            asyncio.get_running_loop().call_later(WINDOW_S, self._forgotten, share, lane)

    def _forgotten(self, share: str, lane: _Lane) -> None:
        lane.forgetting = False
        if time.monotonic() - lane.window_s <= WINDOW_S:
            self._forget(share, lane)
        elif lane.empty:
            self._lanes.pop((share, lane.kind.name), None)

    # ---- Lines move one call at a time, by turns

    def _move(self) -> None:
        """Let the next one in after a while, if there is one."""
        if self._timer is None and any(lane.line and lane.has_room for lane in self._lined):
            self._n_come = 0
            spacing_s = SPACING_S if self._company else ALONE_SPACING_S
            self._timer = asyncio.get_running_loop().call_later(spacing_s, self._next)

    def _next(self) -> None:
        """Let one in from the line whose turn it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._stands_still():
            for _ in range(len(self._lined)):
                lane = self._lined.popleft()
                if lane.line:
                    self._lined.append(lane)
                    if lane.has_room:
                        lane.let_in()
                        self._moved_s = time.monotonic()
                        break
        self._move()

    def _stands_still(self) -> bool:
        """Whether the lines let somebody pass who has none."""
        if time.monotonic() - self._moved_s > STILL_S:
            return False
        return not {lane.share for lane in self._lined if lane.line}.issuperset(self.computed_for())

    def _refusal(self, message: str) -> Overloaded:
        self.metrics.refusals.labels("door").inc()
        return Overloaded(f"{message}; end some, or try again in {RETRY_AFTER_S:g} s", RETRY_AFTER_S)

    async def hold_back(self, share: str) -> None:
        """Wait before a refusal is sent, so that one share is refused at most every REFUSAL_EVERY_S."""
        now = time.monotonic()
        due = max(now, self._next_refusal_s.get(share, 0.0))
        if due - now > MAX_HELD_S or self._held >= MAX_HELD:
            return
        if len(self._next_refusal_s) > MAX_HELD:
            self._next_refusal_s = {share: s for share, s in self._next_refusal_s.items() if s > now}
        self._next_refusal_s[share] = due + REFUSAL_EVERY_S
        self._held += 1
        try:
            await asyncio.sleep(due - now)
        finally:
            self._held -= 1

    # ---- Read by the metrics' thread

    def _counts(self) -> Mapping[str, float]:
        return dict(self._totals)

    def _waiting(self) -> Mapping[str, float]:
        waiting: dict[str, float] = {}
        for (_, name), lane in list(self._lanes.items()):
            waiting[name] = waiting.get(name, 0) + len(lane.line)
        return waiting
