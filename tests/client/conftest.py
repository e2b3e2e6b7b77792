"""A server over three indexes of one model, and both clients of it."""

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import polysem.server
from polysem.client import AsyncClient, Client
from polysem.client.commands import cli
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder


@pytest.fixture(scope="session")
def client(small_model: Any, index_folder: Path, corpus_file: Path) -> Iterator[Client]:
    """Its indexes: small (the default, up to 30 examples a neuron), pairs (up to 2) and single (up to 1)."""
    folders = [index_folder]
    for name, n in (("pairs", 2), ("single", 1)):
        folders.append(index_folder.parent / name)
        builder.build(small_model, Corpus(str(corpus_file)), folders[-1], builder.Recipe(Selection("top", 0.75, n)))
    with polysem.server.local(*folders, device="cpu") as client:
        yield client


@pytest.fixture
def with_async_client(client: Client) -> Callable[..., Any]:
    """A function that runs a coroutine function on an AsyncClient of the same server, in an event loop of its own."""

    def run(ask: Callable[[AsyncClient], Any], **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncClient(client.target, **options) as asynchronous:
                return await ask(asynchronous)

        return asyncio.run(main())

    return run


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def polysem_here(
    polysem_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """A function that runs the command in this process, which has imported all that it needs."""

    def run(*arguments: object, input: str = "") -> Done:  # noqa: A002
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("POLYSEM_SERVER", polysem_client.target)
        monkeypatch.setenv("COLUMNS", "110")
        monkeypatch.setattr(sys, "argv", ["polysem", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run


class RecordingStub:
    """A stub that notes which methods are called."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return RecordingMethod(getattr(self._stub, name), lambda: self.calls.append(name))


class RecordingMethod:
    def __init__(self, method: Any, note: Callable[[], None]) -> None:
        self._method, self._note = method, note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._note()
        return self._method(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        self._note()
        return self._method.with_call(*args, **kwargs)


@pytest.fixture
def recorded(client: Client) -> Iterator[tuple[Client, list[str]]]:
    """Another client of the same server, and the list of its calls."""
    with Client(client.target) as other:
        stub = RecordingStub(other._open_stub)
        other._open_stub = stub
        yield other, stub.calls
