"""Search files of a server's indexes: opened, or made on first use, beside other work.

A file needs every neuron's clusters, texts and names, which takes minutes. The server has model and index at hand and
makes it in the batcher, as bulk work of its own that other callers' questions pass by. It lies beside the index, or in
the state folder where the index's cannot be written. A server that stops meanwhile begins anew.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from polysem.proto.questions.search import SearchAnswer
from polysem.server.index.format import Index
from polysem.server.questions.engine import Engine
from polysem.server.questions.search import Search, SearchBatch, search_work
from polysem.server.searching.file import SearchFile, Writer, documents_of
from polysem.server.serving import beside
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.callers import Caller

MAKER = Caller(share="search", class_="bulk")
MAX_OPEN = 16
FILE = "search", ".sqlite"  # what its name begins and ends with
WAIT_S = 0.5  # for a file that is being made, before a caller is told how far it is

log = logging.getLogger(__name__)


class _Making:
    """A file that is being made: how many neurons are done."""

    def __init__(self, n_to_do: int) -> None:
        self.n_done, self.n_to_do = 0, n_to_do
        self.task: asyncio.Task[Path] | None = None


class SearchFiles:
    """Lives in one event loop. state: folder for files whose index cannot be written; None: there is none."""

    def __init__(self, batcher: Batcher, state: Path | None = None) -> None:
        self._batcher, self._state = batcher, state
        self._open: dict[tuple[str, str], SearchFile] = {}
        self._making: dict[tuple[str, str], _Making] = {}

    async def answer(self, search: Search) -> SearchAnswer:
        """Answer the question; while its file is made, say how far that is. Raises what making it raised, once."""
        index = search.index
        key = (index.sha256, index.side)
        if key not in self._open and key not in self._making:
            self._take(key, await asyncio.to_thread(self._found, index))
        if key not in self._open:
            making = self._making.get(key) or self._begin(key, search.engine, index)
            assert making.task is not None
            done, _ = await asyncio.wait([making.task], timeout=WAIT_S)
            if not done:
                return search.waiting(making.n_done, making.n_to_do)
            self._making.pop(key, None)
            self._take(key, await asyncio.to_thread(SearchFile, making.task.result()))
        return await asyncio.to_thread(search.answer, self._open[key])

    def _take(self, key: tuple[str, str], file: SearchFile | None) -> None:
        """Keep an open file; the one that was opened first goes beyond MAX_OPEN."""
        if file is not None:
            self._open[key] = file
            while len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]  # closed when its last question has been answered

    def _begin(self, key: tuple[str, str], engine: Engine, index: Index) -> _Making:
        work, neurons = search_work(engine, index)
        making = self._making[key] = _Making(len(neurons))

        async def make() -> Path:
            path = beside.path_to_write(index, self._state, *FILE)
            writer = await asyncio.to_thread(Writer, path, index.sha256, index.side)
            try:
                async for answer in self._batcher.stream(work, neurons, MAKER):
                    batch = answer.batch
                    assert isinstance(batch, SearchBatch)
                    for text in batch.documents:
                        await asyncio.to_thread(writer.add, documents_of(text))
                    making.n_done += len(batch.documents)
                await asyncio.to_thread(writer.finish)
            except BaseException:
                writer.give_up()
                raise
            return path

        making.task = asyncio.create_task(make())
        making.task.add_done_callback(_logged(index.info.name))
        return making

    def _found(self, index: Index) -> SearchFile | None:
        """The file that is there and fits, opened."""
        for path in beside.paths(index, self._state, *FILE):
            if not path.exists():
                continue
            try:
                file = SearchFile(path)
                if file.fits(index.sha256, index.side):
                    return file
                file.close()
                log.warning("%s is of another index or version, so it is made anew", path.name)
            except sqlite3.Error as error:
                log.warning("%s cannot be read (%s), so it is made anew", path.name, error)
        return None

    async def close(self) -> None:
        """Give up what is being made, and close what is open."""
        tasks = [making.task for making in self._making.values() if making.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for file in self._open.values():
            file.close()


def _logged(name: str) -> Callable[[asyncio.Task[Path]], None]:
    """Return what notes in the log why a file was not made."""

    def done(task: asyncio.Task[Path]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the search file of %s was not made: %s", name, error)

    return done
