"""Requests that take long to read are read beside the event loop: other callers' calls go on meanwhile."""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import Message

from polysem.server.serving import callers

Made = TypeVar("Made")

SMALL_BYTES = 4096  # 400 single neurons, which take 2 ms


class Aside:
    """Lives in one event loop. Requests of one share are read one after another, so they keep no thread from others."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def made(self, request: Message, make: Callable[[], Made], always: bool = False) -> Made:
        """Return what `make` makes of the request. always: also of a small one, which may name very much."""
        if not always and request.ByteSize() <= SMALL_BYTES:
            return make()
        turn = self._turns.setdefault(callers.current.get().share, asyncio.Lock())
        async with turn:
            return await asyncio.to_thread(make)
