"""Values that take long to make: callers who ask for one that is being made wait for it together.

When the last of them leaves, it is given up; the last few that were made are kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Shared(Generic[Key, Value]):
    """The last max_kept values, by key. Lives in one event loop."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        self._kept: OrderedDict[Key, asyncio.Task[Value]] = OrderedDict()
        self._waiting: dict[Key, int] = {}

    async def get(self, key: Key, make: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Kept, or made now by `make` for its first caller; raises what that raises, and then keeps nothing."""
        if key not in self._kept:
            self._kept[key] = asyncio.create_task(make())
        self._kept.move_to_end(key)
        task = self._kept[key]
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self._leave(key, task)

    def _leave(self, key: Key, task: "asyncio.Task[Value]") -> None:
        self._waiting[key] -= 1
        if self._waiting[key]:
            return
        del self._waiting[key]
        unfinished = not task.done()
        if unfinished:
            task.cancel()
        if self._kept.get(key) is task and (unfinished or task.cancelled() or task.exception()):
            del self._kept[key]
        while len(self._kept) - len(self._waiting) > self._max_kept:
            del self._kept[next(key for key in self._kept if key not in self._waiting)]
