"""Answers as they arrive: sequences that fill while they are read.

`for` over one starts the call and yields each item as soon as its batch is there; an index or `len` reads as far as it
must. What was read stays, so a second loop asks nothing. From AsyncClient: `async for`, or `await` for all at once.
"""

import asyncio
import bisect
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

from polysem.client import tables
from polysem.client.tables import Columns, Table
from polysem.proto.checks import check_one_of
from polysem.proto.errors import Cancelled, FailedPrecondition, PolysemError
from polysem.proto.facts import Answer, Provenance
from polysem.proto.units import Unit

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

ANOTHER_LOOP = "was first used in another event loop; make one in each loop, inside what asyncio.run() is given"

Item = TypeVar("Item")
Collected = TypeVar("Collected", bound="Stream[Any]", covariant=True)


class Stream(Sequence[Item]):
    """Items of a call, in the order asked.

    It can be pickled and copied: all is then read, and goes without the connection.
    """

    _noun = "items"
    _tables: ClassVar[Mapping[str, Table]] = {}  # by what a row is, the usual one first

    def __init__(
        self, answers: Iterator[Answer], view: Callable[[Answer], Sequence[Item]], expected: int | None = None
    ) -> None:
        self._answers = answers
        self._view = view
        self.expected = expected  # items, where the question says how many
        self._read: list[Answer] = []
        self._views: list[Sequence[Item]] = []  # of each answer read; they may be made only when looked at
        self._starts: list[int] = []  # of each among all items
        self._n = 0
        self._complete = False
        self._failure: PolysemError | None = None
        self._reading = threading.Lock()

    @property
    def complete(self) -> bool:
        """Whether all has been read."""
        return self._complete

    @property
    def provenance(self) -> Provenance | None:
        """Everything that the answer depends on: index, model, embedding, side; None of an answer without items."""
        self._has(0)
        return self._read[0].provenance if self._read else None

    @property
    def unit(self) -> Unit:
        """The word for what the index clusters: neuron, or latent."""
        return "neuron" if self.provenance is None else self.provenance.unit

    def __iter__(self) -> Iterator[Item]:
        i, n = 0, 0
        while self._has(n):
            yield from self._views[i]
            n += len(self._views[i])
            i += 1

    def __len__(self) -> int:
        self._has(-1)
        return self._n

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        self._has(index if isinstance(index, int) else -1)
        place = range(self._n)[index]
        return [self._item(i) for i in place] if isinstance(place, range) else self._item(place)

    def _item(self, i: int) -> Item:
        """One that was read, from 0."""
        view = bisect.bisect_right(self._starts, i) - 1
        return self._views[view][i - self._starts[view]]

    def progress(self, total: int | None = None) -> Self:
        """Read all, with a bar of tqdm's that counts the items; needs tqdm.

        total  how many will come; None: not known, or what the question says
        """
        try:
            from tqdm.auto import tqdm
        except ModuleNotFoundError:
            raise ModuleNotFoundError("progress() needs tqdm: pip install tqdm", name="tqdm") from None
        for _ in tqdm(self, total=total or self.expected, unit=self._noun.removesuffix("s")):
            pass
        return self

    def columns(self, per: str | None = None) -> Columns:
        """Columns by name: arrays (NaN where undefined), and lists of texts. The last is the side of the activations.

        per  what a row is, where there is a choice: of `cluster` "neuron" (with its metrics) or "example" (with its
             label), of `examples` "example" or "token"; None: the first of these
        """
        kind = next(iter(self._tables)) if per is None else per
        check_one_of(kind, tuple(self._tables), "per")
        self._has(-1)
        columns = self._tables[kind]([answer.batch for answer in self._read])
        n_rows = len(next(iter(columns.values())))
        return columns | {"side": [self._read[0].provenance.side] * n_rows if self._read else []}

    def to_pandas(self, per: str | None = None) -> "pandas.DataFrame":
        """`columns` as a pandas DataFrame; needs pandas."""
        return tables.to_pandas(self.columns(per))

    def to_polars(self, per: str | None = None) -> "polars.DataFrame":
        """`columns` as a polars DataFrame; needs polars."""
        return tables.to_polars(self.columns(per))

    def to_arrow(self, per: str | None = None) -> "pyarrow.Table":
        """`columns` as an Arrow table; needs pyarrow."""
        return tables.to_arrow(self.columns(per))

    def __getstate__(self) -> dict[str, Any]:
        self._has(-1)
        return {"view": self._lonely_view(), "expected": self.expected, "answers": self._read}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Stream.__init__(self, iter(state["answers"]), state["view"], state["expected"])
        self._has(-1)

    def _lonely_view(self) -> Callable[[Answer], Sequence[Item]]:
        """The view without a connection."""
        return self._view

    def _has(self, i: int) -> bool:
        """Read until item i is there; all, where i is negative. What failed once fails again."""
        with self._reading:
            while (i < 0 or i >= self._n) and not self._complete:
                if self._failure is not None:
                    raise self._failure
                try:
                    answer = next(self._answers, None)
                except BaseException as error:
                    self._failure = _lasting(error)
                    raise
                if answer is None:
                    self._complete = True
                else:
                    self._keep(answer)
        return 0 <= i < self._n

    def _keep(self, answer: Answer) -> None:
        view = self._view(answer)
        self._read.append(answer)
        self._views.append(view)
        self._starts.append(self._n)
        self._n += len(view)

    def __repr__(self) -> str:
        state = "" if self._complete else " so far" if self._read else ", not read yet"
        shown = "".join(f"\n  {item!r}" for item in map(self._item, range(min(self._n, 5))))
        more = f"\n  … {self._n - 5} more" if self._n > 5 else ""
        return f"<{self._n} {self._noun}{state}>{shown}{more}"


def _lasting(error: BaseException) -> PolysemError:
    """Return what further reading raises after a failure, so that half an answer never passes for a whole one."""
    return error if isinstance(error, PolysemError) else Cancelled("reading this answer was interrupted; ask again")


class AsyncStream(Generic[Collected]):
    """The same from AsyncClient: `async for item in stream`, or `await stream` for the whole sequence."""

    def __init__(
        self,
        answers: AsyncIterator[Answer],
        collect: Callable[[Iterator[Answer]], Collected],
        view: Callable[[Answer], Sequence[Any]],
    ) -> None:
        self._answers = answers
        self._collect = collect
        self._view = view
        self._read: list[Answer] = []
        self._complete = False
        self._failure: PolysemError | None = None
        self._reading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aiter__(self: "AsyncStream[Stream[Item]]") -> AsyncIterator[Item]:
        i = 0
        while await self._has(i):
            for item in self._view(self._read[i]):
                yield item
            i += 1

    def __await__(self) -> Generator[Any, None, Collected]:
        return self._all().__await__()

    def __reduce__(self) -> Any:
        raise TypeError("an answer that is still being read cannot be pickled or copied; await it first")

    async def _all(self) -> Collected:
        while await self._has(len(self._read)):
            pass
        stream = self._collect(iter(self._read))
        len(stream)
        return stream

    async def _has(self, i: int) -> bool:
        """Read until answer i is there. What failed once fails again."""
        if self._complete:
            return i < len(self._read)
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise FailedPrecondition(f"this answer {ANOTHER_LOOP}")
        async with self._reading:
            if i >= len(self._read) and not self._complete:
                if self._failure is not None:
                    raise self._failure
                try:
                    answer = await anext(self._answers, None)
                except BaseException as error:
                    self._failure = _lasting(error)
                    raise
                if answer is None:
                    self._complete = True
                else:
                    self._read.append(answer)
        return i < len(self._read)
